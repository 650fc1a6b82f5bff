"""Few episodes of two new tasks, as a reader has them."""

import numpy as np

from manyone.data.trajectories.trajectories import Trajectories

draws = np.random.default_rng(0)
episodes = [
    Trajectories.from_episodes(
        task,
        [
            {
                "observations": draws.normal(size=(12, 2)),
                "actions": draws.uniform(-1, 1, (12, 2)),
                "rewards": -draws.random(12),
            }
            for _ in range(3)
        ],
    )
    for task in ("mine-a", "mine-b")
]
