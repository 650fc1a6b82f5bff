"""Episodes of Meta-World's scripted policies with noise: the recipe of Meta-World's and ML1's data.

Episode e of n has the quality q = e / (n - 1) and plays action = clip(scripted + sigma N(0, I), -1, 1), interrupted by
bursts of eight uniformly random steps, each started with probability eps / 8 a step:

=======  ================  =====================  ===========================================================
quality  sigma             eps
=======  ================  =====================  ===========================================================
near     0.3 (1 - q)       0.15 (1 - q)           ends with the clean expert
sub      1 - 0.6 q         0.6 - 0.35 q           never clean
expert   0.1               0                      of ML1, as are those below
medium   1 (reach), 0.3    1.6 (reach), 0.2       about two fifths of the way from random to expert, by return
random   -                 -                      uniformly random actions
=======  ================  =====================  ===========================================================

Goals of a Meta-World task are those for training, in turn; a task of ML1 has its own, which its episodes hide. Episodes
go on to their last step after success. Scripted policies maximise success, not the shaped reward.

This module imports no torch: worker processes start fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from manyone.envs.single import make as build
from manyone.envs.single import metaworld, ml1

BURST = 8


def noise_levels(quality: str, q: float, task: str = "") -> tuple[float, float]:
    """(sigma, eps) of an episode of quality ``q`` in [0, 1]; ``medium`` differs by ``task``."""
    if quality == "near":
        return 0.3 * (1 - q), 0.15 * (1 - q)
    if quality == "sub":
        return 1 - 0.6 * q, 0.6 - 0.35 * q
    medium = (1.0, 1.6) if task.startswith("ml1-reach") else (0.3, 0.2)  # picking up stands far less noise
    return {"expert": (0.1, 0.0), "medium": medium, "random": (0.0, math.inf)}[quality]


def train_goal(episode: int) -> int:
    """The goal of episode number ``episode``: the training goals in turn."""
    return metaworld.TRAIN_GOALS[episode % len(metaworld.TRAIN_GOALS)]


def play(
    task: str, quality: str, chosen: Sequence[int], seeds: Sequence[int], *, episodes: int, steps: int
) -> list[dict[str, Any]]:
    """The episodes numbered ``chosen`` of ``episodes``, each from its own seed alone, as trajectories take them."""
    return [_episode(task, quality, number, seed, episodes, steps) for number, seed in zip(chosen, seeds, strict=True)]


def _episode(task: str, quality: str, number: int, seed: int, episodes: int, steps: int) -> dict[str, Any]:
    ml1_task = build.kind(task) == "ml1"
    name, goal = ml1.source(task) if ml1_task else (task, train_goal(number))
    env = _env(name, steps)
    sigma, eps = noise_levels(quality, number / (episodes - 1) if episodes > 1 else 1.0, task)
    rng = np.random.Generator(np.random.Philox(seed))
    noise = sigma * rng.standard_normal((steps, metaworld.ACTION_DIM))
    random = rng.uniform(-1, 1, (steps, metaworld.ACTION_DIM))
    starts = rng.uniform(size=steps) < eps / BURST
    observations = np.empty((steps + 1, metaworld.STATE_DIM), np.float32)
    actions = np.empty((steps, metaworld.ACTION_DIM), np.float32)
    rewards = np.empty(steps, np.float32)
    success, burst_ends = False, 0
    metaworld.set_goal(env, goal)
    state, _ = env.reset()
    observations[0] = state
    for t in range(steps):
        if t >= burst_ends and starts[t]:
            burst_ends = t + BURST
        wish = random[t] if t < burst_ends else metaworld.expert_action(name, state) + noise[t]
        actions[t] = np.clip(wish, -1, 1)
        # the environment gets the float32 action that is stored, so that the data can be played back
        state, reward, _, _, info = env.step(actions[t])
        observations[t + 1], rewards[t] = state, reward
        success |= bool(info["success"])
    return {
        "observations": ml1.hidden(observations) if ml1_task else observations,
        "actions": actions,
        "rewards": rewards,
        "terminated": False,
        "success": success,
        "goal": 0 if ml1_task else goal,
    }


@lru_cache(maxsize=1)
def _env(task: str, steps: int) -> Any:
    """One environment a process, built once for all episodes of a task."""
    return metaworld.make_env(task, horizon=steps)
