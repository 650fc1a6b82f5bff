"""Static merging of a suite's experts: the merge, its accuracy on every task, and the standard artefact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manyone.errors import ManyoneError
from manyone.merging.recipes.options import ProblemOptions, plan, print_accuracies, save_model, score
from manyone.merging.recipes.problem import Problem, from_suite

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder
    from manyone.merging.recipes.static import MergeOptions

EXAMPLES = 256
"""Training examples per task behind Fisher information and Gram matrices."""


def merge_suite(options: MergeOptions, run: RunFolder) -> None:
    """Merges the experts of ``options.suite`` into ``run`` and scores the result on the test splits."""
    if options.base is not None or options.experts:
        raise ManyoneError("--suite brings its own base and experts: leave --base and --experts out")
    assert options.suite is not None
    problem = from_suite(options.suite, options.seed)
    own = ProblemOptions(suite=options.suite, seed=options.seed)
    if options.dry_run:
        print("\n".join(plan(own, options.method, problem, None)))
        return
    arguments = options.arguments() | _statistics(options, problem)
    network = problem.merged(options.method, exclude=options.exclude, **arguments)
    metrics = score(network, problem, own.splits(problem, "test"))
    run.log(0, "final", metrics)
    save_model(run.folder("model"), network, problem, options.method, own)
    print_accuracies(metrics)


def score_run(suite: str, seed: int, run: RunFolder, split: str) -> Mapping[str, float]:
    """Accuracy per task of the artefact in ``run``."""
    from manyone.merging.artefact import load

    problem = from_suite(suite, seed)
    own = ProblemOptions(suite=suite, seed=seed)
    return score(load(run.path / "model").network, problem, own.splits(problem, split))


def _statistics(options: MergeOptions, problem: Problem) -> dict[str, Any]:
    """What Fisher and RegMean need to know of the training data, unless files with it were named."""
    from manyone.merging.static.statistics import fisher, grams

    if options.method == "fisher" and not getattr(options, "fishers", ()):
        return {
            "fishers": [
                fisher(
                    problem.expert(t), problem.heads[t], problem.tasks[t].train, examples=EXAMPLES, seed=options.seed
                )
                for t in problem.experts
            ]
        }
    if options.method == "regmean" and not getattr(options, "grams", ()):
        return {
            "grams": [
                grams(problem.expert(t), problem.tasks[t].train.inputs, examples=EXAMPLES, seed=options.seed)
                for t in problem.experts
            ]
        }
    return {}
