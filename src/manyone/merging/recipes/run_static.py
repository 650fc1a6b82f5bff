"""Runs static merges: of files, which needs no PyTorch where models are float32 or float64, or of a suite's experts.

``RUN/model/`` is a Hugging Face folder when the base is one, else a folder with ``model.safetensors``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from types import ModuleType

from manyone.engine.progress import Progress
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.merging.recipes.movement import print_loading, tell_movement
from manyone.merging.recipes.static_options import FisherOptions, MergekitOptions, MergeOptions, RegMeanOptions
from manyone.merging.static.estimate import describe
from manyone.merging.static.files import Companions
from manyone.merging.static.methods import execute, prepare, rule_options
from manyone.merging.static.movement import Measure, names_of
from manyone.merging.static.plan import Plan
from manyone.merging.static.stream import Method
from manyone.recipes.options import Split, check

RECIPE = "recipe.yaml"
"""The file of a run folder that holds the recipe of mergekit that was used."""


def run(options: MergeOptions, build: None, folder: RunFolder) -> None:
    """Merges into ``folder.path / "model"``."""
    _check(options)
    if options.suite is not None:
        _suites().merge_suite(options, folder)
        return
    plan, method, companions = _prepared(options)
    measure = Measure() if options.measure else None
    began = time.perf_counter()
    with Progress(options.method, unit="parameters") as bar:
        execute(
            plan,
            method,
            out=folder.path / "model",
            max_shard_size=options.max_shard_size,
            threads=options.threads or None,
            progress=bar.update,
            measure=measure,
            companions=companions,
            before=lambda: _make_room(folder),
        )
    seconds = time.perf_counter() - began
    if isinstance(options, MergekitOptions) and options.recipe is not None:
        shutil.copyfile(options.recipe, folder.path / RECIPE)  # the file may change after the run
    if measure is not None:
        tell_movement(measure.result(), names_of([plan.base])[0], folder)
    metrics = {
        "experts": len(plan.experts),
        "tensors_merged": len(plan.merged),
        "tensors_copied": len(plan.copied),
        "tensors_dropped": len(plan.dropped),
        "elements": plan.elements,
        "notes": plan.notes,
        "time": {"seconds": round(seconds, 3)},
    }
    folder.log(0, "final", metrics)
    for note in plan.notes:
        print(note)
    print_loading(folder)


def plan(options: MergeOptions, build: None, folder: RunFolder) -> list[str]:
    """What would be merged, tensor by tensor, and what it takes."""
    _check(options)
    if options.suite is not None:
        return _suites().plan_suite(options)
    plan, method, _ = _prepared(options)
    return [describe(plan, method, folder.path / "model")]


def evaluate(options: MergeOptions, build: None, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """Accuracy per task of the merged model of a suite."""
    if options.suite is None:
        raise ManyoneError(f"{folder.path} merged files without data: only runs with --suite can be evaluated")
    return _suites().evaluate_suite(options, folder, split)


def _check(options: MergeOptions) -> None:
    on_cpu = options.on_device or options.device in ("auto", "cpu")
    check("device", options.device, on_cpu, f"auto or cpu: {options.method} merges on the CPU")
    if options.suite is not None and isinstance(options, MergekitOptions):
        raise ManyoneError("mergekit: --recipe names its own models: leave --suite out")
    if options.suite is not None and (options.base is not None or options.experts):
        raise ManyoneError("--suite brings its own base and experts: leave --base and --experts out")


def _suites() -> ModuleType:
    """What merges a suite's experts, which needs PyTorch."""
    from manyone.merging.recipes import run

    return run


def _prepared(options: MergeOptions) -> tuple[Plan, Method, Companions | None]:
    """The models opened and matched, the options checked; no values are read. Also what the folder gets besides."""
    method = options.method
    if isinstance(options, MergekitOptions):
        from manyone.merging.static.mergekit import prepare_recipe  # with PyTorch

        if options.recipe is None:
            raise ManyoneError("mergekit: --recipe missing: name the YAML file")
        if options.base is not None or options.experts:
            raise ManyoneError("mergekit: the models are named in the recipe; leave out --base and --experts")
        return prepare_recipe(options.recipe, exclude=options.exclude, seed=options.seed)
    if options.base is None and not options.experts:
        raise ManyoneError(f"{method}: nothing to merge: give --base and --experts, or --suite")
    if options.base is None or not options.experts:
        lacking = "--base" if options.base is None else "--experts"
        raise ManyoneError(f"{method}: {lacking} missing: name the base model and the models to merge")
    if isinstance(options, FisherOptions) and not options.fishers:
        raise ManyoneError("fisher: --fishers missing: give one file of diagonal Fishers per expert")
    if isinstance(options, RegMeanOptions) and not options.grams:
        raise ManyoneError("regmean: --grams missing: give one file of Gram matrices per expert")
    given = rule_options(method, options)
    return *prepare(method, options.base, options.experts, exclude=options.exclude, **given), None


def _make_room(folder: RunFolder) -> None:
    folder.ensure()
    if (folder.path / "model").exists():  # an earlier attempt of this same run that stopped before it was finished
        shutil.rmtree(folder.path / "model")
