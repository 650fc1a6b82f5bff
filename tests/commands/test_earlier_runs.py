"""Run folders and artefacts of version 0.1 open: they resume, are evaluated, reported and loaded with their numbers.

``tests/fixtures/runs-0.1`` (its NOTICE says how it was made) holds what the code of then wrote. The same numbers to the
last bit come only from a processor of the same kind, hence the tolerances.
"""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from manyone.cli.options import parse_options
from manyone.errors import ManyoneError
from manyone.merging import merge
from manyone.recipes.execution import reopen
from manyone.recipes.table import options_class

EARLIER = Path(__file__).parents[1] / "fixtures" / "runs-0.1"
FINISHED = sorted(path.parent.relative_to(EARLIER).as_posix() for path in EARLIER.rglob("done"))
WHOLE = ["merging/wemoe", "merging/surgery", "merging/e-wemoe-suite", "policies/harmodt", "minimax/local-sgda",
         "minimax/local-dsgda", "teams/commformer"]  # fmt: skip
MERGED = ["wemoe", "surgery", "surgery-v2-on-wemoe", "native/e-wemoe", "native/surgery-v2"]
EVALUATED = ["merging/e-wemoe-suite", "merging/surgery-v2-on-wemoe", "policies/g-harmodt", "policies/mtbc",
             "minimax/local-sgda", "teams/mappo"]  # fmt: skip
NOT_EVALUATED = {
    "teams/commformer": "teams/commformer has no checkpoint",  # they were left out of the fixture
    "merging/task-arithmetic-files": "merged files without data",
    "minimax/stability": "has nothing to evaluate",
}


@pytest.fixture(autouse=True)
def runs(manyone, tmp_path):
    """The folder that the test works in: a copy, which the paths in the configurations are relative to."""
    return Path(shutil.copytree(EARLIER, tmp_path, dirs_exist_ok=True))


LATER = ("random/", "calibration/")
"""Tensors that earlier versions did not keep, or kept elsewhere."""


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_close(found, wanted, atol=1e-5):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def assert_reported(manyone, run):
    code, _, err = manyone("report", run)
    assert code == 0, err
    assert "</html>" in Path(run, "report.html").read_text()


@pytest.mark.parametrize("run", WHOLE)
def test_an_interrupted_run_goes_on_to_the_weights_of_the_whole_one(manyone, runs, run):
    cut = run.replace("/", "/interrupted-")
    assert manyone("eval", cut)[0] == 0
    assert_reported(manyone, cut)
    code, _, err = manyone("resume", cut)
    assert code == 0, err
    if run == "merging/e-wemoe-suite":  # its model, of a megabyte, was not kept; its experts are trained anew
        (newest,) = (runs / run).glob("checkpoints/*/state.safetensors")
        parts, atol = [newest.relative_to(runs / run)], 1e-2
    else:
        parts, atol = [path.relative_to(runs / run) for path in (runs / run / "model").rglob("*.safetensors")], 1e-5
    assert parts
    for part in parts:
        found, wanted = (
            {
                name: value
                for name, value in load_file(runs / which / part).items()
                if not name.startswith(("random/", "calibration/"))
            }
            for which in (cut, run)
        )
        assert_close(found, wanted, atol)
    steps = [[(record["step"], record["kind"]) for record in records(runs / which)] for which in (cut, run)]
    assert [step for step in steps[0] if step[1] != "reference"] == steps[1]  # what 0.1 did not keep yet
    assert manyone("eval", cut)[0] == 0
    assert_reported(manyone, cut)


@pytest.mark.parametrize("run", EVALUATED)
def test_a_finished_run_is_evaluated(manyone, runs, run):
    code, out, err = manyone("eval", run)
    assert code == 0, err
    score = next(name for name in ("accuracy", "return", "test/auc") if name in records(runs / run)[-1])
    found = re.search(rf"{score.split('/')[-1]} +(\S+)", out)
    assert float(found[1]) == pytest.approx(records(runs / run)[-1][score], abs=0.05)  # few samples: one may tip over


@pytest.mark.parametrize("run", ["policies/mtbc", "policies/g-harmodt", "policies/harmodt"])
def test_a_policy_goes_on_with_the_episodes_that_it_was_trained_on(runs, run):
    assert reopen(runs / run)[1].hold_out == "with-prompt"
    recipe = run.rpartition("/")[2]
    words = ["--config", str(runs / run / "config.yaml")]
    assert parse_options(options_class(recipe), recipe, words).hold_out == "with-prompt"


@pytest.mark.parametrize("run", NOT_EVALUATED)
def test_a_run_that_cannot_be_evaluated_says_so_in_one_line(manyone, run):
    code, out, err = manyone("eval", run)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert NOT_EVALUATED[run] in err


