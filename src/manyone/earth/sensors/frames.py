"""Which dates of a series a model sees (rsfm.md 2.2, step 7).

More dates than wanted: the cloudiest are dropped first where a cloud fraction is known, otherwise dates at
round(linspace(0, T_in - 1, T)) in order of time. Fewer: the last one is repeated and marked as padded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.errors import ManyoneError


def choose_frames(
    count: int, wanted: int, *, samples: int = 1, time: Tensor | None = None, cloud: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(positions int64 [B, wanted], padded bool [B, wanted]) among ``count`` dates of ``samples`` series.

    ``time`` (float [B, count], days) orders the dates, NaN last; without it they are in order. ``cloud`` (float
    [B, count], 0 to 1) is what decides which dates are dropped.
    """
    if count < 1 or wanted < 1:
        raise ManyoneError(f"frames: {wanted} of {count} dates: both must be at least 1")
    for name, given in (("time", time), ("cloud", cloud)):
        if given is not None and given.shape != (samples, count):
            raise ManyoneError(f"{name}: shape {tuple(given.shape)}, must be ({samples}, {count}): one a date")
    if time is None:
        order = torch.arange(count).expand(samples, count)
    else:
        order = torch.argsort(time.nan_to_num(nan=float("inf")), dim=1, stable=True)
    if wanted >= count:
        steps = torch.arange(wanted).clamp(max=count - 1)
        padded = (torch.arange(wanted) >= count).expand(samples, wanted)
        return order[:, steps], padded
    if cloud is not None:
        clearest = torch.argsort(cloud.gather(1, order), dim=1, stable=True)[:, :wanted].sort(dim=1).values
        return order.gather(1, clearest), torch.zeros(samples, wanted, dtype=torch.bool)
    steps = torch.linspace(0, count - 1, wanted, dtype=torch.float64).round().long()
    return order[:, steps], torch.zeros(samples, wanted, dtype=torch.bool)


def take_frames(x: Tensor, index: Tensor) -> Tensor:
    """[B, T, ...] of the positions ``index`` [B, T] along dimension 1 of ``x`` [B, T_in, ...]."""
    return x[torch.arange(len(x), device=x.device)[:, None], index.to(x.device)]
