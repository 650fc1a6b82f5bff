import errno
import math
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.engine.toy import Regression, seed_all

from manyone.engine.learner import Learner
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import InterruptedRun, ManyoneError


@dataclass(kw_only=True)
class Options:
    rate: float = 0.1


SCHEDULE = {"steps": 20, "evaluate_every": 6, "checkpoint_every": 5}


def new_run(path):
    return RunFolder.create(path, "toy", Options())


def uninterrupted(tmp_path):
    seed_all()
    run = new_run(tmp_path / "reference")
    train(Regression(), run, **SCHEDULE)
    return run


def timeless(run):
    return [{k: v for k, v in record.items() if k != "time"} for record in run.metrics()]


def same_outcome(run, reference):
    weights, expected = (safetensors.torch.load_file(r.path / "model" / "model.safetensors") for r in (run, reference))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[k], expected[k]) for k in weights)
    assert timeless(run) == timeless(reference)


def test_toy_is_a_learner():
    assert isinstance(Regression(), Learner)


def test_schedule_and_outcome(tmp_path):
    run = new_run(tmp_path / "run")
    learner = Regression()
    final = train(learner, run, **SCHEDULE)
    kinds = [(r["step"], r["kind"]) for r in run.metrics()]
    assert [s for s, k in kinds if k == "train"] == list(range(1, 21))
    assert [s for s, k in kinds if k == "eval"] == [0, 6, 12, 18]
    assert kinds[-1] == (20, "final")
    assert timeless(run)[-1] == {"step": 20, "kind": "final", **final}
    assert final["error"] < timeless(run)[0]["error"]
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["step-00000015", "step-00000020"]
    assert sorted(p.name for p in run.path.iterdir()) == ["checkpoints", "config.yaml", "metrics.jsonl", "model"]
    saved = safetensors.torch.load_file(run.path / "model" / "model.safetensors")
    assert torch.equal(saved["weight"], learner.model.weight)


def test_log_every_thins_the_train_lines(tmp_path):
    run = new_run(tmp_path / "run")
    train(Regression(), run, steps=7, log_every=3)
    assert [(r["step"], r["kind"]) for r in run.metrics()] == [(3, "train"), (6, "train"), (7, "train"), (7, "final")]


@pytest.mark.parametrize("stop_at", [1, 5, 7, 12, 20])
def test_sigterm_saves_and_resume_is_exact(tmp_path, stop_at):
    reference = uninterrupted(tmp_path)
    seed_all()
    run = new_run(tmp_path / "run")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedRun, match=f"SIGTERM at step {stop_at} of 20.*manyone resume") as caught:
        train(Regression(signal_at=stop_at), run, **SCHEDULE)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert (run.checkpoints / f"step-{stop_at:08d}").is_dir()
    assert not (run.path / "model").exists()
    seed_all(99)  # what the new process starts from must not matter
    again = RunFolder.open(run.path)
    train(Regression(), again, **SCHEDULE)
    same_outcome(again, reference)


def test_sigint_leaves_with_130(tmp_path):
    learner = Regression()
    step = learner.step

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        return step()

    learner.step = interrupted
    with pytest.raises(InterruptedRun, match="SIGINT") as caught:
        train(learner, new_run(tmp_path / "run"), steps=5)
    assert caught.value.exit_code == 130


def test_a_second_signal_stops_at_once(tmp_path):
    learner = Regression()

    def stuck():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    learner.step = stuck
    # a shell starts background jobs with SIGINT ignored, and the tests may be one
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(learner, new_run(tmp_path / "run"), steps=5)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_finished_training_is_not_repeated(tmp_path):
    reference = uninterrupted(tmp_path)
    size = (reference.path / "metrics.jsonl").stat().st_size
    learner = Regression()
    seed_all(5)
    final = train(learner, RunFolder.open(reference.path), **SCHEDULE)
    assert learner.count == 20
    assert {"step": 20, "kind": "final", **final} == timeless(reference)[-1]
    assert (reference.path / "metrics.jsonl").stat().st_size == size


