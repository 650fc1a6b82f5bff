"""What the sql recipes train: a learner with the source, divergence and hard labels that its options describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyone.errors import ManyoneError
from manyone.sql import artefact
from manyone.sql.collate import Example
from manyone.sql.divergences import Divergence
from manyone.sql.fused import check_fused
from manyone.sql.generation import Decoding
from manyone.sql.imperfect import Imperfection, Tokens
from manyone.sql.language_model import LanguageModel
from manyone.sql.learner import DistilLearner, Objective, Optimisation
from manyone.sql.parallel import Parallel
from manyone.sql.recipes.options import DistilOptions
from manyone.sql.recipes.problem import SQLProblem
from manyone.sql.sources import Adaptive, Fixed, Imperfect, Mixture, Source, StudentOutputs, check_teacher_outputs
from manyone.sql.tokens import padding, rewriting_tokens

Evaluate = Callable[[DistilLearner], Mapping[str, float]] | None
_REPLACE = {"imperfect": "rewrite", "mask-only": "mask", "noise": "noise", "scheduled": "scheduled"}


@dataclass(eq=False)
class Models:
    """Who takes part: the student, the teacher where the method asks one, and their tokenizer."""

    tokenizer: Any
    student: LanguageModel
    teacher: LanguageModel | None = None
    outputs: Sequence[Example | None] | None = None
    """The teacher's answers to the training prompts, where the method reads them; None: dropped."""

    def __post_init__(self) -> None:
        if self.teacher is not None:  # padded rows of equal tokenizers differ: both are cut to what they share
            shared = min(self.student.rows, self.teacher.rows)
            self.student.vocabulary = self.teacher.vocabulary = shared


def distillation(
    o: DistilOptions,
    problem: SQLProblem,
    models: Models,
    evaluate: Evaluate = None,
    info: Mapping[str, Any] | None = None,
) -> DistilLearner:
    """The learner of any recipe. ``info`` goes into the artefact's description."""
    gold = problem.examples(models.tokenizer, problem.train)
    kept = None
    if models.outputs is not None and o.source in ("teacher", "teacher+student"):
        kept = check_teacher_outputs(models.outputs)
    asks = o.divergence != "none"
    return DistilLearner(
        models.student,
        gold,
        source(o, models, gold),
        objective(o),
        optimisation(o, len(gold) if kept is None else len(kept)),
        teacher=models.teacher if asks else None,
        pad=padding(models.tokenizer),
        seed=o.seed,
        usable=kept,
        validation=problem.examples(models.tokenizer, problem.validation),
        evaluate=evaluate,
        export=exporter(o, problem, models.tokenizer, info or {}),
        parallel=sharded(o, models.student),
    )


def fine_tuning(
    model: LanguageModel,
    tokenizer: Any,
    o: DistilOptions,
    problem: SQLProblem,
    how: Optimisation,
    *,
    seed: int,
    info: Mapping[str, Any],
) -> DistilLearner:
    """Cross-entropy on gold: what teachers and warm starts get."""
    gold = problem.examples(tokenizer, problem.train)
    pad = padding(tokenizer)
    return DistilLearner(
        model, gold, Fixed(gold, pad, model.device), Objective(reduction=o.reduction, budget=_bytes(o)), how, pad=pad,
        seed=seed, validation=problem.examples(tokenizer, problem.validation),
        export=exporter(o, problem, tokenizer, info, merged=True), parallel=sharded(o, model),
    )  # fmt: skip


def objective(o: DistilOptions) -> Objective:
    """What the student descends on."""
    divergence = None
    if o.divergence != "none":
        divergence = Divergence(o.divergence, o.beta, o.skew, o.temperature)
    if o.loss_kernel == "liger":
        check_fused(divergence, o.reduction)
    return Objective(divergence, o.mle, o.mle_on, o.reduction, _bytes(o), o.loss_kernel)


