"""Lock-step roll-outs equal the plain loop, whatever the number of processes; failures are named and leave nothing."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("metaworld")

from tests.reference.rollouts import play_one_by_one

from manyone.envs.single import make as build
from manyone.envs.single import simulator
from manyone.envs.single.batched import Bodies, Step
from manyone.envs.single.metaworld import EVAL_GOALS, expert_action
from manyone.envs.single.simulator import SPARE
from manyone.errors import ManyoneError
from manyone.evaluation import rollouts
from manyone.evaluation.rollouts import Arena, Episode, paired_episodes, rollout


class Wobble:
    """Actions that depend on the observation, on the rewards so far and on the step: mistakes in slots show."""

    def __init__(self, width: int, scale: float = 0.7) -> None:
        self.width, self.scale = width, scale
        self.acted: list[np.ndarray] = []
        self.rewarded: list[np.ndarray] = []

    def start(self, episodes: Sequence[Episode]) -> None:
        self.episodes = list(episodes)
        self.steps, self.gained = np.zeros(len(episodes)), np.zeros(len(episodes))

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.acted.append(slots.copy())
        self.steps[slots] += 1
        phase = np.linspace(0, 3, self.width)[None] + self.steps[slots, None] + observations[:, 2:3]
        return self.scale * np.sin(phase + self.gained[slots, None])

    def reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        assert rewards.dtype == np.float32
        self.rewarded.append(slots.copy())
        self.gained[slots] += rewards

    def episode_info(self, slot: int) -> dict[str, float]:
        return {"acted": float(self.steps[slot])}


class Alone(Wobble):
    """The first ``actions`` of what a wider one does."""

    def __init__(self, width: int, actions: int) -> None:
        super().__init__(width)
        self.actions = actions

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return super().act(slots, observations)[:, : self.actions]


class Expert:
    """Meta-World's scripted policies."""

    def start(self, episodes: Sequence[Episode]) -> None:
        self.episodes = list(episodes)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return np.stack([expert_action(self.episodes[s].task, o) for s, o in zip(slots, observations)])

    def reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        pass


