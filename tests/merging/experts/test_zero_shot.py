"""Zero-shot heads of a tiny random CLIP against the formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from manyone.errors import ManyoneError
from manyone.merging.experts.zero_shot import zero_shot_heads

transformers = pytest.importorskip("transformers")

TEMPLATES = ("a photo of a {}.", "a drawing of the {}")


class Letters:
    """Bytes as tokens, with an end token of the largest id, as CLIP's pooling wants it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, texts: list[str], **_: object) -> dict[str, torch.Tensor]:
        self.calls += 1
        rows = [[*(ord(c) % 50 for c in t[:20]), 58] for t in texts]
        width = max(map(len, rows))
        ids = torch.tensor([r + [59] * (width - len(r)) for r in rows])
        return {"input_ids": ids, "attention_mask": (ids != 59).long()}


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": 60, "max_position_embeddings": 32, "eos_token_id": 58, "pad_token_id": 59}
    config = transformers.CLIPConfig(text_config=text, vision_config={**small, "image_size": 16, "patch_size": 8})
    return transformers.CLIPModel(config).eval()


def test_rows_are_normalised_means_of_normalised_prompts(clip) -> None:
    heads = zero_shot_heads(clip, {"t": ("cat", "big_dog")}, TEMPLATES, tokenizer=Letters(), batch_size=3)
    head = heads["t"]
    for row, name in zip(head.weight, ("cat", "big dog")):
        parts = []
        for template in TEMPLATES:
            tokens = Letters()([template.format(name)])
            with torch.no_grad():
                states = clip.text_model(**tokens).pooler_output
                parts.append(F.normalize(clip.text_projection(states), dim=-1)[0])
        assert torch.allclose(row, F.normalize(torch.stack(parts).mean(0), dim=0), atol=1e-5)
    assert head.normalise
    assert head.scale == pytest.approx(float(clip.logit_scale.detach().exp()))
    assert head.bias is None


def test_heads_are_cached_by_model_classes_and_templates(clip, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path / "clip")
    letters = Letters()

    def heads(classes=("cat", "dog"), templates=TEMPLATES):
        found = zero_shot_heads(
            tmp_path / "clip", {"t": classes}, {"t": templates}, cache=tmp_path / "cache", tokenizer=letters
        )
        return found["t"]

    first = heads()
    assert letters.calls == 1
    again = heads()
    assert letters.calls == 1
    assert torch.equal(first.weight, again.weight)
    assert first.scale == again.scale
    heads(("dog", "cat"))
    heads(templates=TEMPLATES[:1])
    assert letters.calls == 3
    files = list((tmp_path / "cache").glob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        file.write_bytes(b"damaged")
    assert torch.equal(heads().weight, first.weight)
    assert letters.calls == 4


def test_problems_are_named(clip, tmp_path: Path) -> None:
    with pytest.raises(ManyoneError, match=r"needs a \{\} for the class name"):
        zero_shot_heads(clip, {"t": ("cat",)}, ("a photo",), tokenizer=Letters())
    with pytest.raises(ManyoneError, match="needs tokenizer="):
        zero_shot_heads(clip, {"t": ("cat",)})
    with pytest.raises(ManyoneError, match="cannot be loaded as a CLIP model"):
        zero_shot_heads(tmp_path / "no" / "such" / "folder", {"t": ("cat",)})
