"""How ``obd-es`` runs: one data set, its environment, and pairs that evolve on the returns of their students."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from manyone.behavior.artefact import Frame
from manyone.behavior.coresets import INVENTED
from manyone.behavior.evaluate import Evaluator
from manyone.behavior.evolution import EvolutionLearner, Returns
from manyone.behavior.recipes.options import EvolutionOptions
from manyone.behavior.recipes.problem import load_problem, plan_of_data
from manyone.behavior.recipes.references import keep_points, points_of
from manyone.behavior.recipes.run import evaluate, metrics_of, print_scores, scores_of
from manyone.engine.devices import one_thread_below
from manyone.engine.inputs import check_inputs
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.options import check

Build = Callable[..., EvolutionLearner]
EVAL_OPTIONS = ("episodes", "seed", "horizon")
"""Options of ``manyone eval`` that :func:`evaluate` takes."""
__all__ = ["evaluate", "plan", "run"]


def plan(options: EvolutionOptions, build: Build, folder: RunFolder) -> list[str]:
    """Data and length; nothing is made for it."""
    games = options.population * options.at_once * options.episodes
    return [plan_of_data(options, folder.recipe), f"{options.steps} generations of {games} episodes"]


def run(options: EvolutionOptions, build: Build, folder: RunFolder) -> None:
    """Data, evolution, scores, artefact."""
    one_thread_below(256, options.width)
    problem = load_problem(options)
    if len(problem.data) != 1:
        names = ", ".join(one.name for one in problem.data)
        raise ManyoneError(f"{folder.recipe} takes one data set, here are {names}: run it once for each")
    (data,) = problem.data
    fits = options.size <= len(data) or options.init in INVENTED
    check("size", options.size, fits, f"at most the {len(data)} transitions of {data.name}")
    check_inputs(folder, problem.digests())  # the first thing that is written: what is refused leaves no folder
    frame = Frame.of(data)
    with (
        Evaluator(frame, episodes=options.eval_episodes, students=options.students, workers=options.workers) as own,
        Returns(frame, students=options.population * options.at_once, episodes=options.episodes, seed=options.seed) as
        fitness,
    ):  # fmt: skip
        keep_points(folder, points_of(own, data))
        evaluators = {data.name: own}
        kept = {}

        def evaluate_set(learner: EvolutionLearner) -> Mapping[str, float]:
            kept.update(scores_of(options, {data.name: learner.distilled()}, evaluators))
            return metrics_of(kept)

        train(
            build(options, data, fitness, evaluate_set),
            folder,
            steps=options.steps,
            evaluate_every=options.evaluate_every,
            checkpoint_every=options.checkpoint_every,
            loggers=options.logger,
        )
    print_scores(data, f"evolved, {options.size} pairs", kept[data.name], {})
    print(f"distilled: {folder.path / 'model'}")
