"""Change between two dates: one encoder for both, its maps joined layer by layer, then a head as for segmentation.

difference  |f_1 - f_2|        concat  [f_1, f_2]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from manyone.earth.protocols.segmentation import Dense, Maps, segmentation_probe
from manyone.earth.splits import Splits
from manyone.errors import ManyoneError

Join = Literal["difference", "concat"]
CLASSES = ("unchanged", "changed")


def join_maps(first: list[Tensor], second: list[Tensor], how: Join = "difference") -> list[Tensor]:
    """One map a layer, [b, D, h, w] or [b, 2 D, h, w]."""
    if how not in ("difference", "concat"):
        raise ManyoneError(f"how: {how!r} is unknown; use difference or concat")
    if how == "concat":
        return [torch.cat(pair, 1) for pair in zip(first, second, strict=True)]
    return [(a - b).abs() for a, b in zip(first, second, strict=True)]


def change_probe(
    first: Maps, second: Maps, masks: np.ndarray, splits: Splits, *, how: Join = "difference", **options: Any
) -> Dense:
    """See ``segmentation_probe``; ``masks``: 1 where something has changed. Adds precision, recall and F1 of change."""
    dense = segmentation_probe(lambda at: join_maps(first(at), second(at), how), masks, splits, CLASSES, **options)
    (_, false), (missed, hits) = dense.confusions.sum(0)
    parts = {"change_precision": (hits, hits + false), "change_recall": (hits, hits + missed)}
    parts["change_f1"] = 2 * hits, 2 * hits + false + missed
    values = {name: float(a / b) if b else float("nan") for name, (a, b) in parts.items()}
    scores = replace(dense.scores, protocol="change", values={**dense.scores.values, **values})
    return replace(dense, scores=scores)
