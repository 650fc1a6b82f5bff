"""Training of heads, and of encoders with them: AdamW, warm-up, a schedule, the best state on val."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from manyone.engine.progress import Progress
from manyone.errors import ManyoneError
from manyone.randomness import BatchOrder


@dataclass(frozen=True)
class Training:
    """How a head is trained."""

    epochs: int = 20
    batch_size: int = 8
    lr: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    """Share of the steps."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """``steps``: a tenth from 60 % and a hundredth from 90 % on."""
    look_every: int = 5
    """Epochs between two looks at val."""
    seed: int = 0


PANGAEA = Training(epochs=80, lr=1e-4, warm_up=0, schedule="steps", seed=234)
"""The published setting for dense tasks."""


def train(
    module: nn.Module,
    loss: Callable[[np.ndarray], Tensor],
    positions: np.ndarray,
    quality: Callable[[], float],
    settings: Training,
    groups: Sequence[Mapping[str, Any]] | None = None,
    name: str = "head",
) -> float:
    """Trains ``module`` in place and leaves it as it was when ``quality`` (on val, higher is better) was best; that.

    ``loss`` of a batch of positions; ``groups``: parameter groups with a factor "scale" of the learning rate each.
    """
    if settings.epochs < 1 or settings.batch_size < 1 or settings.look_every < 1:
        raise ManyoneError(f"settings: {settings}; epochs, batch_size and look_every must be at least 1")
    order = BatchOrder(len(positions), settings.batch_size, settings.seed, name)
    steps = settings.epochs * order.per_epoch
    chosen = (
        [{"params": [p for p in module.parameters() if p.requires_grad], "scale": 1.0}] if groups is None else groups
    )
    optimiser = torch.optim.AdamW([dict(g) for g in chosen], lr=settings.lr, weight_decay=settings.weight_decay)
    best, state = -math.inf, copy.deepcopy(module.state_dict())
    with Progress(f"training the {name}", steps) as bar:
        for step in range(steps):
            factor = learning_rate_factor(step, steps, settings)
            for group in optimiser.param_groups:
                group["lr"] = settings.lr * factor * group["scale"]
            module.train()
            value = loss(positions[order.batch(step).numpy()])
            if not torch.isfinite(value):
                raise ManyoneError(f"the loss of the {name} is {float(value)} at step {step}; use a smaller lr")
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            bar.update(step + 1, metrics={"loss": float(value.detach())})
            epoch, within = divmod(step + 1, order.per_epoch)
            if within == 0 and (epoch % settings.look_every == 0 or epoch == settings.epochs):
                module.eval()
                with torch.inference_mode():
                    now = quality()
                if now > best:
                    best, state = now, copy.deepcopy(module.state_dict())
    module.load_state_dict(state)
    module.eval()
    return best


def learning_rate_factor(step: int, steps: int, settings: Training) -> float:
    """Linear warm-up, then half a cosine to 0, or steps down."""
    warm = round(settings.warm_up * steps)
    if step < warm:
        return (step + 1) / warm
    if settings.schedule == "steps":
        return 1.0 if step < 0.6 * steps else 0.1 if step < 0.9 * steps else 0.01
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
