"""AdaMerging: learn how much of every task vector to add, without labels.

Yang et al., "AdaMerging: Adaptive Model Merging for Multi-Task Learning" (arXiv 2310.02575): theta_k = theta_0k +
sum_i lambda_ki tau_ki per tensor k (layer-wise) or with one lambda_i (task-wise); lambda is trained on the entropy of
predictions. AdaMerging++ uses the TIES-processed task vectors. The gradient is d lambda_ki = <dW_k, tau_ki>: one fused
product per tensor, no merged copy per expert, and one merge per step however many tasks there are.
Public names: :class:`AdaMerging`, :class:`MergedEncoder`, :func:`ties_task_vectors`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from manyone.errors import ManyoneError
from manyone.weights.arithmetic import check_compatible, state_dicts, work_dtype

Weights = Mapping[str, Tensor]


class MergedEncoder(nn.Module, ABC):
    """An encoder run with weights that :meth:`merged_weights` makes from trainable parameters."""

    encoder: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self._once: dict[str, Tensor] | None = None

    @abstractmethod
    def merged_weights(self) -> dict[str, Tensor]:
        """Merged tensors by name, differentiable in the trainable parameters."""

    def train(self, mode: bool = True) -> MergedEncoder:
        """The frozen encoder stays in evaluation mode (no dropout)."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, inputs: Any) -> Any:
        """The merged encoder's output; a Mapping goes in as keywords."""
        weights = self._once if self._once is not None else self.merged_weights()
        if isinstance(inputs, Mapping):
            return functional_call(self.encoder, weights, (), dict(inputs))
        return functional_call(self.encoder, weights, (inputs,))

    @contextmanager
    def adaptation_step(self, step: int) -> Iterator[None]:
        """Merges once for all forward passes inside; on leaving, their weight gradients reach the parameters."""
        merged = self.merged_weights()
        leaves = {name: value.detach().requires_grad_(value.requires_grad) for name, value in merged.items()}
        self._once = leaves
        try:
            yield
        finally:
            self._once = None
        used = [name for name, leaf in leaves.items() if leaf.grad is not None]
        torch.autograd.backward([merged[name] for name in used], [leaves[name].grad for name in used])

    @contextmanager
    def merged_once(self) -> Iterator[None]:
        """Merges once, without gradients, for all forward passes inside."""
        with torch.no_grad():
            self._once = self.merged_weights()
        try:
            yield
        finally:
            self._once = None

    @torch.no_grad()
    def fold(self) -> nn.Module:
        """An ordinary encoder with the merged weights."""
        encoder = copy.deepcopy(self.encoder)
        state = encoder.state_dict()
        for name, value in self.merged_weights().items():
            state[name].copy_(value)
        return encoder

    def state_for_artefact(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The merged encoder's tensors (``encoder.<name>``) and trained parameters, and a JSON-able configuration."""
        tensors = {f"encoder.{k}": v.detach().clone() for k, v in self.fold().state_dict().items()}
        trained = {f"trained.{k}": v.detach().clone() for k, v in self.named_parameters() if v.requires_grad}
        return tensors | trained, {"method": "merged", "format": 1}


class AdaMerging(MergedEncoder):
    """Trainable ``coefficients``: [K, N] (``granularity="layer"``) or [N] (``"task"``).

    K counts the float tensors that an expert changed (:attr:`names`); the others, such as frozen embeddings, stay
    theta_0's and cost nothing.
    ``encoder`` holds theta_0 and is copied; ``experts`` are modules like it or state dicts with its names.
    ``plus_plus`` trims the task vectors to their largest fifth and drops entries against the elected sign. ``clamp``
    restricts coefficients to [0, 1] in the forward pass as the official code does (outside, their gradient is zero).
    """

    def __init__(
        self,
        encoder: nn.Module,
        experts: Sequence[Weights | nn.Module],
        *,
        granularity: Literal["layer", "task"] = "layer",
        plus_plus: bool = False,
        scale: float = 0.3,
        clamp: bool = False,
    ) -> None:
        super().__init__()
        if granularity not in ("layer", "task"):
            raise ManyoneError(f"granularity must be 'layer' or 'task', got {granularity!r}")
        experts = state_dicts(experts)
        if not experts:
            raise ManyoneError("AdaMerging needs at least one expert")
        self.clamp = clamp
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        state = self.encoder.state_dict()
        check_compatible(state, experts)
        taus = task_vector_stacks(state, experts, merged_names(state))
        if plus_plus:
            taus = ties_task_vectors(taus)
        self.names = [name for name, tau in taus.items() if tau.any()] or list(taus)
        self.taus = nn.Module()
        for k, name in enumerate(self.names):
            self.taus.register_buffer(f"t{k}", taus[name].reshape(len(experts), -1))
        dtype = torch.float64 if any(taus[name].dtype == torch.float64 for name in self.names) else torch.float32
        shape = (len(self.names), len(experts)) if granularity == "layer" else (len(experts),)
        device = next(iter(state.values())).device
        self.coefficients = nn.Parameter(torch.full(shape, float(scale), dtype=dtype, device=device))

    def deltas(self) -> dict[str, Tensor]:
        """sum_i lambda_ki tau_ki of each of ``names``, in at least float32, differentiable in the coefficients."""
        lam = self.coefficients.clamp(0, 1) if self.clamp else self.coefficients
        lam = lam if lam.ndim == 2 else lam.expand(len(self.names), -1)
        taus = [getattr(self.taus, f"t{k}") for k in range(len(self.names))]
        state = self.encoder.state_dict()
        flat = _WeightedSums.apply(lam, *taus)
        return {name: value.view(state[name].shape) for name, value in zip(self.names, flat)}

    def merged_weights(self) -> dict[str, Tensor]:
        """theta_0k + sum_i lambda_ki tau_ki."""
        state = self.encoder.state_dict()
        merged = {name: state[name] for name in merged_names(state)}
        for name, delta in self.deltas().items():
            merged[name] = (state[name].to(delta.dtype) + delta).to(state[name].dtype)
        return merged


class _WeightedSums(torch.autograd.Function):
    """lambda [K, N] and K stacks [N, d_k] -> K vectors [d_k]; only lambda gets a gradient."""

    @staticmethod
    def forward(ctx: Any, lam: Tensor, *taus: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        ctx.taus, ctx.shape = taus, lam.shape
        return tuple((row.to(tau.dtype).unsqueeze(0) @ tau).squeeze(0) for row, tau in zip(lam, taus))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows = [torch.mv(tau, g) if g is not None else tau.new_zeros(ctx.shape[1]) for tau, g in zip(ctx.taus, grads)]
        return (torch.stack(rows), *([None] * len(ctx.taus)))


def merged_names(state: Weights) -> list[str]:
    """Float tensors, one name for each group of tied weights."""
    names, seen = [], set()
    for name, value in state.items():
        if value.is_floating_point() and value.numel() and value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            names.append(name)
    return names


def task_vector_stacks(base: Weights, experts: Sequence[Weights], names: Sequence[str]) -> dict[str, Tensor]:
    """tau of all experts per tensor, [N, *shape], in at least float32."""
    stacks = {}
    for name in names:
        zero = base[name].detach().to(work_dtype(base[name]))
        stacks[name] = torch.stack([expert[name].detach().to(zero) - zero for expert in experts])
    return stacks


def ties_task_vectors(taus: Mapping[str, Tensor], density: float = 0.2) -> dict[str, Tensor]:
    """Trims every expert's whole task vector by magnitude and keeps the entries of the elected sign (TIES).

    An entry stays if |tau| >= the (d - floor(density d))-th smallest magnitude of its expert; the sign is that of the
    sum over experts, and where that is zero the sign of the majority of elected signs.
    """
    if not 0 < density <= 1:
        raise ManyoneError(f"density must be in (0, 1], got {density}")
    names = sorted(taus)
    experts = taus[names[0]].shape[0]
    flat = torch.cat([taus[name].reshape(experts, -1) for name in names], 1)
    size = flat.shape[1]
    kth = max(size - int(density * size), 1)
    for row in flat:
        threshold = row.abs().kthvalue(kth).values
        row[row.abs() < threshold] = 0
    sign = flat.sum(0).sign_()
    majority = sign.sum().sign()
    sign[sign == 0] = majority
    flat[flat.sign() != sign] = 0
    parts = flat.split([taus[name][0].numel() for name in names], 1)
    trimmed = {name: part.reshape(taus[name].shape) for name, part in zip(names, parts)}
    return {name: trimmed[name] for name in taus}
