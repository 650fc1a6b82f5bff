"""The recipes of the static merges: run folders, plans, and failures that leave nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from manyone.engine.card import metadata_of, read_card, split_card
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.merging.recipes import static_options as recipes
from manyone.merging.recipes.run_static import run as merge
from manyone.merging.static import methods as static
from manyone.recipes.execution import execute
from manyone.report import html
from manyone.weights.open import open_checkpoint

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


def test_a_merge_tells_what_moved_and_how_the_model_is_loaded(models, tmp_path, capsys):
    base, *experts = models
    options = recipes.TaskArithmeticOptions(base=base, experts=tuple(experts))
    run = RunFolder.create(tmp_path / "run", "task-arithmetic", options)
    execute(options, run)
    text = capsys.readouterr().out
    tensors = {Path(path).stem: load_file(path) for path in models}
    flat = {name: torch.cat([t["fc.weight"].reshape(-1), t["fc.bias"]]) for name, t in tensors.items()}
    first, second = (flat[name] - flat["m0"] for name in ("m1", "m2"))
    cosine = float(first @ second / first.norm() / second.norm())
    for part in (f"{first.norm():.4g}", f"{100 * first.norm() / flat['m0'].norm():.2f}", f"{cosine:.2f}",
                 f"model: {run.path / 'model'}", "from safetensors.torch import load_file"):  # fmt: skip
        assert part in text
    (line,) = [line for line in run.metrics() if line["kind"] == "movement"]
    assert line["cosine"]["m1, m2"] == pytest.approx(cosine, rel=1e-4)
    page = html.run_report([run.path], tmp_path / "page.html").read_text()
    for part in ("Length of the task vectors", "Cosines between task vectors", "How far each layer moved",
                 "load_file", str(run.path / "model")):  # fmt: skip
        assert part in page
    silent = recipes.TaskArithmeticOptions(base=base, experts=tuple(experts), measure=False)
    merge(silent, None, RunFolder.create(tmp_path / "silent", "task-arithmetic", silent))
    assert "task vectors" not in capsys.readouterr().out
    assert not (tmp_path / "silent/figures.json").exists()


def test_python_writes_the_card_that_the_command_line_completes(models, tmp_path):
    base, *experts = models
    static.merge("ties", base, experts, out=tmp_path / "python", density=0.5)
    options = recipes.TiesOptions(base=base, experts=tuple(experts), density=0.5)
    execute(options, RunFolder.create(tmp_path / "run", "ties", options))
    head, body = split_card(read_card(tmp_path / "python"))
    assert metadata_of(head)["tags"] == ["manyone", "merging", "ties"]
    assert "merged by `ties` (density 0.5) from the base `m0` and the experts `m1`, `m2`" in body
    assert 'load_file("PATH/OF/THIS/FOLDER/model.safetensors")' in body
    assert "## How it was made" in read_card(tmp_path / "run/model")


@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "iso-c"])
def test_dry_run_prints_the_plan_and_writes_nothing(method, models, tmp_path, capsys):
    before = left(tmp_path)
    options = CLASSES[method](base=models[0], experts=tuple(models[1:]), dry_run=True)
    assert not execute(options, RunFolder.create(tmp_path / "run", method, options))
    text = capsys.readouterr().out
    for word in ("tensors   2 merged", "1 copied", "read", "write", "memory", "time", *models):
        assert word in text
    assert left(tmp_path) == before


MEMORY = """
import re, sys, threading
from pathlib import Path
from manyone.merging.static.estimate import private_memory
from manyone.merging.static.methods import execute, prepare
from manyone.merging.static.stream import WholeTensors
method, folder = sys.argv[1], Path(sys.argv[2])
plan, rule = prepare(method, folder / "base.safetensors", [folder / f"{k}.safetensors" for k in "abc"])
whole = [n for n in plan.merged if isinstance(rule, WholeTensors) and rule.whole(plan, n)]
told, peak, over = private_memory(plan, rule, whole), [0], threading.Event()
def watch():
    while not over.wait(0.002):
        peak[0] = max(peak[0], int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10)
watcher = threading.Thread(target=watch)
watcher.start()
execute(plan, rule, out=folder / f"{method}-out")
over.set()
watcher.join()
print(told, peak[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("method", ["average", "ties", "slerp", "tsv-m"])
def test_the_memory_of_the_plan_is_that_of_the_merge_within_a_factor_of_two(method, tmp_path):
    g = torch.Generator().manual_seed(0)
    for name in ("base", "a", "b", "c"):
        layers = {f"layers.{k}.weight": torch.randn(1024, 1024, generator=g).bfloat16() for k in range(2)}
        save_file(layers, tmp_path / f"{name}.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, method, str(tmp_path)], capture_output=True, text=True, check=True
    )
    told, peak = map(float, done.stdout.split())
    assert peak / 2 < told < peak * 2


def test_dry_run_says_that_the_disk_is_too_small(models, tmp_path, capsys, monkeypatch):
    options = CLASSES["average"](base=models[0], experts=tuple(models[1:]), dry_run=True)
    run = RunFolder.create(tmp_path / "run", "average", options)
    execute(options, run)
    assert "TOO SMALL" not in capsys.readouterr().out
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 9, 1))
    execute(options, run)
    assert f"disk      TOO SMALL: 1 B are free in {tmp_path}; free some space" in capsys.readouterr().out


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


def test_a_mergekit_recipe_with_adapters_is_planned_and_kept(models, tmp_path, capsys):
    for name in ("lora-a", "lora-b"):
        folder = tmp_path / "models" / name
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["fc"], "bias": "none"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        factors = {"A": torch.randn(2, 4), "B": torch.randn(6, 2)}
        save_file({f"base_model.model.fc.lora_{k}.weight": v for k, v in factors.items()},
                  folder / "adapter_model.safetensors")  # fmt: skip
    path = tmp_path / "models" / "recipe.yaml"
    entries = [{"model": f"m0.safetensors+{name}", "parameters": {"weight": 0.5}} for name in ("lora-a", "lora-b")]
    text = yaml.safe_dump({"merge_method": "task_arithmetic", "base_model": "m0.safetensors", "models": entries})
    path.write_text(text)
    planned = recipes.MergekitOptions(recipe=path, dry_run=True)
    assert not execute(planned, RunFolder.create(tmp_path / "run", "mergekit", planned))
    assert "2 merged" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    options = recipes.MergekitOptions(recipe=path)
    execute(options, RunFolder.create(tmp_path / "run", "mergekit", options))
    path.unlink()
    assert (tmp_path / "run" / "recipe.yaml").read_text() == text
    written = load_file(tmp_path / "run/model/model.safetensors")["fc.weight"]
    tuned = [open_checkpoint(tmp_path / "models" / name, models[0])["fc.weight"] for name in ("lora-a", "lora-b")]
    torch.testing.assert_close(written, sum(tuned) / 2)
    both = recipes.MergekitOptions(recipe=path, suite="fixture")
    with pytest.raises(ManyoneError, match="mergekit: --recipe names its own models: leave --suite out"):
        merge(both, None, RunFolder.create(tmp_path / "both", "mergekit", both))
