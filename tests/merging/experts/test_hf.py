"""Hugging Face checkpoints: split into encoder and heads without loss, on tiny random models of many architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.experts.hf import build_encoder, load_experts
from manyone.merging.measures import features
from manyone.merging.static.statistics import grams
from manyone.merging.surgery.learner import SurgeryLearner
from manyone.merging.surgery.model import SurgeryV2, find_block_modules

transformers = pytest.importorskip("transformers")

TEXT = {
    "bert": ("Bert", {"intermediate_size": 32, "max_position_embeddings": 24}),
    "roberta": ("Roberta", {"intermediate_size": 32, "max_position_embeddings": 24, "pad_token_id": 1}),
    "distilbert": (
        "DistilBert",
        {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 24},
    ),
    "gpt2": (
        "GPT2",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "bos_token_id": 3, "eos_token_id": 3},
    ),
    "llama": ("Llama", {"intermediate_size": 32, "num_key_value_heads": 2, "pad_token_id": 0}),
}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 60}
SIZES = {"a": 3, "b": 5}


def text_config(kind: str, labels: int):
    name, special = TEXT[kind]
    common = {"vocab_size": 60} if kind in ("distilbert", "gpt2") else SMALL
    return getattr(transformers, f"{name}Config")(**common, **special, num_labels=labels), name


def text_folders(root: Path, kind: str) -> tuple[Path, dict[str, Path], dict[str, torch.nn.Module]]:
    models = {}
    for i, (task, labels) in enumerate(SIZES.items()):
        torch.manual_seed(i + 1)
        config, name = text_config(kind, labels)
        models[task] = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
        models[task].save_pretrained(root / task)
    torch.manual_seed(0)
    config, name = text_config(kind, 2)
    getattr(transformers, f"{name}Model")(config).save_pretrained(root / "base")
    return root / "base", {t: root / t for t in SIZES}, models


def text_inputs(pad: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = (torch.arange(9) < torch.tensor([[9], [4], [6], [9]])).long()
    ids = torch.randint(5, 60, (4, 9), generator=generator)
    return {"input_ids": ids * mask + pad * (1 - mask), "attention_mask": mask}


def test_a_checkpoint_runs_no_code_of_its_own(tmp_path: Path) -> None:
    """Neither a file that ``auto_map`` names, nor kernels of a hub; nor does an artefact choose what is called."""
    base, folders, _ = text_folders(tmp_path, "bert")
    expert = folders[0] if isinstance(folders, list) else folders["a"]
    plain = json.loads((expert / "config.json").read_text())
    ran = tmp_path / "ran"
    (expert / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    for changed, match in [
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "no readable Hugging Face model"),
        ({"attn_implementation": "evil/kernel"}, "attn_implementation evil/kernel is code from a hub"),
    ]:
        (expert / "config.json").write_text(json.dumps(plain | changed))
        with pytest.raises(ManyoneError, match=match):
            load_experts(base, folders)
    assert not ran.exists()
    with pytest.raises(TypeError, match="no model of transformers"):
        build_encoder({"class": "pipeline", "config": {}, "mean": None, "std": None, "classifier": None})


@pytest.mark.parametrize("kind", TEXT)
def test_text_experts_split_without_loss(kind: str, tmp_path: Path) -> None:
    base, folders, models = text_folders(tmp_path, kind)
    loaded = load_experts(base, folders)
    assert loaded.encoder.state_dict().keys() == loaded.experts["a"].keys() == loaded.experts["b"].keys()
    for task, model in models.items():
        assert set(loaded.experts[task]) <= set(model.state_dict())
        encoder = build_encoder(loaded.spec)
        encoder.load_state_dict(loaded.experts[task])
        with torch.no_grad():
            if model.config.pad_token_id is None:
                model.config.pad_token_id = 3
            wanted = model(**text_inputs(model.config.pad_token_id)).logits
            feature = encoder(**text_inputs())
        assert feature.shape == (4, 16)
        assert torch.allclose(loaded.heads[task](feature), wanted, atol=1e-5)
        assert loaded.heads[task].weight.shape == (SIZES[task], 16)
    assert loaded.classes == {"a": (), "b": ()}
    assert torch.isfinite(features(loaded.encoder, text_inputs())).all()


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_surgery_and_statistics_on_text_experts(kind: str, tmp_path: Path) -> None:
    base, folders, _ = text_folders(tmp_path, kind)
    loaded = load_experts(base, folders)
    assert len(find_block_modules(loaded.encoder)) == 2
    inputs = dict.fromkeys(SIZES, text_inputs())
    model = SurgeryV2(loaded.encoder, 16, 16, tuple(SIZES), rank=4)
    assert torch.equal(model(text_inputs(), "a"), loaded.encoder(**text_inputs()))
    learner = SurgeryLearner(model, loaded.experts, inputs, batch_size=2, lr=1e-2)
    losses = [learner.step()["loss"] for _ in range(10)]
    assert losses[-1] < losses[0]
    layers = 6 * 2 + 1 if kind == "bert" else 4 * 2 if kind == "gpt2" else 7 * 2
    assert len(grams(loaded.encoder, text_inputs())) == layers


def test_the_base_may_lack_what_experts_train(tmp_path: Path) -> None:
    base, folders, models = text_folders(tmp_path, "roberta")
    loaded = load_experts(base, folders)
    name = "classifier.dense.weight"
    mean = (models["a"].state_dict()[name] + models["b"].state_dict()[name]) / 2
    assert torch.allclose(loaded.encoder.state_dict()[name], mean)
    assert name in loaded.notes[0]


def vit_config(labels: int, **options):
    return transformers.ViTConfig(
        **{k: v for k, v in SMALL.items() if k != "vocab_size"},
        intermediate_size=32, image_size=16, patch_size=8, num_labels=labels, **options,
    )  # fmt: skip


def vit_folders(root: Path, **options) -> tuple[Path, dict[str, Path], dict[str, torch.nn.Module]]:
    models = {}
    for i, (task, labels) in enumerate({"base": 2, **SIZES}.items()):
        torch.manual_seed(i)
        models[task] = transformers.ViTForImageClassification(vit_config(labels, **options)).eval()
        models[task].save_pretrained(root / task)
    return root / "base", {t: root / t for t in SIZES}, models


def test_image_experts_normalise_as_their_preprocessor_says(tmp_path: Path) -> None:
    base, folders, models = vit_folders(tmp_path)
    processor = {"size": {"height": 16, "width": 16}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    (base / "preprocessor_config.json").write_text(json.dumps(processor))
    loaded = load_experts(base, folders)
    x = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = (x / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    for task in SIZES:
        encoder = build_encoder(loaded.spec)
        encoder.load_state_dict(loaded.experts[task])
        with torch.no_grad():
            wanted = models[task](pixel_values=pixels).logits
            assert torch.allclose(loaded.heads[task](encoder(x)), wanted, atol=1e-5)
            assert torch.allclose(loaded.heads[task](encoder(x / 255)), wanted, atol=1e-5)
    assert type(loaded.encoder).__name__ == "ViTForImageClassification"
    assert loaded.notes == ()


def test_convolutional_experts_work_too(tmp_path: Path) -> None:
    for i, (task, labels) in enumerate({"base": 2, **SIZES}.items()):
        torch.manual_seed(i)
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=labels
        )
        transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / task)
    loaded = load_experts(tmp_path / "base", [tmp_path / t for t in SIZES])
    assert list(loaded.heads) == ["a", "b"]
    assert loaded.encoder(torch.rand(2, 3, 32, 32)).shape == (2, 12)


def test_class_names_come_from_the_configuration(tmp_path: Path) -> None:
    config = vit_config(2, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "pets")
    assert load_experts(tmp_path / "pets", [tmp_path / "pets"]).classes == {"pets": ("cat", "dog")}


def test_clip_vision_experts(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**small, "image_size": 16, "patch_size": 8}
    text = {**small, "vocab_size": 60, "max_position_embeddings": 12}
    clip = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6))
    clip.save_pretrained(tmp_path / "base")
    tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision))
    tower.save_pretrained(tmp_path / "expert")
    loaded = load_experts(tmp_path / "base", {"task": tmp_path / "expert"})
    assert loaded.heads == {}
    x = torch.rand(2, 3, 16, 16)
    own = loaded.encoder.state_dict()
    assert torch.equal(own["visual_projection.weight"], clip.visual_projection.weight)
    assert torch.equal(own["visual_projection.weight"], loaded.experts["task"]["visual_projection.weight"])
    assert not any(torch.equal(own[n], v) for n, v in loaded.experts["task"].items() if n.endswith("fc1.weight"))
    assert torch.allclose(
        torch.cat([v.flatten() for n, v in loaded.experts["task"].items() if "fc1.weight" in n]),
        torch.cat([v.flatten() for n, v in tower.state_dict().items() if "fc1.weight" in n]),
    )
    assert loaded.encoder(x).shape == (2, 6)
    rebuilt = build_encoder(loaded.spec)
    rebuilt.load_state_dict(own)
    assert torch.equal(rebuilt(x), loaded.encoder(x))


def test_problems_are_named(tmp_path: Path) -> None:
    base, folders, _ = vit_folders(tmp_path)
    with pytest.raises(ManyoneError, match="no readable Hugging Face model"):
        load_experts(base, {"a": tmp_path / "nowhere" / "at" / "all"})
    transformers.ViTModel(vit_config(2)).save_pretrained(tmp_path / "headless")
    with pytest.raises(ManyoneError, match="architecture is ViTModel"):
        load_experts(base, {"a": tmp_path / "headless"})
    with pytest.raises(ManyoneError, match="two experts have one folder name"):
        load_experts(base, [folders["a"], folders["a"]])
    weights = folders["b"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ManyoneError, match="b: cannot be loaded"):
        load_experts(base, folders)
    other, _, _ = text_folders(tmp_path / "text", "bert")
    with pytest.raises(ManyoneError, match="first expert is a ViT"):
        load_experts(base, {"a": folders["a"], "c": tmp_path / "text" / "a"})
    assert other.is_dir()


def test_nan_and_other_widths_are_refused(tmp_path: Path) -> None:
    base, folders, models = vit_folders(tmp_path)
    with torch.no_grad():
        models["b"].vit.layernorm.weight[0] = float("nan")
    models["b"].save_pretrained(folders["b"])
    with pytest.raises(ManyoneError, match=r"NaN or Inf in tensor 'vit\.layernorm\.weight'"):
        load_experts(base, folders)
    wide = vit_config(5)
    wide.intermediate_size = 48
    transformers.ViTForImageClassification(wide).save_pretrained(folders["b"])
    with pytest.raises(ManyoneError, match=r"expert 'b'.*in the base"):
        load_experts(base, folders)
