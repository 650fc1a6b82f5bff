"""Environments by name: cached goals equal Meta-World's own, resets forget the past, rewards are as documented."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("metaworld")

import gymnasium

from manyone.envs.single import locomotion, metaworld
from manyone.envs.single import make as build
from manyone.errors import ManyoneError

TASK = "reach-v3"


def test_task_lists_are_the_papers_prefixes_and_meta_worlds_own_mt10() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3

    assert sorted(metaworld.TASKS50) == sorted(ALL_V3_ENVIRONMENTS)
    assert metaworld.suite_tasks("metaworld-mt10") == list(MT10_V3)
    assert metaworld.suite_tasks("metaworld-mt5") == list(metaworld.TASKS50[:5])
    assert metaworld.suite_tasks("metaworld-mt30")[-1] == "push-v3"
    assert metaworld.suite_tasks("metaworld-mt50")[:2] == ["basketball-v3", "bin-picking-v3"]
    assert metaworld.suite_tasks("metaworld-mt1:door-open") == ["door-open-v3"]
    pairs = metaworld.suite_tasks("metaworld-pairs10")
    assert len(set(pairs)) == 10
    assert {"door-open-v3", "door-close-v3"} < set(pairs)


def test_goals_from_the_cache_start_episodes_as_the_benchmark_itself_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import metaworld as library

    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path))
    metaworld.goal_vectors.cache_clear()
    metaworld.prepare([TASK])
    (file,) = tmp_path.rglob("reach-v3.json")
    assert len(json.loads(file.read_text())) == 50
    metaworld.goal_vectors.cache_clear()
    with monkeypatch.context() as patch:  # from here on only the file can answer
        patch.setattr(library, "MT1", None)
        ours = metaworld.make_env(TASK, 41)
        starts = {}
        for goal in (41, 3):
            metaworld.set_goal(ours, goal)
            starts[goal], _ = ours.reset(seed=7)
    benchmark = library.MT1(TASK, seed=metaworld.BENCHMARK_SEED)
    theirs = benchmark.train_classes[TASK]()
    for goal, start in starts.items():
        theirs.set_task(benchmark.train_tasks[goal])
        np.testing.assert_array_equal(theirs.reset()[0], start)
    assert not np.array_equal(starts[41][-3:], starts[3][-3:])
    assert np.abs(starts[41][-3:]).min() > 0  # the goal is visible
    file.write_text("[[0.1, 0.2")  # cut short: drawn anew
    metaworld.goal_vectors.cache_clear()
    np.testing.assert_array_equal(metaworld.make_env(TASK, 41).reset()[0], starts[41])
    metaworld.goal_vectors.cache_clear()


@pytest.mark.parametrize("task", ["reach-v3", "cheetah-vel:3", "ant-dir:1"])
def test_an_episode_does_not_depend_on_what_the_environment_did_before(task: str) -> None:
    goal, other = (40, 41) if build.kind(task) == "metaworld" else (0, 0)

    def episode(env, goal: int, seed: int, steps: int) -> np.ndarray:
        build.set_goal(env, task, goal)
        observation, _ = env.reset(seed=seed)
        seen = [observation]
        generator = np.random.default_rng(seed)
        for _ in range(steps):
            action = generator.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            observation, reward, *_ = env.step(action)
            seen += [observation, [reward]]
        return np.concatenate(seen)

    used, fresh = build.make_env(task, other), build.make_env(task, goal)
    episode(used, other, 1, 15)
    np.testing.assert_array_equal(episode(used, goal, 2, 6), episode(fresh, goal, 2, 6))


def test_spaces_match_the_environments_and_horizon_cuts_episodes() -> None:
    for task in ("reach-v3", "cheetah-dir:1", "ant-dir:49", "gym:Pendulum-v1"):
        env = build.make_env(task, 0, horizon=2)
        states, actions, horizon = build.spaces(task)
        observation, _ = env.reset(seed=0)
        assert observation.shape == env.observation_space.shape == (states,)
        assert env.action_space.shape == (actions,)
        still = np.zeros(actions, np.float32)
        assert not env.step(still)[3]
        assert env.step(still)[3]
        assert horizon in (200, 500)
        env.close()


def test_the_scripted_expert_reaches() -> None:
    env = metaworld.make_env(TASK, 40)
    observation, _ = env.reset()
    success = 0.0
    for _ in range(80):
        action = np.clip(metaworld.expert_action(TASK, observation), -1, 1)
        observation, _, _, _, info = env.step(action)
        success = max(success, info["success"])
    assert success == 1.0


def test_locomotion_rewards_and_splits() -> None:
    assert build.suite_tasks("cheetah-vel:test") == [f"cheetah-vel:{i}" for i in (2, 7, 15, 23, 26)]
    assert build.suite_tasks("ant-dir:test") == [f"ant-dir:{i}" for i in (6, 17, 23, 30, 41)]
    assert len(build.suite_tasks("cheetah-vel:train")) == 35
    assert build.suite_tasks("cheetah-dir:train") == build.suite_tasks("cheetah-dir:test")
    np.testing.assert_allclose([locomotion.target(f"cheetah-vel:{i}") for i in range(40)], np.linspace(0.075, 3, 40))
    assert locomotion.target("ant-dir:25") == 0.3471
    assert len(set(locomotion.ANT_DIRECTIONS)) == 49  # two of the fifty are the same to a thousandth
    assert 0 <= min(locomotion.ANT_DIRECTIONS) < max(locomotion.ANT_DIRECTIONS) < 2 * math.pi
    rewards = {}
    for task in ("cheetah-dir:0", "cheetah-dir:1", "cheetah-vel:9"):
        env = build.make_env(task, seed=1)
        env.reset(seed=1)
        before = env.unwrapped.data.qpos[0]
        action = np.linspace(-1, 1, 6, dtype=np.float32)
        observation, rewards[task], terminated, _, info = env.step(action)
        velocity = (env.unwrapped.data.qpos[0] - before) / 0.05
        assert info["velocity"] == pytest.approx(velocity)
        assert not terminated
        assert "success" not in info
        np.testing.assert_array_equal(observation[-3:], env.unwrapped.data.body("torso").xpos)
    control = 0.05 * float(np.square(action).sum())
    assert rewards["cheetah-dir:0"] == pytest.approx(velocity - control)
    assert rewards["cheetah-dir:1"] == pytest.approx(-velocity - control)
    assert rewards["cheetah-vel:9"] == pytest.approx(-abs(velocity - 0.75) - control)


def test_ant_is_paid_for_its_velocity_along_the_direction() -> None:
    env = build.make_env("ant-dir:10")
    env.reset(seed=3)
    before = env.unwrapped.data.body("torso").xpos[:2].copy()
    action = np.full(8, 0.5, np.float32)
    _, reward, _, _, info = env.step(action)
    moved = (env.unwrapped.data.body("torso").xpos[:2] - before) / env.unwrapped.dt
    angle = 5.4289
    along = float(moved @ [math.cos(angle), math.sin(angle)])
    assert reward == pytest.approx(along - 0.5 * 8 * 0.25 + info["reward_contact"] + 1.0)
    assert -0.05 < info["reward_contact"] <= 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: build.make_env("door-opn-v3"), "did you mean door-open-v3"),
        (lambda: build.make_env("door-open-v2"), "not a Meta-World v3 task"),
        (lambda: build.make_env("reach-v3", 50), "0 to 49"),
        (lambda: build.make_env("reach-v3", 0, horizon=501), "1 to 500"),
        (lambda: build.make_env("cheetah-vel:40"), "0 to 39"),
        (lambda: build.make_env("ant-dir:x"), "0 to 49"),
        (lambda: build.make_env("cheetah-vel:1", 3), "goal must be 0"),
        (lambda: build.make_env("walker-dir:1"), "unknown task"),
        (lambda: build.make_env("gym:NoSuch-v0"), "cannot make"),
        (lambda: build.make_env("gym:FrozenLake-v1"), "its observations are Discrete(16); policies read and give real"),
        (lambda: build.make_env("gym:Pendulum-v1?g"), "'g' is no NAME=VALUE"),
        (lambda: build.make_env("gym:Pendulum-v1?grav=2"), "cannot make 'Pendulum-v1'"),
        (lambda: build.suite_tasks("metaworld-mt7"), "metaworld-mt10"),
        (lambda: build.suite_tasks("ant-dir:all"), "0 to 49"),
    ],
)
def test_wrong_names_say_what_is_allowed(call, words: str) -> None:
    with pytest.raises(
        ManyoneError, match=words.replace("[", r"\[").replace("(", r"\(").replace(")", r"\)").replace("|", r"\|")
    ) as caught:
        call()
    assert "\n" not in str(caught.value)


class Reaching(gymnasium.Env):
    """Observations as Gymnasium-Robotics has them; solved when the goal is called."""

    observation_space = gymnasium.spaces.Dict(
        achieved_goal=gymnasium.spaces.Box(-1, 1, (2,), np.float32),
        desired_goal=gymnasium.spaces.Box(-1, 1, (2,), np.float32),
        observation=gymnasium.spaces.Box(-1, 1, (2, 2), np.float32),
        picture=gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8),
        deep=gymnasium.spaces.Dict(kind=gymnasium.spaces.Discrete(3)),
    )
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action):
        return self._seen(), 1.0, False, False, {"is_success": float(action[0] > 0)}

    def _seen(self):
        parts = {"achieved_goal": np.full(2, 1), "desired_goal": np.full(2, 2), "observation": np.full((2, 2), 3)}
        return parts | {"picture": np.zeros((4, 4, 3), np.uint8), "deep": {"kind": 1}}


@pytest.fixture
def reaching(monkeypatch):
    """The id of a registered environment with dictionary observations."""
    registered = dict(gymnasium.registry)
    gymnasium.register("Reaching-v0", Reaching, max_episode_steps=7)
    yield "Reaching-v0"
    gymnasium.registry.clear()
    gymnasium.registry.update(registered)
    build.spaces.cache_clear()


def test_a_task_s_name_has_keyword_arguments_as_json_where_they_are_no_text():
    env = build.make_env("gym:Pendulum-v1?g=2.5&max_episode_steps=9")
    assert (env.unwrapped.g, env.spec.max_episode_steps) == (2.5, 9)
    assert build.spaces("gym:Pendulum-v1?max_episode_steps=9")[2] == 9
    assert build.make_env("gym:Pendulum-v1?max_episode_steps=9", horizon=4).spec.max_episode_steps == 4
    kwargs = {"maze": [[1, "r"], [0, 1.5]], "word": "sparse", "number": "3", "yes": True, "odd": "a&b=c?"}
    task = build.gym_task("X-v0", ("a", "b/c"), kwargs)
    assert build.gym_parts(task) == ("X-v0", ("a", "b/c"), kwargs)
    assert "word=sparse&" in task


def test_of_discrete_actions_the_largest_number_is_done():
    import gymnasium

    own, raw = build.make_env("gym:CartPole-v1"), gymnasium.make("CartPole-v1")
    assert build.spaces("gym:CartPole-v1") == (4, 2, 500)
    assert (build.choices("gym:CartPole-v1"), build.choices("gym:Pendulum-v1"), build.choices("reach-v3")) == (2, 0, 0)
    assert [bound.tolist() for bound in build.bounds("gym:CartPole-v1")] == [[0, 0], [1, 1]]
    assert own.action_space.shape == (2,)
    np.testing.assert_array_equal(own.reset(seed=3)[0], raw.reset(seed=3)[0])
    for scores, choice in (([0.2, 0.7], 1), ([3, -1], 0), ([1, 1], 0), ([-2, -1], 1)):
        for mine, theirs in zip(own.step(np.float32(scores)), raw.step(choice), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_dictionary_observations_are_laid_out_by_the_keys_in_a_task_s_name(reaching):
    task = f"gym:{reaching}?keys=observation,desired_goal"
    env = build.make_env(task)
    assert build.spaces(task) == (6, 2, 7)
    assert env.observation_space.shape == (6,)
    assert env.reset()[0].tolist() == [3, 3, 3, 3, 2, 2]
    assert env.step(np.zeros(2))[0].tolist() == [3, 3, 3, 3, 2, 2]
    assert build.with_keys(f"gym:{reaching}", ("observation", "desired_goal")) == task
    assert build.with_keys("gym:Pendulum-v1", ("observation",)) == "gym:Pendulum-v1"
    for keys, message in (
        ("", "are a dictionary with achieved_goal, .*: choose by --keys"),
        ("?keys=picture", "are images .uint8, 4 x 4 x 3."),
        ("?keys=deep/kind", r"are Discrete\(3\)"),
        ("?keys=goal", "have no goal .it has achieved_goal, desired_goal, .*; choose others by --keys"),
    ):
        with pytest.raises(ManyoneError, match=rf"gym:Reaching-v0.*: its observations {message}"):
            build.make_env(f"gym:{reaching}{keys}")


def test_an_environment_that_a_file_names_is_made_only_as_it_is_registered_here(tmp_path, monkeypatch, reaching):
    (tmp_path / "named_by_a_file.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    record = {"id": "Ant-v5", "entry_point": "named_by_a_file:Env", "kwargs": {}, "max_episode_steps": 1000}
    assert build.recorded_task(record, "d") == "gym:Ant-v5"
    more = {"kwargs": {"healthy_reward": 0.5, "kind": "sparse"}, "max_episode_steps": 300}
    task = build.recorded_task(record | more, "d")
    assert task == "gym:Ant-v5?healthy_reward=0.5&kind=sparse&max_episode_steps=300"
    for odd, message in (
        ({"id": "named_by_a_file:Env-v0"}, "'named_by_a_file:Env-v0' is not registered"),
        ({"additional_wrappers": [{"name": "W", "entry_point": "named_by_a_file:W"}]}, "has wrappers of its own"),
        ({"kwargs": {"xml_file": "/etc/passwd"}}, "has xml_file = '/etc/passwd', which is not taken"),
        ({"kwargs": {"deep": [{"a": "../x"}]}}, "has deep = .*, which is not taken"),
    ):
        with pytest.raises(ManyoneError, match=f"d: its environment .*{message}.*; give the environment yourself"):
            build.recorded_task(record | odd, "d")
    assert build.named_task("door-open-v3", "d") == "door-open-v3"
    assert build.named_task("some data", "d") is None
    assert build.named_task("gym:Ant-v5?healthy_reward=2", "d") == "gym:Ant-v5?healthy_reward=2"
    with pytest.raises(ManyoneError, match="not registered"):
        build.named_task("gym:named_by_a_file:Env-v0", "d")
    assert "named_by_a_file" not in sys.modules
