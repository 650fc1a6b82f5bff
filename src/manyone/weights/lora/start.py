"""What peft takes out of a base weight W [out, in] when it sets an adapter up, as it does at every loading.

- PiSSA (Meng et al., 2024): the r largest singular triples, U_r S_r V_r^T.
- OLoRA (Buyukakyuz, 2024): s Q_r R_r of W = Q R (peft factors W as it is stored, also where that is transposed).
- KaSA (Wang et al., 2024): the r smallest singular triples.

The adapter was trained beside the rest. Each factors one whole matrix: that matrix is in memory, once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.weights.checkpoint import Entry
from manyone.weights.lora.entries import LowRank


def pissa(base: Entry, rank: int, transposed: bool) -> LowRank:
    """U_r S_r V_r^T."""
    u, s, v = torch.linalg.svd(_matrix(base, transposed), full_matrices=False)
    return LowRank.of(u[:, :rank] * s[:rank], v[:rank], transposed=transposed)


def olora(base: Entry, rank: int, scale: float) -> LowRank:
    """s Q_r R_r."""
    q, r = torch.linalg.qr(_matrix(base, False))
    return LowRank.of(q[:, :rank], r[:rank], scale)


def kasa(base: Entry, rank: int) -> LowRank:
    """U S V^T of the ``rank`` smallest singular values."""
    u, s, v = torch.linalg.svd(_matrix(base, False), full_matrices=False)
    kept = len(s) - rank
    return LowRank.of(u[:, kept:] * s[kept:], v[kept:])


def _matrix(base: Entry, transposed: bool) -> Tensor:
    """W [out, in] in float32."""
    values = base.flat(0, base.info.numel).float().view(base.info.shape)
    return values.T if transposed else values
