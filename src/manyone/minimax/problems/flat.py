"""The flat saddle state: everything one client holds is one vector z = [x, y].

One message per neighbour, one axpy per step: x (minimised, p numbers) comes first, then y (q numbers). Many clients,
replicas, twins and grid points are rows of one matrix Z [members, P], P = p + q; modules see views of it.
Public: ``FlatSpec``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from manyone.errors import ManyoneError

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class FlatSpec:
    """Names and shapes of the tensors of x and of y, in the order in which they lie in the flat vector."""

    x_shapes: Shapes
    y_shapes: Shapes

    @classmethod
    def of(cls, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> FlatSpec:
        """The layout of the given tensors (without member axis)."""
        return cls(
            tuple((name, tuple(value.shape)) for name, value in x.items()),
            tuple((name, tuple(value.shape)) for name, value in y.items()),
        )

    @property
    def p(self) -> int:
        """Numbers in x."""
        return sum(math.prod(shape) for _, shape in self.x_shapes)

    @property
    def q(self) -> int:
        """Numbers in y."""
        return sum(math.prod(shape) for _, shape in self.y_shapes)

    @property
    def size(self) -> int:
        """P = p + q."""
        return self.p + self.q

    def pack(self, x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Tensor:
        """One contiguous tensor [..., P] from tensors that share leading axes."""
        parts = []
        for values, shapes in ((x, self.x_shapes), (y, self.y_shapes)):
            for name, shape in shapes:
                value = values[name]
                lead = value.shape[: value.ndim - len(shape)]
                if value.shape[len(lead) :] != shape:
                    raise ManyoneError(f"{name} has shape {list(value.shape)}; its last axes must be {list(shape)}")
                parts.append(value.reshape(*lead, -1))
        return torch.cat(parts, -1)

    def unpack(self, z: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Views (x, y) into ``z`` [..., P]; leading axes stay in front."""
        x, at = _views(z, self.x_shapes, 0)
        y, at = _views(z, self.y_shapes, at)
        if z.shape[-1] != at:
            raise ManyoneError(f"a flat state of width {z.shape[-1]} does not fit this problem's {at} numbers")
        return x, y

    def sign(self, zero_sum: bool = True, *, dtype: torch.dtype = torch.float64) -> Tensor:
        """The sign vector [P] of a step z <- z + eta * sign * grad: -1 on x, +1 on y.

        With two losses (``zero_sum`` False) either player descends its own loss: -1 everywhere.
        """
        sign = torch.full((self.size,), -1.0, dtype=dtype)
        if zero_sum:
            sign[self.p :] = 1.0
        return sign


def _views(z: Tensor, shapes: Shapes, at: int) -> tuple[dict[str, Tensor], int]:
    found = {}
    for name, shape in shapes:
        count = math.prod(shape)
        part = z[..., at : at + count]
        found[name] = part.squeeze(-1) if shape == () else part.unflatten(-1, shape) if len(shape) > 1 else part
        at += count
    return found, at
