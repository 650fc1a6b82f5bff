"""Binary masks over the shared weights of a network, one for each task, stored as bits.

The policy of task i is the network with weights theta * M_i. Fifty masks of a network with 4.7 million maskable
weights take 30 MB; no float copy of the weights exists for a task that is not at hand. Initial masks are random with
the Erdős-Rényi-Kernel densities of Evci et al., "Rigging the Lottery" (arXiv 1911.11134).
Public names: :class:`TaskMasks`, :func:`erk_densities`, :func:`maskable_shapes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.randomness import generator_for

Shapes = dict[str, tuple[int, ...]]
Scope = Literal["blocks_weights_only", "blocks", "all"]


def maskable_shapes(model: nn.Module, scope: Scope = "blocks_weights_only") -> Shapes:
    """Names and shapes of the maskable weights W of a :class:`~manyone.nets.decision.DecisionTransformer`.

    ``blocks_weights_only``: the matrices of the blocks; ``blocks``: all of the blocks and the final LayerNorm;
    ``all``: every parameter. Embeddings and head stay dense in the first two.
    """
    if scope not in ("blocks_weights_only", "blocks", "all"):
        raise ManyoneError(f"mask_scope {scope!r}: must be blocks_weights_only, blocks or all")
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    if scope == "all":
        return shapes
    shapes = {n: s for n, s in shapes.items() if n.startswith(("blocks.", "norm."))}
    return shapes if scope == "blocks" else {n: s for n, s in shapes.items() if len(s) == 2}


def erk_densities(shapes: Mapping[str, Sequence[int]], sparsity: float) -> dict[str, float]:
    """Density p_l of each tensor: min(1, eps (sum of dims) / (product of dims)), with the overall density 1 - sparsity.

    eps solves sum_l p_l size_l = (1 - sparsity) sum_l size_l. Tensors of one dimension are dense, as q_l = 1 makes
    them at the published sparsities; where even then the rest cannot be thin enough, they give way too.
    """
    _check_sparsity(sparsity)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    wanted = (1 - sparsity) * sum(sizes.values())
    dense = {name for name, shape in shapes.items() if len(shape) < 2}
    if sum(sizes[n] for n in dense) > wanted:
        dense = set()
    while True:
        open_ = [name for name in shapes if name not in dense]
        left = wanted - sum(sizes[name] for name in dense)
        eps = left / sum(raw[name] * sizes[name] for name in open_) if open_ else 0.0
        full = {name for name in open_ if eps * raw[name] > 1}
        if not full:
            return {name: 1.0 if name in dense else eps * raw[name] for name in shapes}
        dense |= full


def _check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise ManyoneError(f"sparsity = {sparsity}: must be in [0, 1)")


class TaskMasks:
    """``count`` masks over tensors with ``shapes``, bit-packed: eight entries a byte, row-major, first tensor first.

    A "flat" mask is bool [d], d = :attr:`size`, the tensors laid end to end in the order of ``shapes``.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], bits: Tensor) -> None:
        self.shapes: Shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.size = sum(self.sizes)
        if bits.ndim != 2 or bits.dtype != torch.uint8 or bits.shape[1] != -(-self.size // 8):
            raise ManyoneError(
                f"masks of {self.size} entries need bits uint8 [masks, {-(-self.size // 8)}], "
                f"got {bits.dtype} {list(bits.shape)}"
            )
        self.bits = bits

    @classmethod
    def ones(cls, shapes: Mapping[str, Sequence[int]], count: int) -> TaskMasks:
        """All entries active."""
        size = sum(math.prod(shape) for shape in shapes.values())
        return cls(shapes, _pack(torch.ones(1, size, dtype=torch.bool)).repeat(count, 1))

    @classmethod
    def random(
        cls,
        shapes: Mapping[str, Sequence[int]],
        count: int,
        sparsity: float = 0.2,
        *,
        seed: int,
        init: Literal["erk", "uniform"] = "erk",
        shared: bool = False,
    ) -> TaskMasks:
        """Each entry drawn independently with its tensor's density; ``shared`` gives all tasks the same mask.

        ``uniform`` gives every tensor of two or more dimensions the same density and keeps the others dense.
        """
        _check_sparsity(sparsity)
        if count < 1:
            raise ManyoneError(f"{count} masks: there must be at least one")
        if init == "erk":
            densities = erk_densities(shapes, sparsity)
        elif init == "uniform":
            densities = {name: 1 - sparsity if len(shape) > 1 else 1.0 for name, shape in shapes.items()}
        else:
            raise ManyoneError(f"mask init {init!r}: must be erk or uniform")
        rows = []
        for number in range(1 if shared else count):
            draw = generator_for(seed, "mask", number)
            parts = [torch.rand(math.prod(shape), generator=draw) < densities[name] for name, shape in shapes.items()]
            rows.append(_pack(torch.cat(parts).unsqueeze(0)))
        bits = torch.cat(rows)
        return cls(shapes, bits.repeat(count, 1) if shared else bits)

    def __len__(self) -> int:
        return len(self.bits)

    @property
    def nbytes(self) -> int:
        """Bytes of all masks together."""
        return self.bits.numel()

    def flat(self, indices: Tensor | Sequence[int] | int) -> Tensor:
        """Bool [d] of one mask, or [G, d] of several."""
        if isinstance(indices, int):
            return self.flat([indices])[0]
        index = torch.as_tensor(indices, dtype=torch.int64)
        if bool(((index < 0) | (index >= len(self))).any()):
            raise ManyoneError(f"mask {index.tolist()}: there are masks 0..{len(self) - 1}")
        return _unpack(self.bits[index.to(self.bits.device)], self.size)

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat tensor [..., d] by name, [..., *shape]."""
        parts = flat.split(self.sizes, -1)
        return {n: part.unflatten(-1, shape) for (n, shape), part in zip(self.shapes.items(), parts)}

    def unpack(self, index: int) -> dict[str, Tensor]:
        """Mask ``index`` by name, bool."""
        return self.named(self.flat(index))

    def stacked(self, indices: Tensor | Sequence[int]) -> dict[str, Tensor]:
        """Masks ``indices`` by name, bool [G, *shape]."""
        return self.named(self.flat(indices))

    def set(self, index: int, mask: Tensor | Mapping[str, Tensor]) -> None:
        """Replaces mask ``index`` by a flat one [d] or by tensors of all names."""
        if isinstance(mask, Mapping):
            wrong = {n for n, shape in self.shapes.items() if n not in mask or tuple(mask[n].shape) != shape}
            if wrong or set(mask) != set(self.shapes):
                raise ManyoneError(f"mask {index}: names or shapes do not fit ({', '.join(sorted(wrong)) or 'extra'})")
            mask = torch.cat([mask[name].reshape(-1) for name in self.shapes])
        if mask.shape != (self.size,):
            raise ManyoneError(f"mask {index}: {list(mask.shape)} entries, expected [{self.size}]")
        self.bits[index] = _pack(mask.bool().unsqueeze(0))[0].to(self.bits.device)

    def flip(self, index: int, entries: Tensor) -> None:
        """Inverts the distinct flat ``entries`` (int64 [k]) of mask ``index``."""
        bit = torch.bitwise_right_shift(torch.tensor(128, device=entries.device), entries % 8)
        change = torch.zeros(self.bits.shape[1], dtype=torch.int64, device=entries.device)
        change.index_add_(0, entries // 8, bit)  # distinct bits: their sum is their union
        self.bits[index] ^= change.to(self.bits)

    def active(self) -> Tensor:
        """Number of ones of each mask, int64 [N]."""
        table = torch.tensor([byte.bit_count() for byte in range(256)], device=self.bits.device)
        return torch.stack([table[row.long()].sum() for row in self.bits])

    def vote(self, threshold: int) -> Tensor:
        """Flat mask of the entries that at least ``threshold`` masks have (1: the union, N: the intersection)."""
        if not 1 <= threshold <= len(self):
            raise ManyoneError(f"vote threshold {threshold}: must be 1..{len(self)}, the number of masks")
        votes = torch.zeros(self.size, dtype=torch.int32, device=self.bits.device)
        for index in range(len(self)):
            votes += self.flat(index)
        return votes >= threshold

    def overlap(self) -> Tensor:
        """[N, N] in [0, 1]: entries that both masks have over the geometric mean of how many each has."""
        both = torch.zeros(len(self), len(self), dtype=torch.float64)
        for start in range(0, self.bits.shape[1], 1 << 16):
            part = _unpack(self.bits[:, start : start + (1 << 16)], None).float()
            both += (part @ part.T).double().cpu()
        ones = both.diagonal().clamp(min=1).sqrt()
        return both / ones / ones[:, None]

    def to(self, device: str | torch.device) -> TaskMasks:
        """The same masks on ``device``."""
        return TaskMasks(self.shapes, self.bits.to(device))

    def clone(self) -> TaskMasks:
        """A copy that can be changed on its own."""
        return TaskMasks(self.shapes, self.bits.clone())


def _pack(mask: Tensor) -> Tensor:
    """bool [n, d] -> uint8 [n, ceil(d / 8)]"""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.numpy(), axis=-1))
    padded = torch.nn.functional.pad(mask, (0, -mask.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (padded * _powers(mask.device)).sum(-1, dtype=torch.uint8)


def _unpack(bits: Tensor, size: int | None) -> Tensor:
    """uint8 [n, b] -> bool [n, size]"""
    if bits.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1, count=size)).view(torch.bool)
    found = (bits.unsqueeze(-1) & _powers(bits.device)).ne(0).flatten(-2)
    return found if size is None else found[..., :size].contiguous()


def _powers(device: torch.device) -> Tensor:
    return torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)
