"""Small made data: tasks that pull the same state towards different actions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from manyone.data.trajectories.trajectories import Trajectories


def make_tasks(count: int = 3, episodes: int = 12, steps: int = 14, states: int = 5, actions: int = 2) -> list:
    """``count`` tasks; an episode's length varies, its quality grows with its number."""
    found = []
    for task in range(count):
        draw = np.random.Generator(np.random.Philox(1000 + task))
        target = draw.normal(size=(states, actions))
        each = []
        for episode in range(episodes):
            length = steps - int(draw.integers(0, 4))
            seen = draw.normal(size=(length, states)) * (1 + task)
            noise = (episodes - episode) / episodes
            acted = np.tanh(seen @ target / 3 + noise * draw.normal(size=(length, actions)))
            rewards = 1 + episode / episodes + 0.1 * draw.random(length)
            each.append({"observations": seen, "actions": acted, "rewards": rewards})
        found.append(Trajectories.from_episodes(f"task-{task}", each))
    return found


@pytest.fixture
def tasks() -> Callable[..., list]:
    return make_tasks
