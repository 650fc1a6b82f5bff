"""Compact storage of pruned tensors and of masks, as plain tensors that safetensors can hold.

A pruned tensor is kept as its non-zero values and the distances between them (one or two bytes each). A distance that
does not fit is bridged by explicit zeros, so unpacking is one cumulative sum.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError


def pack_sparse(tensor: Tensor) -> dict[str, Tensor]:
    """``values`` [k], ``deltas`` [k] (uint8 or uint16, whichever is smaller in total) and ``shape`` [ndim] int64."""
    flat = tensor.detach().reshape(-1).cpu()
    places = torch.nonzero(flat).view(-1).numpy()
    gaps = np.diff(places, prepend=-1)  # >= 1
    size = flat.element_size()
    cost = {kind: (size + np.dtype(kind).itemsize) * int(np.sum(_pieces(gaps, kind))) for kind in (np.uint8, np.uint16)}
    kind = min(cost, key=lambda k: cost[k])
    longest = np.iinfo(kind).max
    pieces = _pieces(gaps, kind)
    ends = np.cumsum(pieces) - 1  # where the real entries land
    deltas = np.full(int(pieces.sum()), longest, dtype=kind)
    deltas[ends] = gaps - (pieces - 1) * longest
    values = torch.zeros(len(deltas), dtype=flat.dtype)
    values[torch.from_numpy(ends)] = flat[torch.from_numpy(places)]
    return {
        "values": values,
        "deltas": torch.from_numpy(deltas),
        "shape": torch.tensor(tensor.shape, dtype=torch.int64),
    }


def _pieces(gaps: np.ndarray, kind: type) -> np.ndarray:
    return -(-gaps // np.iinfo(kind).max)


def unpack_sparse(packed: Mapping[str, Tensor]) -> Tensor:
    """Inverse of :func:`pack_sparse`."""
    shape = [int(n) for n in packed["shape"]]
    flat = torch.zeros(int(np.prod(shape)), dtype=packed["values"].dtype)
    places = np.cumsum(packed["deltas"].numpy().astype(np.int64)) - 1
    if len(places) and places[-1] >= flat.numel():
        raise ManyoneError(f"sparse tensor of shape {shape} is damaged: entry at {int(places[-1])}")
    flat[torch.from_numpy(places)] = packed["values"]
    return flat.view(shape)


def pack_mask(mask: Tensor) -> Tensor:
    """Bits of a boolean tensor, eight to a byte in row-major order; uint8 [ceil(n / 8)]."""
    return torch.from_numpy(np.packbits(mask.detach().reshape(-1).cpu().numpy().astype(bool)))


def unpack_mask(bits: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Inverse of :func:`pack_mask`; the shape is not in the bits."""
    count = int(np.prod(shape))
    if bits.numel() != -(-count // 8):
        raise ManyoneError(f"{bits.numel()} bytes cannot hold a mask of shape {list(shape)}")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool)).view(tuple(shape))
