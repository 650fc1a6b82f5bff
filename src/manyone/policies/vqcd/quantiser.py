"""Vectors replaced by the nearest of a few learned ones, and what it costs: the codebook of quantised spaces alignment.

"Solving Continual Offline RL through Selective Weights Activation on Aligned Spaces" (arXiv 2410.15698), section 4.1.
An encoding of n latents of l entries is replaced latent by latent:

    index       i_j = argmin_c |z_e,j - E_c|^2                          nearest_codes
    output      z_q,j = E_{i_j};  the decoder reads z_e + sg(z_q - z_e) VectorQuantiser.forward
    penalty     |sg(z_e) - z_q|^2 + c |sg(z_q) - z_e|^2                  VectorQuantiser.forward
    bound       E <- clip(E, -rho, rho) after each update of E           VectorQuantiser.after_step

The codebook follows its gradient, as in the paper, or a moving average of the encodings that chose each code
(van den Oord et al. 2017, arXiv 1711.00937, appendix A.1; ours here).

Public names: :class:`VectorQuantiser`, :func:`nearest_codes`, :func:`initial_codes`, :func:`code_use`.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.randomness import generator_for

Init = Literal["normal", "kmeans", "uniform"]
Codebook = Literal["gradient", "ema"]
EMA_DECAY = 0.99
"""Of the moving average that a codebook may follow."""
_LAPLACE = 1e-5  # added to the averaged number of encodings of a code, as van den Oord et al. have it
_TREE_DIM = 4  # up to here a k-d tree beats comparing with all codes: at 512 codes of 2 entries tenfold
_BLOCK = 1 << 22  # distances that are held at once
_LLOYD = 10


def nearest_codes(points: Tensor, codes: Tensor) -> Tensor:
    """Number of the row of ``codes`` [K, l] that is nearest to each of ``points`` [..., l], int64 [...].

    Distances are of differences, not expanded into products: a point that is a code finds this code, however near to
    others it lies (of equal rows any).
    """
    flat = points.detach().reshape(-1, codes.shape[1])
    codes = codes.detach()
    if not bool(torch.isfinite(flat).all() & torch.isfinite(codes).all()):
        raise ManyoneError("an alignment's encodings are no longer finite: try a smaller alignment learning rate")
    if flat.device.type == "cpu" and codes.shape[1] <= _TREE_DIM:
        # codes may repeat, which would make a balanced tree deep
        tree = cKDTree(codes.numpy(), leafsize=8, balanced_tree=False, compact_nodes=False)
        return torch.from_numpy(tree.query(flat.numpy())[1]).to(torch.int64).view(points.shape[:-1])
    blocks = flat.split(max(1, _BLOCK // len(codes)))
    found = torch.cat([(block.unsqueeze(1) - codes).square_().sum(-1).argmin(1) for block in blocks])
    return found.view(points.shape[:-1])


def initial_codes(init: Init, codes: int, dim: int, seed: int) -> Tensor:
    """Codes [codes, dim] before training: standard normal, or uniform in -1/K to 1/K (van den Oord et al. 2017).

    ``kmeans`` begins as ``normal``; the first encodings replace it (:meth:`VectorQuantiser.begin`), which are made as
    wide as normal ones are: means of the encodings of a fresh encoder would start as narrow as ``uniform`` does, and
    leave as many codes unused.
    """
    if init not in get_args(Init):
        raise ManyoneError(f"codebook init {init!r}: must be {', '.join(get_args(Init))}")
    draw = generator_for(seed, "codebook")
    if init == "uniform":
        return (torch.rand(codes, dim, generator=draw) * 2 - 1) / codes
    return torch.randn(codes, dim, generator=draw)


def code_use(indices: Tensor, codes: int) -> dict[str, float]:
    """``codes_used``, ``dead_codes`` and ``perplexity`` exp(entropy), of the chosen ``indices`` out of ``codes``."""
    counts = torch.bincount(indices.reshape(-1), minlength=codes).double()
    shares = counts / counts.sum()
    used = int((counts > 0).sum())
    perplexity = float(torch.special.entr(shares).sum().exp())
    return {"codes_used": float(used), "dead_codes": float(codes - used), "perplexity": perplexity}


class VectorQuantiser(nn.Module):
    """A codebook [codes, dim] for encodings of several latents of ``dim`` entries.

    ``codebook`` is a parameter that ``"gradient"`` moves; with ``"ema"`` it takes no gradient and :meth:`after_step`
    moves it. ``commitment`` is c and ``bound`` rho.
    """

    entries = 1
    codebook: Tensor
    ema_size: Tensor
    ema_sum: Tensor

    def __init__(
        self,
        codes: int = 512,
        dim: int = 2,
        *,
        commitment: float = 0.25,
        bound: float = 3.0,
        init: Init = "normal",
        codebook: Codebook = "gradient",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if codebook not in get_args(Codebook):
            raise ManyoneError(f"codebook {codebook!r}: must be {' or '.join(get_args(Codebook))}")
        if codes < 1:
            raise ManyoneError(f"codes = {codes}: must be at least 1")
        if not commitment >= 0:
            raise ManyoneError(f"commitment = {commitment}: must be 0 or more")
        if not bound > 0:
            raise ManyoneError(f"bound = {bound}: must be positive")
        self.codes, self.dim, self.commitment, self.limit = codes, dim, commitment, bound
        self.init, self.by_average, self.seed = init, codebook == "ema", seed
        self.spread = init == "kmeans"
        start = initial_codes(init, codes, dim, seed).clamp_(-bound, bound)
        self.codebook = nn.Parameter(start, requires_grad=not self.by_average)
        if self.by_average:
            self.register_buffer("ema_size", torch.ones(codes))
            self.register_buffer("ema_sum", start.clone())
        self._chosen: tuple[Tensor, Tensor] | None = None  # what the next moving average is of

    @property
    def bound(self) -> float:
        """No entry of a code is beyond it."""
        return self.limit

    def indices(self, encoded: Tensor) -> Tensor:
        """Numbers of the codes nearest to the latents of ``encoded`` [..., n dim], int64 [..., n]."""
        return nearest_codes(encoded.unflatten(-1, (-1, self.dim)), self.codebook)

    def quantised(self, encoded: Tensor) -> Tensor:
        """``encoded`` [..., n dim] with each latent replaced by the nearest code; no gradient goes back."""
        return self.codebook.detach()[self.indices(encoded)].flatten(-2)

    def code(self, encoded: Tensor) -> Tensor:
        """What :meth:`forward` gives, without gradient or penalty."""
        return self.quantised(encoded)

    def use(self, encoded: Tensor) -> dict[str, float]:
        """Codes that ``encoded`` [..., n dim] takes; see :func:`code_use`."""
        return code_use(self.indices(encoded), self.codes)

    def settle(self, z: Tensor) -> None:
        """Nothing: the bound is given."""

    def forward(self, encoded: Tensor, draw: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """What the decoder reads, like ``encoded`` [B, n dim], and the penalty, a scalar: mean over the batch.

        The decoder's gradient passes to ``encoded`` unchanged; that of the penalty's first term goes to the codebook
        alone, that of the second to the encoder alone. ``draw`` is not used.
        """
        index = self.indices(encoded)
        nearest = F.embedding(index, self.codebook).flatten(-2)
        fixed = nearest.detach()
        penalty = self.commitment * (fixed - encoded).square().sum(-1).mean()
        if self.by_average:
            self._chosen = (index.reshape(-1), encoded.detach().reshape(-1, self.dim))
        else:
            penalty = penalty + (encoded.detach() - nearest).square().sum(-1).mean()
        return fixed + (encoded - encoded.detach()), penalty  # exactly the codes, with the encoder's gradient

    @torch.no_grad()
    def after_step(self) -> None:
        """After each step of the optimiser: the moving average moves the codes; all are clipped to the bound."""
        if self._chosen is not None:
            (index, encoded), self._chosen = self._chosen, None
            counts = torch.zeros_like(self.ema_size).index_add_(0, index, torch.ones_like(encoded[:, 0]))
            sums = torch.zeros_like(self.ema_sum).index_add_(0, index, encoded)
            self.ema_size.lerp_(counts, 1 - EMA_DECAY)
            self.ema_sum.lerp_(sums, 1 - EMA_DECAY)
            total = self.ema_size.sum()
            size = (self.ema_size + _LAPLACE) / (total + self.codes * _LAPLACE) * total
            self.codebook.copy_(self.ema_sum / size.unsqueeze(1))
        self.codebook.clamp_(-self.limit, self.limit)

    @torch.no_grad()
    def begin(self, encoded: Tensor) -> None:
        """Takes the first ``encoded`` [B, n dim]: of these ``init="kmeans"`` makes its codes, others do nothing."""
        if self.init != "kmeans":
            return
        points = encoded.reshape(-1, self.dim)
        self.codebook.copy_(cluster_means(points, self.codebook, self.seed).clamp_(-self.limit, self.limit))
        if self.by_average:
            self.ema_sum.copy_(self.codebook)


def cluster_means(points: Tensor, codes: Tensor, seed: int) -> Tensor:
    """``codes`` [K, l] moved to the means of K clusters of ``points`` [N, l]: Lloyd's iterations from K of the points.

    If no more than K points are distinct these are the first codes, and the others stay as they are.
    """
    distinct = torch.unique(points, dim=0)
    codes = codes.detach().clone()
    if len(distinct) <= len(codes):
        codes[: len(distinct)] = distinct
        return codes
    order = torch.randperm(len(distinct), generator=generator_for(seed, "kmeans"))[: len(codes)]
    codes = distinct[order.to(points.device)].clone()
    for _ in range(_LLOYD):
        index = nearest_codes(points, codes)
        counts = torch.bincount(index, minlength=len(codes)).to(points.dtype)
        sums = torch.zeros_like(codes).index_add_(0, index, points)
        codes = torch.where((counts > 0).unsqueeze(1), sums / counts.clamp(min=1).unsqueeze(1), codes)
    return codes