@pytest.mark.parametrize("run", FINISHED)
def test_a_finished_run_is_reported_and_not_resumed(manyone, run):
    assert_reported(manyone, run)
    code, out, _ = manyone("resume", run)
    assert code == 0
    assert "is finished already" in out


def follow(folder, block=0, **names):
    """Runs a block of code of the README in ``folder`` as it stands there, with ``names``; returns what it names."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[block]
    with contextlib.chdir(folder):
        exec(code.replace("PATH/OF/THIS/FOLDER", os.curdir), names)
    return names


@pytest.mark.parametrize("run", MERGED)
def test_a_merged_model_computes_what_it_did(runs, run):
    expected = load_file(runs / "merging" / run / "expected.safetensors")
    inputs = expected["inputs"]
    model = follow(runs / "merging" / run / "model", inputs=inputs)["model"]
    found = {"inputs": inputs}
    with torch.no_grad():
        for task in model.tasks:
            found |= {f"features/{task}": model.features(inputs, task), f"logits/{task}": model(inputs, task)}
    assert_close(found, expected)


def test_merged_files_are_what_merging_them_gives(runs):
    files = [load_file(runs / f"merging/files/{name}.safetensors") for name in ("base", "one", "two")]
    merged = merge("task-arithmetic", files[0], files[1:], scale=0.3)
    assert_close(merged, load_file(runs / "merging/task-arithmetic-files/model/model.safetensors"))


@pytest.mark.parametrize("run", ["policies/harmodt", "policies/g-harmodt", "policies/mtbc"])
def test_a_policy_acts_as_it_did(runs, run):
    expected = load_file(runs / run / "expected.safetensors")
    observations = expected["observations"].numpy()
    names = follow(runs / run / "model", observation=observations[0], reward=0.0)
    policy = names["policy"]
    first = next(value for name, value in expected.items() if name in ("actions/", f"actions/{policy.tasks[0]}"))
    np.testing.assert_allclose(names["action"], first[0], atol=1e-5)
    found = {"observations": expected["observations"]}
    for task in [None] if run == "policies/g-harmodt" else policy.tasks:
        policy.reset(task)
        actions = [policy.act(observation, 0.1 * step) for step, observation in enumerate(observations)]
        found[f"actions/{task or ''}"] = torch.from_numpy(np.stack(actions))
    assert_close(found, expected)


@pytest.mark.parametrize("run", ["minimax/local-sgda", "minimax/local-dsgda"])
def test_a_consensus_model_predicts_what_it_did(runs, run):
    expected = load_file(runs / run / "expected.safetensors")
    rows = expected["rows"].numpy()
    model = follow(runs / run / "model", rows=rows)["model"]
    found = {name: torch.from_numpy(getattr(model, name)(rows)) for name in ("decision_function", "predict_proba")}
    assert_close({"rows": expected["rows"]} | found, expected)


@pytest.mark.parametrize("run", ["teams/commformer", "teams/mappo"])
def test_a_team_acts_as_it_did(runs, run):
    folder = runs / run / "model"
    expected = load_file(runs / run / "expected.safetensors")
    observations = expected["observations"].numpy()

    names = follow(folder, observations=observations)
    team = names["team"]
    found = {"observations": expected["observations"], "graph": team.graph}
    found |= {"actions": torch.from_numpy(names["actions"]), "links": torch.from_numpy(team.links_last)}
    team.reset(seed=3)
    found["sampled_actions"] = torch.from_numpy(team.act(observations, greedy=False))
    if (folder / "ungated").exists():
        actions = follow(folder / "ungated", observations=observations)["actions"]
        found["ungated_actions"] = torch.from_numpy(actions)

    if expected["graph"].any():
        apart = follow(folder, 1, observations=observations)["actions"]
        np.testing.assert_array_equal(apart, expected["actions"])
    else:
        with pytest.raises(ManyoneError, match="has no links: each agent acts alone"):
            follow(folder, 1, observations=observations)

    given = {"observations": expected["observations"],
             "available": torch.ones(8, team.spec.agents, team.spec.actions, dtype=torch.bool)}  # fmt: skip
    alone = follow(folder, 2, **given)
    found |= {"program_actions": alone["actions"], "program_values": alone["values"]}
    assert_close(found, expected)


def test_a_study_is_reported_and_not_measured_again(manyone, runs):
    def figures():
        study = json.loads((runs / "minimax/study/minimax/study.json").read_text())
        rows = (runs / "minimax/study/minimax/results.jsonl").read_text()
        return study["suites"], study["figures"], study["commands"], rows

    before = figures()
    assert_reported(manyone, "minimax/study")
    words = ("--scale", "smoke", "--seeds", 1, "--workers", 1, "--out", "minimax/study")
    code, out, err = manyone("reproduce", "local-steps-nc-nc", *words)
    assert code == 0, err
    assert "GAN: K up: less stable" in out
    assert figures() == before
    assert not list((runs / "minimax/study").rglob("*.log")), "a job was run"
