"""Heads on maps, of a function or of a store; change; regions that count nowhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from manyone.earth.heads.train import Training
from manyone.earth.metrics import confusion, mean_iou
from manyone.earth.protocols.change import change_probe, join_maps
from manyone.earth.protocols.segmentation import segmentation_probe, stored_maps
from manyone.earth.splits import random_split
from manyone.earth.store import KEY_FIELDS, Store
from manyone.errors import ManyoneError

CLASSES = ("low", "high", "edge")
QUICK = Training(epochs=12, batch_size=8, lr=1e-2, look_every=4)


def task(n=40):
    """Masks of 16 px that 4 px tokens with noise can tell."""
    r = np.random.default_rng(0)
    coarse = r.integers(3, size=(n, 4, 4))
    masks = coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)
    maps = np.eye(3)[coarse].transpose(0, 3, 1, 2) @ np.eye(4) + 0.2 * r.normal(size=(n, 3, 4, 4))
    masks[:, :2] = 255
    return maps.astype(np.float32), masks, random_split(n)


@pytest.mark.parametrize("head", ["linear", "conv", "fpn"])
def test_a_head_learns(head):
    maps, masks, splits = task()
    settings = replace(QUICK, lr=0.1) if head == "linear" else QUICK
    at_maps = lambda at: [torch.from_numpy(maps[at])]  # noqa: E731
    dense = segmentation_probe(at_maps, masks, splits, CLASSES, head=head, settings=settings)
    assert dense.scores.values["miou"] > 0.45  # bilinear edges cost the rest
    assert dense.scores.predictions.shape == masks[splits.test].shape
    assert dense.confusions.shape == (len(splits.test), 3, 3)
    matrix = confusion(masks[splits.test], dense.scores.predictions, 3)
    assert (dense.confusions.sum(0) == matrix).all()
    assert dense.scores.values["miou"] == pytest.approx(float(mean_iou(matrix)))
    assert matrix.sum() == len(splits.test) * 14 * 16  # the ignored rows count nowhere
    assert set(dense.scores.values) >= {"iou_low", "iou_high", "iou_edge", "miou_absent_zero"}


def test_the_same_from_a_store(tmp_path):
    maps, masks, splits = task()
    maps = maps.astype(np.float16).astype(np.float32)
    made = Store(tmp_path).put(
        dict.fromkeys(KEY_FIELDS, "x"), range(40), {"grid_L1": maps, "global_mean": maps[..., 0, 0]}
    )
    own = segmentation_probe(lambda at: [torch.from_numpy(maps[at])], masks, splits, CLASSES, settings=QUICK)
    stored = segmentation_probe(stored_maps(made, ["grid_L1"]), masks, splits, CLASSES, settings=QUICK)
    assert (own.scores.predictions == stored.scores.predictions).all()
    with pytest.raises(ManyoneError, match="is no grid"):
        stored_maps(made, ["global_mean"])


def test_labels_outside_the_classes_are_refused():
    maps, masks, splits = task()
    with pytest.raises(ManyoneError, match=r"labels \[2\] unknown"):
        segmentation_probe(lambda at: [torch.from_numpy(maps[at])], masks, splits, CLASSES[:2])


@pytest.mark.parametrize("how", ["difference", "concat"])
def test_change(how):
    maps, _, splits = task()
    later = maps.copy()
    r = np.random.default_rng(1)
    changed = r.random((40, 4, 4)) < 0.3
    later += 3 * changed[:, None] * r.choice([-1, 1], size=(40, 1, 4, 4))
    masks = changed.repeat(4, 1).repeat(4, 2).astype(np.uint8)
    later = later.astype(np.float32)
    first, second = (lambda at, x=x: [torch.from_numpy(x[at])] for x in (maps, later))
    dense = change_probe(first, second, masks, splits, how=how, head="conv", settings=QUICK)
    (_, false), (missed, hits) = dense.confusions.sum(0)
    assert dense.scores.values["change_f1"] == pytest.approx(2 * hits / (2 * hits + false + missed))
    assert dense.scores.values["change_f1"] > 0.5
    assert dense.scores.protocol == "change"


def test_joined_maps():
    a, b = [torch.randn(2, 3, 4, 4)], [torch.randn(2, 3, 4, 4)]
    assert torch.equal(join_maps(a, b)[0], join_maps(b, a)[0])
    assert torch.equal(join_maps(a, a)[0], torch.zeros(2, 3, 4, 4))
    assert join_maps(a, b, "concat")[0].shape == (2, 6, 4, 4)
    with pytest.raises(ManyoneError, match="use difference or concat"):
        join_maps(a, b, "sum")
