"""Several dates of one place: features [N, T, D] become one vector, by their mean, by learned weights or by L-TAE.

mean    1/T Sum_t x_t                     over the dates that are there
linear  Sum_t w_t x_t                     w learned
L-TAE   for head h of 16: softmax_t(q_h . W_h (x_t + PE(day_t)) / sqrt(d_k)) weights the h-th part of the channels
        (Garnot and Landrieu 2020, arXiv 2007.00586: one learned query a head, no projection of values)
"""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from manyone.earth.heads.train import Training, train
from manyone.earth.protocols.probe import probe
from manyone.earth.protocols.scores import Labels, Scores, class_result, kind_of, labels_result
from manyone.earth.splits import Splits
from manyone.errors import ManyoneError

Merge = Literal["mean", "linear", "ltae"]
_PERIOD = 1000.0  # of the slowest wave of a day's encoding, in units of 1 / (2 pi), as published
_KEY = 8


def mean_over_time(x: Tensor, there: Tensor | None = None) -> Tensor:
    """[B, D] from [B, T, D]; ``there`` bool [B, T]: the dates that count."""
    if there is None:
        return x.mean(1)
    weight = there.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp_min(1)


def day_encoding(days: Tensor, width: int) -> Tensor:
    """[..., width]: sin and cos of day / 1000^(2 j / width), in pairs."""
    j = torch.arange(width, device=days.device) // 2
    angle = days[..., None].to(torch.float32) / _PERIOD ** (2 * j / width)
    return torch.where(torch.arange(width, device=days.device) % 2 == 0, angle.sin(), angle.cos())


class LinearOverTime(nn.Module):
    """Sum_t w_t x_t, begun at the mean."""

    def __init__(self, dates: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dates,), 1 / dates))

    def forward(self, x: Tensor, days: Tensor | None = None, there: Tensor | None = None) -> Tensor:
        """[B, D] from [B, T, D]."""
        return torch.einsum("btd,t->bd", x if there is None else x * there[..., None], self.weight)


class LTAE(nn.Module):
    """Attention over dates with one query a head; ``days`` are relative to any day."""

    def __init__(self, width: int, heads: int = 16, inner: int = 256) -> None:
        super().__init__()
        if inner % heads:
            raise ManyoneError(f"heads: {heads} do not divide {inner} channels")
        self.heads, self.inner = heads, inner
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner))
        self.keys = nn.Linear(inner, heads * _KEY)
        self.query = nn.Parameter(torch.randn(heads, _KEY) * (2 / _KEY) ** 0.5)
        self.leave = nn.Sequential(nn.Linear(inner, inner), nn.GELU(), nn.LayerNorm(inner))

    def forward(self, x: Tensor, days: Tensor | None = None, there: Tensor | None = None) -> Tensor:
        """[B, inner] from [B, T, width], days [B, T], there bool [B, T]."""
        b, t, _ = x.shape
        v = self.enter(x)
        if days is not None:
            # every head sees the whole range of waves
            v = v + day_encoding(days, self.inner // self.heads).repeat(1, 1, self.heads)
        score = torch.einsum("bthk,hk->bht", self.keys(v).view(b, t, self.heads, _KEY), self.query) / _KEY**0.5
        if there is not None:
            score = score.masked_fill(~there[:, None], -torch.inf)
        merged = torch.einsum("bht,bthc->bhc", score.softmax(2), v.view(b, t, self.heads, -1))
        return self.leave(merged.reshape(b, self.inner))


class _Classifier(nn.Module):
    def __init__(self, merge: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.merge, self.norm, self.classify = merge, nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor, days: Tensor | None, there: Tensor | None) -> Tensor:
        return self.classify(self.norm(self.merge(x, days, there)))


def series_probe(
    features: Any,
    targets: np.ndarray,
    splits: Splits,
    *,
    merge: Merge = "mean",
    days: np.ndarray | None = None,
    there: np.ndarray | None = None,
    settings: Training | None = None,
    **options: Any,
) -> Scores:
    """``mean``: any protocol of ``probe`` on the mean (``options`` are its); the others are trained with a classifier.

    ``features`` [N, T, D]; ``days`` [N, T] since any day; ``there`` bool [N, T]: False for dates that only pad.
    """
    began, targets = time.perf_counter(), np.asarray(targets)
    x = torch.as_tensor(np.asarray(features), dtype=torch.float32)
    if x.ndim != 3:
        raise ManyoneError(f"features: shape {tuple(x.shape)}; give one vector a date, [N, T, D]")
    present = None if there is None else torch.as_tensor(there, dtype=torch.bool)
    if present is not None and not bool(present.any(1).all()):
        raise ManyoneError(f"there: sample {int((~present.any(1)).nonzero()[0])} has no date; leave it out")
    if merge == "mean":
        return probe(mean_over_time(x, present), targets, splits, **options)
    if merge not in ("linear", "ltae") or options:
        raise ManyoneError(f"merge: {merge!r} with {', '.join(options) or 'no options'}; use mean, linear or ltae")
    if kind_of(targets) == "value":
        raise ManyoneError(
            f"targets: {merge} takes classes or labels; use merge='mean' with protocol 'ridge' for numbers"
        )
    settings = settings or Training(epochs=40, batch_size=64)
    exclusive = kind_of(targets) == "class"
    labels = Labels.from_targets(targets) if exclusive else None
    goal = torch.from_numpy(labels.numbers if labels else targets.astype(np.float32))
    when = None if days is None else torch.as_tensor(np.asarray(days) - np.min(days), dtype=torch.float32)
    flat = x[splits.train].flatten(0, 1)
    x = (x - flat.mean(0)) / flat.std(0).clamp_min(1e-6)
    torch.manual_seed(settings.seed)
    inner, width = (LTAE(x.shape[2]), 256) if merge == "ltae" else (LinearOverTime(x.shape[1]), x.shape[2])
    module = _Classifier(inner, width, len(labels.classes) if labels else targets.shape[1])

    def logits(at: np.ndarray) -> Tensor:
        return module(x[at], None if when is None else when[at], None if present is None else present[at])

    measure = functional.cross_entropy if exclusive else functional.binary_cross_entropy_with_logits
    best = train(module, lambda at: measure(logits(at), goal[at]), splits.train,
                 lambda: -float(measure(logits(splits.val), goal[splits.val])), settings, name=merge)  # fmt: skip
    with torch.inference_mode():
        out = logits(splits.test)
    more = {"chosen": {"val_loss": -best}, "seconds": time.perf_counter() - began}
    if labels:
        return class_result(merge, labels, splits.test, out.softmax(1), **more)
    return labels_result(merge, targets, splits.test, out.sigmoid(), **more)
