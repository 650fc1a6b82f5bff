"""What acts by chance: what any policy has to be better than."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manyone.envs.single import make
from manyone.evaluation.rollouts import Episode
from manyone.randomness import seed_for


class RandomActions:
    """Actions drawn evenly within each task's bounds; of unbounded ones from -1 to 1."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.Generator(np.random.Philox(seed_for(seed, "random policy")))

    def start(self, episodes: Sequence[Episode]) -> None:
        ends = [[np.nan_to_num(end, posinf=1, neginf=-1) for end in make.bounds(one.task)] for one in episodes]
        width = max(len(low) for low, _ in ends)
        self.low, self.high = (
            np.stack([np.pad(pair[k], (0, width - len(pair[k]))) for pair in ends]).astype(np.float32) for k in (0, 1)
        )

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        share = self.rng.random(self.low.shape, np.float32)[slots]  # a row a slot: the others' ends change nothing
        return self.low[slots] + share * (self.high[slots] - self.low[slots])

    def reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        pass
