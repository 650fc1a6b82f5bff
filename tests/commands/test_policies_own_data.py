"""Policy recipes on own data in an environment whose actions are not from -1 to 1."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
from examples.own_data import control, main
from tests.commands.run_files import assert_kill_9_changes_nothing, lines

from manyone.engine.checkpoint import load_newest
from manyone.evaluation.rollouts import paired_episodes, rollout
from manyone.policies import load_policy

TASK = "gym:Pendulum-v1"


class Controller:
    """The controller of the data, in the roll-outs' form."""

    def start(self, episodes):
        pass

    def act(self, slots, observations):
        return np.stack([control(o) for o in observations])

    def reward(self, slots, rewards):
        pass


@pytest.fixture(scope="session")
def pendulum(shared_cache):
    """The folder of the controller's episodes."""
    folder = shared_cache / "pendulum"
    if not folder.exists():
        main(str(folder))
    return folder


def test_cloned_own_data_with_torques_up_to_two_reach_their_controllers_return(manyone, tmp_path, pendulum):
    words = ("--steps", 2000, "--batch-size", 128, "--lr", 3e-3, "--workers", 1, "--out", "r")
    code, _, err = manyone("run", "mtbc", "--data", f"{TASK}={pendulum}", *words)
    assert code == 0, err
    episodes = paired_episodes([TASK], 10)
    wanted = np.array([result.return_ for result in rollout(Controller(), episodes, workers=0)])
    found = np.array([episode["return"] for episode in lines(tmp_path / "r/episodes.jsonl")])
    assert np.abs(found - wanted).max() < 10, "as good as its controller in every single episode"
    assert wanted.mean() > -130
    loaded = rollout(load_policy(tmp_path / "r/model").batched, episodes, workers=0)
    np.testing.assert_allclose([result.return_ for result in loaded], found, atol=0.5)


def test_without_the_bounds_the_controllers_return_is_out_of_reach(manyone, tmp_path, pendulum):
    """What runs of earlier versions did, and still do when they are resumed: torques end at 1."""
    words = ("--steps", 20, "--action-range", "unit", "--workers", 1, "--out", "r")
    assert manyone("run", "mtbc", "--data", f"{TASK}={pendulum}", *words)[0] == 0
    policy = load_policy(tmp_path / "r/model")
    assert policy.table.bounds is None
    config = tmp_path / "r/config.yaml"
    assert "action_range: unit\n" in config.read_text()
    config.write_text(config.read_text().replace("  action_range: unit\n", ""))  # as an earlier version wrote it
    final = lines(tmp_path / "r/metrics.jsonl")[-1]["return"]
    code, out, err = manyone("eval", "r")
    assert code == 0, err
    assert f"{final:.6g}" in out


SMALL = ("--steps", 6, "--batch-size", 3, "--eval-episodes", 2, "--workers", 1, "--out", "r")
NET = ("--width", 16, "--layers", 1, "--heads", 2, "--context", 4, "--warmup", 2)


@pytest.fixture(scope="session")
def short(pendulum, shared_cache):
    """The first 30 steps of some of its episodes."""
    folder = shared_cache / "short"
    folder.mkdir(exist_ok=True)
    for number in range(12):
        with np.load(pendulum / f"{number}.npz") as one:
            np.savez(folder / f"{number}.npz", **{key: one[key][:30] for key in one})
    return folder


def test_own_data_are_evaluated_over_their_own_longest_episode_and_a_horizon_that_is_given_wins(
    manyone, tmp_path, short
):
    words = ("--data", f"{TASK}={short}", *SMALL)
    code, _, err = manyone("run", "mt-dt", *words, *NET)
    assert (code, "evaluated for" in err) == (0, False), err
    assert {one["length"] for one in lines(tmp_path / "r/episodes.jsonl")} == {30}
    code, _, err = manyone("run", "mt-dt", *words, *NET, "--horizon", 40, "--overwrite")
    assert code == 0
    assert f"warning: {TASK} is evaluated for 40 steps, but its data end at 30" in err
    assert {one["length"] for one in lines(tmp_path / "r/episodes.jsonl")} == {40}
    code, _, err = manyone("run", "mt-dt", *words, *NET, "--horizon", 500, "--overwrite")
    assert f"warning: {TASK} ends its episodes at 200 steps, before --horizon 500" in err
    assert {one["length"] for one in lines(tmp_path / "r/episodes.jsonl")} == {200}


