"""LoRA adapters: the merged weights equal W + alpha / r B A, whatever the layout of the adapter."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from manyone.errors import ManyoneError
from manyone.weights.checkpoint import Checkpoint, TensorEntry, as_checkpoint
from manyone.weights.open import open_checkpoint

R, ALPHA = 3, 12.0


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def base():
    return {
        "encoder.layer.0.q.weight": randn(6, 4, seed=1),
        "encoder.layer.0.q.bias": randn(6, seed=2),
        "encoder.layer.0.c_attn.weight": randn(4, 9, seed=3),
        "encoder.conv.weight": randn(5, 2, 3, 3, seed=4),
        "encoder.embed.weight": randn(11, 4, seed=5),
        "classifier.weight": randn(2, 4, seed=6),
    }


def adapter(folder, tensors, **config):
    folder.mkdir(exist_ok=True)
    save_file(
        {f"base_model.model.{n}": v.contiguous() for n, v in tensors.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": R, "lora_alpha": ALPHA, **config})
    )
    return folder


def pair(name, rows, columns, seed=7):
    return {
        f"{name}.lora_A.weight": randn(R, columns, seed=seed),
        f"{name}.lora_B.weight": randn(rows, R, seed=seed + 1),
    }


def read(folder, model=None):
    checkpoint = open_checkpoint(folder, as_checkpoint(model or base(), "base"))
    return {n: checkpoint[n] for n in checkpoint}


@pytest.mark.parametrize("rslora", [False, True])
def test_linear(tmp_path, rslora):
    parts = pair("encoder.layer.0.q", 6, 4)
    merged = read(adapter(tmp_path / "a", parts, use_rslora=rslora))
    a, b = parts.values()
    scale = ALPHA / R**0.5 if rslora else ALPHA / R
    expected = base()["encoder.layer.0.q.weight"] + scale * b @ a
    torch.testing.assert_close(merged["encoder.layer.0.q.weight"], expected)
    for n, v in base().items():
        if n != "encoder.layer.0.q.weight":
            assert torch.equal(merged[n], v)


def test_slices_equal_the_whole(tmp_path):
    folder = adapter(tmp_path / "a", pair("encoder.layer.0.q", 6, 4))
    checkpoint = open_checkpoint(folder, as_checkpoint(base()))
    whole = checkpoint["encoder.layer.0.q.weight"].reshape(-1)
    for start in range(24):
        for stop in range(start, 25):
            torch.testing.assert_close(checkpoint.read_flat("encoder.layer.0.q.weight", start, stop), whole[start:stop])


def test_fan_in_fan_out(tmp_path):
    parts = pair("encoder.layer.0.c_attn", 9, 4)
    a, b = parts.values()
    merged = read(adapter(tmp_path / "a", parts, fan_in_fan_out=True))
    expected = base()["encoder.layer.0.c_attn.weight"] + ALPHA / R * (b @ a).T
    torch.testing.assert_close(merged["encoder.layer.0.c_attn.weight"], expected)


def test_convolution_and_embedding(tmp_path):
    a, b = randn(R, 2, 3, 3, seed=8), randn(5, R, 1, 1, seed=9)
    ea, eb = randn(R, 11, seed=10), randn(4, R, seed=11)
    parts = {
        "encoder.conv.lora_A.weight": a,
        "encoder.conv.lora_B.weight": b,
        "encoder.embed.lora_embedding_A": ea,
        "encoder.embed.lora_embedding_B": eb,
    }
    merged = read(adapter(tmp_path / "a", parts))
    delta = torch.einsum("or,rikl->oikl", b[:, :, 0, 0], a)
    torch.testing.assert_close(merged["encoder.conv.weight"], base()["encoder.conv.weight"] + ALPHA / R * delta)
    torch.testing.assert_close(merged["encoder.embed.weight"], base()["encoder.embed.weight"] + ALPHA / R * (eb @ ea).T)


def test_modules_to_save_patterns_and_older_names(tmp_path):
    parts = {
        "encoder.layer.0.q.lora_A.default.weight": randn(R, 4),
        "encoder.layer.0.q.lora_B.default.weight": randn(6, R),
        "classifier.modules_to_save.default.weight": randn(2, 4, seed=12),
        "encoder.layer.0.q.bias": randn(6, seed=13),
    }
    merged = read(adapter(tmp_path / "a", parts, alpha_pattern={"q": 6.0}))
    a, b, head, bias = parts.values()
    torch.testing.assert_close(merged["encoder.layer.0.q.weight"], base()["encoder.layer.0.q.weight"] + 6.0 / R * b @ a)
    assert torch.equal(merged["classifier.weight"], head)
    assert torch.equal(merged["encoder.layer.0.q.bias"], bias)


def test_a_base_with_a_prefix(tmp_path):
    model = {f"bert.{n}" if n != "classifier.weight" else n: v for n, v in base().items()}
    folder = adapter(tmp_path / "a", pair("encoder.layer.0.q", 6, 4))
    merged = read(folder, model)
    assert not torch.equal(merged["bert.encoder.layer.0.q.weight"], model["bert.encoder.layer.0.q.weight"])


def test_the_adapter_s_own_base_is_found(tmp_path):
    save_file(base(), tmp_path / "base.safetensors")
    path = str(tmp_path / "base.safetensors")
    folder = adapter(tmp_path / "a", pair("encoder.layer.0.q", 6, 4), base_model_name_or_path=path)
    assert set(open_checkpoint(folder)) == set(base())


@pytest.mark.parametrize(
    ("tensors", "config", "match"),
    [
        (pair("encoder.layer.0.q", 5, 4), {}, r"encoder\.layer\.0\.q.*do not fit the base weight \[6, 4\]"),
        (pair("encoder.layer.9.q", 6, 4), {}, r"encoder\.layer\.9\.q\.weight, which .* does not have"),
        ({"encoder.layer.0.q.lora_A.weight": randn(R, 4)}, {}, "only one of the two"),
        (pair("encoder.layer.0.q", 6, 4), {"use_dora": True}, "DoRA without lora_magnitude_vector"),
        (pair("encoder.layer.0.q", 6, 4), {"peft_type": "IA3"}, "'IA3' is not supported"),
        ({"encoder.layer.0.q.lora_magnitude_vector": randn(6)}, {}, "variant that is not supported"),
        ({n: v * float("nan") for n, v in pair("encoder.layer.0.q", 6, 4).items()}, {}, "NaN or Inf"),
    ],
)
def test_what_does_not_fit(tmp_path, tensors, config, match):
    folder = adapter(tmp_path / "a", tensors, **config)
    with pytest.raises(ManyoneError, match=match) as caught:
        open_checkpoint(folder, as_checkpoint(base(), "base"))
    assert str(folder) in str(caught.value)


class Counted(TensorEntry):
    """A tensor that notes how much of it is read at once."""

    def __init__(self, tensor):
        super().__init__(tensor)
        self.lengths = []

    def flat(self, start, stop):
        self.lengths.append(stop - start)
        return super().flat(start, stop)


@pytest.mark.parametrize("transposed", [False, True])
def test_dora_streams_its_norms_once(tmp_path, transposed):
    """m (W + s B A) / ||W + s B A||; the base is never read whole, and once for the norms besides the values."""
    rows, columns = 900, 1100
    weight = Counted(randn(rows, columns))
    outputs, inputs = (columns, rows) if transposed else (rows, columns)
    parts = pair("l", outputs, inputs)
    a, b = parts.values()
    parts["l.lora_magnitude_vector"] = randn(outputs, seed=9)
    folder = adapter(tmp_path / "a", parts, use_dora=True, fan_in_fan_out=transposed)
    checkpoint = open_checkpoint(folder, Checkpoint({"l.weight": weight}, label="base"))
    assert not weight.lengths  # nothing is read before it is needed
    step = 70_001
    pieces = [
        checkpoint.read_flat("l.weight", i, min(i + step, rows * columns)) for i in range(0, rows * columns, step)
    ]
    whole = weight.tensor.T if transposed else weight.tensor
    changed = whole + ALPHA / R * b @ a
    expected = parts["l.lora_magnitude_vector"][:, None] * changed / changed.norm(dim=1, keepdim=True)
    torch.testing.assert_close(torch.cat(pieces), (expected.T if transposed else expected).reshape(-1))
    assert max(weight.lengths) <= 1 << 18
    assert sum(weight.lengths) == 2 * rows * columns


def test_a_square_weight_is_stored_as_its_namesakes_are(tmp_path):
    """GPT-2's attention has a square c_proj; adapters that also change linear layers may not say fan_in_fan_out."""
    model = {
        "h.attn.c_proj.weight": randn(4, 4),
        "h.mlp.c_proj.weight": randn(8, 4, seed=1),
        "h.mlp.c_proj.bias": randn(4, seed=2),
    }
    parts = pair("h.attn.c_proj", 4, 4)
    a, b = parts.values()
    merged = read(adapter(tmp_path / "a", parts, fan_in_fan_out=False), model)
    torch.testing.assert_close(merged["h.attn.c_proj.weight"], model["h.attn.c_proj.weight"] + ALPHA / R * (b @ a).T)


