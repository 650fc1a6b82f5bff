"""Trains a suite's base, frozen heads and experts, from which merging starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from manyone.data.suite_names import SUITES
from manyone.data.tasks import Suite
from manyone.engine import checkpoint
from manyone.engine.devices import device_of
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.merging.experts import cache
from manyone.merging.experts.bundle import Bundle
from manyone.merging.experts.bundle_learner import ExpertsLearner, averaged, bundle_accuracy, store, suite_for
from manyone.merging.experts.protocol import Protocol, protocol_for
from manyone.merging.recipes.needs import suite_needs
from manyone.merging.recipes.options import ExpertsOptions
from manyone.recipes.needs import UNKNOWN
from manyone.recipes.options import Split
from manyone.recipes.references import Reference, keep_references


def run(options: ExpertsOptions, build: None, folder: RunFolder) -> None:
    """Trains what is missing into the cache and writes the bundle to ``folder/model``."""
    suite = suite_for(options.suite, options.seed)
    protocol = _protocol(options, suite)
    kept = cache.bundle_folder(suite, protocol, options.seed)
    started = checkpoint.load_newest(folder.checkpoints) is not None if folder.exists else False
    found = cache.load(kept) if options.cached and not started else None
    what = f"experts of {options.suite}, seed {options.seed}"
    if found is not None:
        print(f"{what}: from the cache, {kept}", file=sys.stderr)
        final = train(_Finished(found), folder, steps=0, loggers=options.logger)
        _compare(final, folder)
        return
    device = str(device_of(options.device))
    parts = cache.parts_folder() if options.cached else None
    learner = ExpertsLearner(suite, protocol, seed=options.seed, device=device, parts=parts)
    if learner.position and not started:
        names = ", ".join(["base"] * (learner.base is not None) + list(learner.experts))
        print(f"{what}: from the cache: {names}", file=sys.stderr)
        folder.ensure()
        checkpoint.save(folder.checkpoints, learner.position, {"learner": learner.state_dict(), "random": []})
    final = train(
        learner, folder, steps=learner.steps, checkpoint_every=options.checkpoint_every, keep=1, loggers=options.logger
    )
    _compare(final, folder)
    if options.cached:
        store(learner, kept)


def _compare(final: Mapping[str, float], folder: RunFolder) -> None:
    """Experts are compared with the base that they were made of."""
    keep_references(folder, [Reference("base", {"experts/average": final["base/average"]})])


def plan(options: ExpertsOptions, build: None, folder: RunFolder) -> Iterator[str]:
    """What would be trained; tasks and their lengths where the data are here already."""
    what = f"experts of {options.suite}, seed {options.seed}"
    if options.suite not in SUITES:
        raise ManyoneError(f"unknown suite {options.suite!r}: use {', '.join(SUITES)}")
    if not suite_needs(options.suite).there:
        yield f"{what}: {SUITES[options.suite]}"
        yield f"tasks, classes, steps, and whether the cache has the bundle: {UNKNOWN}"
        return
    suite = suite_for(options.suite, options.seed)
    protocol = _protocol(options, suite)
    kept = cache.bundle_folder(suite, protocol, options.seed)
    there = options.cached and (kept / "bundle.json").is_file()
    yield f"{what}: the bundle {'is in the cache' if there else 'would be trained'}, {kept}"
    yield f"base: {type(protocol.base).__name__}; heads: {'fitted on it' if protocol.heads else 'its own rows'}"
    for task in suite.tasks:
        steps = protocol.fine_tuning.length(len(task.train))
        sizes = f"{len(task.train)} train / {len(task.val)} val / {len(task.test)} test samples"
        yield f"  {task.name}: {len(task.classes)} classes, {sizes}, {steps} steps"


def evaluate(options: ExpertsOptions, build: None, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """Accuracy of the base and of every expert of the finished run on its own task's ``split``."""
    if not (folder.path / "model" / "bundle.json").is_file():
        raise ManyoneError(f"{folder.path} has no finished experts yet: manyone resume {folder.path}")
    return bundle_accuracy(Bundle.load(folder.path / "model"), suite_for(options.suite, options.seed), split)


def _protocol(options: ExpertsOptions, suite: Suite) -> Protocol:
    """The suite's protocol with this run's changes."""
    protocol = protocol_for(suite)
    tuning = protocol.fine_tuning
    changed = replace(tuning, lr=options.lr or tuning.lr, steps=options.steps or tuning.steps)
    return replace(protocol, fine_tuning=changed)


class _Finished:
    """A Learner with nothing left to learn: a bundle that the cache had."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def step(self) -> dict[str, float]:
        raise ManyoneError("a cached bundle has no training step")

    def evaluate(self) -> dict[str, float]:
        return averaged(self.bundle.info["accuracy"])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

    def export(self, folder: Path) -> None:
        self.bundle.save(folder)
