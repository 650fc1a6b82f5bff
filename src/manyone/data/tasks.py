"""Labelled classification tasks and the suites that group them: the data type that merging works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from manyone.errors import ManyoneError

Inputs = Tensor | Mapping[str, Tensor]
"""Images: uint8 [n, C, H, W] or float in [0, 1]. Text: {"input_ids", "attention_mask"}, each int64 [n, L]."""


def take(inputs: Inputs, index: Tensor | slice) -> Inputs:
    """Rows ``index`` of ``inputs``. Text batches lose the columns at either end that are padding in all of them."""
    if isinstance(inputs, Tensor):
        return inputs[index]
    rows = {name: value[index] for name, value in inputs.items()}
    mask = rows.get("attention_mask")
    if mask is None or mask.numel() == 0:
        return rows
    real = mask.any(0).nonzero()
    first, last = (int(real[0]), int(real[-1])) if len(real) else (0, 0)
    return {name: value[:, first : last + 1] if value.ndim == 2 else value for name, value in rows.items()}


def count(inputs: Inputs) -> int:
    """Number of samples in ``inputs``."""
    return len(inputs) if isinstance(inputs, Tensor) else len(next(iter(inputs.values())))


def concatenate(parts: Sequence[Inputs]) -> Inputs:
    """Stacks batches of one kind along the sample axis; text is right-padded with zeros to the longest."""
    if isinstance(parts[0], Tensor):
        return torch.cat([p for p in parts if isinstance(p, Tensor)])
    texts = [p for p in parts if not isinstance(p, Tensor)]
    width = max(p["input_ids"].shape[1] for p in texts)
    pad = torch.nn.functional.pad
    return {k: torch.cat([pad(p[k], (0, width - p[k].shape[1])) for p in texts]) for k in texts[0]}


@dataclass(frozen=True)
class Split:
    """Samples and their labels (int64 [n])."""

    inputs: Inputs
    labels: Tensor

    def __post_init__(self) -> None:
        if count(self.inputs) != len(self.labels):
            raise ManyoneError(f"a split has {count(self.inputs)} samples but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor | slice) -> Split:
        """The rows ``index``."""
        return Split(take(self.inputs, index), self.labels[index])


@dataclass(frozen=True)
class Task:
    """One classification task with its three splits, and where it comes from."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    source: str = ""
    licence: str = ""
    stand_in_for: str | None = None
    descriptions: tuple[str, ...] = ()
    """A phrase for every class, where there are some: what a zero-shot head embeds."""

    def split(self, name: str) -> Split:
        """The split called ``name`` (train, val or test)."""
        if name not in ("train", "val", "test"):
            raise ManyoneError(f"unknown split {name!r}: use train, val or test")
        return getattr(self, name)


@dataclass(frozen=True)
class Suite:
    """Tasks that share one input format and are merged together.

    ``pretraining`` holds other real tasks (or held-out classes) of the same sources from which a base model may be
    made; they are never evaluated.
    """

    name: str
    kind: str
    tasks: tuple[Task, ...]
    pretraining: tuple[Task, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def task(self, name: str) -> Task:
        """The task called ``name``."""
        for task in self.tasks:
            if task.name == name:
                return task
        known = ", ".join(t.name for t in self.tasks)
        raise ManyoneError(f"suite {self.name!r} has no task {name!r}: it has {known}")
