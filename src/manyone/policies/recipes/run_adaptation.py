"""How recipes run that adapt a frozen policy to new tasks: the policy, the few episodes, the loop, scores, artefact.

Without ``--policy`` the policy is trained first, in a stage of the run: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from manyone.claims.figure import save_figures
from manyone.engine.inputs import check_inputs
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.policies.best import Best, best_state
from manyone.policies.prompt_diffuser.prompts import FewShots
from manyone.policies.protocol import PolicyTrainer
from manyone.policies.recipes.adaptation import (
    AdaptationProblem,
    load_adaptation,
    plan_of_adaptation,
    trained_policy,
    with_policy,
)
from manyone.policies.recipes.options_prompt import AdaptationOptions
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.recipes.references import keep_points, what_counts
from manyone.policies.recipes.run import EVAL_OPTIONS, ActionErrors, Evaluator, evaluator_of, record_videos, scored
from manyone.policies.tasks import label
from manyone.recipes.options import Split
from manyone.recipes.references import Reference
from manyone.report.record import FIGURES


class Adaptation(PolicyTrainer, Protocol):
    """A policy's learner that adapts to the tasks of ``shots``."""

    shots: FewShots

    @property
    def total(self) -> int:
        """Steps that it takes in all."""


Build = Callable[..., Adaptation]
__all__ = ["EVAL_OPTIONS", "evaluate", "plan", "run"]


def run(options: AdaptationOptions, build: Build, folder: RunFolder) -> None:
    """Policy, data, loop, scores before and after, artefact, figures and, if asked for, films."""
    problem = load_adaptation(options)
    with evaluator_of(problem.new, options) as evaluator:
        _check_inputs(options, problem, folder)
        problem = with_policy(options, problem, folder)
        learner = build(options, problem, evaluator)
        for one in problem.new.data:
            print(f"few episodes of {one.name}: {one.summary()}", file=sys.stderr)
        print(_statistics(learner.shots), file=sys.stderr)
        keep_points(folder, partial(_points, learner, evaluator, problem.new))
        final = train(
            Best(learner, folder) if options.evaluate_every else learner,
            folder,
            steps=learner.total,
            evaluate_every=options.evaluate_every,
            checkpoint_every=options.checkpoint_every,
            loggers=options.logger,
            log_every=max(1, learner.total // 1000),
        )
        evaluator.save(folder)
        evaluator.print(final)
    if (best := best_state(folder)) is not None:
        print(f"exported: {best}" + "; the table is of the last" * (best.step < learner.total))
    policy = learner.policy()
    save_figures(folder.path / FIGURES, learner.figures(policy, _history(folder)))
    if options.video:
        record_videos(folder, policy, problem.new)


def evaluate(
    options: AdaptationOptions,
    build: Build,
    folder: RunFolder,
    split: Split,
    *,
    episodes: int | None = None,
    seed: int = 0,
    horizon: int | None = None,
    target_return: Sequence[float] = (),
) -> Mapping[str, float] | list[dict[str, float]]:
    """Scores on the new tasks of the exported weights, the best or the newest; options as for other policies."""
    problem = load_adaptation(options)
    _check_inputs(options, problem, folder)
    problem = trained_policy(options, problem, folder)
    learner = build(options, problem)
    return scored(learner, problem.new, options, folder, split, episodes, seed, horizon, target_return)


class _Before:
    """A learner whose policy is the one before the adaptation."""

    def __init__(self, learner: PolicyTrainer) -> None:
        self.learner = learner
        self.effort, self.sizes = learner.effort, learner.sizes

    def policy(self) -> Any:
        """What acts with the prompts of the pool and the frozen weights."""
        return self.learner.policy("before")


def _points(learner: Adaptation, evaluator: Evaluator | ActionErrors, new: PolicyProblem) -> list[Reference]:
    """What every policy is compared with, and this one before its adaptation, from where the way is measured."""
    before: Any = _Before(learner)
    begun = Reference("before the adaptation", what_counts(evaluator(before)), "from")
    return [begun, *(replace(one, end="" if one.end == "from" else one.end) for one in evaluator.points(new))]


def plan(options: AdaptationOptions, build: Build, folder: RunFolder) -> list[str]:
    """Policy, tasks and length; nothing is made for it."""
    length = f"{options.steps} steps; {options.eval_episodes} evaluation episodes a task"
    return [folder.recipe, *plan_of_adaptation(options), length]


def _statistics(shots: FewShots) -> str:
    """Where each new task's statistics of states come from, in a line."""
    tasks = defaultdict(list)
    for task, origin in shots.statistics.items():
        tasks[origin].append(label(task))
    return "states are standardised by " + "; by ".join(f"{k} in {', '.join(v)}" for k, v in tasks.items())


def _history(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """What the steps have measured: metric -> (step, value)."""
    history: dict[str, list[tuple[int, float]]] = {}
    for line in folder.metrics():
        if line["kind"] == "train":
            for name, value in line.items():
                if isinstance(value, (int, float)) and name not in ("step", "time"):
                    history.setdefault(name, []).append((int(line["step"]), float(value)))
    return history


def _check_inputs(options: AdaptationOptions, problem: AdaptationProblem, folder: RunFolder) -> None:
    """Own files may have changed since the run began."""
    if own := problem.digests(options):
        check_inputs(folder, own)
