"""Problems from a user's own Hugging Face folders, and the papers' CLIP setting up to the download."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from manyone.data.images import ta8
from manyone.data.tasks import Split, Suite, Task
from manyone.errors import ManyoneError
from manyone.merging.heads import Head
from manyone.merging.recipes import problem

transformers = pytest.importorskip("transformers")


def small_task(name, classes, side):
    generator = torch.Generator().manual_seed(len(name))
    images = torch.randint(0, 256, (24, 3, side, side), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(24) % classes)
    return Task(name, tuple(f"class {i}" for i in range(classes)), split, split, split)


@pytest.fixture
def clip_on_disk(tmp_path):
    """A tiny CLIP with random weights and two vision towers in the place of the published experts."""
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = text | {"image_size": 32, "patch_size": 16, "projection_dim": 16}
    text |= {"vocab_size": 99, "max_position_embeddings": 77, "eos_token_id": 98, "bos_token_id": 97}
    torch.manual_seed(0)
    clip = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    clip.save_pretrained(tmp_path / "base")
    characters = sorted(set(" abcdefghijklmnopqrstuvwxyz0123456789.!?',-"))
    vocabulary = {c: i for i, c in enumerate(characters)}
    vocabulary |= {f"{c}</w>": len(vocabulary) + i for i, c in enumerate(characters)}
    vocabulary |= {"<|startoftext|>": 97, "<|endoftext|>": 98}
    (tmp_path / "base/vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "base/merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(tmp_path / "base/vocab.json"), str(tmp_path / "base/merges.txt"))
    tokenizer.save_pretrained(tmp_path / "base")
    for name in ("mnist", "svhn"):
        tower = transformers.CLIPVisionModelWithProjection(clip.config.vision_config)
        tower.load_state_dict(clip.state_dict(), strict=False)
        with torch.no_grad():
            for p in tower.vision_model.parameters():
                p.add_(0.01 * torch.randn_like(p))
        tower.save_pretrained(tmp_path / f"expert-{name}")
    return tmp_path


def test_the_papers_setting_with_random_weights(clip_on_disk, monkeypatch):
    model = ta8.ClipModel("tiny", str(clip_on_disk / "base"), str(clip_on_disk / "expert-{}"), 32, 2, 16)
    monkeypatch.setattr(ta8, "models", lambda: {"clip-vit-b32": model})
    monkeypatch.setenv("MANYONE_CACHE", str(clip_on_disk / "cache"))
    suite = Suite("ta8", "image", (small_task("mnist", 10, 32), small_task("svhn", 10, 32)))
    monkeypatch.setattr(problem, "load_suite", lambda name, seed=0: suite)
    loaded = problem.from_suite("ta8", 0)
    assert loaded.heads["mnist"].weight.shape == (10, 16)
    assert loaded.heads["mnist"].weight.norm(dim=1) == pytest.approx(torch.ones(10))
    assert loaded.heads["mnist"].scale == pytest.approx(100, rel=0.9)
    merged = loaded.merged("task-arithmetic", scale=0.3)
    feature = merged(loaded.tasks["svhn"].test.inputs[:3])
    assert feature.shape == (3, 16)
    expert = loaded.expert("svhn")(loaded.tasks["svhn"].test.inputs[:3])
    assert not torch.allclose(feature, expert)


def test_the_papers_setting_names_what_is_missing_without_a_hub(monkeypatch):
    monkeypatch.setenv("MANYONE_OFFLINE", "1")
    with pytest.raises(ManyoneError, match=r"hub|datasets|offline"):
        problem.from_suite("ta8", 0)


def test_own_folders_must_fit_their_tasks(tmp_path):
    with pytest.raises(ManyoneError, match="NAME=FOLDER"):
        problem.from_folders(tmp_path, [tmp_path], ["pets"])
    with pytest.raises(ManyoneError, match="2 checkpoints but --tasks 1"):
        problem.from_folders(tmp_path, [tmp_path, tmp_path], ["pets=here"])


def test_own_checkpoints_and_image_folders_are_merged_and_saved(tmp_path, manyone, monkeypatch):
    from PIL import Image

    from manyone.merging import load

    for name, labels in (("pets", ("cat", "dog")), ("cars", ("bus", "van", "taxi"))):
        for k, label in enumerate(labels):
            folder = tmp_path / "data" / name / label
            folder.mkdir(parents=True)
            for i in range(12):
                Image.new("RGB", (32, 32), (40 * k + i, 90 + i, 200 - 30 * k)).save(folder / f"{i}.png")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    base = transformers.ViTForImageClassification(transformers.ViTConfig(**small, num_labels=2))
    base.save_pretrained(tmp_path / "base")
    for name, count in (("pets", 2), ("cars", 3)):
        config = transformers.ViTConfig(**small, num_labels=count)
        expert = transformers.ViTForImageClassification(config)
        kept = {k: v + 0.01 * torch.randn_like(v) for k, v in base.state_dict().items() if "classifier" not in k}
        expert.load_state_dict(kept, strict=False)
        expert.save_pretrained(tmp_path / name)
    words = ("--base", "base", "--experts", "pets", "cars", "--tasks", "pets=data/pets", "cars=data/cars")
    for recipe in ("wemoe", "surgery-v2"):
        code, out, err = manyone("run", recipe, *words, "--steps", 2, "--batch-size", 2, "--out", recipe)
        assert code == 0, err
        assert "cars" in out
        model = load(tmp_path / recipe / "model")
        images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        assert model(images, "cars").shape == (2, 3)
        assert model(images, "pets").shape == (2, 2)
    options = yaml.safe_load((tmp_path / "wemoe" / "config.yaml").read_text())["options"]
    assert options["tasks"] == [f"pets={tmp_path / 'data/pets'}", f"cars={tmp_path / 'data/cars'}"]
    assert options["base"] == str(tmp_path / "base")
    monkeypatch.chdir(tmp_path / "data")
    assert manyone("eval", tmp_path / "wemoe")[0] == 0
    Image.new("RGB", (32, 32), (1, 2, 3)).save(tmp_path / "data" / "cars" / "van" / "3.png")
    code, _, err = manyone("eval", tmp_path / "wemoe")
    assert code == 2
    assert "task cars: the data are not those that" in err


def test_a_task_that_is_called_base_does_not_hide_the_base_model():
    network, head = torch.nn.Linear(2, 2), Head(torch.randn(2, 2))
    task = small_task("base", 2, 4)

    def digests():
        held = {"base": {k: torch.zeros_like(v) for k, v in network.state_dict().items()}}
        return problem.Problem("own", {}, network, held, {"base": head}, {"base": task}).digests()

    before = digests()
    assert list(before) == ["task base", "base model", "expert base"]
    with torch.no_grad():
        network.bias += 1
    assert {name for name, value in digests().items() if value != before[name]} == {"base model"}