def test_every_evaluated_episode_can_be_played_again_from_its_seed(manyone, tmp_path, short):
    assert manyone("run", "mtbc", "--data", f"{TASK}={short}", *SMALL)[0] == 0
    episodes = lines(tmp_path / "r/episodes.jsonl")
    assert [one["task"] for one in episodes] == [TASK] * 2
    assert all({"seed", "return", "length", "success", "goal"} <= one.keys() for one in episodes)
    again = paired_episodes([TASK], 2)
    assert [one["seed"] for one in episodes] == [one.seed for one in again]
    found = rollout(load_policy(tmp_path / "r/model").batched, again, horizon=30, workers=0)
    np.testing.assert_allclose([one.return_ for one in found], [one["return"] for one in episodes], rtol=1e-4)


def test_eval_takes_episodes_seed_horizon_and_target_returns(manyone, tmp_path, short):
    words = ("--data", f"{TASK}={short}", *SMALL, *NET, "--reference", f"{TASK}=-300,-100")
    assert manyone("run", "harmodt", *words)[0] == 0
    final = lines(tmp_path / "r/metrics.jsonl")[-1]
    assert final["normalised"] == pytest.approx((final["return"] + 300) / 200)
    assert final[f"normalised/{TASK}"] == final["normalised"]

    def score(*more, name="return"):
        code, out, err = manyone("eval", "r", *more)
        assert code == 0, err
        return float(re.search(rf"^ *{name} +(\S+)", out, re.MULTILINE)[1])

    assert score() == pytest.approx(final["return"], rel=1e-5)
    assert score("--seed", 0, "--episodes", 2) == pytest.approx(final["return"], rel=1e-5)
    assert score("--seed", 1) != pytest.approx(final["return"], rel=1e-3)
    assert score("--horizon", 7, name="episode_length") == 7
    code, out, err = manyone("eval", "r", "--target-return", -300, -1.5, 2000)
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if re.match(r" *(-?\d|target)", line)]
    assert [row[0] for row in rows] == ["target", "-300", "-1.5", "2000"]
    column = rows[0].index("return")
    assert len({row[column] for row in rows[1:]}) == 3, "another return asked for, another course"
    for words, message in (
        (("--episodes", 0), "--episodes 0: must be at least 1"),
        (("--horizon", 0), "--horizon 0: must be at least 1"),
        (("--seed", -1), "--seed -1: must be at least 0"),
    ):
        code, out, err = manyone("eval", "r", *words)
        assert (code, out, message in err) == (2, "", True), err
    assert manyone("run", "mtbc", "--data", f"{TASK}={short}", *SMALL, "--overwrite")[0] == 0
    assert "mtbc reads no return" in manyone("eval", "r", "--target-return", 1)[2]


