"""Windows of few-shot episodes to adapt with: anywhere, or the episodes' tails as Prompt-DT's program fine-tunes.

Xu et al., "Prompting Decision Transformer" (arXiv 2206.13499): their fine-tuning cuts the last K* steps of a drawn
episode. Public names: :func:`tail_windows`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.policies.prompt_diffuser.prompts import FewShots
from manyone.policies.tasks import TaskBatch
from manyone.randomness import generator_for


def tail_windows(shots: FewShots, step: int, seed: int = 0, *, batch_size: int = 32, length: int = 5) -> TaskBatch:
    """Windows [M, B, K, ...] of the last ``length`` steps of drawn episodes (at most K), and drawn prompts.

    What a task draws depends on (seed, task, step) alone.
    """
    windows, count = shots.data.windows, len(shots)
    episodes = torch.empty(count, batch_size, dtype=torch.int64)
    for task, (row, one) in enumerate(zip(episodes, shots.data.trajectories)):
        torch.randint(one.episodes, (batch_size,), generator=generator_for(seed, "tails", task, step), out=row)
    tasks = torch.arange(count)
    index = windows.first_episode[tasks.to(windows.device)].unsqueeze(1) + episodes.to(windows.device)
    ends = windows.offsets[index + 1]
    starts = torch.maximum(windows.offsets[index], ends - min(length, windows.length))
    steps = windows.between(starts, ends, windows.length)
    dtype = shots.table.scale.dtype
    steps = {name: _cast(value, dtype) for name, value in steps.items()}
    steps["returns_to_go"] = steps["returns_to_go"] / shots.table.scale[:, None, None]
    numbers = list(range(count))
    prompt = None
    if shots.pool is not None:
        prompt = shots.pool.draw(numbers, step, seed, batch_size=batch_size, purpose="tails prompt")
    return TaskBatch(steps, prompt, tasks)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value
