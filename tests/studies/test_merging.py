"""The study behind ``manyone reproduce``, on the fixture suite."""

from __future__ import annotations

import shlex

import pytest
import torch

from manyone.claims.rows import load_rows
from manyone.merging.measures import accuracies
from manyone.merging.recipes.problem import from_suite
from manyone.merging.study.models import SeedStudy
from manyone.merging.study.settings import arms, setting_of
from manyone.merging.study.study import PARTS, count_rows, run_job
from manyone.recipes.table import options_class


def test_a_study_measures_every_row_once_and_goes_on_where_it_stopped(tmp_path, monkeypatch, shared_cache):
    monkeypatch.setenv("MANYONE_CACHE", str(shared_cache))
    for part in PARTS:
        run_job("smoke", "fixture", 0, part, tmp_path)
        path = tmp_path / f"fixture-0-{part}.jsonl"
        rows = load_rows(path)
        assert len(rows) == count_rows("smoke", "fixture", part) == path.read_text().count("\n")
        assert {r.condition for r in rows} == ({"clean"} if part == "clean" else {"unseen", "gaussian-noise"})
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-1]))
        run_job("smoke", "fixture", 0, part, tmp_path)
        again = load_rows(path)
        assert again[:-1] == rows[:-1]
        assert (again[-1].key, again[-1].task) == (rows[-1].key, rows[-1].task)
    clean = {(r.method, r.variant): r for r in load_rows(tmp_path / "fixture-0-clean.jsonl")}
    assert set(clean["expert", ""].task) == {"mnist", "tops", "shoes", "animal", "optdigits"}
    assert clean["e-wemoe", ""].metrics["stored_expert_parameters"] < (
        0.12 * clean["wemoe", ""].metrics["stored_expert_parameters"]
    )
    surgery = clean["surgery", "task-arithmetic"].details["bias"]
    assert sum(surgery["after"].values()) < sum(surgery["before"].values())
    unseen = [r for r in load_rows(tmp_path / "fixture-0-shifted.jsonl") if r.condition == "unseen"]
    assert all(set(r.task) == {"shoes"} for r in unseen)


def test_the_lambda_grid_of_two_merges_chooses_as_the_grid_of_all_merges(monkeypatch, shared_cache):
    monkeypatch.setenv("MANYONE_CACHE", str(shared_cache))
    study = SeedStudy(from_suite("fixture", 0), 0, setting_of("fixture"))
    for method in ("task-arithmetic", "ties"):
        model, reported = study.make(method, "tuned")
        scores = {}
        for candidate in study.setting.scales:
            merged = study.problem.merged(method, scale=candidate)
            scores[candidate] = sum(accuracies(merged, study.problem.heads, study.validation).values())
        assert scores[reported["scale"]] == max(scores.values())
        chosen = study.problem.merged(method, scale=reported["scale"]).state_dict()
        assert all((value == chosen[name]).all() for name, value in model.state_dict().items())


def test_features_that_are_known_give_the_scores_of_a_pass_of_their_own(monkeypatch, shared_cache):
    monkeypatch.setenv("MANYONE_CACHE", str(shared_cache))
    study = SeedStudy(from_suite("fixture", 0), 0, setting_of("fixture"))
    merged, _ = study.make("task-arithmetic")
    surgery, _ = study.make("surgery", "task-arithmetic")
    for model in (merged, surgery, study.make("average")[0]):
        assert study.scores(model) == accuracies(model, study.problem.heads, study.test, batch_size=64)
    assert study.features(merged, "shoes", "test") is study.features(merged, "shoes", "test")
    _, again = study.make("surgery", "task-arithmetic")
    assert again["shared_cpu_s"] > 0, "passes that another row has paid for belong to the cost"


@pytest.mark.parametrize("suite", ["fixture", "mini6", "images", "text", "ta8"])
@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_the_command_of_every_arm_gives_its_options(scale, suite):
    from manyone.cli.options import parse_options

    names = [(arm.method, arm.variant) for arm in arms(scale, suite)]
    assert len(names) == len(set(names)) > 10
    for arm in arms(scale, suite):
        verb, recipe, *words = arm.words(seed=2, **({"scale": 0.4} if "wemoe" in arm.recipe else {}))
        assert (verb, recipe) == ("run", arm.recipe)
        parsed = parse_options(options_class(recipe), recipe, words)
        assert parsed == arm.options(seed=2, **({"scale": 0.4} if "wemoe" in arm.recipe else {}))
        assert shlex.split(arm.command(seed=2))[:3] == ["manyone", "run", recipe]


def test_the_command_of_every_arm_makes_the_same_weights(manyone, monkeypatch, shared_cache):
    """``manyone run`` with the words of an arm writes the model that the study measures, after all its steps."""
    from manyone.merging import load

    monkeypatch.setenv("MANYONE_CACHE", str(shared_cache))
    study = SeedStudy(from_suite("fixture", 0), 0, setting_of("fixture"))
    tuned = {"scale": study.make("task-arithmetic", "tuned")[1]["scale"]}
    for (method, variant), arm in study.arms.items():
        more = {"scale": study.make(method, variant)[1]["scale"]} if variant == "tuned" else {}
        more = tuned if "wemoe" in arm.recipe else more
        folder = f"runs/fixture/{method}-{variant}".rstrip("-")  # where the surgeries look for their models
        code, _, err = manyone(*arm.words(seed=0, out=folder, **more))
        assert code == 0, err
        theirs = load(f"{folder}/model").network.state_dict()
        mine = study.make(method, variant)[0].state_dict()
        assert theirs.keys() == mine.keys()
        assert all(torch.equal(value, mine[name]) for name, value in theirs.items()), (method, variant)
