"""Unlabelled inputs of one task as endless batches, held in memory or streamed from an iterable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from manyone.data.tasks import Inputs, count, take
from manyone.errors import ManyoneError
from manyone.randomness import BatchOrder, generator_for


class UnlabelledSource:
    """One task's unlabelled inputs: batch k, and a fixed subset."""

    def __init__(
        self, data: Any, expert: Tensor | None, task: str, size: int, seed: int, monitor: int, rank: int, world: int
    ) -> None:
        self.expert, self.rank, self.world, self.size = expert, rank, world, size
        self.stream: Any = None
        if isinstance(data, Tensor) or (
            isinstance(data, Mapping) and all(isinstance(v, Tensor) for v in data.values())
        ):
            self.data: Inputs = data
            self.order = BatchOrder(count(data), size, seed, "adapt", task)
            if world > self.order.batch_size:
                raise ManyoneError(
                    f"task {task!r}: batches of {self.order.batch_size} cannot be shared by {world} ranks"
                )
            shuffled = torch.randperm(count(data), generator=generator_for(seed, "monitor", task))
            self.fixed = shuffled[:monitor].sort().values
            return
        if expert is not None:
            raise ManyoneError(f"task {task!r}: expert logits need inputs held in memory, not an iterable of batches")
        self.stream, self.iterable = iter(()), data
        self.parts = []
        seen = 0
        for batch in data:
            self.parts.append(_input_of(batch))
            seen += count(self.parts[-1])
            if seen >= monitor:
                break
        if not self.parts:
            raise ManyoneError(f"task {task!r}: the iterable of batches is empty")

    def batch(self, k: int, device: torch.device) -> tuple[Inputs, Tensor | None]:
        """Inputs and expert logits of batch ``k`` (this rank's share)."""
        if self.stream is not None:
            try:
                batch = next(self.stream)
            except StopIteration:
                self.stream = iter(self.iterable)
                batch = next(self.stream)
            return _move(_input_of(batch), device), None
        index = self.order.batch(k)[self.rank :: self.world]
        return _move(take(self.data, index), device), None if self.expert is None else self.expert[index].to(device)

    def fixed_parts(self, device: torch.device) -> list[Inputs]:
        """The fixed subset in batches."""
        if self.stream is not None:
            return [_move(part, device) for part in self.parts]
        size = max(4 * self.size, 64)
        return [_move(take(self.data, part), device) for part in self.fixed.split(size)]

    def fixed_expert(self, device: torch.device) -> Tensor | None:
        """The experts' logits on the fixed subset."""
        return None if self.expert is None else self.expert[self.fixed].to(device)


def _input_of(batch: Any) -> Inputs:
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _move(inputs: Inputs, device: torch.device) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {name: value.to(device) for name, value in inputs.items()}
