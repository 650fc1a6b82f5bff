"""What policies are compared with: chance, the data and known experts, in the metrics' own names."""

import numpy as np
import pytest

from manyone.data.trajectories.trajectories import Trajectories
from manyone.evaluation.chance import RandomActions
from manyone.evaluation.rollouts import Episode, EpisodeResult, paired_episodes
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.recipes.references import MeanActions, points_of_play, what_counts


def data(name, returns, successes=None):
    episodes = [{"observations": np.zeros((2, 3)), "actions": np.full((2, 2), r), "rewards": [0.0, r]} for r in returns]
    if successes is not None:
        episodes = [one | {"success": flag} for one, flag in zip(episodes, successes)]
    return Trajectories.from_episodes(name, episodes)


TASKS = ["point-robot:2", "point-robot:7"]


def points(problem, references, *, to_success=False):
    played = []

    def play(policy, episodes):
        played.extend(episodes)
        return [EpisodeResult(one, -5.0, None, None, 3) for one in episodes]

    def score(results):
        return {"episode_length": 3.0, "return": float(np.mean([one.return_ for one in results]))}

    found = points_of_play(problem, paired_episodes(TASKS, 5), play, score, references, to_success=to_success)
    return {one.name: one for one in found}, played


def test_without_references_random_actions_are_played_a_few_times():
    problem = PolicyProblem("own", (data(TASKS[0], [1.0, 3.0]), data(TASKS[1], [4.0])))
    found, played = points(problem, {})
    assert len(played) == 2 * 3
    assert found["random policy"].metrics == {"return": -5.0}
    assert found["random policy"].end == "from"
    behaviour = found["the data's behaviour"]
    assert (behaviour.metrics["return"], behaviour.metrics[f"return/{TASKS[0]}"], behaviour.end) == (3.0, 2.0, "to")


def test_known_references_are_the_ends_and_nothing_is_played():
    problem = PolicyProblem("own", (data(TASKS[0], [1.0, 3.0]), data(TASKS[1], [4.0])))
    found, played = points(problem, dict.fromkeys(TASKS, (0.0, 8.0)))
    assert played == []
    assert {name: (one.metrics["normalised"], one.end) for name, one in found.items()} == {
        "random policy": (0.0, "from"), "the data's behaviour": (0.375, ""), "expert": (1.0, "to"),
    }  # fmt: skip
    assert found["expert"].metrics["return"] == 8.0


def test_returns_up_to_a_success_are_not_those_of_the_data():
    problem = PolicyProblem("own", tuple(data(name, [1.0, 2.0], [True, False]) for name in TASKS))
    found, _ = points(problem, {}, to_success=True)
    assert found["the data's behaviour"].metrics == {"success": 0.5} | {f"success/{name}": 0.5 for name in TASKS}
    found, _ = points(problem, {})
    assert next(iter(found["the data's behaviour"].metrics)) == "success"
    assert found["the data's behaviour"].metrics["return"] == 1.5


def test_what_counts_comes_first():
    metrics = {"return/a": 1.0, "return": 2.0, "episode_length": 3.0, "success": 0.5, "normalised": 0.1}
    assert list(what_counts(metrics)) == ["success", "normalised", "return/a", "return"]


def test_random_actions_lie_within_the_bounds_whoever_else_plays():
    def played(slots):
        policy = RandomActions()
        policy.start([Episode(name, k) for name in TASKS for k in range(2)])
        return policy.act(np.array(slots), np.zeros((len(slots), 3)))

    whole = played([0, 1, 2, 3])
    assert whole.dtype == np.float32
    assert np.abs(whole).max() <= 1
    assert len(np.unique(whole)) == whole.size
    np.testing.assert_array_equal(played([1, 3]), whole[[1, 3]])


def test_mean_actions_are_each_task_s():
    policy = MeanActions([data("a", [1.0, 3.0]), data("b", [4.0])])
    policy.start([Episode("b"), Episode("a")])
    np.testing.assert_array_equal(policy.act(np.array([0, 1]), np.zeros((2, 3))), [[4, 4], [2, 2]])
    policy.reward(np.array([0]), np.array([1.0]))
    policy.took(np.array([0]), np.zeros((1, 2)))


@pytest.mark.parametrize("unbounded", [True, False])
def test_unbounded_actions_are_drawn_from_minus_one_to_one(monkeypatch, unbounded):
    end = np.full(2, np.inf if unbounded else 3.0, np.float32)
    monkeypatch.setattr("manyone.evaluation.chance.make.bounds", lambda task: (-end, end))
    policy = RandomActions()
    policy.start([Episode("a", k) for k in range(50)])
    drawn = np.abs(policy.act(np.arange(50), np.zeros((50, 1)))).max()
    assert drawn <= 1 if unbounded else 2 < drawn <= 3
