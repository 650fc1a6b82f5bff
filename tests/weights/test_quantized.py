"""Quantised checkpoints: float8 with plain scales is read as numbers, every other format is one line and no output."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from manyone.errors import ManyoneError
from manyone.merging.static import methods as static
from manyone.merging.static.mergekit.recipe import prepare_recipe
from manyone.weights.checkpoint import as_checkpoint
from manyone.weights.open import open_checkpoint, open_model

FLOAT8 = torch.float8_e4m3fn
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def blocked(weight, rows, columns):
    """Codes and scale_inv of every block, as DeepSeek's models store them, and w = code * scale by a plain loop."""
    *lead, m, n = weight.shape
    scale = torch.empty(*lead, -(-m // rows), -(-n // columns))
    codes, numbers = torch.empty_like(weight).to(FLOAT8), torch.empty_like(weight)
    for i in range(scale.shape[-2]):
        for j in range(scale.shape[-1]):
            block = (..., slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns))
            largest = weight[block].abs().amax((-1, -2))
            scale[..., i, j] = largest / 448
            codes[block] = (weight[block] / scale[..., i, j, None, None]).to(FLOAT8)
            numbers[block] = codes[block].float() * scale[..., i, j, None, None]
    return codes, scale, numbers


def folder_of(place, tensors, **config):
    place.mkdir()
    save_file(tensors, place / "model.safetensors")
    if config:
        (place / "config.json").write_text(json.dumps(config))
    return place


@pytest.mark.parametrize(
    ("shape", "block"),
    [((200, 300), (128, 128)), ((128, 128), (128, 128)), ((70, 33), (16, 8)), ((3, 40, 50), (16, 16))],
)
def test_blocks_of_float8_are_numbers(tmp_path, shape, block):
    codes, scale, numbers = blocked(randn(*shape), *block)
    tensors = {"a.weight": codes, "a.weight_scale_inv": scale, "norm.weight": randn(9).bfloat16()}
    config = {"quantization_config": {**FP8, "weight_block_size": list(block)}, "torch_dtype": "bfloat16"}
    checkpoint = open_checkpoint(folder_of(tmp_path / "m", tensors, **config))
    assert set(checkpoint) == {"a.weight", "norm.weight"}
    assert checkpoint.info("a.weight").dtype.name == "bfloat16"
    assert torch.equal(checkpoint["a.weight"], numbers.bfloat16())
    flat = numbers.flatten()
    for start, stop in [(0, len(flat)), (0, 1), (17, 1000), (len(flat) // 2, len(flat)), (5, 5)]:
        assert torch.equal(checkpoint.read_flat("a.weight", start, stop), flat[start:stop])


@pytest.mark.parametrize(
    ("name", "shape", "settings"),
    [
        ("weight_scale", (), {"quant_method": "compressed-tensors", "format": "float-quantized"}),
        ("weight_scale", (1,), {"quant_method": "modelopt"}),
        ("weight_scale", (20, 1), {"quant_method": "compressed-tensors", "format": "float-quantized"}),
        ("weight_scale", (20,), {"quant_method": "fbgemm_fp8"}),
        ("weight_scale", (3, 4), {"config_groups": {"group_0": {"weights": {"block_structure": [8, 8]}}}}),
        ("weight_scale_inv", (1, 1), None),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_of_rows_tensors_and_blocks(tmp_path, name, shape, settings, dtype):
    codes = randn(20, 30).to(FLOAT8)
    scale = (randn(*shape, seed=1).abs() + 0.1).to(dtype)
    tensors = {"a.weight": codes, f"a.{name}": scale, "a.input_scale": torch.ones(1), "attn.k_scale": torch.ones(1)}
    checkpoint = open_checkpoint(
        folder_of(tmp_path / "m", tensors, **({"quantization_config": settings} if settings else {}))
    )
    whole = scale.float()
    if shape == (3, 4):
        whole = whole.repeat_interleave(8, 0)[:20].repeat_interleave(8, 1)[:, :30]
    elif shape == (20,):
        whole = whole[:, None]
    assert set(checkpoint) == {"a.weight"}
    assert torch.equal(checkpoint.read_flat("a.weight", 0, 600), (codes.float() * whole).flatten())


@pytest.mark.parametrize("method", ["average", "ties", "iso-c"])
def test_merged_float8_models_are_written_as_numbers(tmp_path, method):
    config = {"quantization_config": FP8, "torch_dtype": "bfloat16", "model_type": "made"}
    paths, models = [], []
    for i in range(3):
        codes, scale, numbers = blocked(randn(150, 140, seed=i), 128, 128)
        bias = randn(150, seed=9 + i).bfloat16()
        paths.append(
            folder_of(tmp_path / str(i), {"a.weight": codes, "a.weight_scale_inv": scale, "a.bias": bias}, **config)
        )
        models.append({"a.weight": numbers, "a.bias": bias.float()})
    (paths[0] / "hf_quant_config.json").write_text("{}")
    static.merge(method, paths[0], paths[1:], out=tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    expected = static.merge(method, models[0], models[1:])
    assert {name: value.dtype for name, value in merged.items()} == dict.fromkeys(expected, torch.bfloat16)
    for name, value in expected.items():
        torch.testing.assert_close(merged[name].float(), value, rtol=2**-8, atol=1e-6)
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"torch_dtype": "bfloat16", "model_type": "made"}
    assert not (tmp_path / "out/hf_quant_config.json").exists()
    again = open_checkpoint(tmp_path / "out")
    assert again.outdated == ()


def test_layers_of_float8_models_in_new_places_are_written_as_numbers(tmp_path):
    config = {"quantization_config": FP8, "torch_dtype": "bfloat16", "num_hidden_layers": 2}
    numbers = {}
    for name in ("a", "b"):
        tensors = {"embed_tokens.weight": randn(9, 6).bfloat16()}
        for k in range(2):
            codes, scale, numbers[name, k] = blocked(randn(20, 30, seed=k + (name == "b") * 5), 128, 128)
            tensors |= {f"layers.{k}.up.weight": codes, f"layers.{k}.up.weight_scale_inv": scale}
        folder_of(tmp_path / name, tensors, **config)
    sources = "".join(
        f"- sources:\n  - {{model: {m}, layer_range: [{k}, {k + 1}]}}\n" for m, k in (("a", 0), ("b", 1), ("a", 1))
    )
    (tmp_path / "r.yml").write_text(f"merge_method: passthrough\nslices:\n{sources}")
    plan, method, companions = prepare_recipe(tmp_path / "r.yml")
    static.execute(plan, method, out=tmp_path / "out", companions=companions)
    merged = load_file(tmp_path / "out/model.safetensors")
    for k, key in enumerate([("a", 0), ("b", 1), ("a", 1)]):
        assert torch.equal(merged[f"layers.{k}.up.weight"], numbers[key].bfloat16())
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"torch_dtype": "bfloat16", "num_hidden_layers": 3}


def test_an_adapter_of_a_float8_base(tmp_path):
    codes, scale, numbers = blocked(randn(150, 140), 128, 128)
    base = folder_of(tmp_path / "base", {"a.weight": codes, "a.weight_scale_inv": scale}, quantization_config=FP8)
    a, b = randn(2, 140, seed=1), randn(150, 2, seed=2)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"a.lora_A.weight": a, "a.lora_B.weight": b}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    found = open_checkpoint(adapter, base)
    torch.testing.assert_close(found.read_flat("a.weight", 0, 150 * 140).view(150, 140), numbers + 2 * b @ a)
    static.merge("task-arithmetic", base, [adapter], out=tmp_path / "out", scale=1.0)
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())


def int8(*shape):
    return torch.ones(*shape, dtype=torch.int8)


def int32(*shape):
    return torch.ones(*shape, dtype=torch.int32)


def uint8(*shape):
    return torch.ones(*shape, dtype=torch.uint8)


FORMATS = {
    "gptq": ({"a.qweight": int32(4, 4), "a.qzeros": int32(1, 4), "a.scales": randn(1, 4), "a.g_idx": int32(4)}, "GPTQ"),
    "awq": ({"a.qweight": int32(4, 4), "a.qzeros": int32(1, 4), "a.scales": randn(1, 4)}, "AWQ"),
    "bitsandbytes 4": (
        {"a.weight": uint8(8, 1), "a.weight.absmax": uint8(1), "a.weight.quant_state.bitsandbytes__nf4": uint8(9)},
        "bitsandbytes",
    ),
    "bitsandbytes 4, stored as bfloat16": (
        {"a.weight": randn(8, 1).bfloat16(), "a.weight.absmax": randn(1), "a.weight.quant_map": randn(16)},
        "bitsandbytes",
    ),
    "bitsandbytes 8": ({"a.weight": int8(4, 4), "a.SCB": randn(4)}, "8 bits"),
    "packed": ({"a.weight_packed": int32(4, 1), "a.weight_scale": randn(4, 1)}, "compressed-tensors"),
    "nvfp4": (
        {"a.weight": uint8(4, 2), "a.weight_scale": randn(4, 1).to(FLOAT8), "a.weight_scale_2": randn(1)},
        "4 bits",
    ),
    "hqq": ({"a.W_q": uint8(4, 4), "a.scale": randn(4)}, "HQQ"),
    "mxfp4": ({"m.gate_up_proj_blocks": uint8(2, 4, 4), "m.gate_up_proj_scales": uint8(2, 4)}, "MXFP4"),
    "int8": ({"a.weight": int8(4, 4), "a.weight_scales": randn(4)}, "int8 codes"),
}


def refused(run, place, *words):
    before = sorted(place.rglob("*"))
    with pytest.raises(ManyoneError) as caught:
        run()
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("config", [{}, {"quantization_config": {"quant_method": "some-method"}}])
def test_other_formats_are_refused(tmp_path, kind, config):
    tensors, words = FORMATS[kind]
    model = folder_of(tmp_path / "m", {**tensors, "norm.weight": randn(4)}, **config)
    words = "some-method" if config else words
    for run in (
        lambda: open_checkpoint(model),
        lambda: open_checkpoint(model / "model.safetensors"),
        lambda: static.merge("average", model, [model], out=tmp_path / "out"),
        lambda: static.merge("average", {"norm.weight": randn(4)}, [model], out=tmp_path / "out", exclude=["^a"]),
    ):
        refused(run, tmp_path, str(model), words, "give the model from before the quantisation")
    if not config:
        refused(lambda: static.average(tensors, [tensors]), tmp_path, "base: ", words)


@pytest.mark.parametrize(
    ("tensors", "settings", "words"),
    [
        ({"a.weight": randn(4, 4).to(FLOAT8)}, FP8, ["a.weight", "float8", "fp8"]),
        (
            {"a.weight": randn(4, 4).to(FLOAT8), "a.weight_scale": randn(1), "b.weight": randn(4, 4).to(FLOAT8)},
            None,
            ["b.weight", "float8"],
        ),
        ({"a.weight": randn(4, 4).to(FLOAT8), "a.weight_scale": randn(3, 1)}, FP8, ["a.weight_scale", "[3, 1]"]),
        (
            {"a.weight": randn(4, 4).to(FLOAT8), "a.weight_scale": randn(1)},
            {"quant_method": "compressed-tensors", "transform_config": {"config_groups": {"R1": {}}}},
            ["transform_config"],
        ),
        (
            {"a.weight": randn(4, 4).to(FLOAT8), "a.weight_scale": randn(1)},
            {"weight_block_size": [0, 4]},
            ["block size"],
        ),
        ({"a.weight": randn(4, 4)}, "fp8", ["quantization_config"]),
        ({"a.tensor": int8(4, 4)}, {"quant_method": "a-new-one"}, ["a.tensor", "a-new-one"]),
    ],
)
def test_float8_that_is_not_plain_is_refused(tmp_path, tensors, settings, words):
    config = {"quantization_config": settings} if settings else {}
    model = folder_of(tmp_path / "m", tensors, **config)
    refused(lambda: static.merge("average", model, [model], out=tmp_path / "out"), tmp_path, *words)


def test_float8_without_scales_is_a_plain_cast():
    """A state dict or a file of cast numbers has neither scales nor a configuration of a quantisation."""
    cast = {"a.weight": randn(4, 4).to(FLOAT8)}
    assert torch.equal(open_model(cast, "base")["a.weight"].float(), cast["a.weight"].float())


def test_a_left_over_configuration_of_plain_weights_is_left_out(tmp_path):
    """Models fine-tuned on a quantised base and saved in full still say so; loading them would quantise them again."""
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}, "model_type": "made"}
    base = folder_of(tmp_path / "base", {"a.weight": randn(4, 4)}, **config)
    static.merge("average", base, [{"a.weight": randn(4, 4, seed=1)}], out=tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"model_type": "made"}


def test_masks_and_counters_are_no_codes(tmp_path):
    tensors = {
        "h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
        "ids": torch.arange(6)[None],
        "w": randn(3, 3),
    }
    assert set(open_checkpoint(folder_of(tmp_path / "m", tensors))) == set(tensors)
    assert open_model(as_checkpoint(tensors), "base").outdated == ()
