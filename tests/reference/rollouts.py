"""The plain roll-out: one fresh environment and one call of the policy at a time."""

from __future__ import annotations

import numpy as np

from manyone.envs.single.make import make_env
from manyone.evaluation.rollouts import BatchedPolicy, Episode


def play_one_by_one(policy: BatchedPolicy, episodes: list[Episode], horizon: int) -> list[tuple[float, int, bool]]:
    """(return, length, success) of each episode."""
    results = []
    policy.start(episodes)
    for slot, episode in enumerate(episodes):
        env = make_env(episode.task, episode.goal)
        observation, _ = env.reset(seed=episode.seed)
        total, length, success, over = 0.0, 0, False, False
        slots = np.array([slot])
        while not over and length < horizon:
            action = policy.act(slots, observation[None].astype(np.float32))[0].astype(np.float32)
            clipped = np.clip(action, env.action_space.low, env.action_space.high)
            observation, reward, terminated, truncated, info = env.step(clipped)
            policy.reward(slots, np.array([reward], np.float32))
            total, length = total + reward, length + 1
            success |= bool(info.get("success", 0))
            over = terminated or truncated
        env.close()
        results.append((total, length, success))
    return results
