"""Arguments as people give them (numpy's numbers, lists, names of devices), or one line that says what is wrong.

Public: ``whole``, ``number``, ``float_type``, ``compute_device``, ``tensor``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.engine.devices import device_of
from manyone.errors import ManyoneError


def whole(name: str, value: Any, least: int = 0) -> int:
    """``value`` as an int of at least ``least``."""
    if isinstance(value, bool | np.bool) or not isinstance(value, int | np.integer):
        raise ManyoneError(f"{name} = {value!r}: a whole number of at least {least} is needed")
    if value < least:
        raise ManyoneError(f"{name} = {value}: must be at least {least}")
    return int(value)


def number(name: str, value: Any) -> float:
    """``value`` (a number of Python or numpy, a tensor of one) as a finite float."""
    try:
        found = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError):
        found = math.nan
    if not math.isfinite(found):
        raise ManyoneError(f"{name} = {value!r}: a finite number is needed")
    return found


def float_type(dtype: Any) -> torch.dtype:
    """``dtype``, if states can be of it."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ManyoneError(f"dtype = {dtype!r}: torch.float32 or torch.float64 is needed")
    return dtype


def compute_device(device: str | torch.device) -> torch.device:
    """The device called ``device`` ("auto", "cpu", "cuda", "cuda:N"), if it is there."""
    if isinstance(device, torch.device) and device.type not in ("cuda", "mps"):
        return device
    return device_of(str(device), double=True)


def tensor(name: str, value: Any) -> Tensor:
    """What ``torch.as_tensor`` takes."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ManyoneError(f"{name}: numbers are needed, not {type(value).__name__} {str(value)[:40]!r}") from None
