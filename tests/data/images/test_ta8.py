"""ta8: the configuration is complete, and hub splits become tasks (with stand-in data set objects, no network)."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from manyone.data.images import ta8
from manyone.data.suites import load_suite
from manyone.errors import ManyoneError

TASKS = {t.name: t for t in ta8.tasks()}


class Rows:
    """What the loader uses of a hub split."""

    def __init__(self, n, classes, names=None):
        self.labels = [i % classes for i in range(n)]
        self.features = {"label": SimpleNamespace(names=names)}

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, key):
        from PIL import Image

        if key == "label":
            return self.labels
        return {"image": Image.new("L", (32, 48), self.labels[key]), "label": self.labels[key]}


def test_the_eight_tasks_are_complete():
    assert list(TASKS) == ["sun397", "cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd"]
    assert [t.count for t in TASKS.values()] == [397, 196, 45, 10, 10, 43, 10, 47]
    for task in TASKS.values():
        assert task.classes is None or len(task.classes) == task.count == len(set(task.classes))
        assert all(t.count("{}") == 1 for t in task.templates)
    assert [t.name for t in TASKS.values() if t.classes is None] == ["sun397", "cars"]
    assert TASKS["mnist"].prompts("7") == ('a photo of the number: "7".',)
    assert len(TASKS["resisc45"].templates) == 18


def test_models_name_their_experts_and_sizes():
    models = ta8.models()
    assert set(models) == {"clip-vit-b32", "clip-vit-b16", "clip-vit-l14"}
    assert models["clip-vit-l14"].expert(TASKS["cars"]) == "tanganke/clip-vit-large-patch14_stanford-cars"
    assert (models["clip-vit-b32"].width, models["clip-vit-l14"].layers) == (768, 24)
    assert ta8.preprocessing().size == 224
    assert len(ta8.preprocessing().mean) == len(ta8.preprocessing().std) == 3


def test_hub_splits_become_a_task():
    import dataclasses

    task = dataclasses.replace(TASKS["eurosat"], test=(60,))
    made = ta8.assemble(task, Rows(100, 10), Rows(60, 10), seed=0, limit=20)
    assert (len(made.train), len(made.val), len(made.test)) == (20, 20, 20)
    assert made.test.inputs.shape == (20, 3, 224, 224)
    assert (made.test.inputs[:, 0, 0, 0] == made.test.labels).all()  # the pictures are filled with their label
    assert made.test.labels.bincount().tolist() == [2] * 10
    assert made.classes[0] == "annual crop land"


def test_wrong_sizes_and_class_counts_are_refused():
    with pytest.raises(ManyoneError, match="60 test images, published are 2700"):
        ta8.assemble(TASKS["eurosat"], Rows(100, 10), Rows(60, 10), seed=0, limit=None)
    with pytest.raises(ManyoneError, match="3 classes instead of 196"):
        ta8.class_names(TASKS["cars"], ["a", "b", "c"])
    with pytest.raises(ManyoneError, match="names no labels"):
        ta8.class_names(TASKS["sun397"], None)
    names = ta8.class_names(TASKS["sun397"], [f"airplane_cabin/{i}" for i in range(397)])
    assert names[5] == "airplane cabin 5"


def test_images_are_cropped_to_the_centre():
    from PIL import Image

    pixels = np.zeros((300, 600, 3), np.uint8)
    pixels[:, 250:350] = 200
    image = ta8.image_array(Image.fromarray(pixels), 224)
    assert image.shape == (3, 224, 224)
    assert image[0, 112, 112] == 200
    assert image[0, 112, 10] == 0
    assert ta8.image_array(Image.new("RGBA", (5, 7)), 224).shape == (3, 224, 224)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(ta8.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ManyoneError, match=r"pip install 'manyone\[hub\]'"):
        load_suite("ta8")


def test_offline_and_unreachable_are_one_clear_line(monkeypatch):
    monkeypatch.setattr(ta8.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("MANYONE_OFFLINE", "1")
    with pytest.raises(ManyoneError, match="MANYONE_OFFLINE is set"):
        load_suite("ta8")
    monkeypatch.delenv("MANYONE_OFFLINE")

    def fail(*arguments, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fail))
    with pytest.raises(ManyoneError, match=r"tanganke/sun397: cannot be loaded from the hub \(no route\)"):
        load_suite("ta8")
