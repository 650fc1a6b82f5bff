"""All parameters of a network as one flat vector, the maskable ones first, and their views by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError


class Layout:
    """Order and shapes of a network's parameters in a flat vector [P]; the first :attr:`maskable` entries are W."""

    def __init__(self, model: nn.Module, maskable: Iterable[str]) -> None:
        shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        first = list(maskable)
        missing = [name for name in first if name not in shapes]
        if missing:
            raise ManyoneError(f"masks for {missing[0]}: the network has no such parameter")
        self.shapes = {name: shapes[name] for name in [*first, *(n for n in shapes if n not in set(first))]}
        self.sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        self.first, self.rest = first, [n for n in self.shapes if n not in set(first)]
        self.maskable = sum(self.sizes[n] for n in first)
        self.total = sum(self.sizes.values())

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """The flat vector [P] of parameters by name."""
        return torch.cat([values[name].detach().reshape(-1) for name in self.shapes])

    def views(self, flat: Tensor, part: str = "all") -> dict[str, Tensor]:
        """Parameters by name as views of ``flat`` [m, entries of the part]; without the leading axis if m = 1.

        ``part``: "all" [m, P], "maskable" [m, d] or "rest" [m, P - d].
        """
        names = {"all": list(self.shapes), "maskable": self.first, "rest": self.rest}[part]
        if not names:
            return {}
        flat = flat[0] if flat.shape[0] == 1 else flat
        pieces = flat.split([self.sizes[n] for n in names], -1)
        return {name: piece.unflatten(-1, self.shapes[name]) for name, piece in zip(names, pieces)}
