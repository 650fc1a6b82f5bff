"""Zero-shot classification and retrieval with the image and text embeddings of a vision-language model.

    t_c    = unit(mean over templates of unit(text(template.format(c))))      class_embeddings
    logits = exp(scale) cos(image, t_c)                                        zero_shot_logits
    R@k    share of queries with one of their pairs among the k most similar   retrieval

Text comes in as embeddings or through ``encode``: no tokenizer of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from manyone.earth.protocols.scores import Labels, Scores, class_result
from manyone.errors import ManyoneError

TEMPLATES = (
    "a satellite photo of {c}.",
    "an aerial image of {c}.",
    "a remote sensing image of {c}.",
    "an overhead view of {c}.",
    "a satellite image of a {c} area.",
)


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1 along the last axis."""
    return x / x.norm(dim=-1, keepdim=True)


def class_embeddings(
    classes: Sequence[str], encode: Callable[[list[str]], Tensor], templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """[K, D] of length 1: the mean of the unit embeddings over templates. ``encode``: texts -> [n, D]."""
    for template in templates:
        if "{c}" not in template:
            raise ManyoneError(f"templates: {template!r} has no {{c}} for the name of the class")
    # replaced, not formatted: names of classes may hold braces
    texts = [t.replace("{c}", name.replace("_", " ").lower()) for name in classes for t in templates]
    return unit(unit(encode(texts).to(torch.float64)).unflatten(0, (len(classes), len(templates))).mean(1))


def zero_shot_logits(images: Tensor, classes: Tensor, log_scale: float = float(np.log(100))) -> Tensor:
    """[N, K] = exp(scale) cos(image, class); independent of the lengths of the embeddings."""
    return float(np.exp(log_scale)) * unit(images.to(torch.float64)) @ unit(classes.to(torch.float64)).T


def zero_shot(images: Tensor, targets: np.ndarray, classes: Tensor, log_scale: float = float(np.log(100))) -> Scores:
    """Scores of all images [N, D]; ``targets`` int [N] number the rows of ``classes`` [K, D]."""
    began = time.perf_counter()
    targets = np.asarray(targets)
    if len(targets) and not 0 <= targets.min() <= targets.max() < len(classes):
        raise ManyoneError(
            f"targets: {targets.min()} to {targets.max()} for {len(classes)} classes; number them from 0"
        )
    labels = Labels(np.arange(len(classes)), targets.astype(np.int64))
    p = torch.softmax(zero_shot_logits(images, classes, log_scale), 1)
    return class_result("zero-shot", labels, np.arange(len(targets)), p, seconds=time.perf_counter() - began)


def retrieval(similarity: Tensor, image_of_text: np.ndarray, at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """R@k both ways and their mean. ``similarity`` [images, texts]; ``image_of_text`` int [texts], its image's row.

    ``image_to_text_r@k``: an image counts if any of its texts is among the k; an image without texts is no query.
    """
    owner = torch.as_tensor(np.asarray(image_of_text))
    if len(owner) != similarity.shape[1] or not (int(owner.min()) >= 0 and int(owner.max()) < len(similarity)):
        raise ManyoneError(
            f"image_of_text: {len(owner)} entries for {tuple(similarity.shape)} similarities; give each text an image"
        )
    own = owner[None] == torch.arange(len(similarity))[:, None]
    first = torch.where(own, similarity, -torch.inf)
    # rank of the best own text: how many others are as similar; equals count against it, or an encoder that gives
    # everything one embedding would find everything
    to_text = ((similarity >= first.amax(1, keepdim=True)) & ~own).sum(1)[own.any(1)]
    to_image = (similarity >= similarity.gather(0, owner[None])).sum(0) - 1
    values = {f"image_to_text_r@{k}": float((to_text < k).double().mean()) for k in at}
    values |= {f"text_to_image_r@{k}": float((to_image < k).double().mean()) for k in at}
    return values | {"mean_recall": float(np.mean(list(values.values())))}
