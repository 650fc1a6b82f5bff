"""What a policy's scores are compared with: random actions, what the data show, and the expert of a known reference.

Public names: :func:`keep_points`, :func:`points_of_play`, :func:`points_of_errors`, :func:`what_counts`,
:class:`MeanActions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.fabric import is_writer
from manyone.engine.run import RunFolder
from manyone.evaluation.chance import RandomActions
from manyone.evaluation.rollouts import BatchedPolicy, Episode, EpisodeResult
from manyone.policies.recipes.problem import PolicyProblem
from manyone.recipes.references import Reference, has_references, keep_references

EPISODES = 3
"""Episodes a task that random actions are played in; all of them last to the end."""
Play = Callable[[BatchedPolicy, Sequence[Episode]], list[EpisodeResult]]
Errors = Callable[[Any], dict[str, float]]
Score = Callable[[Sequence[EpisodeResult]], dict[str, float]]


class MeanActions:
    """The mean action of each task's data, whatever is seen: what errors of actions are compared with."""

    def __init__(self, data: Sequence[Trajectories]) -> None:
        width = max(one.action_dim for one in data)
        self.means = {one.name: np.pad(one.actions.mean(0), (0, width - one.action_dim)) for one in data}

    def start(self, episodes: Sequence[Any]) -> None:
        self.actions = np.stack([self.means[one.task] for one in episodes])

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return self.actions[slots]

    def reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        pass

    def took(self, slots: np.ndarray, actions: np.ndarray) -> None:
        """What was done instead; it changes nothing."""


def keep_points(folder: RunFolder, make_points: Callable[[], list[Reference]]) -> None:
    """Keeps the points in the run, once."""
    if is_writer() and not has_references(folder):
        keep_references(folder, make_points())


def points_of_play(
    problem: PolicyProblem,
    episodes: Sequence[Episode],
    play: Play,
    score: Score,
    references: Mapping[str, tuple[float, float]],
    *,
    to_success: bool,
) -> list[Reference]:
    """Random actions, the data, and where all tasks have ``references`` their expert.

    ``score``: the metrics of played episodes. ``to_success``: whether evaluation ends episodes at the first success;
    their returns are then not those of the data.
    """
    known = [references[task] for task in problem.tasks if task in references]
    ends = len(known) == len(problem.tasks)
    found = []
    if ends:
        found.append(Reference("random policy", _known(problem.tasks, references, 0), "from"))
    else:
        own = [one for one in episodes if one.index < EPISODES and one.task in problem.tasks]
        found.append(Reference("random policy", what_counts(score(play(RandomActions(), own))), "from"))
    if behaviour := _behaviour(problem.data, references if ends else {}, to_success):
        found.append(Reference("the data's behaviour", behaviour, "" if ends else "to"))
    if ends:
        found.append(Reference("expert", _known(problem.tasks, references, 1), "to"))
    return found


def points_of_errors(problem: PolicyProblem, errors: Errors) -> list[Reference]:
    """The mean action of each task."""
    return [Reference("mean action of the data", errors(MeanActions(problem.data)), "from")]


def what_counts(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those metrics that say how good a policy is, the one that counts first."""
    heads = ("success", "normalised", "return", "action_error")
    names = [n for head in heads for n in metrics if n == head or n.startswith(f"{head}/")]
    return {name: metrics[name] for name in names}


def _known(tasks: Sequence[str], references: Mapping[str, tuple[float, float]], end: int) -> dict[str, float]:
    """Normalised score and return of a random (0) or an expert policy (1)."""
    returns = {task: references[task][end] for task in tasks}
    found = {"normalised": float(end)} | {f"normalised/{task}": float(end) for task in tasks}
    return found | _with_mean("return", returns)


def _behaviour(
    data: Sequence[Trajectories], references: Mapping[str, tuple[float, float]], to_success: bool
) -> dict[str, float]:
    """Success, normalised score and return of the episodes in the data, task by task and on average."""
    successes = {one.name: float(one.successes.mean()) for one in data if one.successes is not None}
    flagged = len(successes) == len(data)
    found = _with_mean("success", successes) if flagged else {}
    if flagged and to_success:
        return found
    returns = {one.name: float(one.returns.mean()) for one in data}
    if not all(math.isfinite(value) for value in returns.values()):
        return found
    if references:
        scores = {t: (r - references[t][0]) / (references[t][1] - references[t][0]) for t, r in returns.items()}
        found |= _with_mean("normalised", scores)
    return found | _with_mean("return", returns)


def _with_mean(name: str, each: Mapping[str, float]) -> dict[str, float]:
    return {name: sum(each.values()) / len(each)} | {f"{name}/{task}": value for task, value in each.items()}
