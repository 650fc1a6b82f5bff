"""The recipes that make adapters: run folders, plans, and failures that leave nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.merging.recipes.lora_options import ExtractLoraOptions, LoraArithmeticOptions
from manyone.merging.recipes.run_lora import evaluate, run
from manyone.recipes.execution import execute


@pytest.fixture
def models(tmp_path):
    g = torch.Generator().manual_seed(0)
    base = {"a.fc.weight": torch.randn(6, 5, generator=g), "a.norm.weight": torch.ones(5)}
    change = torch.randn(6, 2, generator=g) @ torch.randn(2, 5, generator=g)
    save_file(base, tmp_path / "base.safetensors")
    save_file(base | {"a.fc.weight": base["a.fc.weight"] + change}, tmp_path / "tuned.safetensors")
    return str(tmp_path / "base.safetensors"), str(tmp_path / "tuned.safetensors"), change


def make(options, place: Path) -> RunFolder:
    folder = RunFolder.create(place, "extract-lora", options)
    run(options, None, folder)
    return folder


def test_extract_writes_an_adapter_and_its_error(models, tmp_path, capsys):
    base, tuned, change = models
    folder = make(ExtractLoraOptions(base=base, model=tuned, rank=2), tmp_path / "run")
    found = load_file(folder.path / "model" / "adapter_model.safetensors")
    a, b = (found[f"base_model.model.a.fc.lora_{k}.weight"] for k in "AB")
    torch.testing.assert_close(b @ a, change, rtol=1e-4, atol=1e-5)
    assert json.loads((folder.path / "model" / "adapter_config.json").read_text())["r"] == 2
    printed = capsys.readouterr().out
    assert "1 linear layers of rank 2, 0 biases and 0 modules whole, 0 changed tensors left out" in printed
    assert "relative error 0.0000 of the change; the largest: a.fc.weight 0.0000" in printed
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["error"] < 1e-5
    with pytest.raises(ManyoneError, match="made an adapter without data"):
        evaluate(None, None, folder, "test")


def test_sums(models, tmp_path, capsys):
    base, tuned, change = models
    made = [str(make(ExtractLoraOptions(base=base, model=tuned, rank=2), tmp_path / n).path / "model") for n in "xy"]
    options = LoraArithmeticOptions(adapters=tuple(made), scale=0.5, weights=(1, 3))
    found = load_file(make(options, tmp_path / "sum").path / "model" / "adapter_model.safetensors")
    a, b = (found[f"base_model.model.a.fc.lora_{k}.weight"] for k in "AB")
    assert a.shape == (4, 5)
    torch.testing.assert_close(b @ a, 2 * change, rtol=1e-4, atol=1e-5)
    assert "1 modules, rank 4" in capsys.readouterr().out


def test_dry_runs_write_nothing(models, tmp_path, capsys):
    base, tuned, _ = models
    options = ExtractLoraOptions(base=base, model=tuned, rank=1, dry_run=True)
    execute(options, RunFolder.create(tmp_path / "dry", "extract-lora", options))
    assert "tuned.safetensors: 1 linear layers of rank 1" in capsys.readouterr().out
    made = str(make(ExtractLoraOptions(base=base, model=tuned), tmp_path / "x").path / "model")
    execute(
        LoraArithmeticOptions(adapters=(made, made), dry_run=True),
        RunFolder.create(tmp_path / "dry", "lora-arithmetic", options),
    )
    assert "2 adapters with weights 1, 1" in capsys.readouterr().out
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (ExtractLoraOptions(), "extract-lora: --base missing"),
        (ExtractLoraOptions(base="b"), "extract-lora: --model missing"),
        (ExtractLoraOptions(base="b", model="c"), "b: no such file or folder"),
        (LoraArithmeticOptions(adapters=("b",)), "--adapters missing: name two or more"),
        (LoraArithmeticOptions(adapters=("b", "c"), weights=(1,)), "1 weights for 2 adapters"),
    ],
)
def test_what_is_refused(tmp_path, options, match):
    with pytest.raises(ManyoneError, match=match):
        run(options, None, RunFolder.create(tmp_path / "run", "extract-lora", options))
    assert not (tmp_path / "run").exists()


def test_the_adapter_names_its_base_and_task(models, tmp_path):
    base, tuned, _ = models
    folder = tmp_path / "hf"
    folder.mkdir()
    Path(base).rename(folder / "model.safetensors")
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    made = make(ExtractLoraOptions(base=str(folder), model=tuned, rank=2), tmp_path / "run")
    config = json.loads((made.path / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    assert config["task_type"] == "CAUSAL_LM"
