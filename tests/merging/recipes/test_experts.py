"""``manyone run experts``: the bundle as a run's model, the cache, resume, and wrong options."""

from __future__ import annotations

import json

import pytest
import torch

from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.merging.experts.bundle import Bundle
from manyone.merging.experts.bundle_learner import ExpertsLearner
from manyone.merging.recipes import run_experts
from manyone.merging.recipes.options import ExpertsOptions as Options
from manyone.recipes.execution import execute
from manyone.recipes.table import options_class


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))


def start(path, **changes) -> RunFolder:
    options = Options(**{"suite": "fixture", "steps": 3, "device": "cpu", "checkpoint_every": 20} | changes)
    run = RunFolder.create(path, "experts", options)
    run_experts.run(options, None, run)
    run.close()
    return run


def same(first, second) -> bool:
    a, b = (Bundle.load(folder / "model") for folder in (first, second))
    return all(torch.equal(v, b.experts[t][k]) for t in a.tasks for k, v in a.experts[t].items())


def test_it_is_in_the_table():
    assert options_class("experts") is Options


def test_second_call_uses_the_cache_and_says_so(tmp_path, monkeypatch, capsys):
    start(tmp_path / "first")
    assert "from the cache" not in capsys.readouterr().err
    monkeypatch.setattr(ExpertsLearner, "step", lambda self: pytest.fail("trained again"))
    run = start(tmp_path / "second")
    assert "seed 0: from the cache" in capsys.readouterr().err
    assert same(tmp_path / "first", tmp_path / "second")
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    final, reference = lines[-2:]
    assert (final["kind"], reference["kind"], reference["name"]) == ("final", "reference", "base")
    assert final["experts/average"] > reference["metrics"]["experts/average"] > 0


def test_without_the_cache_it_trains_the_same(tmp_path, capsys):
    start(tmp_path / "first")
    start(tmp_path / "second", cached=False)
    assert "from the cache" not in capsys.readouterr().err
    assert same(tmp_path / "first", tmp_path / "second")


def test_finished_experts_are_not_trained_twice(tmp_path, monkeypatch, capsys):
    step, calls = ExpertsLearner.step, []

    def failing(self):
        if len(self.experts) == 2:
            raise RuntimeError("power cut")
        return step(self)

    monkeypatch.setattr(ExpertsLearner, "step", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        start(tmp_path / "first")
    monkeypatch.setattr(ExpertsLearner, "step", lambda self: (calls.append(1), step(self))[1])
    start(tmp_path / "second")
    assert "from the cache: base, mnist, tops" in capsys.readouterr().err
    assert len(calls) == 3 * 3
    start(tmp_path / "third", cached=False)
    assert same(tmp_path / "second", tmp_path / "third")


def test_resumed_run_equals_the_uninterrupted_one(tmp_path, monkeypatch):
    step = ExpertsLearner.step

    def failing(self):
        if self.position == 47:
            raise RuntimeError("power cut")
        return step(self)

    monkeypatch.setattr(ExpertsLearner, "step", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        start(tmp_path / "first", cached=False)
    monkeypatch.setattr(ExpertsLearner, "step", step)
    run = RunFolder.open(tmp_path / "first")
    options = Options(suite="fixture", steps=3, device="cpu", checkpoint_every=20, cached=False)
    run_experts.run(options, None, run)
    start(tmp_path / "whole", cached=False)
    assert same(tmp_path / "first", tmp_path / "whole")


def test_evaluate_gives_every_accuracy(tmp_path):
    run = start(tmp_path / "first")
    options = Options(suite="fixture", steps=3, device="cpu")
    metrics = run_experts.evaluate(options, None, run, "val")
    assert {"base/average", "experts/average", "experts/mnist"} <= set(metrics)
    with pytest.raises(ManyoneError, match="no finished experts"):
        run_experts.evaluate(options, None, RunFolder.create(tmp_path / "new", "experts", options), "test")


def test_dry_run_writes_nothing(tmp_path, capsys):
    options = Options(suite="fixture", steps=3, device="cpu", dry_run=True)
    assert not execute(options, RunFolder.create(tmp_path / "first", "experts", options))
    assert not (tmp_path / "first").exists()
    out = capsys.readouterr().out
    assert "would be trained" in out
    assert "mnist: 10 classes" in out


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lr": 0.0}, "--lr 0.0: must be above 0"),
        ({"steps": 0}, "--steps 0"),
        ({"checkpoint_every": -1}, "--checkpoint-every -1"),
        ({"precision": "bf16-mixed"}, "--precision bf16-mixed"),
        ({"suite": "mnist"}, "unknown suite 'mnist'"),
    ],
)
def test_wrong_options_are_named(tmp_path, changes, problem):
    with pytest.raises(ManyoneError, match=problem):
        start(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()
