"""Fine-tuning of a whole encoder: AdamW, layer-wise decay of the rate, LayerNorm and Linear on its vector.

    rate of layer l of L: lr decay^(L + 1 - l)     patch embedding l = 0, block i l = i + 1, head L + 1 (rate lr)

The rate is chosen on val among ``rates``, each from the same pre-trained weights.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from manyone.earth.heads.train import Training, train
from manyone.earth.metrics import mean_average_precision
from manyone.earth.protocols.scores import Labels, Scores, class_result, kind_of, labels_result, value_result
from manyone.earth.spec import Context, Pooling
from manyone.earth.splits import Splits
from manyone.errors import ManyoneError

RATES = (1e-5, 5e-5, 1e-4)
Prepared = Callable[[np.ndarray], tuple[Tensor, Context]]
"""Positions [b] -> (pixels as the encoder takes them, what comes with them)."""
_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers|stages)\.(\d+)\.")


class FineTuned(nn.Module):
    """An encoder with its head: LayerNorm and Linear on the vector of one pooling."""

    def __init__(self, encoder: nn.Module, width: int, outputs: int, pooling: Pooling) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.norm, self.classify = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, pixels: Tensor, context: Context) -> Tensor:
        """[B, outputs]."""
        return self.classify(self.norm(self.encoder.vectors(pixels, context)[self.pooling]))  # type: ignore[operator]


@dataclass(frozen=True)
class Tuned:
    """The best module and what it scored."""

    module: FineTuned
    scores: Scores


def layer_groups(module: FineTuned, decay: float, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups with the factor of each layer; vectors (norms, biases, tokens) get no weight decay.

    A layer is a number after ``blocks``, ``layers`` or ``stages`` in a parameter's name. What stands before the first
    of them embeds (layer 0), what stands after belongs to the last.
    """
    named = [(name, p) for name, p in module.encoder.named_parameters() if p.requires_grad]
    found = [_BLOCK.search(name) for name, _ in named]
    numbers = [int(m[1]) for m in found if m]
    top, seen = max(numbers, default=-1) + 1, False
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for (_, parameter), match in zip(named, found):
        seen |= match is not None
        layer = int(match[1]) + 1 if match else top if seen else 0
        groups.setdefault((decay ** (top + 1 - layer), parameter.ndim > 1), []).append(parameter)
    for parameter in (*module.norm.parameters(), *module.classify.parameters()):
        groups.setdefault((1.0, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "scale": scale, "weight_decay": weight_decay if wide else 0.0}
        for (scale, wide), params in groups.items()
    ]


def fine_tune(
    encoder: nn.Module,
    prepared: Prepared,
    targets: np.ndarray,
    splits: Splits,
    *,
    rates: Sequence[float] = RATES,
    layer_decay: float = 0.75,
    pooling: Pooling = "mean",
    settings: Training | None = None,
) -> Tuned:
    """Trains a copy of ``encoder`` (with ``vectors``, see ``spec.Encoder``) for every rate; the best on val is tested.

    ``layer_decay=1`` gives all layers the same rate. The given encoder stays as it is.
    """
    began, targets = time.perf_counter(), np.asarray(targets)
    settings = settings or Training(epochs=20, batch_size=32, weight_decay=0.05, warm_up=0.05, look_every=1)
    if not 0 < layer_decay <= 1 or not rates:
        raise ManyoneError(f"layer_decay {layer_decay}, rates {list(rates)}; choose above 0 to 1 and at least one rate")
    kind = kind_of(targets)
    labels = Labels.from_targets(targets) if kind == "class" else None
    goal = torch.from_numpy(labels.numbers if labels else targets.astype(np.float32))
    outputs = len(labels.classes) if labels else targets.shape[1] if kind == "labels" else 1
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        first = encoder.vectors(*prepared(splits.train[:1]))  # type: ignore[operator]
    if pooling not in first:
        raise ManyoneError(f"pooling: {pooling!r} is none of the encoder's; use {', '.join(first)}")
    middle, spread = (goal[splits.train].mean(), goal[splits.train].std()) if kind == "value" else (0.0, 1.0)

    def outcome(module: FineTuned, at: np.ndarray) -> Tensor:
        parts = np.array_split(at, max(1, -(-len(at) // settings.batch_size)))
        return torch.cat([module(*prepared(part)).float().cpu() for part in parts])

    def loss_of(module: FineTuned, at: np.ndarray) -> Tensor:
        logits, y = module(*prepared(at)), goal[at].to(device)
        if kind == "class":
            return functional.cross_entropy(logits, y)
        if kind == "labels":
            return functional.binary_cross_entropy_with_logits(logits, y)
        return functional.mse_loss(logits[:, 0], (y - middle) / spread)

    def quality_of(module: FineTuned) -> float:
        out, y = outcome(module, splits.val), goal[splits.val]
        if kind == "class":
            return float((out.argmax(1) == y).double().mean())
        if kind == "labels":
            return mean_average_precision(y.numpy(), out.numpy())["micro_map"]
        return -float((out[:, 0] * spread + middle - y).square().mean())

    tried: list[tuple[float, float, FineTuned]] = []
    for rate in rates:
        torch.manual_seed(settings.seed)
        module = FineTuned(copy.deepcopy(encoder), first[pooling].shape[1], outputs, pooling).to(device)
        groups = layer_groups(module, layer_decay, settings.weight_decay)

        def loss(at: np.ndarray, module: FineTuned = module) -> Tensor:
            return loss_of(module, at)

        def quality(module: FineTuned = module) -> float:
            return quality_of(module)

        best = train(module, loss, splits.train, quality, replace(settings, lr=rate), groups, name="encoder")
        tried.append((best, rate, module))
    best, rate, module = max(tried, key=lambda t: t[0])
    with torch.inference_mode():
        out = outcome(module, splits.test)
    more = {"chosen": {"lr": rate, "val": best}, "seconds": time.perf_counter() - began}
    if labels:
        return Tuned(module, class_result("fine-tune", labels, splits.test, out.softmax(1), **more))
    if kind == "labels":
        return Tuned(module, labels_result("fine-tune", targets, splits.test, out.sigmoid(), **more))
    return Tuned(module, value_result("fine-tune", targets, splits.test, out[:, 0] * spread + middle, **more))
