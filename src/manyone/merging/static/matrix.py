"""Static methods that factor the weight matrix of every linear layer; all other tensors are averaged.

With tau_i = theta_i - theta_0 of one layer, [out, in]:
- RegMean (Jin et al., 2023): W = (sum_i G_i)^-1 sum_i G_i W_i, G_i = X_i^T X_i the Gram matrix of the layer's inputs;
- TSV-M (Gargiulo et al., 2025): the leading singular triples of every tau_i, made orthogonal across experts;
- Iso-C (Marczak et al., 2025): the singular values of sum_i tau_i replaced by their mean;
- Iso-CTS (the same): part of the common directions replaced by directions of single experts.
One layer is in memory at a time, and of it one expert at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from manyone.engine.devices import device_of
from manyone.errors import ManyoneError
from manyone.merging.static.buffers import Buffers
from manyone.merging.static.layers import is_linear, transposed_names
from manyone.merging.static.linear import task_arithmetic
from manyone.merging.static.plan import Plan, within
from manyone.merging.static.stream import Elementwise, working_dtype
from manyone.weights.checkpoint import Checkpoint
from manyone.weights.open import Models, open_models


def factoring_device(name: str) -> str:
    """Where matrices are factored: a CUDA device if there is one or it is named, else the CPU (float64 is needed)."""
    return str(device_of("cpu" if name == "mps" else name, double=True))


class LayerMethod(Elementwise, ABC):
    """Merges linear layers with :meth:`layer` and averages the other tensors, both as theta_0 + scale * tau."""

    multiplies = True
    factors = True

    def __init__(self, scale: float, device: str) -> None:
        self.scale, self.device = scale, factoring_device(device)

    def whole(self, plan: Plan, name: str) -> bool:
        return is_linear(name, plan.info(name))

    def chunk(self, plan: Plan, name: str, start: int, stop: int, buffers: Buffers) -> np.ndarray:
        count = len(plan.experts)
        return task_arithmetic(count, self.scale / count).chunk(plan, name, start, stop, buffers)

    def tensor(self, plan: Plan, name: str) -> Tensor:
        base = self._read(plan.base, plan, name)
        return (base + self.scale * self.layer(plan, name, base)).cpu()

    @abstractmethod
    def layer(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        """The merged task vector [out, in] of one linear layer."""

    def _read(self, model: Checkpoint, plan: Plan, name: str) -> Tensor:
        info = plan.info(name)
        value = model.read_flat(name, 0, info.numel).view(info.shape)
        value = value.to(self.device, torch.float64 if working_dtype(info.dtype) == np.float64 else torch.float32)
        if not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
            raise ManyoneError(f"{model.label}: NaN or Inf in tensor {name!r}")
        return value

    def _sum(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        total = torch.zeros_like(base)
        for expert in plan.experts:
            total += self._read(expert, plan, name)
        return total.sub_(base, alpha=len(plan.experts))


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (or rows, if it is wide): the polar factor P Q^T of P S Q^T."""
    p, _, q = torch.linalg.svd(matrix, full_matrices=False)
    return p @ q


