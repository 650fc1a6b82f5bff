"""The study behind ``manyone reproduce``, on the fixture suite."""

from __future__ import annotations

from manyone.claims.rows import load_rows
from manyone.merging.study.study import PARTS, count_rows, run_job


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
    from manyone.merging.measures import accuracies
    from manyone.merging.recipes.problem import from_suite
    from manyone.merging.study.models import SeedStudy
    from manyone.merging.study.settings import SETTINGS

    monkeypatch.setenv("MANYONE_CACHE", str(shared_cache))
    study = SeedStudy(from_suite("fixture", 0), 0, SETTINGS["fixture"])
    for method in ("task-arithmetic", "ties"):
        model, scale = study.tuned(method)
        scores = {}
        for candidate in study.settings.scales:
            merged = study.static(method, scale=candidate)
            scores[candidate] = sum(accuracies(merged, study.problem.heads, study.validation).values())
        assert scores[scale] == max(scores.values())
        chosen = study.static(method, scale=scale).state_dict()
        assert all((value == chosen[name]).all() for name, value in model.state_dict().items())


def test_features_that_are_known_give_the_scores_of_a_pass_of_their_own(monkeypatch, shared_cache):
    from manyone.merging.measures import accuracies
    from manyone.merging.recipes.problem import from_suite
    from manyone.merging.study.models import SeedStudy
    from manyone.merging.study.settings import SETTINGS

    monkeypatch.setenv("MANYONE_CACHE", str(shared_cache))
    study = SeedStudy(from_suite("fixture", 0), 0, SETTINGS["fixture"])
    merged = study.task_arithmetic
    surgery, _ = study.surgery(merged, 1)
    for model in (merged, surgery, study.average):
        assert study.scores(model) == accuracies(model, study.problem.heads, study.test, batch_size=64)
    assert study.features(merged, "shoes", "test") is study.features(merged, "shoes", "test")
    _, again = study.surgery(merged, 1)
    assert again["shared_cpu_s"] > 0, "passes that another row has paid for belong to the cost"
