import numpy as np
import pytest

from manyone.behavior.data import behavior_data
from manyone.data.trajectories.trajectories import Trajectories


def trajectories(seed=0, episodes=12, steps=9, states=5, actions=2, scale=1.0, choices=0, **meta):
    """Small made trajectories: random walks whose actions lean on the state."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(episodes):
        seen = rng.normal(size=(steps + 1, states)).astype(np.float32).cumsum(0)
        if choices:
            acted = np.eye(choices, dtype=np.float32)[rng.integers(choices, size=steps)]
        else:
            acted = np.tanh(seen[:-1, :actions] + 0.1 * rng.normal(size=(steps, actions))).astype(np.float32) * scale
        rewards = (seen[:-1, 0] + number).astype(np.float32)
        parts.append({"observations": seen, "actions": acted, "rewards": rewards, "terminated": number % 2 == 0})
    extra = {"choices": choices} if choices else {}
    return Trajectories.from_episodes("choices" if choices else "walks", parts, meta={**extra, **meta})


@pytest.fixture
def data():
    return behavior_data(trajectories())


@pytest.fixture
def discrete():
    return behavior_data(trajectories(choices=3))
