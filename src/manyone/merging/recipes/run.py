"""Runs what learns on a problem, and merges a suite's experts statically: accuracy on every task, standard artefact."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manyone.data.suite_names import SUITES
from manyone.engine.devices import device_of
from manyone.engine.fabric import is_writer
from manyone.engine.inputs import check_inputs
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.merging.artefact import load, save
from manyone.merging.experts.protocol import PROTOCOLS
from manyone.merging.ladder import entropy_ladder, ladder_warning
from manyone.merging.measures import accuracies
from manyone.merging.recipes.build import Built, merged
from manyone.merging.recipes.movement import print_loading, tell_movement
from manyone.merging.recipes.needs import suite_needs
from manyone.merging.recipes.options import AdaptiveOptions, ProblemOptions, SurgeryOptions, TestTimeOptions
from manyone.merging.recipes.problem import Problem, from_suite, load_problem, problem_here, suite_here
from manyone.merging.recipes.static_options import MergeOptions
from manyone.merging.static.movement import Measure
from manyone.recipes.needs import UNKNOWN
from manyone.recipes.options import Split
from manyone.recipes.references import Reference, has_references, keep_references
from manyone.recipes.running import by_task, percent, print_table, restore

Build = Callable[[Any, Problem], Built]


def run(options: AdaptiveOptions, build: Build, folder: RunFolder) -> None:
    """Adapts, evaluates and saves the merged model."""
    problem = load_problem(options)
    built = build(options, problem)
    _check_inputs(options, problem, folder)
    if isinstance(options, TestTimeOptions) and not folder.exists and is_writer():
        show_ladder(options, problem, built.model, folder)
    compare(problem, folder, options.limit, device_of(options.device), built.network())
    final = train(
        _Scored(options, problem, built, folder.recipe),
        folder,
        steps=built.steps,
        evaluate_every=options.evaluate_every,
        checkpoint_every=options.checkpoint_every,
        loggers=options.logger,
    )
    print_accuracies(final)


def show_ladder(options: TestTimeOptions, problem: Problem, start: nn.Module, folder: RunFolder) -> None:
    """Prints and logs how sure base, initial model and experts are; warns where adaptation has nothing to follow."""
    experts = {t: problem.expert(t) for t in problem.experts}
    heads = {t: problem.heads[t] for t in experts}
    inputs = problem.inputs(options.adapt_split, min(options.limit, options.monitor_samples))
    ladder = entropy_ladder(problem.encoder, start, experts, heads, inputs)
    print("prediction entropy before adaptation, in nats (should fall from left to right; 0 is certainty)")
    rows = [
        (t, f"{r.base:.2f}", f"{r.merged:.2f}", f"{r.expert:.2f}", "" if r.in_order else "!") for t, r in ladder.items()
    ]
    print_table(("task", "base", "merged", "expert", ""), rows)
    warning = ladder_warning(ladder)
    if warning and options.objective != "expert-kl":
        print(f"warning: {warning}")
    folder.log(0, "ladder", {f"entropy/{t}": asdict(rung) for t, rung in ladder.items()})


def plan(options: TestTimeOptions | SurgeryOptions, build: Build, folder: RunFolder) -> Iterator[str]:
    """What would be adapted, on what; sizes where data and experts are here already."""
    problem = problem_here(options)
    yield from _plan(folder.recipe, options, problem)
    if problem is not None:
        yield from _sizes(build(options, problem).model)
    yield (
        f"adapts on the unlabelled {options.adapt_split} inputs, at most {options.limit} a task, for "
        f"{options.steps} steps of {options.batch_size} inputs a task"
    )


def evaluate(options: AdaptiveOptions, build: Build, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """Accuracy per task of the newest checkpoint."""
    problem = load_problem(options)
    _check_inputs(options, problem, folder)
    built = build(options, problem)
    restore(built.learner, folder)
    return score(built.network(), problem, split, options.limit)


def _check_inputs(options: ProblemOptions, problem: Problem, folder: RunFolder) -> None:
    """Own files may have changed since the run began; a suite's data are checked when they are fetched or made."""
    if options.suite is None:
        check_inputs(folder, problem.digests())


def merge_suite(options: MergeOptions, folder: RunFolder) -> None:
    """Merges the experts of ``options.suite`` statically and scores the result on the test splits."""
    problem = _suite(options)
    measure = Measure(list(problem.experts)) if options.measure else None
    network = merged(options, problem, measure)
    metrics = score(network, problem, "test")
    compare(problem, folder)
    if measure is not None:
        tell_movement(measure.result(), "the base", folder)
    folder.log(0, "final", metrics)
    save_model(folder.folder("model"), network, problem, options.method, options.seed)
    print_accuracies(metrics)
    print_loading(folder)


def plan_suite(options: MergeOptions) -> list[str]:
    """What :func:`merge_suite` would do."""
    assert options.suite is not None
    return _plan(options.method, options, suite_here(options.suite, options.seed))


