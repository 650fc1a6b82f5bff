"""How a suite's base, heads and experts are made: plain data, one protocol per suite.

Two ways to a base: ``JointPretraining`` (a weak base and its head rows from a few images of every task),
``PretrainedText`` (public weights). Heads are the rows of joint pre-training or a logistic regression on base features;
both are frozen afterwards, in the role of CLIP's text embeddings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Schedule = Literal["constant", "cosine", "linear", "one-cycle"]


@dataclass(frozen=True, kw_only=True)
class JointPretraining:
    """AdamW with one cycle over all tasks' classes at once; the cosine head's rows become the tasks' heads."""

    samples_per_task: int = 60
    epochs: int = 60
    batch_size: int = 128
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    head_scale: float = 16.0


@dataclass(frozen=True, kw_only=True)
class PretrainedText:
    """Weights and configuration of the asset called ``asset``, a folder with model.safetensors and config.json."""

    asset: str = "minilm-l6"


@dataclass(frozen=True, kw_only=True)
class LogisticHeads:
    """Multinomial logistic regression on normalised base features times ``scale``, inverse penalty ``c``."""

    samples: int = 600
    scale: float = 10.0
    c: float = 1.0


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How an expert is trained from the base with its frozen head.

    ``frozen``: prefixes of parameter names that stay at the base. Length: ``steps``, or ``epochs`` when that is None;
    a task with fewer than ``small`` training samples gets ``small_epochs`` instead.
    """

    lr: float
    schedule: Schedule = "cosine"
    warm_up: int = 0
    batch_size: int = 100
    weight_decay: float = 0.01
    steps: int | None = None
    epochs: int = 10
    small: int = 0
    small_epochs: int = 20
    frozen: tuple[str, ...] = ()
    shift: int = 0
    """Images are translated by up to this many pixels in each direction, a new draw in every batch."""

    def length(self, samples: int) -> int:
        """Number of optimisation steps for a task with ``samples`` training samples."""
        if self.steps is not None:
            return self.steps
        epochs = self.small_epochs if samples < self.small else self.epochs
        return epochs * max(samples // self.batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that decides a bundle besides the data and the seed; ``encoder`` is a build_encoder specification."""

    base: JointPretraining | PretrainedText
    fine_tuning: FineTuning
    encoder: Mapping[str, Any] = field(default_factory=dict)
    heads: LogisticHeads | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for cache keys and records."""
        return dataclasses.asdict(self) | {"base": {"way": type(self.base).__name__, **dataclasses.asdict(self.base)}}
