"""What alignments lose, kind by kind, before any planner is trained: the acceptance test of aligned spaces.

Every arm is the recipe vq-cd with another alignment; :func:`learn_alignments` trains its alignments, as the command
does before its planner, and nothing else. :func:`errors` says how closely states and actions come back, which codes
are used and how far the tasks' aligned vectors lie apart; :func:`played` lets shipped experts act through them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyone.evaluation.rollouts import BatchedPolicy, EpisodeResult
from manyone.evaluation.scores import return_by_task
from manyone.policies.recipes.run import normalised
from manyone.policies.tasks import label
from manyone.policies.vqcd.fidelity import WAYS, ThroughAlignments, Way, expert_of, mean_difference
from manyone.policies.vqcd.learner import PlannerLearner

KINDS: dict[str, Mapping[str, Any]] = {
    "vq": {"alignment": "vq"},
    "vq-64": {"alignment": "vq", "codes": 64},
    "vq-uniform": {"alignment": "vq", "code_init": "uniform"},
    "fsq": {"alignment": "fsq"},
    "ae": {"alignment": "ae"},
    "vae": {"alignment": "vae"},
    "padding": {"alignment": "padding"},
}
"""What differs in the options of vq-cd: the paper's, few codes, the start that kills codes, and other kinds."""
Play = Callable[[BatchedPolicy], Sequence[EpisodeResult]]


def learn_alignments(learner: PlannerLearner) -> None:
    """All steps of the alignments of all tasks; the planner stays untrained."""
    for task in range(learner.first, learner.tasks):
        for _ in range(learner.spaces.steps):
            learner.spaces.step(task)


def errors(learner: PlannerLearner) -> dict[str, float]:
    """``state_mse``, ``state_codes_used``, ``state_perplexity``, ``state_difference`` and those of actions.

    Means over tasks, and each task's behind a slash; differences are over pairs of tasks.
    """
    found: dict[str, float] = {}
    tasks = range(learner.first, learner.tasks)
    reports = {learner.table.names[task]: learner.spaces.report(task) for task in tasks}
    aligned = [learner.spaces.aligned(task) for task in tasks]
    for word, what, vectors in (
        ("state", "states", [one.states for one in aligned]),
        ("action", "actions", [one.actions for one in aligned]),
    ):
        for key in next(iter(reports.values()))[what]:
            each = {name: report[what][key] for name, report in reports.items()}
            found[f"{word}_{key}"] = sum(each.values()) / len(each)
            found |= {f"{word}_{key}/{label(name)}": value for name, value in each.items()}
        if len(vectors) > 1:
            found[f"{word}_difference"] = mean_difference(vectors)
    return found


def played(
    learner: PlannerLearner, play: Play, references: Mapping[str, tuple[float, float]], ways: Sequence[Way] = WAYS
) -> dict[Way, dict[str, float]]:
    """What the shipped experts of all tasks score in each of ``ways``: normalised by ``references``, by task.

    ``play`` plays all tasks' evaluation episodes (:class:`~manyone.policies.recipes.run.Evaluator`).
    """
    names = learner.table.names
    experts = {name: found for name in names if (found := expert_of(name)) is not None}
    scores: dict[Way, dict[str, float]] = {}
    for way in ways:
        results = play(ThroughAlignments(experts, learner.table, learner.spaces.pairs, way))
        returns = {f"return/{task}": value for task, value in return_by_task(results).items()}
        own = normalised(returns, references)
        scores[way] = {label(name): own[f"normalised/{name}"] for name in names}
    return scores
