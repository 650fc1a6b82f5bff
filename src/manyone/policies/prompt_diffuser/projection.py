"""Guidance that does not disturb: the imitation gradient without its part along the denoising gradients.

Hu et al., "Prompt Tuning with Diffusion for Few-Shot Pre-trained Policy Generalization" (arXiv 2411.01168), update with
d + lambda Proj(v), where d = grad L_DM, v = grad L_DT and Proj projects onto the complement S_perp of the span of the
diffusion gradients. The paper gives no construction of its basis; these are the readings offered here (ours):

    vector      Proj(v) = v - <v, d> / (<d, d> + 1e-12) d                                        without_direction
    one-sided   the same only where <v, d> < 0 (Yu et al., "Gradient Surgery", arXiv 2001.06782)  without_direction
    subspace    Proj(v) = v - B B^T v, B an orthonormal basis of the last R diffusion gradients      Subspace
    none        Proj(v) = v: the simple sum

``vector`` and ``one-sided`` act on all parameters at once or on each tensor (``granularity``). B spans whole gradients
(``vectors``, of all parameters or of each tensor; with R = 1 and a refresh at every step that is ``vector``), or the
columns (or rows) of each weight matrix's gradients: then Proj(V) = V - U U^T V. Gradients are [M, P]: M members side by
side, each with parameters and gradients of its own. Public names: :class:`Projection`, :func:`without_direction`,
:func:`cosine`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError

Kind = Literal["vector", "subspace", "one-sided", "none"]
Granularity = Literal["global", "tensor"]
Space = Literal["vectors", "columns", "rows"]
_TINY = 1e-12  # a converged denoising loss has no direction


class Projection:
    """Proj of kind ``kind`` for parameters of ``shapes`` (name -> shape, in their order in the flat vector).

    Of ``subspace``: ``space`` and the gradients that it is spanned by, the last ``history`` (R) of those that
    :meth:`remember` was given, refreshed at the first and every ``refresh``-th; kept are the strongest directions that
    hold the share ``energy`` of their squares. Biases and other tensors of one dimension count as whole vectors.
    """

    def __init__(
        self,
        kind: Kind,
        shapes: Mapping[str, Sequence[int]],
        *,
        granularity: Granularity = "global",
        space: Space = "vectors",
        history: int = 20,
        energy: float = 0.95,
        refresh: int = 50,
    ) -> None:
        for name, value, holds, allowed in (
            ("projection", kind, kind in ("vector", "subspace", "one-sided", "none"),
             "vector, subspace, one-sided or none"),
            ("granularity", granularity, granularity in ("global", "tensor"), "global or tensor"),
            ("space", space, space in ("vectors", "columns", "rows"), "vectors, columns or rows"),
            ("history", history, history >= 1, "1 or more"),
            ("energy", energy, 0 < energy <= 1, "above 0 and at most 1"),
            ("refresh", refresh, refresh >= 1, "1 or more"),
        ):  # fmt: skip
            if not holds:
                raise ManyoneError(f"{name} = {value}: must be {allowed}")
        self.kind, self.space, self.history, self.energy, self.refresh = kind, space, history, energy, refresh
        sizes = [math.prod(shape) for shape in shapes.values()]
        whole = granularity == "global" and (kind != "subspace" or space == "vectors")
        self.sizes = [sum(sizes)] if whole else sizes
        self._shapes = [(sum(sizes),)] if whole else [tuple(shape) for shape in shapes.values()]
        self._past: list[Tensor] = []
        self._bases: list[Tensor] = []
        self._seen = 0

    def __call__(self, v: Tensor, d: Tensor) -> Tensor:
        """Proj(v) [M, P]; ``d`` [M, P] is the present diffusion gradient."""
        if self.kind == "none":
            return v
        if self.kind != "subspace":
            parts = zip(v.split(self.sizes, -1), d.split(self.sizes, -1))
            return torch.cat([without_direction(own, along, self.kind == "one-sided") for own, along in parts], -1)
        if not self._bases:
            return v
        each = zip(v.split(self.sizes, -1), self._bases, self._shapes)
        return torch.cat([self._without_basis(own, basis, shape) for own, basis, shape in each], -1)

    def remember(self, d: Tensor) -> None:
        """Takes note of a diffusion gradient [M, P]; to be called once a step, before the projection."""
        if self.kind != "subspace":
            return
        due = self._seen % self.refresh == 0
        if -self._seen % self.refresh < self.history:  # only those that the next basis will be made of are kept
            self._past = [*self._past, d.detach().clone()][-self.history :]
        self._seen += 1
        if due:
            stacked = torch.stack(self._past, 1)  # [M, R, P]
            parts = zip(stacked.split(self.sizes, -1), self._shapes)
            self._bases = [self._basis(own, shape) for own, shape in parts]

    @property
    def rank(self) -> float:
        """Directions of the basis, in the mean over members and tensors; 0 where there is none."""
        counts = [float((basis.square().sum(1) > 0.5).sum(-1).float().mean()) for basis in self._bases]
        return sum(counts) / len(counts) if counts else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Gradients remembered, bases and the count of steps."""
        return {"past": list(self._past), "bases": list(self._bases), "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any], device: str | torch.device = "cpu") -> None:
        """Restores what :meth:`state_dict` returned."""
        self._past = [value.to(device) for value in state["past"]]
        self._bases = [value.to(device) for value in state["bases"]]
        self._seen = int(state["seen"])

    def _basis(self, gradients: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Orthonormal columns [M, n, r] of gradients [M, R, size]; those of members of lower rank end in zeros."""
        columns = self._as_columns(gradients, shape).double()
        # through the smaller Gram matrix: there are far fewer gradients than parameters
        narrow = columns.shape[-1] <= columns.shape[-2]
        gram = columns.mT @ columns if narrow else columns @ columns.mT
        values, vectors = torch.linalg.eigh(gram)
        values, vectors = values.flip(-1).clamp(min=0), vectors.flip(-1)
        total = values.sum(-1, keepdim=True)
        # a direction is kept if those before it hold less than the wanted share; rounding makes no direction
        keep = (values.cumsum(-1) - values < self.energy * total) & (values > 1e-10 * values[..., :1]) & (total > 0)
        count = int(keep.sum(-1).max())
        values, vectors, keep = values[..., :count], vectors[..., :count], keep[..., :count]
        basis = vectors
        if narrow:
            basis = columns @ vectors / values.clamp(min=torch.finfo(values.dtype).tiny).sqrt().unsqueeze(-2)
        return torch.where(keep.unsqueeze(-2), basis, 0).to(gradients.dtype)

    def _as_columns(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """[M, R, size] as [M, n, columns]: whole vectors, or the columns or rows of the R matrices side by side."""
        if self.space == "vectors" or len(shape) != 2:
            return values.mT
        matrices = values.unflatten(-1, shape)  # [M, R, O, I]
        if self.space == "rows":
            matrices = matrices.mT
        return matrices.movedim(1, 2).flatten(2)

    def _without_basis(self, v: Tensor, basis: Tensor, shape: tuple[int, ...]) -> Tensor:
        columns = self._as_columns(v.unsqueeze(1), shape)
        left = columns - basis @ (basis.mT @ columns)
        if self.space == "rows" and len(shape) == 2:
            left = left.mT
        return left.flatten(1)


def without_direction(v: Tensor, d: Tensor, one_sided: bool = False) -> Tensor:
    """``v`` [M, n] without its part along ``d`` [M, n]; ``one_sided``: only where the two conflict, <v, d> < 0."""
    along = _dot(v, d)
    share = along / (_dot(d, d) + _TINY)
    if one_sided:
        share = torch.where(along < 0, share, 0)
    return torch.addcmul(v, share, d, value=-1)


def cosine(v: Tensor, d: Tensor) -> Tensor:
    """Cosine of the angle between v and d [M, P], of each member [M]; 0 where one is zero."""
    return (_dot(v, d) / (_dot(v, v) * _dot(d, d)).sqrt().clamp(min=_TINY)).squeeze(-1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of each member, [M, 1]; no product as large as the gradients is stored."""
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).squeeze(2)