def test_eval_refuses_what_a_field_does_not_know(manyone, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.yaml").write_text("recipe: local-sgda\noptions: {data: x.csv}\n")
    for words in (("--episodes", 3), ("--target-return", 1, 2), ("--horizon", 9), ("--seed", 1)):
        code, out, err = manyone("eval", "r", *words)
        assert (code, out) == (2, "")
        assert f"{words[0]}: runs of local-sgda are evaluated with --split alone" in err
        assert len(err.splitlines()) == 1


def test_data_alone_train_and_evaluate_by_the_error_of_the_actions(manyone, process, tmp_path, short):
    """In a process that has no gymnasium, for a task that is no environment."""
    block = "import sys; sys.modules['gymnasium'] = None; sys.modules['mujoco'] = None\n"
    (tmp_path / "alone.py").write_text(block + "from manyone.cli.main import run; sys.exit(run(sys.argv[1:]))\n")

    def alone(*words):
        ran = process("alone.py", *map(str, words), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = ran.communicate()
        return (
            ran.returncode,
            out if isinstance(out, str) else out.decode(),
            err if isinstance(err, str) else err.decode(),
        )

    words = ("--data", f"lift={short}", f"drop={short}", *SMALL, "--no-simulator")
    code, out, err = alone("run", "harmodt", *words, *NET, "--steps", 40, "--evaluate-every", 20)
    assert code == 0, err
    records = [r for r in lines(tmp_path / "r/metrics.jsonl") if r["kind"] not in ("train", "reference")]
    assert [set(r) - {"step", "kind"} for r in records] == [
        {"action_error", "action_error/lift", "action_error/drop"}
    ] * 3
    assert records[-1]["action_error"] < records[0]["action_error"]
    assert "action error" in out
    assert "the best by action error" in out
    code, evaluated, err = manyone("eval", "r")
    assert code == 0, err
    kept = load_newest(tmp_path / "r/checkpoints/best")[1]["value"]
    assert kept == min(r["action_error"] for r in records)
    assert f"{kept:.6g}" in evaluated
    policy = load_policy(tmp_path / "r/model")
    policy.reset("lift")
    assert np.abs(policy.act([1, 0, 0])).max() <= 2
    for more in (("--seed", 1), ("--horizon", 9), ("--target-return", 3)):
        assert "are for environments" in manyone("eval", "r", *more)[2]
    code, _, err = alone("run", "harmodt", "--data", f"{TASK}={short}", *SMALL, *NET, "--overwrite")
    assert code == 2
    assert "--no-simulator trains on data alone" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lift",), "--no-simulator trains on data alone"),
        ((TASK, "--reference", "lift=1,2"), f"--reference lift=1,2: needs one of the tasks {TASK}"),
        ((TASK, "--reference", f"{TASK}=1"), "give TASK=RANDOM,EXPERT"),
        ((TASK, "--no-simulator", "--video"), "--video True: must be off with --no-simulator"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(manyone, tmp_path, short, words, message):
    code, _, err = manyone("run", "mtbc", "--data", f"{words[0]}={short}", *words[1:], *SMALL)
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "r").exists()
    code, _, err = manyone("run", "mtbc", "--suite", "cheetah-vel", "--no-simulator", *SMALL)
    assert (code, err) == (
        2,
        "manyone: --no-simulator is for own --data: those of a --suite are made in its simulator\n",
    )


@pytest.mark.long
def test_the_best_weights_are_exported_and_survive_kill_9(manyone, tmp_path, short):
    words = ("mtbc", "--data", f"{TASK}={short}", *SMALL[2:-2], "--width", 16, "--lr", 0.05)
    words = (*words, "--steps", 400, "--evaluate-every", 20, "--checkpoint-every", 30)
    assert_kill_9_changes_nothing(manyone, tmp_path, words, after=150, records=("episodes.jsonl",))
    evaluations = [r for r in lines(tmp_path / "whole/metrics.jsonl") if r["kind"] not in ("train", "reference")]
    best = max(evaluations, key=lambda r: (r["return"], r["step"]))
    for run in ("whole", "cut"):
        step, kept = load_newest(tmp_path / run / "checkpoints/best")
        assert (step, kept["value"], kept["metric"]) == (best["step"], best["return"], "return")
        assert load_policy(tmp_path / run / "model").info["steps"] == best["step"]
    code, out, _ = manyone("eval", "cut")
    assert code == 0
    assert f"evaluated: the weights of step {best['step']}, the best by return" in out
    assert f"{best['return']:.6g}" in out
