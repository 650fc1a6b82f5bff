"""How much of everything the policies study gives to a suite, at each scale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """One data set and what is trained on it; all counts are per seed."""

    tasks: tuple[str, ...]
    """Environments, trained and evaluated."""
    methods: tuple[str, ...]
    """Rows to measure with the task's id, in starting order (the longest first)."""
    quality: str = "near"
    episodes: int = 60
    """Episodes of data a task."""
    horizon: int = 200
    """Steps of an episode, in the data and in the evaluation."""
    unseen: tuple[str, ...] = ()
    """Environments that are evaluated but not trained."""
    eval_episodes: int = 10
    """Paired evaluation episodes a task, at held-out goals."""
    context: int = 10
    prompt: int = 5
    width: int = 64
    layers: int = 2
    heads: int = 4
    batch_size: int = 16
    steps: int = 3000
    """Single-task training steps, over all tasks in turn."""
    tasks_per_step: int = 5
    """Tasks stacked in one step."""
    lr: float = 1e-3
    warmup: int = 100
    schedule: str = "cosine"
    sparsity: float = 0.2
    mask_every: int = 100
    eta_max: int = 100
    gamma: float = 10.0
    groups: int | str = "auto"
    warmup_steps: int = 300
    """Dense training before G-HarmoDT's clustering."""
    vote_threshold: int = 1
    seeds: int = 5
