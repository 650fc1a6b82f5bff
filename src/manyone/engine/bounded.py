"""Networks that a file describes are built within bounds: no more tensors and numbers than the file itself holds.

A configuration that says a billion layers, or a width of a million, is found out while its network is built, before
its shapes can be compared with those of the tensors. Public name: :class:`Bounded`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FACTORIES = frozenset(
    getattr(torch, name)
    for name in (
        "empty",
        "zeros",
        "ones",
        "full",
        "rand",
        "randn",
        "randint",
        "eye",
        "arange",
        "linspace",
        "tril_indices",
    )
)
_SPARE_NUMBERS, _SPARE_TENSORS = 1 << 22, 4096  # what a sound network makes besides its weights: tables, masks


class Bounded(TorchFunctionMode):
    """Within it ``ValueError`` stops whoever makes more tensors, or larger ones, than ``tensors`` can account for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._numbers: float = 8 * sum(value.numel() for value in tensors.values()) + _SPARE_NUMBERS
        self._tensors = 64 * len(tensors) + _SPARE_TENSORS

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), words: Any = None) -> Any:
        words = words or {}
        if function in _FACTORIES:
            self._tensors -= 1
            self._numbers -= _numbers(function, arguments, words)
            if self._numbers < 0 or self._tensors < 0:
                raise ValueError("it describes a network that is far larger than its tensors")
        return function(*arguments, **words)


def _numbers(function: Any, arguments: tuple[Any, ...], words: Mapping[str, Any]) -> float:
    """How many numbers the call would make."""
    if function in (torch.arange, torch.linspace):
        ends = [v for v in (*arguments, words.get("end"), words.get("steps")) if isinstance(v, int | float)]
        return max(map(abs, ends), default=0)
    if function is torch.eye:
        sides = [v for v in arguments if isinstance(v, int)]
        return sides[0] * sides[-1] if sides else 0
    sizes: Any = words.get("size", arguments)
    if function is torch.full:
        sizes = words.get("size", arguments[0] if arguments else ())
    if function is torch.randint:
        sizes = words.get("size", arguments[-1] if arguments else ())
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        sizes = sizes[0]
    return math.prod(n for n in sizes if isinstance(n, int))