CHEETAHS = ["cheetah-dir:0", "cheetah-vel:5", "cheetah-vel:30"]


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every environment is stepped by itself, those of the known bodies too."""
    monkeypatch.setattr(simulator, "batched", lambda task: None)


def test_lock_step_equals_one_episode_at_a_time() -> None:
    episodes = paired_episodes(CHEETAHS, 2, seed=4)
    results = rollout(Wobble(6), episodes, horizon=7, workers=0)
    assert [r.episode for r in results] == episodes
    assert [(r.return_, r.length, False) for r in results] == play_one_by_one(Wobble(6), episodes, 7)
    assert all(r.success is None and r.first_success is None for r in results)
    assert all(r.info == {"terminated": False, "unstable": False, "acted": 7.0} for r in results)


def test_results_are_the_same_for_any_number_of_workers_also_when_slots_are_refilled() -> None:
    episodes = paired_episodes(CHEETAHS, 3)
    assert episodes == paired_episodes(CHEETAHS, 3)
    alone = rollout(Wobble(6), episodes, horizon=5, workers=0, max_parallel=4)
    for processes in (1, 2):
        with Arena(CHEETAHS, 3, processes, max_parallel=4) as arena:
            assert arena.rollout(Wobble(6), episodes, horizon=5) == alone
            assert arena.rollout(Wobble(6), episodes[::-1], horizon=5) == alone[::-1]
            assert arena.timing.steps == 45
            assert arena.timing.simulator_cpu > 0
    assert multiprocessing.active_children() == []


def test_success_is_any_step_and_may_stop_the_episode() -> None:
    episodes = paired_episodes(["reach-v3"], 2)
    assert [e.goal for e in episodes] == [EVAL_GOALS[0], EVAL_GOALS[1]]
    whole = rollout(Expert(), episodes, horizon=60, workers=0)
    assert [r.length for r in whole] == [60, 60]
    assert all(r.success and r.first_success is not None and r.first_success < 60 for r in whole)
    assert [(r.return_, r.length, r.success) for r in whole] == play_one_by_one(Expert(), episodes, 60)
    short = rollout(Expert(), episodes, horizon=60, workers=0, stop_at_success=True)
    assert [(r.length, r.first_success) for r in short] == [(r.first_success, r.first_success) for r in whole]
    early = rollout(Expert(), episodes, horizon=3, workers=0)
    assert [(r.success, r.first_success) for r in early] == [(False, None)] * 2


def test_policy_sees_each_slot_from_its_start_to_its_end_and_never_again() -> None:
    policy, done = Wobble(1), []
    episodes = [Episode("gym:InvertedPendulum-v5", i, 0, i) for i in range(6)]
    results = rollout(
        policy, episodes, horizon=30, workers=0, max_parallel=2, progress=lambda n, of: done.append((n, of))
    )
    assert len({r.length for r in results}) > 1  # they fall at different times
    assert any(r.info["terminated"] for r in results)
    for slots, rewarded in zip(policy.acted, policy.rewarded, strict=True):
        np.testing.assert_array_equal(slots, rewarded)
        assert (np.diff(slots) > 0).all()
        assert 1 <= len(slots) <= 2
    for slot, result in enumerate(results):
        turns = [turn for turn, slots in enumerate(policy.acted) if slot in slots]
        assert turns == list(range(turns[0], turns[0] + result.length))
    assert done[-1] == (6, 6)
    assert [n for n, _ in done] == sorted(n for n, _ in done)


def test_environments_are_built_once_and_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    make = build.make_env
    monkeypatch.setattr(build, "make_env", lambda task, **options: built.append(task) or make(task, **options))
    episodes = paired_episodes(CHEETAHS, 4)
    with Arena(CHEETAHS, 1, 0) as arena:
        assert arena.rows == 3
        for _ in range(2):
            arena.rollout(Wobble(6), episodes, horizon=2)
    assert sorted(built) == sorted(CHEETAHS)


@pytest.mark.usefixtures("one_by_one")
def test_rows_that_change_their_task_keep_a_few_environments_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [f"cheetah-vel:{i}" for i in range(SPARE + 3)]
    episodes = paired_episodes(tasks, 1)
    wide = rollout(Wobble(6), episodes, horizon=3, workers=0)
    make, held = build.make_env, set()

    def counted(task: str, **options):
        env = make(task, **options)
        close, number = env.close, len(held) and max(held) + 1
        held.add(number)
        env.close = lambda: (held.discard(number), close())
        return env

    monkeypatch.setattr(build, "make_env", counted)
    with Arena(tasks, 1, 0, max_parallel=1) as arena:
        for _ in range(2):
            assert arena.rollout(Wobble(6), episodes, horizon=3) == wide
        assert len(held) == SPARE + 1
    assert not held


def test_paired_episodes_are_shared_by_lists_of_different_length() -> None:
    few, many = paired_episodes(["reach-v3"], 3, seed=1), paired_episodes(["push-v3", "reach-v3"], 12, seed=1)
    assert [e for e in many if e.task == "reach-v3"][:3] == few
    assert [e.goal for e in many[:12]] == [*EVAL_GOALS, *EVAL_GOALS[:2]]
    assert len({e.seed for e in many}) == 24
    assert {e.seed for e in few}.isdisjoint(e.seed for e in paired_episodes(["reach-v3"], 3, seed=2))
    assert [e.goal for e in paired_episodes(["cheetah-dir:1", "reach-v3"], 2, goals=[7])] == [0, 0, 7, 7]


def test_actions_are_clipped_to_the_space() -> None:
    episodes = [Episode("cheetah-dir:0", 0, 0, 1)]

    class Huge(Wobble):
        def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
            return np.full((len(slots), 6), self.scale)

    assert rollout(Huge(6, 50.0), episodes, horizon=3) == rollout(Huge(6, 1.0), episodes, horizon=3)


def test_wrong_actions_are_refused_with_the_episode_named() -> None:
    class Wrong(Wobble):
        def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
            actions = super().act(slots, observations)
            if self.steps[0] == 3:
                actions[slots == 1, 0] = math.nan
            return actions

    episodes = paired_episodes(CHEETAHS, 1)
    with pytest.raises(ManyoneError, match=r"episode 0 of cheetah-vel:5 .*step 2 is not finite"):
        rollout(Wrong(6), episodes, horizon=5, workers=0)
    with pytest.raises(ManyoneError, match=r"shape \[3, 5\]; \[3, 6\] are needed"):
        rollout(Wobble(5), episodes, horizon=5, workers=0)


def test_a_batch_of_bodies_plays_what_environments_one_by_one_play(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, in rows that change their task between bodies of several widths, and for any number of threads."""
    tasks = ["gym:Hopper-v5", "ant-dir:7", "gym:InvertedPendulum-v5", "gym:Hopper-v4?ctrl_cost_weight=0.1"]
    tasks += ["cheetah-vel:5", "gym:HalfCheetah-v5?max_episode_steps=9"]
    episodes, results = paired_episodes(tasks, 3, seed=3), []
    for threads, way in ((1, simulator.batched), (3, simulator.batched), (1, lambda task: None)):
        monkeypatch.setattr(simulator, "batched", way)
        monkeypatch.setattr(rollouts, "processors", lambda threads=threads: threads)
        with Arena(tasks, 3, 0, max_parallel=14) as arena:
            results.append(arena.rollout(Wobble(8), episodes, horizon=40))
    assert results[0] == results[1] == results[2]
    assert any(r.info["terminated"] for r in results[0])
    assert {r.length for r in results[0] if "HalfCheetah" in r.episode.task} == {9}


