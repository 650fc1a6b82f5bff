"""Segmentation with a frozen encoder: a head on its maps, read from a store or computed when needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from manyone.data.rasters.scenes import IGNORE
from manyone.earth.heads.table import make_head
from manyone.earth.heads.train import Training, train
from manyone.earth.metrics import OF_CONFUSION, class_iou, confusion, mean_iou
from manyone.earth.protocols.scores import Scores
from manyone.earth.splits import Splits
from manyone.earth.store import Embeddings
from manyone.errors import ManyoneError

Maps = Callable[[np.ndarray], list[Tensor]]
"""Positions [b] -> one map [b, D_l, h_l, w_l] a layer."""


@dataclass(frozen=True)
class Dense:
    """A trained head and what it scored."""

    head: nn.Module
    scores: Scores
    confusions: np.ndarray
    """int64 [n_test, K, K], one a test image: what intervals over images or blocks resample."""


def stored_maps(embeddings: Embeddings, names: Sequence[str]) -> Maps:
    """Maps from a store: ``names`` of its grids, in order."""
    arrays = [embeddings.array(name) for name in names]
    for name, array in zip(names, arrays):
        if array.ndim != 4:
            raise ManyoneError(f"names: {name!r} of {embeddings.folder} is no grid; store the maps of layers too")
    return lambda at: [torch.from_numpy(np.asarray(a[at], dtype=np.float32)).permute(0, 3, 1, 2) for a in arrays]


def segmentation_probe(
    maps: Maps,
    masks: np.ndarray,
    splits: Splits,
    classes: Sequence[str],
    *,
    head: str | nn.Module = "linear",
    settings: Training | None = None,
    device: torch.device | str = "cpu",
) -> Dense:
    """Trains ``head`` (a name of ``heads.table.HEADS`` or a module) on train, keeps its best state on val, tests.

    ``masks`` uint8 [N, H, W] with IGNORE (255); loss: cross-entropy; val is judged by mIoU.
    """
    began, settings, k = time.perf_counter(), settings or Training(), len(classes)
    used = np.unique(masks[np.concatenate([splits.train, splits.val, splits.test])])
    wrong = used[(used >= k) & (used != IGNORE)]
    if masks.ndim != 3 or len(wrong):
        raise ManyoneError(
            f"masks: shape {masks.shape}, labels {wrong.tolist()} unknown; give [N, H, W] of 0 to {k - 1}"
        )
    torch.manual_seed(settings.seed)  # the initial weights of the head
    module = head if isinstance(head, nn.Module) else make_head(head, [m.shape[1] for m in maps(splits.train[:1])], k)
    module = module.to(device)

    def logits(at: np.ndarray) -> Tensor:
        return module([m.to(device) for m in maps(at)], masks.shape[1:])

    def loss(at: np.ndarray) -> Tensor:
        target = torch.from_numpy(masks[at].astype(np.int64)).to(device)
        total = functional.cross_entropy(logits(at), target, ignore_index=IGNORE, reduction="sum")
        return total / (target != IGNORE).sum().clamp_min(1)

    def predict(positions: np.ndarray) -> np.ndarray:
        parts = np.array_split(positions, max(1, -(-len(positions) // settings.batch_size)))
        return np.concatenate([logits(at).argmax(1).to(torch.uint8).cpu().numpy() for at in parts])

    def quality() -> float:
        value = float(mean_iou(confusion(masks[splits.val], predict(splits.val), k)))
        return -1.0 if np.isnan(value) else value

    best = train(module, loss, splits.train, quality, settings, name="head")
    with torch.inference_mode():
        predicted = predict(splits.test)
    each = np.stack([confusion(t, p, k) for t, p in zip(masks[splits.test], predicted)])
    matrix = each.sum(0)
    values = {name: float(metric(matrix)) for name, metric in OF_CONFUSION.items()}
    values |= {f"iou_{name}": float(v) for name, v in zip(classes, class_iou(matrix))}
    scores = Scores(
        "segmentation",
        values,
        masks[splits.test],
        predicted,
        classes=np.asarray(classes),
        chosen={"val_miou": best},
        seconds=time.perf_counter() - began,
    )
    return Dense(module, scores, each)
