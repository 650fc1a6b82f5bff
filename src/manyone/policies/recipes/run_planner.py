"""How a planner's sequence of tasks runs: data, the loop with a score of every task after each, artefact, figures."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from manyone.claims.figure import Figure, image_of, save_figures
from manyone.engine.artefact import made_of
from manyone.engine.devices import one_thread_below
from manyone.engine.inputs import check_inputs
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.envs.single import make
from manyone.envs.single.collect import set_tasks
from manyone.errors import ManyoneError
from manyone.evaluation.scores import summarise
from manyone.policies.artefact import read_policy
from manyone.policies.recipes.figures_planner import SECTION, run_figures
from manyone.policies.recipes.needs import offline_name, state_of
from manyone.policies.recipes.options_planner import PlannerOptions
from manyone.policies.recipes.problem import PolicyProblem, load_problem
from manyone.policies.recipes.references import keep_points
from manyone.policies.recipes.run import ActionErrors, Evaluator, normalised, record_videos
from manyone.policies.tasks import label, slug
from manyone.policies.vqcd.learner import PlannerLearner
from manyone.recipes.options import Split
from manyone.recipes.running import percent, print_table, restore
from manyone.report.record import FIGURES

Build = Callable[..., PlannerLearner]
EVAL_OPTIONS = ("episodes", "seed", "horizon", "target_return")
"""Options of ``manyone eval`` that :func:`evaluate` takes."""
EARLIER = "played"
"""Entry of a model's info: task -> steps of an episode and, where known, the returns that scores count from and to."""
_NARROW = 512  # networks below this width compute faster with one thread