def test_bodies_that_are_stepped_together_need_no_process() -> None:
    episodes = paired_episodes(CHEETAHS[:1], 8)
    before = multiprocessing.active_children()
    with Arena(CHEETAHS[:1], 8) as arena:
        here = arena.rollout(Wobble(6), episodes, horizon=3)
        assert multiprocessing.active_children() == before
    assert Arena([*CHEETAHS, "gym:InvertedPendulum-v5"], 8).workers > 0
    with Arena(CHEETAHS[:1], 8, 2) as arena:
        assert arena.rollout(Wobble(6), episodes, horizon=3) == here
        assert len(multiprocessing.active_children()) == len(before) + 2


def test_bodies_that_blow_up_end_their_episodes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Bodies.finish

    def fragile(self: Bodies, rows: np.ndarray, *more: np.ndarray) -> Step:
        seen = finish(self, rows, *more)
        seen.rewards[rows == 1] = math.nan
        return seen

    monkeypatch.setattr(Bodies, "finish", fragile)
    results = rollout(Wobble(6), paired_episodes(CHEETAHS[:1], 3), horizon=4, workers=0)
    assert [(r.length, r.info["unstable"]) for r in results] == [(4, False), (1, True), (4, False)]
    assert all(math.isfinite(r.return_) for r in results)
    with pytest.raises(ManyoneError, match=r"episode 0 of cheetah-dir:0 \(goal 1, .* goal must be 0"):
        rollout(Wobble(6), [Episode("cheetah-dir:0", 0, 1, 1)], horizon=4, workers=0)


@pytest.mark.usefixtures("one_by_one")
def test_a_simulation_that_blows_up_ends_its_episode_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    make = build.make_env

    def fragile(task: str, **options):
        env = make(task, **options)
        if task == CHEETAHS[1]:
            step = env.step
            env.step = lambda action: (np.full(20, math.nan), math.nan, *step(action)[2:])
        return env

    monkeypatch.setattr(build, "make_env", fragile)
    results = rollout(Wobble(6), paired_episodes(CHEETAHS, 1), horizon=4, workers=0)
    assert [r.length for r in results] == [4, 1, 4]
    assert [r.info["unstable"] for r in results] == [False, True, False]
    assert all(math.isfinite(r.return_) for r in results)


