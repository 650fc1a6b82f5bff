"""The recipes of the static merges: run folders, plans, and failures that leave nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.merging.recipes import static_options as recipes
from manyone.merging.recipes.run_static import run as merge
from manyone.merging.static import methods as static

CLASSES = {
    "average": recipes.AverageOptions,
    "task-arithmetic": recipes.TaskArithmeticOptions,
    "ties": recipes.TiesOptions,
    "dare": recipes.DareOptions,
    "slerp": recipes.SlerpOptions,
    "fisher": recipes.FisherOptions,
    "regmean": recipes.RegMeanOptions,
    "model-stock": recipes.ModelStockOptions,
    "tsv-m": recipes.TsvMOptions,
    "iso-c": recipes.IsoCOptions,
    "iso-cts": recipes.IsoCtsOptions,
}


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    paths = []
    for i in range(3):
        g = torch.Generator().manual_seed(i)
        paths.append(str(folder / f"m{i}.safetensors"))
        save_file(
            {
                "fc.weight": torch.randn(6, 4, generator=g),
                "fc.bias": torch.randn(6, generator=g),
                "ids": torch.arange(3),
            },
            paths[-1],
        )
    return paths


def statistics(folder: Path, method: str) -> dict[str, tuple[str, ...]]:
    """What Fisher and RegMean need besides the models."""
    tensors = {
        "fisher": {"fc.weight": torch.rand(6, 4), "fc.bias": torch.rand(6)},
        "regmean": {"fc.weight": torch.eye(4) + 0.1},
    }
    if method not in tensors:
        return {}
    paths = tuple(str(folder / f"{method}{i}.safetensors") for i in range(2))
    for path in paths:
        save_file(tensors[method], path)
    return {"fishers" if method == "fisher" else "grams": paths}


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("method", list(static.METHODS))
def test_every_method_has_a_recipe(method, models, tmp_path, capsys):
    base, *experts = models
    extra = statistics(tmp_path / "models", method)
    options = CLASSES[method](base=base, experts=tuple(experts), out=tmp_path / "run", **extra)
    assert options.method == method
    run = RunFolder.create(tmp_path / "run", method, options)
    merge(options, None, run)
    run.finish()
    expected = static.merge(method, base, experts, **{k: list(v) for k, v in extra.items()})
    written = load_file(tmp_path / "run" / "model" / "model.safetensors")
    for name, value in expected.items():
        assert torch.equal(written[name], value)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["recipe"] == method
    assert config["options"]["experts"] == experts
    final = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][-1]
    assert final["kind"] == "final"
    assert final["tensors_merged"] == 2
    assert final["tensors_copied"] == 1
    again = CLASSES[method](base=base, experts=tuple(experts), out=tmp_path / "run", overwrite=True, **extra)
    merge(again, None, RunFolder.create(tmp_path / "run", method, again, overwrite=True))
    for name, value in load_file(tmp_path / "run" / "model" / "model.safetensors").items():
        assert torch.equal(written[name], value)


@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "iso-c"])
def test_dry_run_prints_the_plan_and_writes_nothing(method, models, tmp_path, capsys):
    before = left(tmp_path)
    options = CLASSES[method](base=models[0], experts=tuple(models[1:]), dry_run=True)
    merge(options, None, RunFolder.create(tmp_path / "run", method, options))
    text = capsys.readouterr().out
    for word in ("tensors   2 merged", "1 copied", "read", "write", "memory", "time", *models):
        assert word in text
    assert left(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_the_folder_as_it_was(overwrite, models, tmp_path):
    base, good, bad = models
    if overwrite:
        first = recipes.AverageOptions(base=base, experts=(good,))
        run = RunFolder.create(tmp_path / "run", "average", first)
        merge(first, None, run)
        run.close()
    broken = load_file(bad)
    broken["fc.bias"][2] = float("inf")
    save_file(broken, bad)
    before = left(tmp_path)
    options = recipes.TiesOptions(base=base, experts=(good, bad), overwrite=overwrite)
    with pytest.raises(ManyoneError, match=r"m2\.safetensors: NaN or Inf in tensor 'fc\.bias'"):
        merge(options, None, RunFolder.create(tmp_path / "run", "ties", options, overwrite=overwrite))
    assert left(tmp_path) == before


def test_missing_arguments_name_themselves(models, tmp_path):
    run = RunFolder.create(tmp_path / "run", "average", recipes.AverageOptions())
    for options, match in [
        (recipes.AverageOptions(), "nothing to merge: give --base and --experts"),
        (recipes.AverageOptions(experts=(models[1],)), "--base missing"),
        (recipes.AverageOptions(base=models[0]), "--experts missing"),
        (recipes.FisherOptions(base=models[0], experts=(models[1],)), "--fishers missing"),
        (recipes.RegMeanOptions(base=models[0], experts=(models[1],)), "--grams missing"),
        (recipes.MergekitOptions(), "--recipe missing"),
        (recipes.MergekitOptions(recipe=Path("r.yaml"), base=models[0]), "leave out --base"),
    ]:
        with pytest.raises(ManyoneError, match=match):
            merge(options, None, run)
    for cls, wrong, match in [
        (recipes.AverageOptions, {"threads": -1}, "--threads -1"),
        (recipes.TiesOptions, {"density": 3}, "--density 3"),
        (recipes.DareOptions, {"drop": 1.0}, "--drop 1"),
        (recipes.FisherOptions, {"floor": 0.0}, "--floor 0"),
    ]:
        with pytest.raises(ManyoneError, match=match):
            cls(**wrong)
    assert not (tmp_path / "run").exists()


def test_a_mergekit_recipe_from_its_own_folder(models, tmp_path):
    path = tmp_path / "models" / "recipe.yaml"
    entries = [{"model": Path(m).name, "parameters": {"weight": 0.5}} for m in models[1:]]
    path.write_text(
        yaml.safe_dump({"merge_method": "task_arithmetic", "base_model": Path(models[0]).name, "models": entries})
    )
    options = recipes.MergekitOptions(recipe=path)
    merge(options, None, RunFolder.create(tmp_path / "run", "mergekit", options))
    written = load_file(tmp_path / "run" / "model" / "model.safetensors")
    for name, value in static.task_arithmetic(models[0], models[1:], 0.5).items():
        torch.testing.assert_close(written[name], value)
