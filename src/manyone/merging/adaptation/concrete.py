"""Concrete subspace merging: learn which parameters the experts may share, as one relaxed binary mask.

Tang et al., "Concrete Subspace Learning based Interference Elimination for Multi-task Model Fusion" (arXiv
2312.06173): m = sigmoid((logit + log u - log(1 - u)) / T) with u uniform, T = 0.5, one mask for all experts, and
theta_k = theta_0k + m_k / mean(m_k) * sum_i lambda_ki tau_ki. ``adamerging=True`` also learns lambda, alternating
bi-level: lambda under the current mask first, then the mask under the new lambda, on the same batches.
Public names: :class:`ConcreteMerging`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from manyone.merging.adaptation.adamerging import AdaMerging, MergedEncoder, merged_names
from manyone.randomness import generator_for

_TEMPERATURE = 0.5  # T of the paper


class ConcreteMerging(MergedEncoder):
    """Trainable ``logits``, one per merged parameter (initially 0), and with ``adamerging`` the coefficients.

    Noise is drawn during adaptation steps only, as a function of (seed, ``noise_step``, tensor); elsewhere the mask is
    the noise-free sigmoid(logit / T). The mean that rescales a mask is taken per tensor.
    """

    def __init__(
        self,
        encoder: nn.Module,
        experts: Sequence[Mapping[str, Tensor] | nn.Module],
        *,
        adamerging: bool = False,
        granularity: Literal["layer", "task"] = "layer",
        scale: float = 0.3,
        clamp: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.seed, self.adamerging = seed, adamerging
        self.inner = AdaMerging(encoder, experts, granularity=granularity, scale=scale, clamp=clamp)
        self.inner.coefficients.requires_grad_(adamerging)
        state = self.inner.encoder.state_dict()
        self.logits = nn.ParameterList(
            torch.zeros(state[name].shape, dtype=torch.float32, device=state[name].device) for name in self.inner.names
        )
        self.noise_step: int | None = None

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """theta_0's module."""
        return self.inner.encoder

    def phases(self) -> list[list[nn.Parameter]]:
        """What one step updates, one after the other."""
        masks = list(self.logits)
        return [[self.inner.coefficients], masks] if self.adamerging else [masks]

    def masks(self) -> dict[str, Tensor]:
        """The mask of every tensor, in (0, 1)."""
        masks = {}
        for k, (name, logit) in enumerate(zip(self.inner.names, self.logits)):
            if self.noise_step is not None:
                u = torch.rand(logit.shape, generator=generator_for(self.seed, "concrete", self.noise_step, k))
                u = u.clamp(1e-7, 1 - 1e-7).to(logit.device)
                logit = logit + (u.log() - (-u).log1p())
            masks[name] = torch.sigmoid(logit / _TEMPERATURE)
        return masks

    def merged_weights(self) -> dict[str, Tensor]:
        """theta_0k + m_k / mean(m_k) * sum_i lambda_ki tau_ki."""
        state, masks = self.encoder.state_dict(), self.masks()
        merged = {name: state[name] for name in merged_names(state)}
        for name, delta in self.inner.deltas().items():
            mask = masks[name].to(delta.dtype)
            merged[name] = (state[name].to(delta.dtype) + mask / mask.mean() * delta).to(state[name].dtype)
        return merged

    @contextmanager
    def adaptation_step(self, step: int) -> Iterator[None]:
        """As for every merged encoder, with the mask noise of ``step``."""
        self.noise_step = step
        try:
            with super().adaptation_step(step):
                yield
        finally:
            self.noise_step = None