@pytest.mark.usefixtures("one_by_one")
def test_a_simulator_that_raises_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    make = build.make_env

    def broken(task: str, **options):
        env = make(task, **options)
        env.step = lambda action: 1 / 0
        return env

    monkeypatch.setattr(build, "make_env", broken)
    with pytest.raises(ManyoneError, match=r"episode 0 of cheetah-dir:0 .* failed to step: ZeroDivisionError"):
        rollout(Wobble(6), paired_episodes(CHEETAHS, 1), horizon=4, workers=0)


def test_a_worker_that_dies_is_reported_and_an_interrupt_leaves_no_process() -> None:
    class Trouble(Wobble):
        trouble: str | None = "kill"

        def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
            if self.steps.max() == 1 and self.trouble == "kill":
                (worker,) = [p for p in multiprocessing.active_children() if p.name == "rollout-1"]
                os.kill(worker.pid, signal.SIGKILL)
            if self.steps.max() == 1 and self.trouble == "interrupt":
                raise KeyboardInterrupt
            return super().act(slots, observations)

    policy, episodes = Trouble(6), paired_episodes(CHEETAHS, 1)
    with Arena(CHEETAHS, 1, 2) as arena:
        with pytest.raises(ManyoneError, match=r"worker 1 died \(signal 9\) while it simulated cheetah-vel:5"):
            arena.rollout(policy, episodes, horizon=5)
        assert multiprocessing.active_children() == []
        policy.trouble = "interrupt"
        with pytest.raises(KeyboardInterrupt):
            arena.rollout(policy, episodes, horizon=5)
        assert multiprocessing.active_children() == []


def test_workers_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        """
import multiprocessing, os, signal
import numpy as np
from manyone.evaluation import rollouts
from manyone.evaluation.rollouts import Arena, Episode

class Killed:
    def start(self, episodes): pass
    def act(self, slots, observations):
        print(multiprocessing.active_children()[0].pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    def reward(self, slots, rewards): pass

if __name__ == "__main__":
    with Arena(["cheetah-dir:0"], 1, 1) as arena:
        arena.rollout(Killed(), [Episode("cheetah-dir:0")])
"""
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    worker = int(ended.stdout)
    for _ in range(200):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"worker {worker} outlived the main process")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: paired_episodes(["reach-v3"], 0), "at least 1"),
        (lambda: paired_episodes(["reach-v3"], 1, goals=[]), "goals is empty"),
        (lambda: Arena([]), "at least one task"),
        (lambda: Arena(["cheetah-dir:0"], workers=-1), "0 .this process. or more"),
        (lambda: rollout(Wobble(6), [Episode("cheetah-dir:0")], horizon=0), "horizon 0"),
        (lambda: rollout(Wobble(6), [Episode("cheetah-dir:0", goal=3)]), "goal must be 0"),
        (lambda: Arena(["cheetah-dir:0"]).rollout(Wobble(6), [Episode("ant-dir:0")]), "not one of this arena's tasks"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(call, words: str) -> None:
    with pytest.raises(ManyoneError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_tasks_of_different_widths_play_side_by_side_as_they_do_alone() -> None:
    tasks = ["cheetah-dir:0", "gym:Pendulum-v1"]

    class Seen(Wobble):
        def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
            assert observations.shape[1] == max(build.spaces(e.task)[0] for e in self.episodes)
            for slot, row in zip(slots, observations):
                assert not row[build.spaces(self.episodes[slot].task)[0] :].any()
            return super().act(slots, observations)

    episodes = paired_episodes(tasks, 3, seed=4)  # more than run at a time: rows go from one task to another
    together = rollout(Seen(6), episodes, horizon=7, workers=0, max_parallel=2)
    alone = []
    for task in tasks:
        own = [e for e in episodes if e.task == task]
        alone += rollout(Alone(6, build.spaces(task)[1]), own, horizon=7, workers=0)
    assert [r.return_ for r in together] == [r.return_ for r in alone]


def test_nothing_to_play_gives_nothing() -> None:
    assert rollout(Wobble(6), []) == []
