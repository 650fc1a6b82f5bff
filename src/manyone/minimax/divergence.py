"""Runs that diverge: a warning when the state has grown far, an error when it is no longer finite.

Public: ``check_finite``, ``has_grown``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from manyone.errors import ManyoneError

_GROWTH = 1e3


def check_finite(state: Tensor, round_: int, etas: tuple[float, float], fields: Mapping[str, Tensor], at: str) -> None:
    """Raises unless ``state`` is finite, saying what to try; ``at`` names the grid point."""
    if bool(torch.isfinite(state.sum())):
        return
    for name, values in fields.items():
        if not bool(torch.isfinite(values).all()):
            raise ManyoneError(f"the samples' field {name!r} holds NaN or infinite values: clean the data")
    raise ManyoneError(
        f"the state is no longer finite after round {round_}{at}: take smaller step sizes than {etas[0]:g} (x) and "
        f"{etas[1]:g} (y), or standardise the features and bring rows to norm 1 (Scaling.fit(rows, 'standard-rows'))"
    )


def has_grown(norm: float, first: float, round_: int, at: str) -> bool:
    """Whether the largest ``norm`` of a client's state is far from the ``first``; says so once."""
    if norm <= _GROWTH * (1.0 + first):
        return False
    warnings.warn(
        f"||z|| has grown to {norm:.3g} by round {round_}{at}: simultaneous steps diverge on games without curvature; "
        "try local_step='extragradient' (--local-step) or a smaller step size",
        stacklevel=4,
    )
    return True