def run(options: PlannerOptions, build: Build, folder: RunFolder) -> None:
    """Data, loop, scores, artefact, figures and, if asked for, films."""
    one_thread_below(_NARROW, options.width)
    problem = ordered(load_problem(options), options.order)
    scores = scores_of(problem, options)
    with scores:
        learner = build(options, problem, scores)
        learner.info[EARLIER] = scores.played
        if options.suite is None:
            check_inputs(folder, problem.digests())
            for one in problem.data:
                print(f"data of {one.name}: {one.summary()}", file=sys.stderr)
        if options.alignment == "auto" and options.policy is None:
            print(_said(learner), file=sys.stderr)
        keep_points(folder, partial(scores.points, problem))
        train(
            learner,
            folder,
            steps=learner.total,
            evaluate_every=evaluation_steps(options, learner),
            checkpoint_every=options.checkpoint_every,
            loggers=options.logger,
            log_every=max(1, learner.total // 1000),
        )
        scores.save(folder)
    print_matrix(learner)
    policy = learner.policy_of(range(learner.tasks))
    if options.video:
        record_videos(folder, policy, problem)
    figures = run_figures(learner, policy, problem if options.simulator else None, options.seed)
    save_figures(folder.path / FIGURES, [*figures, *_films(folder, problem, options.video)])
    print(f"exported: {folder.path / 'model'}")


def evaluate(
    options: PlannerOptions,
    build: Build,
    folder: RunFolder,
    split: Split,
    *,
    episodes: int | None = None,
    seed: int = 0,
    horizon: int | None = None,
    target_return: Sequence[float] = (),
) -> Mapping[str, float] | list[dict[str, float]]:
    """Scores of the newest weights in all tasks learned so far, or of a run that stopped within a task in this alone.

    The options are those of other policies.
    """
    problem = ordered(load_problem(options), options.order)
    if options.suite is None:
        check_inputs(folder, problem.digests())
    learner = build(options, problem)
    if problem.held_out and (seed or horizon or target_return):
        raise ManyoneError("--seed, --horizon and --target-return are for environments: this run has none to act in")
    restore(learner, folder)
    if not learner.scored():
        raise ManyoneError(f"{folder.path} has not learned its first task yet: manyone resume {folder.path}")
    if horizon is not None:
        problem = replace(problem, horizon=horizon)
        problem.warn_of_time()
    options = replace(options, eval_episodes=episodes or options.eval_episodes)
    with scores_of(problem, options, split, seed) as scores:
        if isinstance(scores, SequenceScores) and target_return:
            return [{"target": target} | scores.at_target(learner, target) for target in target_return]
        return scores(learner)


class SequenceScores(Evaluator):
    """Plays the tasks that a learner is to be scored in; ``played``: what a model remembers of its tasks' episodes."""

    played: dict[str, Any]

    def __call__(self, learner: Any) -> dict[str, float]:
        """Success and return with their intervals, and of each task."""
        self.results = self.play(learner.policy(), tasks=learner.scored())
        metrics = summarise(self.results).as_metrics()
        return metrics | normalised(metrics, self.references) | learner.effort()

    def at_target(self, learner: Any, target: float) -> dict[str, float]:
        """As the base's, of the tasks learned so far."""
        metrics = summarise(self.play(learner.policy(), target, learner.scored())).as_metrics()
        return metrics | normalised(metrics, self.references)


class SequenceErrors(ActionErrors):
    """Action errors of the tasks learned so far, where there is no environment."""

    played: dict[str, Any]

    def __call__(self, learner: Any) -> dict[str, float]:
        """``action_error``, the mean over the tasks learned so far, and that of each."""
        known = set(learner.scored())
        return self.errors(learner.policy(), [one for one in self.data if one.name in known])


def scores_of(
    problem: PolicyProblem, options: PlannerOptions, split: Split = "test", seed: int = 0
) -> SequenceScores | SequenceErrors:
    """What ``options`` ask for: episodes in all environments, those of an earlier model too, or actions' errors."""
    if problem.held_out:
        errors = SequenceErrors(problem, options.eval_episodes, split)
        errors.played = {}
        return errors
    references = problem.references(options.reference)
    played: dict[str, Any] = {}
    if options.policy is not None:
        played |= _earlier(options.policy)
    for task, steps in problem.horizons.items():
        played[task] = {"horizon": steps, "reference": list(references[task]) if task in references else None}
    references |= {task: (one["reference"][0], one["reference"][1]) for task, one in played.items() if one["reference"]}
    found = SequenceScores(
        list(played),
        horizon={task: int(one["horizon"]) for task, one in played.items()},
        episodes=options.eval_episodes,
        stop_at_success=not options.full_episodes,
        workers=options.workers,
        split=split,
        seed=seed,
        references=references,
    )
    found.played = played
    return found


def _earlier(place: Path) -> dict[str, Any]:
    """What the model in ``place`` remembers of its tasks' episodes, checked."""
    saved, found = read_policy(place), {}
    with made_of(place):
        for task, one in saved.info.get(EARLIER, {}).items():
            horizon, pair = one["horizon"], one["reference"]
            known = pair is None or (len(pair) == 2 and all(map(math.isfinite, pair)))
            if task not in saved.table.names or type(horizon) is not int or horizon < 1 or not known:
                raise ValueError(f"episodes of {task}: {one}")
            found[task] = {"horizon": horizon, "reference": pair}
    return found


def ordered(problem: PolicyProblem, order: Sequence[str]) -> PolicyProblem:
    """The tasks of ``problem`` in another ``order``, all or some, by their names or short ones (hopper)."""
    by_name = {one.name: one for one in problem.data}
    return replace(problem, data=tuple(by_name[name] for name in in_order(list(by_name), order)))


def in_order(tasks: Sequence[str], order: Sequence[str]) -> list[str]:
    """Those of ``tasks`` that ``order`` names, in its order; all as they are where it is empty."""
    short = {label(name): name for name in tasks} | {
        k: v for k, v in (make.BODIES | make.LINEAR_BODIES).items() if v in tasks
    }
    wanted = [short.get(name, name) for name in order]
    for given, name in zip(order, wanted):
        if name not in tasks:
            raise ManyoneError(f"--order {given}: must be one of {', '.join(short)}")
    return wanted or list(tasks)


def evaluation_steps(options: PlannerOptions, learner: PlannerLearner) -> int:
    """Steps between evaluations: those of a task, or a divisor of them."""
    every = learner.every
    if options.evaluate_every and every % options.evaluate_every:
        what = f"a divisor of the {every} steps of a task" + (", alignments included" if learner.spaces.steps else "")
        raise ManyoneError(f"--evaluate-every {options.evaluate_every}: must be {what}")
    return options.evaluate_every or every


def _said(learner: PlannerLearner) -> str:
    if learner.spaces.kind == "none":
        return "all tasks have the same spaces: their own states are planned (--alignment vq aligns them all the same)"
    states, actions = learner.spaces.widths
    return f"spaces differ: states are aligned to {states} entries and actions to {actions} ({learner.spaces.kind})"


def print_matrix(learner: Any) -> None:
    """One line a task: its score after each task of the sequence, for people."""
    scores, names = learner.scores(), learner.table.names
    if not any(value is not None for row in scores for value in row):
        return
    shown = [[_cell(value, learner.scored_by) for value in row] for row in scores]
    ends = [row[-1] for row in scores if row[-1] is not None]
    rows = [(name, *row) for name, row in zip(names, shown)]
    last = ["mean", *[""] * (len(names) - 1), _cell(sum(ends) / len(ends) if ends else None, learner.scored_by)]
    print_table((f"{learner.scored_by} of", *(f"after {label(name)}" for name in names)), rows, last)


def _cell(value: float | None, what: str) -> str:
    if what in ("success", "normalised"):
        return percent(value)
    return "–" if value is None else f"{value:.4g}"


def _films(folder: RunFolder, problem: PolicyProblem, wanted: bool) -> list[Figure]:
    if not wanted:
        return []
    found = []
    for task in problem.tasks:
        path = folder.path / "videos" / f"{slug(task)}.gif"
        found.append(Figure("image", f"film of {label(task)}", {"data": image_of(path)}, "One evaluation episode.",
                            SECTION))  # fmt: skip
    return found


def plan(options: PlannerOptions, build: Build, folder: RunFolder) -> list[str]:
    """The sequence of tasks and the length of each; nothing is made for it."""
    wanted = offline_name(options)
    if wanted is None:
        lines = [f"{folder.recipe} on own data, in this order: {', '.join(options.data)}"]
    else:
        names = ", ".join(map(label, in_order(set_tasks(wanted), options.order)))
        lines = [f"{folder.recipe} on {wanted}, in this order: {names}", f"data: {state_of(wanted)}"]
    if options.policy is not None:
        lines.append(f"learned besides what {options.policy} knows")
    return [
        *lines,
        f"a task: {options.align_steps} steps of its alignments, where spaces differ, then {options.steps} steps of "
        f"{options.batch_size} windows",
        f"after each task: {options.eval_episodes} evaluation episodes of every task so far",
    ]
