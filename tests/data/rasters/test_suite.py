"""The earth suite: made grounds for the rules, the real packages (where this machine has them) for the tasks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from manyone.assets.fetch import cached
from manyone.assets.registry import find_asset
from manyone.data.rasters import suite as suite_module
from manyone.data.rasters.scenes import IGNORE, About
from manyone.data.rasters.suite import (
    ASSETS,
    SIZE,
    SPLITS,
    Ground,
    cut,
    eight_bits,
    inside,
    load_earth,
    load_grounds,
    make_task,
    split_blocks,
)
from manyone.errors import ManyoneError


def made_ground(window=5, block=12, side=96):
    """Two classes in small squares, a strip without labels and a hole without values."""
    rows, columns = np.mgrid[:side, :side]
    labels = ((rows // 3 + columns // 3) % 2).astype(np.uint8)
    labels[:4] = IGNORE
    valid = np.ones((side, side), bool)
    valid[40:44, 40:44] = False
    return Ground(
        "made", np.zeros((3, side, side), np.uint8), valid, labels, ("a", "b"), window, block, About("made", "free")
    )


def touched(ground, centres):
    """bool [H, W]: the pixels of all windows."""
    found = np.zeros(ground.labels.shape, bool)
    half = ground.window // 2
    for row, column in centres:
        found[row - half : row + half + 1, column - half : column + half + 1] = True
    return found


def centres_of(ground, seed):
    """{split: int [n, 2]} of the task that the ground would give if its image were its own coordinates."""
    rows, columns = np.indices(ground.labels.shape)
    tagged = np.stack([np.minimum(rows, 255), np.maximum(rows - 255, 0), columns]).astype(np.uint8)
    task = make_task(replace(ground, image=tagged), seed)
    found = {}
    for name in SPLITS:
        # the four pixels around a chip's middle have the window's middle pixel for their mean
        split = task.split(name)
        a, b, column = split.inputs[:, :, 13:15, 13:15].double().mean((2, 3)).T
        found[name] = torch.stack([a + b, column], 1).round().long().numpy()
        assert (ground.labels[tuple(found[name].T)] == split.labels.numpy()).all()
    return found


def assert_apart(ground, seed):
    used = {}
    for name, centres in centres_of(ground, seed).items():
        assert len(np.unique(centres, axis=0)) == len(centres)
        used[name] = touched(ground, centres)
        assert not (used[name] & ~ground.valid).any()
    assert used["train"].sum() > used["test"].sum() > 0
    assert not (used["train"] & used["test"]).any()
    assert not (used["train"] & used["val"]).any()
    assert not (used["val"] & used["test"]).any()


def test_no_pixel_of_one_split_is_in_a_window_of_another():
    ground = made_ground()
    for seed in range(3):
        assert_apart(ground, seed)
    task = make_task(ground, 0)
    assert [task.split(name).labels.bincount().tolist() for name in SPLITS] == [[250] * 2, [60] * 2, [150] * 2]


def test_blocks_are_whole_and_shared_out():
    blocks = split_blocks((100, 70), 10, 3, "x")
    assert blocks.shape == (100, 70)
    tiles = blocks.reshape(10, 10, 7, 10)
    assert (tiles == tiles[:, :1, :, :1]).all()
    assert np.bincount(tiles[:, 0, :, 0].ravel()).tolist() == [38, 11, 21]  # of 70: 0.55, 0.15, 0.30, rounded
    np.testing.assert_array_equal(blocks, split_blocks((100, 70), 10, 3, "x"))
    assert not np.array_equal(blocks, split_blocks((100, 70), 10, 4, "x"))
    assert split_blocks((25, 31), 10, 0).shape == (25, 31)  # blocks at the border are smaller


def test_a_window_is_inside_where_all_its_pixels_are_of_one_split():
    blocks = split_blocks((40, 30), 10, 0)
    ok = inside(blocks, 5)
    for row in range(40):
        for column in range(30):
            part = blocks[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
            assert ok[row, column] == (part.size == 25 and len(np.unique(part)) == 1)


def test_values_become_bits_by_the_rule_and_never_by_the_image():
    assert eight_bits(np.array([0.0, 1.0, 255.0, 300.0, -3.0]), 0, 255).tolist() == [0, 1, 255, 255, 0]
    assert eight_bits(np.array([1000.0, 5500.0, 10_000.0]), 1000, 10_000).tolist() == [0, 128, 255]
    image = np.arange(3 * 9 * 9, dtype=np.uint8).reshape(3, 9, 9)
    centres = np.array([[4, 4], [1, 7]])
    chips = cut(image, centres, 3)
    assert chips.dtype == torch.uint8
    assert chips.shape == (2, 3, SIZE, SIZE)
    assert chips[1, :, 0, 0].tolist() == image[:, 0, 6].tolist()  # corners of the chip: corners of the window
    assert chips[1, :, -1, -1].tolist() == image[:, 2, 8].tolist()
    assert cut(image // 2, centres, 3).float().mean() < 0.6 * chips.float().mean()  # darker stays darker


def test_a_class_in_one_place_cannot_be_trained_and_tested(monkeypatch):
    monkeypatch.setattr(suite_module, "_DRAWS", 30)
    ground = made_ground()
    labels = np.where(ground.labels == 1, 0, ground.labels)
    labels[10:22, 10:22] = 1
    with pytest.raises(ManyoneError, match="made: seed 0 leaves a class without enough windows"):
        make_task(Ground("made", ground.image, ground.valid, labels, ("a", "b"), 5, 12, About()), 0)


@pytest.fixture(scope="module")
def real():
    """(grounds, suite of seed 0)."""
    for asset in ASSETS:
        if cached(find_asset(asset)) is None:
            pytest.skip(f"{asset} is not in the cache")
    return tuple(load_grounds()), load_earth(0)


def test_four_areas_of_three_sensors(real):
    grounds, suite = real
    assert [t.name for t in suite.tasks] == ["nc-west", "nc-east", "statlog", "indian-pines"]
    assert [len(t.classes) for t in suite.tasks] == [5, 5, 6, 5]
    # about 200 m: 7 x 28.5, 3 x 80 and 9 x 20
    assert [g.window for g in grounds] == [7, 7, 3, 9]
    assert any("left out, too few places: agriculture; sediment" in note for note in suite.notes)
    assert any("alfalfa; hay, windrowed; oats; wheat" in note for note in suite.notes)
    for task in suite.tasks:
        assert task.source
        assert task.licence
        for name, most, least in (("train", 250, 40), ("val", 60, 10), ("test", 150, 20)):
            split = task.split(name)
            assert split.inputs.shape[1:] == (3, 28, 28)
            assert split.inputs.dtype == torch.uint8
            counts = split.labels.bincount(minlength=len(task.classes))
            assert least <= counts.min() <= counts.max() <= most
    # near infrared is bright over woods, and red is dark: the bands are in their order
    for name, green_cover in (("nc-east", "forest"), ("indian-pines", "woods"), ("statlog", "cotton crop")):
        task = suite.task(name)
        _, red, near = task.train.inputs[task.train.labels == task.classes.index(green_cover)].float().mean((0, 2, 3))
        assert near > 1.1 * red, name


def test_no_pixel_of_a_real_split_is_in_a_window_of_another(real):
    for ground in real[0]:
        assert_apart(ground, 0)


def test_the_seed_decides(real):
    grounds, suite = real
    statlog = grounds[2]
    again, other = make_task(statlog, 0), make_task(statlog, 1)
    assert torch.equal(again.test.inputs, suite.task("statlog").test.inputs)
    assert torch.equal(again.train.labels, suite.task("statlog").train.labels)
    assert not torch.equal(other.test.inputs[:50], again.test.inputs[:50])
    assert other.classes == again.classes
