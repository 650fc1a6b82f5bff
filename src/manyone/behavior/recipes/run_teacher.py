"""How a teacher is trained: one data set in, a policy and its critics out, scored in the environment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from manyone.behavior.artefact import Frame
from manyone.behavior.data import BehaviorData
from manyone.behavior.evaluate import Evaluator
from manyone.behavior.recipes.options import TeacherOptions
from manyone.behavior.recipes.problem import exported, load_problem, plan_of_data
from manyone.behavior.recipes.references import keep_points, points_of
from manyone.behavior.teachers.artefact import SavedTeacher, read_teacher
from manyone.behavior.teachers.calibration import CalibrationPolicy
from manyone.behavior.teachers.learner import TeacherLearner
from manyone.engine.devices import one_thread_below
from manyone.engine.inputs import check_inputs
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.options import Split
from manyone.recipes.running import percent, print_table

Build = Callable[..., TeacherLearner]
EVAL_OPTIONS = ("episodes", "seed", "horizon")
"""Options of ``manyone eval`` that :func:`evaluate` takes."""


def run(options: TeacherOptions, build: Build, folder: RunFolder) -> None:
    """Data, training, scores, artefact."""
    one_thread_below(256, options.width)
    problem = load_problem(options)
    if len(problem.data) != 1:
        names = ", ".join(one.name for one in problem.data)
        raise ManyoneError(f"{folder.recipe} trains on one data set, here are {names}: run it once for each")
    (data,) = problem.data
    with ExitStack() as stack:
        evaluator = None
        if data.environment is not None:
            own = Evaluator(Frame.of(data), episodes=options.eval_episodes, students=1, workers=options.workers)
            evaluator = stack.enter_context(own)

        def scores(learner: TeacherLearner) -> Mapping[str, float]:
            saved = learner.saved()
            return {} if evaluator is None else scores_of(saved, evaluator, options.discount)

        learner = build(options, data, scores)
        check_inputs(folder, problem.digests())  # the first thing that is written: what is refused leaves no folder
        print(f"data of {data.name}: {problem.trajectories[0].summary()}", file=sys.stderr)
        if evaluator is not None:
            keep_points(folder, points_of(evaluator, data))
        final = train(
            learner,
            folder,
            steps=options.steps,
            evaluate_every=options.evaluate_every,
            checkpoint_every=options.checkpoint_every,
            loggers=options.logger,
            log_every=max(1, options.steps // 1000),
        )
    _print(data, folder.recipe, final)
    print(f"teacher: {folder.path / 'model'}")


def evaluate(
    options: TeacherOptions,
    build: Build,
    folder: RunFolder,
    split: Split,
    *,
    episodes: int | None = None,
    seed: int = 0,
    horizon: int | None = None,
) -> Mapping[str, float]:
    """Scores of the exported policy; other starts for another ``seed``."""
    saved = read_teacher(exported(folder, split))
    frame = replace(saved.frame, horizon=horizon or saved.frame.horizon)
    with Evaluator(frame, episodes=episodes or options.eval_episodes, students=1, seed=seed,
                   workers=options.workers) as evaluator:  # fmt: skip
        return scores_of(replace(saved, frame=frame), evaluator, options.discount)


def scores_of(saved: SavedTeacher, evaluator: Evaluator, discount: float) -> dict[str, float]:
    """How a teacher acts, and whether its values are the returns of what it does."""
    policy = CalibrationPolicy(saved.teacher, saved.frame, discount)
    return evaluator.play(policy).metrics() | policy.metrics()


def _print(data: BehaviorData, recipe: str, metrics: Mapping[str, float]) -> None:
    if "return" not in metrics:
        return
    scored = "normalised" in metrics
    cells = [f"{metrics['return']:.1f}", *([percent(metrics["normalised"])] if scored else []),
             f"{metrics['episodes_spread']:.1f}"]  # fmt: skip
    columns = [data.name, "return", *(["normalised %"] * scored), "spread of episodes"]
    if "value_mean" in metrics:
        cells += [f"{metrics['value_mean']:.1f}", f"{metrics['discounted_mean']:.1f}"]
        columns += ["values", "discounted returns"]
    if "value_correlation" in metrics:
        cells, columns = [*cells, f"{metrics['value_correlation']:.2f}"], [*columns, "correlation"]
    print_table(columns, [(recipe, *cells)])


def plan(options: TeacherOptions, build: Build, folder: RunFolder) -> list[str]:
    """Data and length; nothing is made for it."""
    return [
        plan_of_data(options, folder.recipe),
        f"{options.steps} updates of {options.batch_size} transitions, networks of width {options.width}",
    ]
