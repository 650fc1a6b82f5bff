"""AdamW on one flat vector, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adam import adam

from manyone.errors import ManyoneError

_BETAS, _EPS = (0.9, 0.999), 1e-8  # the paper's


def learning_rate(step: int, lr: float, warmup: int, schedule: str, steps: int) -> float:
    """Linear warm-up over ``warmup`` steps, then constant, or a cosine that reaches 0 after ``steps``."""
    if schedule not in ("constant", "cosine"):
        raise ManyoneError(f"schedule {schedule!r}: must be constant or cosine")
    if step < warmup:
        return lr * (step + 1) / warmup
    if schedule == "constant":
        return lr
    return lr * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


class FlatAdamW:
    """Loshchilov & Hutter's AdamW (arXiv 1711.05101) on ``point`` [S, P], in place.

    ``shared``: torch's own fused kernel; the moments of entries whose gradient a mask has zeroed decay.
    ``freeze_masked``: moments outside the mask stay as they are, with the bias correction of the common step count.
    """

    def __init__(self, point: Tensor, weight_decay: float, moment_policy: Literal["shared", "freeze_masked"]) -> None:
        if moment_policy not in ("shared", "freeze_masked"):
            raise ManyoneError(f"moment_policy {moment_policy!r}: must be shared or freeze_masked")
        self.point, self.policy, self.weight_decay = point, moment_policy, weight_decay
        self._state = {
            "step": torch.zeros((), dtype=torch.float32, device=point.device),
            "exp_avg": torch.zeros_like(point, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(point, requires_grad=False),
        }

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: float, mask: Tensor | None = None) -> None:
        """One step; ``mask`` bool [S, d] says for the first d entries whether they take part."""
        (beta1, beta2), state = _BETAS, self._state
        first, second = state["exp_avg"], state["exp_avg_sq"]
        if mask is None or self.policy == "shared":
            # the function, not the class: making an optimiser imports torch's compiler, which takes seconds
            adam([self.point], [gradient], [first], [second], [], [state["step"]], fused=True, amsgrad=False,
                 beta1=beta1, beta2=beta2, lr=rate, weight_decay=self.weight_decay, eps=_EPS, maximize=False,
                 decoupled_weight_decay=True)  # fmt: skip
            return
        state["step"] += 1
        count, d = float(state["step"]), mask.shape[1]
        for old, new in ((first, first.lerp(gradient, 1 - beta1)),
                         (second, (second * beta2).addcmul_(gradient, gradient, value=1 - beta2))):  # fmt: skip
            torch.where(mask, new[:, :d], old[:, :d], out=old[:, :d])
            old[:, d:] = new[:, d:]
        root = (second.sqrt() / math.sqrt(1 - beta2**count)).add_(_EPS)
        self.point.mul_(1 - rate * self.weight_decay)
        self.point.addcdiv_(first, root, value=-rate / (1 - beta1**count))

    def state_dict(self) -> dict[str, Any]:
        """Moments and step count."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        for key, value in self._state.items():
            value.copy_(state[key])
