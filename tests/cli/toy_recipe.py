"""A recipe for the tests, and the command line with it: ``python toy_recipe.py run toy ...``."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[2]))

from manyone.recipes.options import CommonOptions, check
from manyone.recipes.recipe import Recipe
from manyone.recipes.table import RECIPES

TOY = Recipe("toy_recipe:Options", "linear regression with Adam")


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
    rate: float = 0.05
    """Adam's learning rate, above 0."""
    pause: float = 0.0
    """Seconds to wait in each step, 0 or more."""
    nan_at: int | None = None
    """Step whose loss is made NaN."""
    inputs: tuple[Path, ...] = ()
    """Files that are named in the plan."""
    mode: Literal["plain", "fancy"] = "plain"
    """How to fit."""
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self):
        super().__post_init__()
        check("rate", self.rate, self.rate > 0, "above 0")

    def run(self, run):
        if self.dry_run:
            print(f"plan: {self.steps} steps, {len(self.inputs)} inputs")
            return
        if self.mode == "fancy":
            raise RuntimeError("no such\nthing")
        from tests.engine.toy import Regression, seed_all

        from manyone.engine.loop import train

        seed_all(self.seed)
        run.log(0, "plan", {"steps": self.steps})
        train(
            Regression(lr=self.rate, pause=self.pause, loss_at={self.nan_at: float("nan")}),
            run,
            steps=self.steps,
            evaluate_every=self.schedule.evaluate_every,
            checkpoint_every=self.schedule.checkpoint_every,
            loggers=self.logger,
        )

    def evaluate(self, run, split):
        from tests.engine.toy import Regression

        from manyone.engine.checkpoint import load_newest

        learner = Regression()
        learner.load_state_dict(load_newest(run.checkpoints)[1]["learner"])
        return {"split": split, "step": learner.count, "error": learner.evaluate()["error"]}


if __name__ == "__main__":
    from manyone.cli.main import main

    RECIPES["toy"] = TOY
    main()
