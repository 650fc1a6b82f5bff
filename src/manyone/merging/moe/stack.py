"""The weights of one critical layer: theta_0 and the experts' task vectors, dense or pruned, on one leading axis.

A stack is [N + 1, out, in] with theta_0 in row 0, so that a merge is one product with [1, r_1, .., r_N]. Weights are
kept transposed, [in, out], in panels of outputs: a tile (some inputs of one panel) lies in one piece in every member,
stays in the cache from its merge to its product, and the product, which has few rows to share that cost, need not
transpose it again. A pruned stack keeps only values and positions and is expanded tile by tile into a re-used buffer;
both give the same numbers.
Public names: :class:`DenseStack`, :class:`SparseStack`, :func:`magnitude_prune`, :func:`scratch`.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError

TILE = 256
"""Inputs of a panel that are merged at a time: fewer spoil the products, more leave a CPU's cache."""
PANEL = 256
"""Most outputs of a panel, where the number of outputs has a fitting divisor."""
BUFFER_BYTES = 64 << 20

_kept = threading.local()


def scratch(slot: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised contiguous tensor, valid until this thread asks for the same slot again.

    On a CPU the pages of fresh memory cost as much as the arithmetic, so up to :data:`BUFFER_BYTES` are kept per slot
    and thread. On other devices the caching allocator re-uses memory and keeps streams apart already.
    """
    size = math.prod(shape)
    if like.device.type != "cpu" or size * like.element_size() > BUFFER_BYTES:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    kept: dict[tuple[str, torch.dtype], Tensor] = _kept.__dict__.setdefault("buffers", {})
    buffer = kept.get((slot, like.dtype))
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # a buffer born in inference mode could not be written to in training
            buffer = kept[slot, like.dtype] = torch.empty(size, dtype=like.dtype)
    return buffer[:size].view(shape)


def magnitude_prune(tau: Tensor, ratio: float) -> Tensor:
    """Keeps the entries with |tau| above the ``ratio``-quantile of |tau|, zeroes the rest; no rescaling.

    The quantile interpolates linearly between order statistics v_k and v_(k+1), k = floor(ratio (n - 1)), so an entry
    exceeds it exactly when it exceeds v_k: one selection decides, for tensors of any size. n - 1 - k entries survive
    where magnitudes differ: ratio 0 drops the least entry, ratio 1 all of them.
    """
    if not 0 <= ratio <= 1:
        raise ManyoneError(f"prune ratio must be in [0, 1], got {ratio}")
    if tau.numel() == 0:
        return tau.clone()
    magnitude = tau.detach().reshape(-1).abs()
    k = min(math.floor(ratio * (magnitude.numel() - 1)), magnitude.numel() - 1)
    threshold = magnitude.kthvalue(k + 1).values
    return torch.where(tau.abs() > threshold, tau, torch.zeros_like(tau))


def panels_of(outputs: int) -> int:
    """The least number of equal panels of at most :data:`PANEL` outputs; 1 where no such divisor is near."""
    least = -(-outputs // PANEL)
    return next((p for p in range(least, 2 * least + 1) if outputs % p == 0), 1)


def tiles_of(inputs: int) -> list[tuple[int, int]]:
    """First input and end of every tile."""
    return [(k, min(k + TILE, inputs)) for k in range(0, inputs, TILE)]


class DenseStack(nn.Module):
    """All members in one buffer [panels, N + 1, in, out / panels]."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        members, rows, columns = weight.shape
        panels = weight.reshape(members, panels_of(rows), -1, columns).permute(1, 0, 3, 2)
        self.register_buffer("weight", panels.contiguous())

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, out, in)."""
        panels, members, columns, width = self.weight.shape
        return members - 1, panels * width, columns

    @property
    def panels(self) -> list[tuple[int, int]]:
        """First output and end of every panel."""
        width = self.weight.shape[3]
        return [(k * width, (k + 1) * width) for k in range(self.weight.shape[0])]

    @property
    def base(self) -> Tensor:
        """theta_0 [out, in]; in fresh memory where there are several panels."""
        return self.weight[0, 0].T if len(self.weight) == 1 else self.member(0)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.weight.dtype

    def tile(self, start: int, stop: int, panel: int = 0) -> Tensor:
        """Inputs start..stop of every member in one panel, transposed: [N + 1, (stop - start) * width]; a view."""
        _, members, columns, width = self.weight.shape
        return self.weight[panel].view(members, columns * width)[:, start * width : stop * width]

    def member(self, index: int) -> Tensor:
        """Row ``index`` (0: theta_0, i: task vector of expert i - 1) as [out, in], in fresh memory."""
        return torch.cat([panel.T for panel in self.weight[:, index]])


class SparseStack(nn.Module):
    """theta_0 dense [panels, in, out / panels]; task vectors as values and int32 positions, tile by tile."""

    weight: Tensor
    values: Tensor
    positions: Tensor
    bounds: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        members, rows, columns = weight.shape
        self.members = members
        panels = weight.reshape(members, panels_of(rows), -1, columns).transpose(2, 3)
        values, positions, bounds = [], [], [0]
        for panel in range(panels.shape[1]):
            for start, stop in tiles_of(columns):
                part = panels[1:, panel, start:stop].reshape(-1)
                found = part.nonzero().squeeze(1)
                values.append(part[found])
                positions.append(found.to(torch.int32))
                bounds.append(bounds[-1] + len(found))
        self.register_buffer("weight", panels[0].clone(memory_format=torch.contiguous_format))
        self.register_buffer("values", torch.cat(values))
        self.register_buffer("positions", torch.cat(positions))
        self.register_buffer("bounds", torch.tensor(bounds))
        self._bounds: list[int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, out, in)."""
        panels, columns, width = self.weight.shape
        return self.members - 1, panels * width, columns

    @property
    def panels(self) -> list[tuple[int, int]]:
        """First output and end of every panel."""
        width = self.weight.shape[2]
        return [(k * width, (k + 1) * width) for k in range(len(self.weight))]

    @property
    def base(self) -> Tensor:
        """theta_0 [out, in]; in fresh memory where there are several panels."""
        return self.weight[0].T if len(self.weight) == 1 else torch.cat([panel.T for panel in self.weight])

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.weight.dtype

    def tile(self, start: int, stop: int, panel: int = 0) -> Tensor:
        """As :meth:`DenseStack.tile`, expanded into this thread's scratch memory; bounds must be those of tiles."""
        _, columns, width = self.weight.shape
        tiles = tiles_of(columns)
        if self._bounds is None:
            self._bounds = self.bounds.tolist()
        dense = scratch("stack", (self.members, (stop - start) * width), self.weight)
        dense[0].copy_(self.weight[panel, start:stop].reshape(-1))
        dense[1:].zero_()
        for first, last in tiles[start // TILE : -(-stop // TILE)]:
            k = panel * len(tiles) + first // TILE
            lo, hi = self._bounds[k], self._bounds[k + 1]
            positions = self.positions[lo:hi]
            if (first, last) == (start, stop):
                dense[1:].reshape(-1).index_add_(0, positions, self.values[lo:hi])
            else:
                size = (last - first) * width
                member = torch.div(positions, size, rounding_mode="floor")
                where = member.long() * dense.shape[1] + (positions - member * size) + (first - start) * width
                dense[1:].reshape(-1).index_add_(0, where, self.values[lo:hi])
        return dense

    def member(self, index: int) -> Tensor:
        """As :meth:`DenseStack.member`."""
        _, columns, width = self.weight.shape
        found = self.weight.new_empty(self.shape[1:])
        for panel, (first, last) in enumerate(self.panels):
            found[first:last] = self.tile(0, columns, panel)[index].view(columns, width).T
        return found

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Another set of experts may keep another number of entries."""
        for name in ("values", "positions"):
            value = state_dict.get(prefix + name)
            if value is not None:
                kept = getattr(self, name)
                setattr(self, name, torch.empty(value.shape, dtype=kept.dtype, device=kept.device))
        self._bounds = None
        super()._load_from_state_dict(state_dict, prefix, *args)


Stack = DenseStack | SparseStack