def evaluate_suite(options: MergeOptions, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """Accuracy per task of a statically merged suite."""
    return score(load(folder.path / "model").network, _suite(options), split)


def _suite(options: MergeOptions) -> Problem:
    assert options.suite is not None  # the caller has merged files otherwise
    return from_suite(options.suite, options.seed)


class _Scored:
    """A learner with the labelled evaluation and the artefact around it."""

    def __init__(self, options: AdaptiveOptions, problem: Problem, built: Built, recipe: str) -> None:
        self.options, self.problem, self.built, self.recipe = options, problem, built, recipe

    def step(self) -> Mapping[str, float]:
        return self.built.learner.step()

    def evaluate(self) -> Mapping[str, float]:
        scores = score(self.built.network(), self.problem, "test", self.options.limit)
        metrics = {**self.built.learner.evaluate(), **scores}
        if metrics.get("fell_back"):
            print(
                "adaptation ended worse than it began by its own unlabelled criterion: the initialisation was restored"
            )
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return self.built.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.built.learner.load_state_dict(state)

    def export(self, folder: Path) -> None:
        save_model(folder, self.built.network(), self.problem, self.recipe, self.options.seed)


def save_model(folder: Path, network: nn.Module, problem: Problem, recipe: str, seed: int) -> None:
    """Writes the standard artefact."""
    heads = {t: problem.heads[t] for t in problem.experts}
    classes = {t: list(problem.tasks[t].classes) for t in problem.experts}
    info = {"recipe": recipe, "problem": problem.name, "seed": seed, "classes": classes}
    save(folder, network, problem.spec, heads, info)
    if problem.tokenizer is not None:
        problem.tokenizer.save_pretrained(folder)


def score(network: nn.Module, problem: Problem, split: str, limit: int = ProblemOptions.limit) -> dict[str, float]:
    """``accuracy`` (mean over tasks) and ``accuracy/<task>``, in [0, 1], on at most ``limit`` samples a task."""
    return _with_mean(accuracies(network, problem.heads, problem.splits(split, limit)))


def _with_mean(each: Mapping[str, float]) -> dict[str, float]:
    return {"accuracy": sum(each.values()) / len(each)} | {f"accuracy/{t}": a for t, a in each.items()}


def compare(
    problem: Problem,
    folder: RunFolder,
    limit: int = ProblemOptions.limit,
    device: torch.device | str = "cpu",
    start: nn.Module | None = None,
) -> None:
    """Keeps what a merged model is compared with: the base, the weight average, each expert on its own task, and
    ``start``, what an adaptation begins with."""
    if not is_writer() or has_references(folder):
        return
    parts = problem.splits("test", limit)
    found = [Reference("base", score(copy.deepcopy(problem.encoder).to(device), problem, "test", limit), "from")]
    if folder.recipe != "average":
        found.append(Reference("weight average", score(problem.merged("average").to(device), problem, "test", limit)))
    if start is not None:
        found.append(Reference("before the adaptation", score(start, problem, "test", limit)))
    own = {
        task: accuracies(problem.expert(task).to(device), {task: problem.heads[task]}, {task: part})[task]
        for task, part in parts.items()
    }
    keep_references(folder, [*found, Reference("experts", _with_mean(own), "to")])


def print_accuracies(metrics: Mapping[str, float]) -> None:
    """One line a task and the mean, for people."""
    rows = [(task, percent(value)) for task, value in by_task(metrics, "accuracy").items()]
    print_table(("task", "accuracy %"), rows, ("mean", percent(metrics["accuracy"])))


def _plan(recipe: str, options: ProblemOptions | MergeOptions, problem: Problem | None) -> list[str]:
    """What a dry run says of a problem, which is None where it would have to be fetched or trained."""
    if problem is not None:
        weights = problem.encoder.state_dict()
        size = sum(v.numel() * v.element_size() for v in weights.values())
        return [
            f"{recipe} on {problem.name}: {len(problem.experts)} experts ({', '.join(problem.experts)})",
            f"encoder: {len(weights)} tensors, {size / 1e6:.1f} MB; with all experts in memory "
            f"{size * (1 + len(problem.experts)) / 1e6:.1f} MB",
        ]
    if options.suite is None:
        return [f"{recipe} on your checkpoints, {options.base} and its experts: sizes are {UNKNOWN}"]
    lines = [f"{recipe} on {options.suite}, {SUITES.get(options.suite, SUITES['ta8'])}"]
    if not suite_needs(options.suite).there:
        lines.append(f"tasks, classes and sizes: {UNKNOWN}")
    if options.suite in PROTOCOLS:
        tuning = PROTOCOLS[options.suite].fine_tuning
        length = f"{tuning.steps} steps" if tuning.steps else f"{tuning.epochs} epochs"
        lines.append(f"experts of seed {options.seed}: not in the cache, would be trained first, {length} each")
    return lines


def _sizes(model: nn.Module) -> list[str]:
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stored = sum(v.numel() * v.element_size() for v in model.state_dict().values())
    return [f"trainable parameters: {trainable:,}; the model holds {stored / 1e6:.1f} MB"]
