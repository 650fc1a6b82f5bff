"""How a distillation runs: data, teacher, baselines, the loop with its evaluations, the artefact and the figures."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from manyone.behavior.artefact import Distilled, Frame, load_all
from manyone.behavior.cloning import clone
from manyone.behavior.coresets import INVENTED, initial_pairs
from manyone.behavior.data import BehaviorData
from manyone.behavior.density import FEWEST
from manyone.behavior.distillation import Distillations
from manyone.behavior.evaluate import Evaluation, Evaluator
from manyone.behavior.objectives import negative_share
from manyone.behavior.recipes.build import inner, objective, spec
from manyone.behavior.recipes.figures import run_figures
from manyone.behavior.recipes.options import DistilOptions, StudentOptions
from manyone.behavior.recipes.problem import BehaviorProblem, exported, load_problem, plan_of_data
from manyone.behavior.recipes.references import keep_points, points_of
from manyone.behavior.recipes.teaching import Lesson, plan_of_teacher, teachers_of
from manyone.behavior.students.training import train as train_students
from manyone.behavior.teachers.acting import TeacherPolicy
from manyone.behavior.teachers.teacher import Labels, Teacher, label
from manyone.claims.figure import read_json, save_figures
from manyone.engine.devices import one_thread_below
from manyone.engine.files import write_atomic
from manyone.engine.inputs import check_inputs
from manyone.engine.loop import train
from manyone.engine.run import RunFolder, read_metrics
from manyone.randomness import seed_for
from manyone.recipes.options import Split, check
from manyone.recipes.running import percent, print_table
from manyone.report.record import FIGURES

Build = Callable[..., Distillations]
EVAL_OPTIONS = ("episodes", "seed", "horizon")
"""Options of ``manyone eval`` that :func:`evaluate` takes."""
_BASELINES = "baselines.json"
_CLONES = 5
Rows = dict[str, dict[str, float]]
"""What acted -> its scores."""


def run(options: DistilOptions, build: Build, folder: RunFolder) -> None:
    """Data, teacher, baselines, distillation, artefact, figures."""
    one_thread_below(256, options.width)
    problem = load_problem(options)
    for data in problem.data:
        few = f"at most the {len(data)} transitions of {data.name}"
        check("size", options.size, options.size <= len(data) or options.init in INVENTED, few)
        dense = not options.density or len(data) >= FEWEST
        check("density", options.density, dense, f"0 for {data.name}: {len(data)} states of {FEWEST} that it needs")
    found = teachers_of(options, problem)
    asked = [None if isinstance(one, Lesson) else _labels(options, data, one) for data, one in zip(problem.data, found)]
    check_inputs(folder, problem.digests())  # the first thing that is written: what is refused leaves no folder
    for one in problem.trajectories:
        print(f"data of {one.name}: {one.summary()}", file=sys.stderr)
    for data in problem.data:
        _say_unrewarded(options, data)
    teachers = [one.train(folder) if isinstance(one, Lesson) else one for one in found]
    labels = [_labels(options, data, one) if own is None else own
              for data, one, own in zip(problem.data, teachers, asked)]  # fmt: skip
    for data, own in zip(problem.data, labels):
        _say_negative(options, data, own)
    with ExitStack() as stack:
        evaluators = evaluators_of(options, problem, stack)
        baselines = _baselines(options, problem, teachers, labels, evaluators, folder)
        several = len(evaluators) > 1
        keep_points(
            folder,
            (
                point
                for data in problem.data
                if data.name in evaluators
                for point in points_of(evaluators[data.name], data, baselines[data.name], f"/{data.name}" * several)
            ),
        )
        scores: dict[str, Evaluation] = {}

        def evaluate_sets(learner: Distillations) -> dict[str, float]:
            scores.clear()
            scores.update(scores_of(options, learner.distilled(), evaluators))
            return metrics_of(scores)

        learner = build(options, problem, labels, evaluate_sets)
        for learning, teacher in zip(learner.learners, teachers):
            learning.info |= _about_teacher(teacher, baselines[learning.data.name])
        train(
            learner,
            folder,
            steps=options.steps * len(problem.data),
            evaluate_every=options.evaluate_every * len(problem.data),
            checkpoint_every=options.checkpoint_every * len(problem.data),
            loggers=options.logger,
            log_every=log_every(options.steps, len(problem.data)),
        )
    lines = [line for line, _ in read_metrics(folder.path)]
    save_figures(folder.path / FIGURES, run_figures(learner, lines, baselines, scores))
    for data in problem.data:
        if data.name in scores:
            what = f"{options.objective}, {options.size} pairs"
            print_scores(data, what, scores[data.name], baselines[data.name])
    print(f"distilled: {folder.path / 'model'}")


def evaluate(
    options: StudentOptions,
    build: Any,
    folder: RunFolder,
    split: Split,
    *,
    episodes: int | None = None,
    seed: int = 0,
    horizon: int | None = None,
) -> Mapping[str, float]:
    """Evaluation of fresh students on the exported sets; other starts for another ``seed``."""
    sets = load_all(exported(folder, split))
    frames = {name: replace(one.frame, horizon=horizon or one.frame.horizon) for name, one in sets.items()}
    with ExitStack() as stack:
        evaluators = {}
        for name, frame in frames.items():
            own = Evaluator(frame, episodes=episodes or options.eval_episodes, students=options.students, seed=seed,
                            workers=options.workers)  # fmt: skip
            evaluators[name] = stack.enter_context(own)
        return metrics_of(scores_of(options, sets, evaluators))


def log_every(steps: int, sets: int) -> int:
    """Steps between lines of the metrics: about a thousand lines, among which each of the sets has its turn."""
    every = max(1, steps * sets // 1000)
    while math.gcd(every, sets) > 1:
        every += 1
    return every


def evaluators_of(options: DistilOptions, problem: BehaviorProblem, stack: ExitStack) -> dict[str, Evaluator]:
    """One a data set that has an environment."""
    found = {}
    for data in problem.data:
        if data.environment is not None:
            own = Evaluator(Frame.of(data), episodes=options.eval_episodes, students=options.students,
                            workers=options.workers)  # fmt: skip
            found[data.name] = stack.enter_context(own)
    return found


def scores_of(
    options: StudentOptions, sets: Mapping[str, Distilled], evaluators: Mapping[str, Evaluator]
) -> dict[str, Evaluation]:
    """Fresh students of each set in its environment; sets without one are left out."""
    found = {}
    for name, evaluator in evaluators.items():
        policies = train_students(sets[name], seeds=student_seeds(options))
        found[name] = Evaluation(evaluator(policies), evaluator.ensemble(policies))
    return found


def student_seeds(options: StudentOptions) -> list[int]:
    """Seeds of the students that evaluations train; none of them took part in the distillation."""
    return [seed_for(options.seed, "evaluated student", member) for member in range(options.students)]


def metrics_of(scores: Mapping[str, Evaluation]) -> dict[str, float]:
    """The scores as plain numbers; of several sets ``return/NAME`` and so on, and ``normalised``, their mean."""
    several: dict[str, float] = {}
    for name, one in scores.items():
        own = one.students.metrics() | {f"ensemble_{k}": v for k, v in one.ensemble.metrics().items()
                                        if k in ("return", "normalised")}  # fmt: skip
        if len(scores) == 1:
            return own
        several |= {f"{key}/{name}": value for key, value in own.items()}
    normalised = [several[f"normalised/{name}"] for name in scores if f"normalised/{name}" in several]
    return several | ({"normalised": sum(normalised) / len(normalised)} if len(normalised) == len(scores) > 0 else {})


def _labels(options: DistilOptions, data: BehaviorData, teacher: Teacher | None) -> Labels | None:
    if teacher is None:
        return None
    wanted = objective(options).needs_values or options.init in ("top-q", "k-means-q")
    return label(teacher, data, values=wanted)


def _say_unrewarded(options: DistilOptions, data: BehaviorData) -> None:
    """Where no reward is above 0, no value is, and what a teacher that says otherwise weighs is its error."""
    weighed = options.objective == "av-pbc" and options.weights in ("clamped", "mean-one")
    if weighed and not bool((data.rewards > 0).any()):
        print(f"{data.name}: no reward is above 0, so that no state has a value to be weighed by: --objective pbc or "
              "--weights advantage suit such data", file=sys.stderr)  # fmt: skip


def _say_negative(options: DistilOptions, data: BehaviorData, labels: Labels | None) -> None:
    if options.objective != "av-pbc" or labels is None:
        return
    if (share := negative_share(labels)) > 0.001:
        what = {"q": "push students away from the teacher there", "clamped": "count as 0", "mean-one": "count as 0",
                "advantage": "are compared with the recorded actions' values"}[options.weights]  # fmt: skip
        print(f"{data.name}: {100 * share:.1f} % of the teacher's values are negative; they {what}", file=sys.stderr)


def _baselines(
    options: DistilOptions,
    problem: BehaviorProblem,
    teachers: Sequence[Teacher | None],
    labels: Sequence[Labels | None],
    evaluators: Mapping[str, Evaluator],
    folder: RunFolder,
) -> dict[str, Rows]:
    """Set -> what else acts there -> its scores; measured once and kept in the run folder."""
    path = folder.path / _BASELINES
    if path.is_file():
        return read_json(path, "the baselines")
    found: dict[str, Rows] = {data.name: {} for data in problem.data}
    for data, teacher, own in zip(problem.data, teachers, labels):
        if not options.baselines or data.name not in evaluators:
            continue
        evaluator, rows = evaluators[data.name], found[data.name]
        if teacher is not None:
            rows["teacher"] = evaluator.play(TeacherPolicy(teacher, Frame.of(data), data.states.device)).metrics()
        whole = clone(data, students=min(_CLONES, options.students), spec=spec(options, data),
                      seed=options.seed)  # fmt: skip
        rows["everything cloned"] = evaluator(whole).metrics()
        for name, init in (("random pairs", "random"), ("random pairs, teacher's actions", "teacher")):
            if init == "random" or own is not None:
                pairs = initial_pairs(init, data, own, options.size, options.seed)
                drawn = Distilled.of(data, *pairs, spec=spec(options, data), inner=inner(options))
                rows[name] = evaluator(train_students(drawn, seeds=student_seeds(options))).metrics()
    folder.ensure()
    write_atomic(path, (json.dumps(found, allow_nan=False, indent=1) + "\n").encode())
    return found


def _about_teacher(teacher: Teacher | None, rows: Rows) -> dict[str, Any]:
    if teacher is None:
        return {}
    return {"teacher": teacher.name} | ({"teacher_return": rows["teacher"]["return"]} if "teacher" in rows else {})


def print_scores(data: BehaviorData, what: str, scores: Evaluation, baselines: Rows) -> None:
    """One line for whatever acts, for people; ``what`` the students were trained on."""
    own = {what: scores.students.metrics(), "its ensemble": scores.ensemble.metrics()}
    shown = own | baselines
    scored = data.reference is not None
    rows = []
    for name, found in shown.items():
        spread = (f"{found[k]:.1f}" for k in ("students_spread", "episodes_spread"))
        rows.append((name, f"{found['return']:.1f}", *([percent(found["normalised"])] if scored else []), *spread))
    columns = (data.name, "return", *(["normalised %"] * scored), "spread of students", "of episodes")
    print_table(columns, rows)


def plan(options: DistilOptions, build: Build, folder: RunFolder) -> list[str]:
    """Data, teacher, length and evaluation; nothing is made for it."""
    return [
        plan_of_data(options, folder.recipe),
        plan_of_teacher(options),
        f"{options.steps} outer steps a data set, each through {options.inner_steps} steps of {options.at_once} "
        f"students; {options.size} pairs",
        f"evaluation: {options.students} students x {options.eval_episodes} episodes",
    ]
