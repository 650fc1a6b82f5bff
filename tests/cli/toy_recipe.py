"""A recipe for the tests, and the command line with it: ``python toy_recipe.py run toy ...``."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.engine.toy import Regression, seed_all

from manyone.engine.loop import train
from manyone.recipes.options import CommonOptions, Range
from manyone.recipes.recipe import Recipe
from manyone.recipes.running import restore
from manyone.recipes.table import RECIPES

TOY = Recipe("toy_recipe:Options", "toy_recipe:learner", "linear regression with Adam", "toy_recipe")


@dataclass(kw_only=True)
class Schedule:
    """When things happen."""

    evaluate_every: int = 7
    """Steps between evaluations; 0 is never."""
    checkpoint_every: int = 10
    """Steps between checkpoints; 0 is only at the end."""


@dataclass(kw_only=True)
class Options(CommonOptions):
    """Fits a line to points."""

    steps: int = 60
    """Optimisation steps, 0 or more."""
    rate: Annotated[float, Range(0, closed="neither")] = 0.05
    """Adam's learning rate."""
    pause: float = 0.0
    """Seconds to wait in each step, 0 or more."""
    nan_at: int | None = None
    """Step whose loss is made NaN."""
    inputs: tuple[Path, ...] = ()
    """Files that are named in the plan."""
    mode: Literal["plain", "fancy"] = "plain"
    """How to fit."""
    schedule: Schedule = field(default_factory=Schedule)


def run(options, build, folder):
    if options.mode == "fancy":
        raise RuntimeError("no such\nthing")
    seed_all(options.seed)
    folder.log(0, "plan", {"steps": options.steps})
    train(
        build(options),
        folder,
        steps=options.steps,
        evaluate_every=options.schedule.evaluate_every,
        checkpoint_every=options.schedule.checkpoint_every,
        loggers=options.logger,
    )


def plan(options, build, folder):
    return [f"plan: {options.steps} steps, {len(options.inputs)} inputs"]


def evaluate(options, build, folder, split):
    learner = build(options)
    restore(learner, folder)
    return {"split": split, "step": learner.count, "error": learner.evaluate()["error"]}


def learner(options):
    return Regression(lr=options.rate, pause=options.pause, loss_at={options.nan_at: float("nan")})


if __name__ == "__main__":
    from manyone.cli.main import main

    RECIPES["toy"] = TOY
    main()
