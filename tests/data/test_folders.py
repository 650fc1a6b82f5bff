"""A user's folders and tables as tasks, and what is said when they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from manyone.data.folders import hugging_face_parts, load_task, load_tasks
from manyone.data.images import pixels
from manyone.data.images.pixels import ImageFormat
from manyone.errors import ManyoneError


def picture(path: Path, value: int, size: tuple[int, int] = (12, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((size[1], size[0], 3), value, dtype=np.uint8)
    Image.fromarray(array).convert(mode).save(path)


def image_folder(root: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    for k, (name, n) in enumerate(counts.items()):
        for i in range(n):
            picture(root / name / f"{i:03}{suffix}", 40 * k + i)
    return root


def words(texts: list[str]) -> dict[str, list[list[int]]]:
    """One token a word: its length."""
    return {"input_ids": [[len(w) for w in t.split()] for t in texts]}


def test_class_folders_are_split_in_their_shares(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "pets", {"cat": 40, "dog": 20})
    task = load_task(root, size=6)
    assert (task.name, task.classes) == ("pets", ("cat", "dog"))
    assert [len(s) for s in (task.train, task.val, task.test)] == [42, 6, 12]
    assert int((task.test.labels == 0).sum()) == 8
    assert task.train.inputs.shape == (42, 3, 6, 6)
    assert task.train.inputs.dtype == torch.uint8
    shades = torch.cat([s.inputs[:, 0, 3, 3] for s in (task.train, task.val, task.test)])
    assert sorted(shades.tolist()) == sorted([*range(40), *range(40, 60)])
    again, other = load_task(root, size=6), load_task(root, size=6, seed=1)
    assert torch.equal(task.test.inputs, again.test.inputs)
    assert not torch.equal(task.test.inputs, other.test.inputs)
    assert (task.test.labels == (task.test.inputs[:, 0, 0, 0] >= 40).long()).all()


def test_the_split_depends_on_the_content_and_not_on_the_name(tmp_path: Path) -> None:
    first = load_task(image_folder(tmp_path / "pets", {"cat": 40, "dog": 20}), size=6)
    (tmp_path / "pets").rename(tmp_path / "animals")
    again = load_task(tmp_path / "animals", size=6)
    assert all(torch.equal(first.split(s).inputs, again.split(s).inputs) for s in ("train", "val", "test"))


def test_given_splits_are_kept(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", {"a": 10, "b": 10}, ".jpg")
    image_folder(tmp_path / "Test", {"a": 3, "b": 3})
    task = load_task(tmp_path, channels=1, name="own")
    assert [len(s) for s in (task.train, task.val, task.test)] == [18, 2, 6]
    assert task.train.inputs.shape[1:] == (1, 32, 32)
    image_folder(tmp_path / "validation", {"a": 2, "b": 5})
    assert [len(load_task(tmp_path).split(s)) for s in ("train", "val", "test")] == [20, 7, 6]
    assert [len(load_task(tmp_path, limit=4).split(s)) for s in ("train", "val", "test")] == [4, 4, 4]
    assert load_task(tmp_path, limit=4).train.labels.tolist() == [0, 0, 1, 1]


def test_model_folders_tell_size_and_colour(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"image_size": 20}))
    assert ImageFormat.of_model(model) == ImageFormat(20, 3, crop=False)
    clip = {"crop_size": {"height": 10, "width": 10}, "size": {"shortest_edge": 12}, "do_center_crop": True}
    (model / "preprocessor_config.json").write_text(
        json.dumps(clip | {"image_mean": [0.1] * 3, "image_std": [0.2] * 3})
    )
    shape = ImageFormat.of_model(model)
    assert (shape.size, shape.crop, shape.mean, shape.std) == (10, True, (0.1,) * 3, (0.2,) * 3)
    root = image_folder(tmp_path / "data", {"a": 5, "b": 5})
    assert load_task(root, model=model).train.inputs.shape[2:] == (10, 10)
    (model / "preprocessor_config.json").write_text("{")
    with pytest.raises(ManyoneError, match=r"preprocessor_config\.json, line 1: not JSON"):
        load_task(root, model=model)
    with pytest.raises(ManyoneError, match="no preprocessor_config"):
        ImageFormat.of_model(tmp_path)


def test_cropping_takes_the_middle(tmp_path: Path) -> None:
    array = np.zeros((10, 30, 3), dtype=np.uint8)
    array[:, 10:20] = 200
    image = Image.fromarray(array)
    cropped = pixels.read_images([image], ImageFormat(10, 3, crop=True))
    assert (cropped == 200).all()
    squeezed = pixels.read_images([image], ImageFormat(10, 3, crop=False))
    assert (squeezed[..., 0] < 20).all()


def test_bad_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder(tmp_path / "pets", {"cat": 5, "dog": 5})
    good = (root / "dog" / "003.png").read_bytes()
    (root / "dog" / "003.png").write_bytes(good[: len(good) // 2])
    with pytest.raises(ManyoneError, match=r"003\.png: cannot be read as an image"):
        load_task(root)
    (root / "dog" / "003.png").write_bytes(b"no image")
    with pytest.raises(ManyoneError, match=r"003\.png: cannot be read as an image"):
        load_task(root)
    (root / "dog" / "003.png").write_bytes(good)
    monkeypatch.setattr(pixels, "MAX_PIXELS", 50)
    with pytest.raises(ManyoneError, match="12 x 8 pixels; at most 50"):
        load_task(root)
    with pytest.raises(ManyoneError, match="1 class found"):
        load_task(image_folder(tmp_path / "one", {"cat": 5}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManyoneError, match="no PNG or JPEG"):
        load_task(tmp_path / "empty")
    with pytest.raises(ManyoneError, match="no such file or folder"):
        load_task(tmp_path / "nowhere")
    with pytest.raises(ManyoneError, match="too few samples"):
        load_task(image_folder(tmp_path / "tiny", {"cat": 1, "dog": 1}))


ROWS = [(f"word {'x' * (i % 7)}", "good" if i % 2 else "bad") for i in range(40)]


def table(path: Path, rows: list[tuple[str, str]] = ROWS, names: tuple[str, str] = ("text", "label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, row))) for row in rows]
    elif path.suffix == ".json":
        lines = [json.dumps([dict(zip(names, row)) for row in rows])]
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [separator.join(names)] + [separator.join(f'"{v}"' for v in row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_tables(tmp_path: Path, suffix: str) -> None:
    task = load_task(table(tmp_path / f"reviews{suffix}"), tokenizer=words)
    assert (task.name, task.classes) == ("reviews", ("bad", "good"))
    assert [len(s) for s in (task.train, task.val, task.test)] == [28, 4, 8]
    ids, mask = task.train.inputs["input_ids"], task.train.inputs["attention_mask"]
    assert ids.shape == mask.shape == (28, 2)
    assert torch.equal(mask, (ids > 0).long())
    assert int(task.test.labels.sum()) == 4


def test_split_tables_columns_pairs_and_transforms(tmp_path: Path) -> None:
    table(tmp_path / "nli" / "train.csv", names=("premise", "gold"))
    table(tmp_path / "nli" / "dev.csv", ROWS[:6], names=("premise", "gold"))
    table(tmp_path / "nli" / "test.csv", ROWS[:8], names=("premise", "gold"))
    task = load_task(
        tmp_path / "nli", text="premise", label="gold", tokenizer=words, transform=lambda t: ["a"] * len(t)
    )
    assert [len(s) for s in (task.train, task.val, task.test)] == [40, 6, 8]
    assert task.test.inputs["input_ids"].tolist() == [[1]] * 8
    pair = load_task(tmp_path / "nli", text="premise+gold", label="gold", tokenizer=words)
    assert pair.train.inputs["input_ids"].shape[1] == 3
    assert (
        load_task(tmp_path / "nli", text="premise", label="gold", tokenizer=words, max_length=1)
        .test.inputs["input_ids"]
        .tolist()
        == [[4]] * 8
    )


def test_class_order(tmp_path: Path) -> None:
    rows = [("a", str(i % 11)) for i in range(110)]
    path = table(tmp_path / "t.csv", rows)
    assert load_task(path, tokenizer=words).classes == tuple(map(str, range(11)))
    task = load_task(table(tmp_path / "u.csv"), tokenizer=words, classes=("good", "bad", "unsure"))
    assert task.classes == ("good", "bad", "unsure")
    with pytest.raises(ManyoneError, match="class 'bad' is not among the expected good, worse"):
        load_task(table(tmp_path / "u.csv"), tokenizer=words, classes=("good", "worse"))


def test_bad_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManyoneError, match=r"t\.csv: row 1 has no 'text'; the columns are sentence, label"):
        load_task(table(tmp_path / "t.csv", names=("sentence", "label")), tokenizer=words)
    (tmp_path / "b.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": ')
    with pytest.raises(ManyoneError, match=r"b\.jsonl: line 2 is not JSON"):
        load_task(tmp_path / "b.jsonl", tokenizer=words)
    (tmp_path / "l.jsonl").write_text("[1]")
    with pytest.raises(ManyoneError, match="every row must be"):
        load_task(tmp_path / "l.jsonl", tokenizer=words)
    (tmp_path / "latin.csv").write_bytes("text,label\ncaf\xe9,a\n".encode("latin-1"))
    with pytest.raises(ManyoneError, match=r"latin\.csv: cannot be read as a table"):
        load_task(tmp_path / "latin.csv", tokenizer=words)
    (tmp_path / "e.csv").write_text("text,label\n")
    with pytest.raises(ManyoneError, match="no rows"):
        load_task(tmp_path / "e.csv", tokenizer=words)
    with pytest.raises(ManyoneError, match="needs a tokeniser"):
        load_task(table(tmp_path / "u.csv"))
    (tmp_path / "x.parquet").write_text("")
    with pytest.raises(ManyoneError, match="unknown kind of file"):
        load_task(tmp_path / "x.parquet")


def test_tokeniser_of_a_model_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = tmp_path / "model"
    model.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word", "x", "##x"]
    (model / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizerFast(str(model / "vocab.txt")).save_pretrained(model)
    (model / "config.json").write_text('{"model_type": "bert"}')
    task = load_task(table(tmp_path / "t.csv"), model=model, max_length=6)
    ids, mask = task.train.inputs["input_ids"], task.train.inputs["attention_mask"]
    assert ids.shape[1] == 6
    assert (ids[:, 0] == 2).all()
    assert (ids.gather(1, mask.sum(1, keepdim=True) - 1) == 3).all()
    with pytest.raises(ManyoneError, match="no tokeniser found"):
        load_task(tmp_path / "t.csv", model=tmp_path / "no" / "such" / "folder")


class FakeTable(list):
    """Enough of ``datasets.Dataset``: rows, ``column_names`` and ``features``."""

    def __init__(self, rows, names=None) -> None:
        super().__init__(rows)
        self.column_names = list(rows[0])
        self.features = {"label": SimpleNamespace(names=names) if names else SimpleNamespace()}


def test_hugging_face_tables() -> None:
    text = FakeTable([{"text": "a", "label": 1}, {"text": "b", "label": 0}], ["neg", "pos"])
    parts, images, listed = hugging_face_parts({"train": text}, "hub/id", "text", "label")
    assert (parts["train"], images, listed) == ([("a", "pos"), ("b", "neg")], False, ["neg", "pos"])
    picture_rows = FakeTable([{"image": "pixels", "label": 3}])
    parts, images, listed = hugging_face_parts({"test": picture_rows}, "hub/id", "text", "label")
    assert (parts["test"], images, listed) == ([("pixels", "3")], True, None)
    with pytest.raises(ManyoneError, match="no 'sentence'; the columns are text, label"):
        hugging_face_parts({"train": text}, "hub/id", "sentence", "label")


def test_hugging_face_data_sets_need_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(ManyoneError, match=r"is a Hugging Face data set and needs datasets: pip .*hub\]'"):
        load_task(tmp_path)
    with pytest.raises(ManyoneError, match=r"name/set: is no file or folder.*pip install"):
        load_task("name/set")


def test_suites_of_user_tasks(tmp_path: Path) -> None:
    first = image_folder(tmp_path / "one", {"a": 5, "b": 5})
    second = image_folder(tmp_path / "two", {"c": 5, "d": 5})
    suite = load_tasks([first, second], size=8)
    assert (suite.kind, [t.name for t in suite.tasks]) == ("images", ["one", "two"])
    with pytest.raises(ManyoneError, match="one name"):
        load_tasks([first, first])
    with pytest.raises(ManyoneError, match="cannot be merged into one model"):
        load_tasks([first, table(tmp_path / "t.csv")], tokenizer=words)
