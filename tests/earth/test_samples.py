import numpy as np
import pytest
from tests.earth.small_scenes import BANDS, labelled

from manyone.data.rasters.scenes import IGNORE, Chips, Places
from manyone.earth.samples import Sampling, draw
from manyone.errors import ManyoneError


def test_pixels_have_labels_and_values_and_their_own_class():
    source = labelled()
    samples = draw(source, Sampling(block=8, train=400, test=300))
    scene, row, column = samples.pixels.T
    assert (scene == 0).all()
    assert (samples.targets == source.labels[0][row, column]).all()
    assert IGNORE not in samples.targets
    assert not ((row >= 20) & (row < 24) & (column >= 20) & (column < 24)).any()
    assert [len(p) for p in (samples.splits.train, samples.splits.val, samples.splits.test)] == [400, 100, 300]
    assert samples.ids[0] == f"0:{row[0]}:{column[0]}"


def test_blocks_are_in_one_part_only():
    samples = draw(labelled(), Sampling(block=8, train=10_000, test=10_000))
    blocks = samples.pixels[:, 1:] // 8
    named = [{tuple(b) for b in blocks[at].tolist()} for at in (samples.splits.train, samples.splits.test)]
    assert not named[0] & named[1]


def test_a_seed_gives_the_same_samples_and_another_others():
    one, same, other = (draw(labelled(), Sampling(block=8, train=50, test=50, seed=s)) for s in (0, 0, 1))
    assert one.ids == same.ids
    assert one.fingerprint() == same.fingerprint()
    assert one.ids != other.ids


def test_the_default_block_is_a_twelfth_of_a_small_scene():
    assert "blocks of 4 pixels" in draw(labelled(48), Sampling(train=100, test=100)).notes


def chips(**more):
    pixels = np.random.default_rng(0).random((60, 3, 4, 4), np.float32)
    return Chips("chips", BANDS, pixels, "class", np.arange(60) % 3, ("a", "b", "c"), **more)


def test_chips_keep_the_official_split_and_without_places_are_split_at_random():
    given = {"train": np.arange(40), "test": np.arange(40, 60)}
    kept = draw(chips(given=given), Sampling(train=100, test=100))
    assert set(kept.chips[kept.splits.test]) == set(range(40, 60))
    assert any("official" in note for note in kept.notes)
    assert any("at random" in note for note in draw(chips(), Sampling()).notes)


def test_classes_that_training_lacks_are_left_out_and_said():
    given = {"train": np.arange(0, 40), "val": np.arange(40, 45), "test": np.arange(45, 60)}
    source = chips(given=given)
    source.targets[:45] = source.targets[:45] % 2
    samples = draw(source, Sampling(train=100, test=100))
    assert set(samples.targets[samples.splits.test]) == {0, 1}
    assert any("left out" in note for note in samples.notes)


def test_places_are_split_by_ten_degrees():
    lonlat = np.random.default_rng(0).uniform((-180, -60), (180, 70), (400, 2))
    source = Places("points", lonlat, "class", (lonlat[:, 1] > 0).astype(int), ("south", "north"))
    samples = draw(source, Sampling())
    cells = {tuple(c) for c in np.floor(lonlat[samples.chips[samples.splits.train]] / 10).tolist()}
    assert not cells & {tuple(c) for c in np.floor(lonlat[samples.chips[samples.splits.test]] / 10).tolist()}


@pytest.mark.parametrize(
    ("sampling", "message"),
    [({"split": "given"}, "no official split"), ({"block": 48.0}, "block"), ({"train": 0}, "train 0")],
)
def test_what_cannot_be_drawn_is_one_line(sampling, message):
    with pytest.raises(ManyoneError, match=message):
        draw(labelled(), Sampling(**sampling))