def test_a_damaged_newest_checkpoint_costs_steps_not_exactness(tmp_path, caplog):
    reference = uninterrupted(tmp_path)
    seed_all()
    run = new_run(tmp_path / "run")
    with pytest.raises(InterruptedRun):
        train(Regression(signal_at=17), run, **SCHEDULE)
    tensors = run.checkpoints / "step-00000017" / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-4])
    again = RunFolder.open(run.path)
    train(Regression(), again, **SCHEDULE)
    assert "step-00000017 is damaged" in caplog.text
    assert (again.checkpoints / "damaged-step-00000017").is_dir()
    same_outcome(again, reference)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(tmp_path, value):
    run = new_run(tmp_path / "run")
    with pytest.raises(ManyoneError, match=rf"loss is {value} at step 13: the last good checkpoint is step 10"):
        train(Regression(loss_at={13: value}), run, **SCHEDULE)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["step-00000005", "step-00000010"]
    assert not (run.path / "model").exists()


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    learner = Regression()
    step = learner.step

    def poisoned():
        metrics = step()
        if learner.count == 10:  # the loss of this step was computed before its update
            learner.model.weight.data[0, 0] = math.nan
        return metrics

    learner.step = poisoned
    run = new_run(tmp_path / "run")
    with pytest.raises(ManyoneError, match=r"step 10 left values that are not finite .*model/weight.* step 5 in"):
        train(learner, run, **SCHEDULE)
    assert [p.name for p in run.checkpoints.iterdir()] == ["step-00000005"]


def test_infinities_that_are_meant_do_not_stop(tmp_path):
    learner = Regression()
    state = learner.state_dict
    learner.state_dict = lambda: {**state(), "mask": torch.tensor([0.0, -math.inf])}
    train(learner, new_run(tmp_path / "run"), steps=2)


def test_a_failing_export_leaves_no_half_model_and_keeps_the_state(tmp_path):
    reference = uninterrupted(tmp_path)
    seed_all()

    class Full(Regression):
        def export(self, folder):
            super().export(folder)
            raise OSError(errno.ENOSPC, "No space left on device")

    run = new_run(tmp_path / "run")
    with pytest.raises(ManyoneError, match=r"cannot write .*model: the disk is full.*manyone resume"):
        train(Full(), run, **SCHEDULE)
    assert sorted(p.name for p in run.path.iterdir()) == ["checkpoints", "config.yaml", "metrics.jsonl"]
    again = RunFolder.open(run.path)
    train(Regression(), again, **SCHEDULE)
    same_outcome(again, reference)


def test_a_mistake_in_export_is_not_called_a_disk_problem(tmp_path):
    learner = Regression()
    learner.export = lambda folder: Path("missing").read_text()
    with pytest.raises(FileNotFoundError):
        train(learner, new_run(tmp_path / "run"), steps=1)


def test_one_run_is_trained_once_and_stages_are_apart(tmp_path):
    run = new_run(tmp_path / "run")
    train(Regression(), run.stage("one"), steps=3)
    train(Regression(), run.stage("two"), steps=2)
    assert (run.path / "stages" / "one" / "model" / "model.safetensors").is_file()
    train(Regression(), run, steps=1)
    with pytest.raises(ValueError, match=r"run\.stage"):
        train(Regression(), run, steps=2)


def test_an_interrupted_second_stage_resumes_exactly(tmp_path):
    def recipe(run, signal_at=None):
        run.log(0, "plan", {"stages": 2})
        for name, stop in (("one", None), ("two", signal_at)):
            seed_all()
            final = train(Regression(signal_at=stop), run.stage(name), **SCHEDULE)
            run.log(1, "result", {name: final["error"]})
        run.finish()

    reference = new_run(tmp_path / "reference")
    recipe(reference)
    run = new_run(tmp_path / "run")
    with pytest.raises(InterruptedRun, match=f"manyone resume {run.path}$"):
        recipe(run, signal_at=8)
    recipe(RunFolder.open(run.path))
    assert timeless(RunFolder.open(run.path)) == timeless(reference)
    for name in ("one", "two"):
        same_outcome(RunFolder.open(run.path).stage(name), RunFolder.open(reference.path).stage(name))


def test_fewer_steps_than_the_checkpoint_has(tmp_path):
    reference = uninterrupted(tmp_path)
    with pytest.raises(ManyoneError, match="at step 20, past the 10 steps"):
        train(Regression(), RunFolder.open(reference.path), steps=10)


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"steps": 1, "keep": 0}, {"steps": 1, "log_every": 0}])
def test_wrong_arguments_write_nothing(tmp_path, wrong):
    with pytest.raises(ManyoneError, match="must be at least"):
        train(Regression(), new_run(tmp_path / "run"), **wrong)
    assert list(tmp_path.iterdir()) == []


def test_overwriting_does_not_resume_the_old_run(tmp_path):
    reference = uninterrupted(tmp_path)
    run = RunFolder.create(reference.path, "toy", Options(), overwrite=True)
    learner = Regression()
    train(learner, run, steps=3)
    assert [r["step"] for r in run.metrics()] == [1, 2, 3, 3]
