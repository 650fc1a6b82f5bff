"""How ``bc`` runs: a distilled set or a data set in, a policy out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from manyone.behavior.artefact import Distilled, Frame, is_distilled, load_all
from manyone.behavior.cloning import STEPS, CloningLearner, SetLearner
from manyone.behavior.data import BehaviorData
from manyone.behavior.evaluate import Evaluator
from manyone.behavior.recipes.options import CloningOptions
from manyone.behavior.recipes.problem import exported, load_problem, plan_of_data
from manyone.behavior.recipes.references import keep_points, points_of
from manyone.behavior.students.policies import StudentPolicies, load_policies
from manyone.engine.devices import one_thread_below
from manyone.engine.inputs import check_inputs, digest
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.envs.single.own_data import given_references
from manyone.errors import ManyoneError
from manyone.recipes.options import Split
from manyone.recipes.running import percent, print_table

Build = Callable[..., CloningLearner | SetLearner]
EVAL_OPTIONS = ("episodes", "seed", "horizon")
"""Options of ``manyone eval`` that :func:`evaluate` takes."""


def run(options: CloningOptions, build: Build, folder: RunFolder) -> None:
    """Data, training, scores, artefact."""
    one_thread_below(256, options.width or 64)
    source, digests = _source(options)
    if isinstance(source, Distilled):
        source = replace(source, frame=_frame_as_given(options, source.frame))
    frame = source.frame if isinstance(source, Distilled) else Frame.of(source)
    if not options.simulator:
        frame = replace(frame, environment=None)
    with ExitStack() as stack:
        evaluator = None
        if frame.environment is not None:
            own = Evaluator(frame, episodes=options.eval_episodes, students=options.students, workers=options.workers)
            evaluator = stack.enter_context(own)

        def scores(learner: CloningLearner | SetLearner) -> Mapping[str, float]:
            return {} if evaluator is None else _metrics(evaluator, learner.policies())

        learner = build(options, source, scores)
        check_inputs(folder, digests)  # the first thing that is written: what is refused leaves no folder
        if evaluator is not None:
            keep_points(folder, points_of(evaluator, source if isinstance(source, BehaviorData) else None))
        whole = learner.distilled.inner.steps if isinstance(learner, SetLearner) else STEPS
        steps = whole if options.steps is None else options.steps
        final = train(
            learner,
            folder,
            steps=steps,
            evaluate_every=options.evaluate_every,
            checkpoint_every=options.checkpoint_every,
            loggers=options.logger,
            log_every=max(1, steps // 1000),
        )
    _print(frame, final, options.students)
    print(f"policy: {folder.path / 'model'}")


def evaluate(
    options: CloningOptions,
    build: Build,
    folder: RunFolder,
    split: Split,
    *,
    episodes: int | None = None,
    seed: int = 0,
    horizon: int | None = None,
) -> Mapping[str, float]:
    """Scores of the exported policy; other starts for another ``seed``."""
    policies = load_policies(exported(folder, split))
    frame = replace(policies.frame, horizon=horizon or policies.frame.horizon)
    with Evaluator(frame, episodes=episodes or options.eval_episodes, students=len(policies), seed=seed,
                   workers=options.workers) as evaluator:  # fmt: skip
        return _metrics(evaluator, replace(policies, frame=frame))


def _metrics(evaluator: Evaluator, policies: StudentPolicies) -> dict[str, float]:
    """Scores of the policy or, of several, of their ensemble, with those of each alone as ``alone_...``."""
    if len(policies) == 1:
        return evaluator(policies).metrics()
    alone = evaluator(policies).metrics()
    return evaluator.ensemble(policies).metrics() | {f"alone_{name}": value for name, value in alone.items()}


def _source(options: CloningOptions) -> tuple[BehaviorData | Distilled, dict[str, str]]:
    """What is cloned, and its digests."""
    places = [Path(word) for word in options.data]
    sets = [place / "model" if is_distilled(place / "model") else place for place in places]
    if any(is_distilled(place) for place in sets):
        if len(sets) > 1:
            raise ManyoneError(f"--data {' '.join(options.data)}: a distilled set is cloned alone: give one folder")
        if options.fraction < 1:
            raise ManyoneError(f"--fraction {options.fraction:g}: a distilled set has no episodes: leave it out")
        for name in ("keys", "data_choices"):
            if getattr(options, name):
                raise ManyoneError(f"--{name.replace('_', '-')}: does nothing on a distilled set: leave it out")
        known = load_all(sets[0])
        if options.set not in (known if len(known) > 1 else (None, *known)):
            asked = "give --set NAME," if options.set is None else f"--set {options.set}:"
            raise ManyoneError(f"--data {options.data[0]}: {asked} one of {', '.join(known)}")
        found = next(iter(known.values())) if options.set is None else known[options.set]
        return found, {f"--data {found.name}, distilled": digest(found.states.numpy(), found.actions.numpy())}
    for word, tail in ((word, Path(word.rpartition("=")[2])) for word in options.data):
        if is_distilled(tail / "model") or is_distilled(tail):
            raise ManyoneError(f"--data {word}: a distilled set knows its environment: give --data {tail}")
    if options.set is not None:
        raise ManyoneError(f"--set {options.set}: is for a folder of distilled sets in --data")
    problem = load_problem(options)
    if len(problem.data) != 1:
        names = ", ".join(one.name for one in problem.data)
        raise ManyoneError(f"bc clones one data set, here are {names}: run it once for each")
    return problem.data[0], problem.digests()


def _frame_as_given(options: CloningOptions, frame: Frame) -> Frame:
    """``frame`` of a distilled set but for what the options give of the evaluation."""
    given = given_references([frame.name], options.reference)
    reference = given.get(frame.name, frame.reference)
    return replace(frame, horizon=options.horizon or frame.horizon, reference=reference)


def _print(frame: Frame, metrics: Mapping[str, float], students: int) -> None:
    if "return" not in metrics:
        return
    scored = frame.reference is not None
    rows = [("the policy" if students == 1 else f"ensemble of {students}", metrics, "")]
    if students > 1:
        rows.append(("each alone", metrics, "alone_"))
    cells = [
        (name, f"{found[front + 'return']:.1f}", *([percent(found[front + "normalised"])] if scored else []),
         f"{found[front + 'episodes_spread']:.1f}")
        for name, found, front in rows
    ]  # fmt: skip
    print_table((frame.name, "return", *(["normalised %"] * scored), "spread of episodes"), cells)


def plan(options: CloningOptions, build: Build, folder: RunFolder) -> list[str]:
    """Data and evaluation; nothing is made for it."""
    return [plan_of_data(options, folder.recipe), f"{options.students} students, {options.eval_episodes} episodes"]