def test_codes_are_no_weights_to_change(tmp_path):
    folder = adapter(tmp_path / "a", pair("q", 6, 4))
    codes = Checkpoint({"q.weight": TensorEntry(torch.ones(6, 4, dtype=torch.int8))}, label="base")
    with pytest.raises(ManyoneError, match=r"q\.weight of base holds int8 codes"):
        open_checkpoint(folder, codes)


def test_older_names_of_saved_modules(tmp_path):
    new = {name: randn(2, 4, seed=i) for i, name in enumerate(("kept", "named"))}
    parts = pair("encoder.layer.0.q", 6, 4) | {
        "classifier.modules_to_save.weight": new["kept"],
        "classifier.original_module.weight": new["named"],
    }
    assert torch.equal(read(adapter(tmp_path / "a", parts))["classifier.weight"], new["kept"])


def test_missing_pieces(tmp_path):
    folder = adapter(tmp_path / "a", pair("encoder.layer.0.q", 6, 4))
    with pytest.raises(ManyoneError, match="without its base model"):
        open_checkpoint(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ManyoneError, match=r"no adapter_model\.safetensors"):
        open_checkpoint(folder, as_checkpoint(base()))
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ManyoneError, match="damaged adapter configuration"):
        open_checkpoint(folder, as_checkpoint(base()))
