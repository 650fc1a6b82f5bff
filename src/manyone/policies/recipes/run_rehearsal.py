"""How cloning with rehearsal runs: data, the loop with a score of every task so far after each task, the artefact."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from manyone.engine.inputs import check_inputs
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.policies.baselines.rehearsal import RehearsalLearner
from manyone.policies.recipes.needs import offline_name, state_of
from manyone.policies.recipes.options_rehearsal import RehearsalOptions
from manyone.policies.recipes.problem import PolicyProblem, load_problem
from manyone.policies.recipes.references import keep_points
from manyone.policies.recipes.run import ActionErrors, Evaluator, evaluator_of, record_videos
from manyone.policies.recipes.run_planner import SequenceErrors, SequenceScores, ordered, print_matrix
from manyone.recipes.options import Split
from manyone.recipes.running import restore

Build = Callable[..., RehearsalLearner]
EVAL_OPTIONS = ("episodes", "seed", "horizon")
"""Options of ``manyone eval`` that :func:`evaluate` takes."""


def run(options: RehearsalOptions, build: Build, folder: RunFolder) -> None:
    """Data, loop, scores, artefact and, if asked for, films."""
    _check(options)
    problem = ordered(load_problem(options), options.order)
    with scores_of(problem, options) as scores:
        learner = build(options, problem, scores)
        if options.suite is None:
            check_inputs(folder, problem.digests())
            for one in problem.data:
                print(f"data of {one.name}: {one.summary()}", file=sys.stderr)
        keep_points(folder, partial(scores.points, problem))
        train(
            learner,
            folder,
            steps=learner.total,
            evaluate_every=options.evaluate_every or learner.every,
            checkpoint_every=options.checkpoint_every,
            loggers=options.logger,
            log_every=max(1, learner.total // 1000),
        )
        scores.save(folder)
    print_matrix(learner)
    if options.video:
        record_videos(folder, learner.policy(), problem)


def plan(options: RehearsalOptions, build: Build, folder: RunFolder) -> list[str]:
    """The sequence of tasks and the length of each; nothing is made for it."""
    _check(options)
    wanted = offline_name(options)
    order = ", ".join(options.order) or "as they come"
    return [
        f"{folder.recipe} on {wanted or ', '.join(options.data)}, in this order: {order}",
        f"data: {'your own' if wanted is None else state_of(wanted)}",
        f"a task: {options.steps} steps of {options.batch_size} pairs, then every task so far is scored",
    ]


def _check(options: RehearsalOptions) -> None:
    if options.evaluate_every and options.steps % options.evaluate_every:
        allowed = f"a divisor of --steps {options.steps}"
        raise ManyoneError(f"--evaluate-every {options.evaluate_every}: must be {allowed}")


def evaluate(
    options: RehearsalOptions,
    build: Build,
    folder: RunFolder,
    split: Split,
    *,
    episodes: int | None = None,
    seed: int = 0,
    horizon: int | None = None,
) -> Mapping[str, float]:
    """Scores of the newest weights in all tasks learned so far; the options are those of other policies."""
    problem = ordered(load_problem(options), options.order)
    if options.suite is None:
        check_inputs(folder, problem.digests())
    learner = build(options, problem)
    if problem.held_out and (seed or horizon):
        raise ManyoneError("--seed and --horizon are for environments: this run has none to act in")
    restore(learner, folder)
    if learner.learned == 0:
        raise ManyoneError(f"{folder.path} has not learned its first task yet: manyone resume {folder.path}")
    if horizon is not None:
        problem = replace(problem, horizon=horizon)
        problem.warn_of_time()
    options = replace(options, eval_episodes=episodes or options.eval_episodes)
    with scores_of(problem, options, split, seed) as scores:
        return scores(learner)


def scores_of(
    problem: PolicyProblem, options: RehearsalOptions, split: Split = "test", seed: int = 0
) -> Evaluator | ActionErrors:
    """What ``options`` ask for, of the tasks learned so far."""
    return evaluator_of(problem, options, split, seed, plays=SequenceScores, compares=SequenceErrors)
