"""How a distillation runs: data, teacher, warm start, the method with its evaluations, the model and its scores."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from manyone.engine.devices import device_of
from manyone.engine.fabric import broadcast, is_writer, make_fabric
from manyone.engine.inputs import check_inputs
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.options import Split
from manyone.recipes.references import Reference, has_references, keep_references
from manyone.recipes.running import print_table
from manyone.sql import artefact
from manyone.sql.exposure import excess_error
from manyone.sql.generation import Decoding
from manyone.sql.language_model import LanguageModel
from manyone.sql.learner import DistilLearner, gold_loss
from manyone.sql.recipes.build import Models
from manyone.sql.recipes.options import DistilOptions
from manyone.sql.recipes.problem import SQLProblem, load_problem
from manyone.sql.recipes.scores import Judge, rows_of
from manyone.sql.recipes.stages import Stages
from manyone.sql.tokens import padding

Build = Callable[..., DistilLearner]
_COMPARED = 256
"""Validation pairs on which teacher and student are compared."""
EVAL_OPTIONS = ("beams",)
"""Options of ``manyone eval`` that :func:`evaluate` takes."""


def run(options: DistilOptions, build: Build, folder: RunFolder) -> None:
    """Data, models stage by stage, the method, scores."""
    device = prepare_processes(options)
    problem = load_problem(options)
    stages = Stages(options, problem, folder, device)
    stages.ready()
    check_inputs(folder, problem.digests())  # the first thing that is written: what is refused leaves no folder
    if is_writer():
        print(f"{problem.data.name}: {len(problem.train)} pairs to train on, {len(problem.test)} to test on, "
              f"{len(problem.data.schemas)} databases", file=sys.stderr)  # fmt: skip
        for note in notes(problem):
            print(f"note: {note}", file=sys.stderr)
    with Judge(problem, options) as judge:
        models = stages.models(judge.kept(options.teacher_filter))
        learner = learner_of(options, build, problem, models, judge, folder.recipe)
        compare_with_teacher(learner, folder)
        keep_points(learner, judge, models.tokenizer, folder)
        final = train(
            learner,
            folder,
            steps=learner.optimisation.steps,
            evaluate_every=options.evaluate_every,
            checkpoint_every=options.checkpoint_every,
            loggers=options.logger,
            log_every=max(1, learner.optimisation.steps // 1000),
        )
    if is_writer():
        print_table(("", "pairs", "EX %", "95 %", "TS %"), rows_of(folder.recipe, final))
        print(f"model: {folder.path / 'model'}")


def compare_with_teacher(learner: DistilLearner, folder: RunFolder) -> None:
    """Logs how well teacher and student know the validation pairs before the method begins; warns where the teacher is
    no better, as no distillation can help then."""
    if learner.teacher is None or not learner.validation:
        return
    pairs = learner.validation[:_COMPARED]
    with learner.parallel.whole(learner.student):
        own = gold_loss(learner.student, pairs, learner.pad)
    teacher = gold_loss(learner.teacher, pairs, learner.pad)
    folder.log(0, "start", {"val_loss": own, "teacher_val_loss": teacher})
    if teacher >= own and is_writer():
        logging.getLogger("manyone").warning(
            "the teacher knows the validation pairs no better than the student that it is to teach (cross-entropy "
            "%.3f against %.3f a token): train it longer with --teacher-steps, or give a better one with --teacher",
            teacher, own,
        )  # fmt: skip


def keep_points(learner: DistilLearner, judge: Judge, tokenizer: Any, folder: RunFolder) -> None:
    """Keeps what the trained student is compared with: itself before the method, and the teacher, on the same pairs."""
    if broadcast(has_references(folder)):
        return
    known = next((line for line in folder.metrics() if line["kind"] == "start"), {})
    points: list[Reference] = []
    compared: Sequence[tuple[str, str, Literal["from", "to"], LanguageModel | None]] = (
        ("student before the method", "val_loss", "from", learner.student),
        ("teacher", "teacher_val_loss", "to", learner.teacher),
    )
    for name, metric, end, model in compared:
        if model is None:
            continue
        with learner.parallel.whole(learner.student):  # one process asks and scores, its sharded layers are whole here
            found = broadcast(judge(model, tokenizer) if is_writer() else None)
        points += [Reference(name, {k: v}, end) for k, v in found.items() if k.partition("/")[0] in ("ex", "ts")]
        points += [Reference(name, {"val_loss": known[metric]}, end)] if metric in known else []
    keep_references(folder, points)


def notes(problem: SQLProblem) -> list[str]:
    """What a user should know of the data."""
    unparsed = problem.unparsed()
    own = [f"{unparsed} of {len(problem.train)} training queries cannot be parsed and are learned as they are written"]
    return [*problem.data.notes, *own[: int(unparsed > 0)]]


def learner_of(
    options: DistilOptions, build: Build, problem: SQLProblem, models: Models, judge: Judge | None, recipe: str
) -> DistilLearner:
    """The learner of a recipe, evaluated by ``judge``; scores go into the artefact's description."""
    told = ("teacher", "student", "divergence", "source", "seed")
    info: dict[str, Any] = {"recipe": recipe, **{name: getattr(options, name) for name in told}}

    def evaluate(learner: DistilLearner) -> Mapping[str, float]:
        if judge is None:
            return {}
        # one process asks and scores, its sharded layers are whole here
        found = broadcast(judge(learner.student, models.tokenizer) if is_writer() else None)
        if options.exposure and models.teacher is not None and learner.done >= learner.optimisation.steps:
            found |= exposure(options, problem, models)
        info["scores"] = {name: value for name, value in found.items() if not name.startswith("pairs")}
        return found

    return build(options, problem, models, evaluate, info)