def optimisation(o: DistilOptions, pairs: int) -> Optimisation:
    """AdamW on ``pairs`` examples."""
    return Optimisation(
        steps=updates(o.steps, o.epochs, pairs, o.batch_size),
        **{name: getattr(o, name) for name in ("lr", "warmup", "schedule", "weight_decay", "clip", "batch_size",
                                               "micro_batch")},
    )  # fmt: skip


def updates(steps: int | None, epochs: float | None, pairs: int, batch_size: int) -> int:
    """How many there are: ``steps``, or passes over the pairs."""
    if epochs is not None:
        return max(1, round(epochs * pairs / min(batch_size, pairs)))
    assert steps is not None
    return steps


def source(o: DistilOptions, models: Models, gold: Sequence[Example]) -> Source:
    """Where the sequences come from."""
    pad, device = padding(models.tokenizer), models.student.device
    golden = Fixed(gold, pad, device)
    if o.source == "gold":
        return golden
    if o.source in _REPLACE:
        return Imperfect(models.student, gold, imperfection(o), tokens(o, models), pad, o.seed, places=o.loss_places,
                         changed_share=o.changed_share)  # fmt: skip
    how = Decoding(models.tokenizer.eos_token_id, pad, o.max_output, True, o.sampling_temperature, o.batch_size)
    student = StudentOutputs(models.student, gold, how, o.seed)
    if o.source == "student":
        return student
    if o.source == "gold+student":
        return Mixture(golden, student, o.student_share, o.seed)
    if o.source == "adaptive":
        return Adaptive(golden, student, updates(o.steps, o.epochs, len(gold), o.batch_size), o.seed)
    if models.outputs is None:
        raise ManyoneError(f"--source {o.source}: needs the teacher's outputs")
    taught = Fixed([own or gold[i] for i, own in enumerate(models.outputs)], pad, device)  # dropped ones are not drawn
    return taught if o.source == "teacher" else Mixture(taught, student, o.student_share, o.seed)


def imperfection(o: DistilOptions) -> Imperfection:
    """How gold becomes imperfect."""
    replace: Any = _REPLACE[o.source]
    return Imperfection(
        ratio=o.mask_ratio, strategy=o.strategy, pick=o.pick, rounding=o.rounding, mask_end=o.mask_end,
        special=o.special_tokens, passes=o.passes, replace=replace, dropout=o.rewrite_dropout,
    )  # type: ignore[arg-type]  # fmt: skip


def tokens(o: DistilOptions, models: Models) -> Tokens:
    """The ids that rewriting needs; an added mask token is put into both models."""
    found = rewriting_tokens(models.tokenizer, o.mask_token)
    if o.mask_token == "added":
        for model in filter(None, (models.student, models.teacher)):
            model.add_mask_token(o.seed)
    return found


def sharded(o: DistilOptions, model: LanguageModel) -> Parallel:
    """The processes that train ``model``, which is spread over them where that was asked for."""
    parallel = Parallel(o.parallel)
    if o.parallel == "fsdp" and o.batch_size % parallel.size:
        raise ManyoneError(f"--batch-size {o.batch_size}: must be a multiple of the {parallel.size} processes with "
                           "--parallel fsdp")  # fmt: skip
    parallel.shard(model)
    return parallel


def exporter(
    o: DistilOptions, problem: SQLProblem, tokenizer: Any, info: Mapping[str, Any], *, merged: bool | None = None
) -> Callable[[DistilLearner, Path], None]:
    """Writes the student as a Hugging Face folder."""
    merged = o.export == "merged" if merged is None else merged

    def export(learner: DistilLearner, folder: Path) -> None:
        told = {"data": problem.data.name, **problem.form.description(), "steps": learner.done, **info}
        artefact.save(folder, learner.whole_model(), tokenizer, told, merged=merged)

    return export


def _bytes(o: DistilOptions) -> int:
    return int(o.logits_memory * 2**30)