class TSVM(LayerMethod):
    """Task singular vectors: of each tau_i the top floor(r / N) triples (at least one), r = min(out, in)."""

    def layer(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        keep = max(1, min(base.shape) // len(plan.experts))
        left, values, right = [], [], []
        for expert in plan.experts:
            u, s, v = torch.linalg.svd(self._read(expert, plan, name) - base, full_matrices=False)
            left.append(u[:, :keep].clone())
            values.append(s[:keep].clone())
            right.append(v[:keep].clone())
        u, v = orthogonal(torch.cat(left, 1)), orthogonal(torch.cat(right, 0))
        return (u * torch.cat(values)) @ v


class IsoC(LayerMethod):
    """Isotropic merging in the common space: U (mean singular value) V^T of sum_i tau_i."""

    def layer(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        u, s, v = torch.linalg.svd(self._sum(plan, name, base), full_matrices=False)
        return s.mean() * (u @ v)


class IsoCTS(LayerMethod):
    """Isotropic merging in common and task-specific subspaces.

    Keeps the top ``common`` share of the directions of sum_i tau_i and fills the rest with equally many top directions
    of every tau_i projected off the common left space; orthogonalised as in TSV-M, flat spectrum.
    """

    def __init__(self, scale: float, common: float, device: str) -> None:
        super().__init__(scale, device)
        self.common = common

    def layer(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        rank = min(base.shape)
        specific = int(rank * (1 - self.common)) // len(plan.experts)
        shared = rank - specific * len(plan.experts)
        u, s, v = torch.linalg.svd(self._sum(plan, name, base), full_matrices=False)
        u, s, v = u[:, :shared].clone(), s[:shared].clone(), v[:shared].clone()
        left, values, right = [u], [s], [v]
        for expert in plan.experts if specific else ():
            tau = self._read(expert, plan, name) - base
            tau -= u @ (u.T @ tau)
            a, b, c = torch.linalg.svd(tau, full_matrices=False)
            left.append(a[:, :specific].clone())
            values.append(b[:specific].clone())
            right.append(c[:specific].clone())
        return torch.cat(values).mean() * (orthogonal(torch.cat(left, 1)) @ orthogonal(torch.cat(right, 0)))


class RegMean(LayerMethod):
    """Closed-form least squares per linear layer; ``ratio`` shrinks the off-diagonal entries of the Gram matrices.

    Written as the average plus a correction, W = M + (sum G_i)^+ sum G_i (W_i - M), so that input directions that no
    expert's data ever used keep the average instead of making the system singular. Layers without Gram matrices (in all
    experts) are averaged.
    """

    def __init__(self, grams: Sequence[Checkpoint], ratio: float, device: str) -> None:
        super().__init__(1.0, device)
        self.grams, self.ratio = grams, ratio
        self._transposed: set[str] = set()

    def prepare(self, plan: Plan, threads: int) -> None:
        if len(self.grams) != len(plan.experts):
            raise ManyoneError(
                f"{len(self.grams)} sets of Gram matrices for {len(plan.experts)} experts; give one each"
            )
        self._transposed = transposed_names({name: plan.info(name) for name in plan.base})
        covered = [name for name in plan.merged if any(name in g for g in self.grams)]
        if not covered:
            raise ManyoneError(f"{self.grams[0].label}: holds the Gram matrix of none of the merged tensors")
        for gram in self.grams:
            for name in covered:
                width = self._inputs(plan, name)
                if name not in gram:
                    raise ManyoneError(f"{gram.label}: the Gram matrix of {name!r} is missing")
                if gram.info(name).shape != (width, width):
                    shape = list(gram.info(name).shape)
                    raise ManyoneError(f"{gram.label}: Gram matrix of {name!r} has shape {shape}, not {[width, width]}")

    def _inputs(self, plan: Plan, name: str) -> int:
        return plan.info(name).shape[0 if name in self._transposed else 1]

    def whole(self, plan: Plan, name: str) -> bool:
        return is_linear(name, plan.info(name)) and name in self.grams[0]

    def layer(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        flip = name in self._transposed
        mean = self._sum(plan, name, base) / len(plan.experts)
        total: Tensor | None = None
        right: Tensor | None = None
        for expert, grams in zip(plan.experts, self.grams, strict=True):
            gram = self._gram(grams, name)
            offset = (self._read(expert, plan, name) - base - mean).double()
            part = gram @ (offset if flip else offset.T)
            total, right = (gram, part) if total is None or right is None else (total + gram, right + part)
        assert total is not None
        assert right is not None
        correction = _solve(total, right).to(base.dtype)
        return mean + (correction if flip else correction.T)

    def _gram(self, grams: Checkpoint, name: str) -> Tensor:
        gram = grams.read(name).to(self.device, torch.float64)
        if not torch.isfinite(gram).all():
            raise ManyoneError(f"{grams.label}: NaN or Inf in the Gram matrix of {name!r}")
        diagonal = gram.diagonal().clone()
        gram *= self.ratio
        gram.diagonal().copy_(diagonal)
        return gram


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """gram^+ right for a symmetric positive semi-definite matrix (Cholesky where it is definite)."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal()
    if not failed and float(pivots.min() / pivots.max()) > 1e-7:
        return torch.cholesky_solve(right, factor)
    values, vectors = torch.linalg.eigh(gram)
    keep = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    return (vectors[:, keep] / values[keep]) @ (vectors[:, keep].T @ right)


def regmean(count: int, grams: Models, ratio: float = 0.95, device: str = "cpu") -> RegMean:
    """RegMean with one set of Gram matrices an expert."""
    within("ratio", ratio, 0 <= ratio <= 1, "in [0, 1]")
    return RegMean(open_models(grams, "Gram matrices"), ratio, device)


def tsv_m(count: int, scale: float = 1.0, device: str = "cpu") -> TSVM:
    """TSV-M."""
    return TSVM(scale, device)


def iso_c(count: int, scale: float = 1.0, device: str = "cpu") -> IsoC:
    """Iso-C."""
    return IsoC(scale, device)


def iso_cts(count: int, scale: float = 1.0, common: float = 0.8, device: str = "cpu") -> IsoCTS:
    """Iso-CTS."""
    within("common", common, 0 < common <= 1, "in (0, 1]")
    return IsoCTS(scale, common, device)
