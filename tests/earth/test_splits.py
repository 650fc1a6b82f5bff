"""Spatial splits: shares, whole blocks, buffers that part windows, warnings and refusals."""

import numpy as np
import pytest

from manyone.earth.splits import block_split, given_split, random_split, strip_split
from manyone.errors import ManyoneError


def pixels(height=200, width=160):
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2)


def parts(splits):
    return splits.train, splits.val, splits.test


def test_random_shares_and_seed():
    splits = random_split(1000, seed=3)
    assert [len(p) for p in parts(splits)] == [600, 150, 250]
    assert sorted(np.concatenate(parts(splits))) == list(range(1000))
    assert (random_split(1000, seed=3).train == splits.train).all()
    assert len(np.intersect1d(random_split(1000, seed=4).train, splits.train)) < 450
    assert not splits.warnings
    warned = random_split(200 * 160, places=pixels())
    assert "neighbours" in warned.warnings[0]
    assert warned.blocks is not None


def test_blocks_stay_whole_and_have_their_shares():
    places = pixels()
    splits = block_split(places, block=16, seed=1)
    assert sorted(np.concatenate(parts(splits))) == list(range(len(places)))
    blocks = [set(splits.blocks[p]) for p in parts(splits)]
    assert not blocks[0] & blocks[1]
    assert not blocks[0] & blocks[2]
    assert not blocks[1] & blocks[2]
    count = len(set(splits.blocks))
    assert count == 13 * 10
    assert [len(b) / count for b in blocks] == pytest.approx([0.6, 0.15, 0.25], abs=0.01)
    for block in list(blocks[2])[:5]:
        at = places[splits.blocks == block]
        assert (at.max(0) - at.min(0) < 16).all()
        assert (at // 16 == at[0] // 16).all()


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_a_buffer_of_the_window_s_radius_parts_all_windows(radius):
    places = pixels(80, 80)
    splits = block_split(places, block=16, buffer=radius, seed=1)
    train, test = (np.zeros((80, 80), dtype=bool) for _ in range(2))
    for mask, at in ((train, splits.train), (test, splits.test)):
        for row, column in places[at]:
            mask[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1] = True
    assert not (train & test).any()
    assert f"buffer of {radius}" in splits.warnings[0]
    # and no wider: within a part nothing is removed
    bare = block_split(places, block=16, seed=1)
    removed = np.setdiff1d(bare.train, splits.train)
    other = np.setdiff1d(np.arange(6400), bare.train)
    for row, column in places[removed[::7]]:
        assert np.abs(places[other] - (row, column)).max(1).min() <= radius


def test_scenes_have_blocks_of_their_own():
    places = np.concatenate([pixels(32, 32)] * 2)
    splits = block_split(places, block=16, scenes=np.repeat([0, 1], 1024))
    assert not set(splits.blocks[:1024]) & set(splits.blocks[1024:])
    assert len(set(splits.blocks)) == 8


def test_degrees_and_metres():
    r = np.random.default_rng(0)
    lonlat = np.column_stack([r.uniform(-180, 180, 5000), r.uniform(-60, 80, 5000)])
    splits = block_split(lonlat, block=10)
    one = lonlat[splits.blocks == splits.blocks[0]]
    assert (np.floor(one / 10) == np.floor(one[0] / 10)).all()
    metres = block_split(lonlat * 1e5, block=1e6)
    assert (metres.blocks == splits.blocks).all()
    assert (metres.train == splits.train).all()


def test_strips():
    places = pixels()
    splits = strip_split(places, axis=0)
    rows = [places[p][:, 0] for p in parts(splits)]
    assert rows[0].max() < rows[1].min()
    assert rows[1].max() < rows[2].min()
    assert [len(r) / len(places) for r in rows] == pytest.approx([0.6, 0.15, 0.25], abs=0.01)
    columns = [places[p][:, 1] for p in parts(strip_split(places, axis=1))]
    assert columns[0].max() < columns[1].min()
    assert columns[1].max() < columns[2].min()


def test_given():
    splits = given_split({"train": np.arange(60), "test": np.arange(70, 100)}, 100)
    assert len(splits.val) == 12
    assert "no val" in splits.warnings[0]
    assert (splits.test == np.arange(70, 100)).all()
    whole = given_split({"train": np.arange(60), "val": np.arange(60, 70), "test": np.arange(70, 100)}, 100)
    assert not whole.warnings
    with pytest.raises(ManyoneError, match="in another part too"):
        given_split({"train": np.arange(60), "test": np.arange(50, 100)}, 100)
    with pytest.raises(ManyoneError, match="0 to 49"):
        given_split({"train": np.arange(40), "test": np.arange(40, 60)}, 50)
    with pytest.raises(ManyoneError, match="needs train and test"):
        given_split({"train": np.arange(40)}, 50)


def test_refusals_are_one_line_with_the_fix():
    places = pixels(32, 32)
    for call, words in [
        (lambda: block_split(places, block=32), "makes 1 block"),
        (lambda: block_split(places, block=0), "block: 0 is no side"),
        (lambda: block_split(places, block=8, buffer=4), "buffer: 4 leaves nothing"),
        (lambda: block_split(places[:, :1]), "one row of two coordinates"),
        (lambda: block_split(np.full((9, 2), np.nan)), "NaN"),
        (lambda: random_split(2), "is empty"),
        (lambda: random_split(100, shares=(0.5, 0.5, 0.5)), "add up to 1"),
    ]:
        with pytest.raises(ManyoneError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_classes_without_training_or_test_samples():
    places = pixels(64, 64)
    corner = ((places < 16).all(1)).astype(int)
    outcomes = set()
    for seed in range(20):
        try:
            splits = block_split(places, block=16, seed=seed, labels=corner)
            outcomes.add("test" if "no test sample of class 1" in " ".join(splits.warnings) else "fine")
        except ManyoneError as problem:
            assert "class 1 is in" in str(problem)  # noqa: PT017
            outcomes.add("refused")
    assert outcomes == {"test", "refused"}  # its one block cannot be in two parts
