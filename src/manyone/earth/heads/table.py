"""Heads by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from manyone.earth.heads.light import ConvHead, FPNHead, LinearHead
from manyone.earth.heads.upernet import UPerNet
from manyone.errors import ManyoneError

HEADS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
    "linear": LinearHead,
    "conv": ConvHead,
    "fpn": FPNHead,
    "upernet": UPerNet,
}
"""Name -> (widths of the layers, number of outputs) -> module(maps, size)."""


def make_head(name: str, widths: Sequence[int], outputs: int) -> nn.Module:
    """The head called ``name``."""
    if name not in HEADS:
        raise ManyoneError(f"head: {name!r} is unknown; there are {', '.join(HEADS)}")
    return HEADS[name](widths, outputs)
