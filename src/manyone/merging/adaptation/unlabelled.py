"""Unlabelled inputs of one task as endless batches, held in memory or streamed from an iterable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
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
        self.task, self.expert, self.rank, self.world, self.size = task, expert, rank, world, size
        self.stream: Iterator[Any] | None = None
        if isinstance(data, Tensor) or (
            isinstance(data, Mapping) and all(isinstance(v, Tensor) for v in data.values())
        ):
            self.data: Inputs = self._checked(data, "the inputs")
            if expert is not None and len(expert) != count(data):
                raise ManyoneError(f"task {task!r}: {count(data)} inputs but expert logits of {len(expert)}")
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
        if not isinstance(data, Iterable) or isinstance(data, str | Mapping):
            raise ManyoneError(
                f"task {task!r}: inputs are a Tensor, a Mapping of Tensors or an iterable of such batches, not a "
                f"{type(data).__name__}"
            )
        first = iter(data)
        once = first is data  # a generator, which cannot begin again
        self.parts: list[Inputs] = []
        seen = 0
        for batch in first:
            self.parts.append(self._checked(_input_of(batch), f"batch {len(self.parts) + 1}"))
            seen += count(self.parts[-1])
            if seen >= monitor:
                break
        if not self.parts:
            raise ManyoneError(f"task {task!r}: the iterable of batches is empty")
        self.iterable = None if once else data
        self.stream = chain(list(self.parts), first) if once else iter(())

    def batch(self, k: int, device: torch.device) -> tuple[Inputs, Tensor | None]:
        """Inputs and expert logits of batch ``k`` (this rank's share)."""
        if self.stream is not None:
            batch = next(self.stream, None)
            if batch is None and self.iterable is not None:
                self.stream = iter(self.iterable)
                batch = next(self.stream, None)
            if batch is None:
                raise ManyoneError(
                    f"task {self.task!r}: the iterable has no batch for step {k + 1} and cannot begin again: give a "
                    "DataLoader or a list, or take fewer steps"
                )
            return _move(self._checked(_input_of(batch), f"the batch of step {k + 1}"), device), None
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

    def _checked(self, inputs: Any, what: str) -> Inputs:
        """``inputs``, which are tensors of at least one sample without NaN and infinity."""
        values = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
        odd = next((value for value in values if not isinstance(value, Tensor)), None)
        if odd is not None or not values:
            raise ManyoneError(
                f"task {self.task!r}: {what} must be a Tensor or a Mapping of Tensors, got {type(odd).__name__}"
            )
        if any(value.ndim == 0 or len(value) == 0 for value in values):
            raise ManyoneError(f"task {self.task!r}: {what} hold no sample")
        for value in values:
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                bad = int((~torch.isfinite(value.flatten(1) if value.ndim > 1 else value[:, None])).any(1).sum())
                raise ManyoneError(f"task {self.task!r}: {what} hold NaN or infinity in {bad} of {len(value)} samples")
        return inputs


def _input_of(batch: Any) -> Inputs:
    return batch[0] if isinstance(batch, tuple | list) and batch else batch


def _move(inputs: Inputs, device: torch.device) -> Inputs:
    if isinstance(inputs, Tensor):
        return _usable(inputs).to(device)
    return {name: _usable(value).to(device) for name, value in inputs.items()}


def _usable(value: Tensor) -> Tensor:
    """What inference mode made cannot be part of a backward pass; a copy can."""
    return value.clone() if value.is_inference() else value