def exposure(options: DistilOptions, problem: SQLProblem, models: Models) -> dict[str, float]:
    """ExAccErr of the student over whole answers."""
    assert models.teacher is not None
    prompts = problem.prompts(models.tokenizer, problem.test[: options.exposure])
    how = Decoding(models.tokenizer.eos_token_id, padding(models.tokenizer), options.max_output)
    found = excess_error(models.student, models.teacher, prompts, how, seed=options.seed)
    return {"exposure": found.percent[-1], "exposure_expected": found.expected[-1]}


def evaluate(
    options: DistilOptions, build: Any, folder: RunFolder, split: Split, *, beams: int | None = None
) -> Mapping[str, float]:
    """Scores of the exported model."""
    model = folder.path / "model"
    if not model.is_dir():
        raise ManyoneError(f"{folder.path}: not finished, nothing to evaluate yet: manyone resume {folder.path}")
    problem = load_problem(options)
    saved = artefact.load(model, device_of(options.device))
    pairs = problem.of(split)
    with Judge(problem, options, pairs=pairs, beams=beams) as judge:
        return judge(saved.model, saved.tokenizer)


def prepare_processes(options: DistilOptions) -> torch.device:
    """This process's device; under torchrun it joins the others."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked beside it
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return make_fabric(options.device).device
    return device_of(options.device)


def plan(options: DistilOptions, build: Build, folder: RunFolder) -> list[str]:
    """Pairs, models and length; nothing is made for it."""
    where = options.suite or ", ".join(options.data)
    first = f", {options.teacher_steps} updates first" if options.teacher_steps else ""
    length = f"{options.epochs:g} epochs" if options.epochs is not None else f"{options.steps} updates"
    return [
        f"{folder.recipe} on {where}",
        f"teacher {options.teacher}{first}" if options.needs_teacher else "no teacher is asked",
        f"student {options.student}, {options.warm_start} updates of warm start",
        f"{length} of {options.batch_size} pairs: divergence {options.divergence}, source {options.source}, "
        f"hard labels {options.mle:g}",
    ]
