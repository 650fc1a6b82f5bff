import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from manyone.engine.checkpoint import load_newest
from manyone.engine.run import RunFolder

SOURCE = Path(__file__).parents[2] / "src"
TOY = [sys.executable, str(Path(__file__).with_name("toy_recipe.py"))]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}


def toy(*words, **settings):
    return subprocess.run(
        [*TOY, *map(str, words)], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False, **settings
    )


def start(*words):
    return subprocess.Popen([*TOY, *map(str, words)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def wait_for_lines(run, count):
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        try:
            if (run / "metrics.jsonl").read_bytes().count(b"\n") >= count:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.005)
    pytest.fail(f"{run} did not reach {count} lines of metrics")


@pytest.fixture
def reference(manyone, tmp_path_factory):
    """The uninterrupted run that interrupted ones must equal."""
    run = tmp_path_factory.mktemp("reference") / "run"
    assert manyone("run", "toy", "--out", run)[0] == 0
    return run


def same_outcome(run, reference):
    weights, expected = (safetensors.torch.load_file(r / "model" / "model.safetensors") for r in (run, reference))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    metrics, wanted = (
        [{k: v for k, v in record.items() if k != "time"} for record in RunFolder.open(r).metrics()]
        for r in (run, reference)
    )
    assert metrics == wanted
    assert RunFolder.open(run).done


def test_kill_9_then_resume_is_bit_identical(tmp_path, reference):
    run = tmp_path / "run"
    process = start("run", "toy", "--out", run, "--pause", "0.05")
    wait_for_lines(run, 30)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    assert not (run / "model").exists()
    assert 10 <= load_newest(run / "checkpoints")[0] < 60
    resumed = toy("resume", run)
    assert resumed.returncode == 0, resumed.stderr
    same_outcome(run, reference)


def test_sigterm_checkpoints_and_leaves_with_143(manyone, tmp_path, reference):
    run = tmp_path / "run"
    process = start("run", "toy", "--out", run, "--pause", "0.05", "--schedule.checkpoint-every", "0")
    wait_for_lines(run, 10)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("manyone: stopped by SIGTERM at step ")
    assert err.splitlines()[-1].endswith(f"go on with: manyone resume {run}")
    assert load_newest(run / "checkpoints") is not None
    assert not RunFolder.open(run).done
    assert manyone("resume", run)[0] == 0
    same_outcome(run, reference)


@contextlib.contextmanager
def largest_file(size):
    """No file may grow past ``size`` bytes: the system refuses the write in the middle, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(manyone, tmp_path):
    size = 20_000  # enough for a checkpoint, not for the metrics of 300 steps
    with largest_file(size):
        code, _, err = manyone("run", "toy", "--out", "run", "--steps", "300")
    assert code == 2
    assert err.startswith("manyone: cannot write run/metrics.jsonl: the file would pass the size limit")
    assert err.count("\n") == 1
    raw = Path("run/metrics.jsonl").read_bytes()
    assert raw.endswith(b"\n")
    assert size - 500 < len(raw) <= size
    assert load_newest(Path("run/checkpoints")) is not None
    assert manyone("resume", "run")[0] == 0
    assert manyone("run", "toy", "--out", "whole", "--steps", "300")[0] == 0
    same_outcome(Path("run"), Path("whole"))


def test_a_checkpoint_that_does_not_fit_keeps_the_metrics(manyone):
    with largest_file(4_000):  # the state of the random generators alone is larger
        code, _, err = manyone("run", "toy", "--out", "run")
    assert code == 2
    assert err.startswith("manyone: cannot write run/checkpoints/step-00000010: the file would pass the size limit")
    assert err.count("\n") == 1
    assert list(Path("run/checkpoints").iterdir()) == []
    assert [r["step"] for r in RunFolder.open("run").metrics() if r["kind"] == "train"] == list(range(1, 11))


def test_run_prints_where_and_what_next(manyone):
    code, out, err = manyone("run", "toy", "--steps", "3", "--out", "first")
    assert (code, out, err) == (0, "run: first\nnext: manyone report first\n", "")
    config = yaml.safe_load(Path("first/config.yaml").read_text())
    assert config["options"]["schedule"] == {"evaluate_every": 7, "checkpoint_every": 10}
    assert manyone("resume", "first") == (0, "first is finished already; next: manyone report first\n", "")


def test_default_folder_has_the_recipe_s_name_and_is_new(manyone):
    for _ in range(2):
        assert manyone("run", "toy", "--steps", "1")[0] == 0
    assert len(list(Path("runs").glob("toy-*"))) == 2


def test_dry_run_writes_nothing(manyone, tmp_path):
    code, out, _ = manyone("run", "toy", "--dry-run", "--inputs", "a", "b")
    lines = out.splitlines()
    assert (code, lines[0], lines[-1]) == (0, "plan: 60 steps, 2 inputs", "nothing was written")
    assert "steps 60, rate 0.05, pause 0, inputs a b, mode plain, schedule.evaluate-every 7" in " ".join(out.split())
    assert list(tmp_path.iterdir()) == []


def test_help_shows_meaning_default_and_range(manyone):
    code, out, _ = manyone("run", "toy", "--help")
    words = " ".join(out.split())
    assert code == 0
    assert "Adam's learning rate (above 0; default: 0.05)" in words
    assert "--schedule.evaluate-every N Steps between evaluations (default: 7)" in words
    assert "--mode plain|fancy" in words
    assert "--config FILE.yaml" in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--stpes", "3"],
            "unknown option '--stpes' of recipe 'toy'; did you mean '--steps'? (manyone run toy --help)",
        ),
        (["--schedule.evaluate-evry=3"], "unknown option '--schedule.evaluate-evry' of recipe 'toy'; did you mean"),
        (["--rate", "fast"], "Error parsing --rate: could not convert string to float: 'fast'"),
        (["--rate", "0"], "--rate 0.0: must be above 0"),
        (["--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--mode", "odd"], "invalid choice 'odd' for argument '--mode'"),
        (["stray"], "Unrecognized options: stray"),
        (["--logger", "wandbb"], "logger 'wandbb' is unknown; did you mean 'wandb'?"),
        (["--out", "file/run"], "cannot write file/run: file is a file, not a folder"),
        (["--out", "used"], "used exists and is not a run folder"),
        (["--config"], "--config needs a YAML file"),
        (["--config", "none.yaml"], "--config none.yaml: No such file or directory"),
        (["--config", "bad.yaml"], "--config bad.yaml: unknown option 'stpes'; did you mean '--steps'?"),
        (["--config", "broken.yaml"], "--config broken.yaml: not YAML"),
        (["--config", "other.yaml"], "--config other.yaml: is a run of 'wemoe', not of 'toy'"),
    ],
)
def test_wrong_options_are_one_line_with_code_2_and_write_nothing(manyone, tmp_path, words, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("x")
    (tmp_path / "bad.yaml").write_text("stpes: 3\n")
    (tmp_path / "broken.yaml").write_text("steps: [")
    (tmp_path / "other.yaml").write_text("recipe: wemoe\noptions: {steps: 3}\n")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = manyone("run", "toy", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"manyone: {message}")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_nan_is_one_line_that_names_step_and_checkpoint(manyone):
    code, _, err = manyone("run", "toy", "--out", "r", "--nan-at", "25")
    assert code == 2
    assert err.startswith("manyone: the loss is nan at step 25: the last good checkpoint is step 20 in r/checkpoints")
    assert load_newest(Path("r/checkpoints"))[0] == 20


def test_eval_of_a_finished_and_a_half_finished_run(manyone):
    manyone("run", "toy", "--out", "r", "--nan-at", "25")
    code, out, _ = manyone("eval", "r", "--split", "val")
    assert code == 0
    assert "val" in out
    assert "20" in out


def test_options_from_a_file_and_the_command_line_wins(manyone, tmp_path):
    (tmp_path / "o.yaml").write_text(
        "steps: 3\nrate: 1e-3\ninputs: [a, b]\noverwrite: false\nnan_at: null\nschedule: {evaluate_every: 2}\n"
    )
    assert manyone("run", "toy", "--config", "o.yaml", "--steps", "2", "--out", "r")[0] == 0
    options = RunFolder.open("r").options
    assert options["steps"] == 2
    assert options["rate"] == 1e-3
    assert options["inputs"] == ["a", "b"]
    assert options["schedule"] == {"evaluate_every": 2, "checkpoint_every": 10}
    # an earlier run's config repeats it, in a folder of its own
    assert manyone("run", "toy", "--config", "r/config.yaml", "--out", "again")[0] == 0
    again = RunFolder.open("again")
    assert {**again.options, "out": "r"} == options
    timeless = [
        [{k: v for k, v in m.items() if k != "time"} for m in RunFolder.open(r).metrics()] for r in ("r", "again")
    ]
    assert timeless[0] == timeless[1]


def test_an_existing_run_needs_overwrite(manyone):
    assert manyone("run", "toy", "--steps", "1", "--out", "r")[0] == 0
    code, _, err = manyone("run", "toy", "--steps", "1", "--out", "r")
    assert code == 2
    assert "r holds a run already" in err
    assert manyone("run", "toy", "--steps", "2", "--out", "r", "--overwrite")[0] == 0
    assert RunFolder.open("r").options["steps"] == 2


def test_resume_names_what_is_wrong_in_the_config(manyone):
    manyone("run", "toy", "--out", "r", "--nan-at", "25")
    file = Path("r/config.yaml")
    text = file.read_text()
    file.write_text(text.replace("steps: 60", "steps: many"))
    assert manyone("resume", "r") == (2, "", "manyone: r/config.yaml: options.steps: 'many' is not a int\n")
    file.write_text(text.replace("recipe: toy", "recipe: gone"))
    assert "a run of 'gone', a recipe that this version does not have" in manyone("resume", "r")[2]


def test_only_rank_0_speaks_and_writes(manyone, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    assert manyone("run", "toy", "--steps", "1", "--out", "r") == (0, "", "")
    assert list(tmp_path.iterdir()) == []
