"""``manyone run experts --suite images``: the base, the frozen heads and the experts that merging starts from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Split, check

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder
    from manyone.merging.experts.bundle import Bundle
    from manyone.merging.experts.protocol import Protocol


@dataclass(kw_only=True)
class Options(CommonOptions):
    """Trains (or takes from the cache) the experts of a suite; ``model/`` is the bundle that merging recipes read.

    A finished bundle goes into the cache under a name made of data, protocol and seed. The same call again takes it
    from there and says so; what an interrupted training had finished is not trained twice.
    """

    suite: str = "mini6"
    """The suite of tasks: mini6, images, text or fixture (manyone ls data)."""
    lr: float | None = None
    """Peak learning rate of the fine-tuning, above 0. Default: the suite's protocol."""
    steps: int | None = None
    """Optimisation steps per expert, 1 or more. Default: the suite's protocol."""
    cached: bool = True
    """Take a finished bundle, or single finished experts, from the cache; off trains everything anew."""
    checkpoint_every: int = 100
    """Steps between checkpoints; 0: at the end only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("lr", self.lr, self.lr is None or self.lr > 0, "above 0")
        check("steps", self.steps, self.steps is None or self.steps >= 1, "1 or more")
        check("checkpoint_every", self.checkpoint_every, self.checkpoint_every >= 0, "0 or more")
        check("precision", self.precision, self.precision == "32-true", "32-true: experts are trained in float32")

    def protocol(self, suite: Any) -> Protocol:
        """The suite's protocol with this run's changes."""
        from manyone.merging.experts.protocol import protocol_for

        protocol = protocol_for(suite)
        tuning = protocol.fine_tuning
        lr, steps = self.lr or tuning.lr, self.steps or tuning.steps
        return replace(protocol, fine_tuning=replace(tuning, lr=lr, steps=steps))

    def run(self, run: RunFolder) -> None:
        """Trains what is missing into the cache and writes the bundle to ``run/model``."""
        from manyone.engine import checkpoint
        from manyone.engine.fabric import make_fabric
        from manyone.engine.loop import train
        from manyone.merging.experts import bundle_learner as experts
        from manyone.merging.experts import cache as experts_cache

        suite = experts.suite_for(self.suite, self.seed)
        protocol = self.protocol(suite)
        folder = experts_cache.bundle_folder(suite, protocol, self.seed)
        started = checkpoint.load_newest(run.checkpoints) is not None if run.exists else False
        found = experts_cache.load(folder) if self.cached and not started else None
        if self.dry_run:
            self._plan(suite, protocol, folder, found is not None)
            return
        if found is not None:
            print(f"experts of {self.suite}, seed {self.seed}: from the cache, {folder}", file=sys.stderr)
            train(_Finished(found), run, steps=0, loggers=self.logger)
            return
        device = str(make_fabric(self.device).device)
        parts = experts_cache.parts_folder() if self.cached else None
        learner = experts.ExpertsLearner(suite, protocol, seed=self.seed, device=device, parts=parts)
        if learner.position and not started:
            what = ", ".join(["base"] * (learner.base is not None) + list(learner.experts))
            print(f"experts of {self.suite}, seed {self.seed}: from the cache: {what}", file=sys.stderr)
            run.ensure()
            checkpoint.save(run.checkpoints, learner.position, {"learner": learner.state_dict(), "random": []})
        train(learner, run, steps=learner.steps, checkpoint_every=self.checkpoint_every, keep=1, loggers=self.logger)
        if self.cached:
            experts.store(learner, folder)

    def evaluate(self, run: RunFolder, split: Split) -> Mapping[str, float]:
        """Accuracy of the base and of every expert of the finished run on its own task's ``split``."""
        from manyone.merging.experts.bundle import Bundle
        from manyone.merging.experts.bundle_learner import bundle_accuracy, suite_for

        if not (run.path / "model" / "bundle.json").is_file():
            raise ManyoneError(f"{run.path} has no finished experts yet: manyone resume {run.path}")
        return bundle_accuracy(Bundle.load(run.path / "model"), suite_for(self.suite, self.seed), split)

    def _plan(self, suite: Any, protocol: Protocol, folder: Path, cached: bool) -> None:
        state = "is in the cache" if cached else "would be trained"
        print(f"experts of {self.suite}, seed {self.seed}: the bundle {state}, {folder}")
        print(f"base: {type(protocol.base).__name__}; heads: {'fitted on it' if protocol.heads else 'its own rows'}")
        for task in suite.tasks:
            steps = protocol.fine_tuning.length(len(task.train))
            sizes = f"{len(task.train)} train / {len(task.val)} val / {len(task.test)} test samples"
            print(f"  {task.name}: {len(task.classes)} classes, {sizes}, {steps} steps")


class _Finished:
    """A Learner with nothing left to learn: a bundle that the cache had."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def step(self) -> dict[str, float]:
        raise ManyoneError("a cached bundle has no training step")

    def evaluate(self) -> dict[str, float]:
        from manyone.merging.experts.bundle_learner import averaged

        return averaged(self.bundle.info["accuracy"])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

    def export(self, folder: Path) -> None:
        self.bundle.save(folder)
