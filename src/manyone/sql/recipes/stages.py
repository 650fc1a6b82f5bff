"""What comes before the method: the tokenizer, the teacher's fine-tuning, the student's warm start, teacher's answers.

Each is a stage of the run (``stages/teacher``, ``stages/warm-start``) with checkpoints of its own. Models from scratch
are kept in the cache under a digest of all that they were made of, so that the methods of a study share them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from manyone.assets.cache import cache_folder, locked, workspace
from manyone.engine.fabric import broadcast, is_writer
from manyone.engine.files import write_atomic
from manyone.engine.inputs import digest
from manyone.engine.loop import train
from manyone.engine.progress import Progress
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.sql import artefact
from manyone.sql.answering import as_text
from manyone.sql.collate import Example
from manyone.sql.generation import Decoding, generate
from manyone.sql.language_model import LanguageModel
from manyone.sql.learner import Optimisation
from manyone.sql.models import (
    Size,
    add_lora,
    drop_layers,
    dropped,
    local_folder,
    new_decoder,
    open_model,
    open_tokenizer,
)
from manyone.sql.recipes.build import Models, fine_tuning, updates
from manyone.sql.recipes.options import DistilOptions
from manyone.sql.recipes.problem import SQLProblem
from manyone.sql.recipes.scores import Kept
from manyone.sql.tokens import check_same_tokenizer, padding, rewriting_tokens, tokenizer_digest, train_tokenizer

VERSION = 1
"""To be raised whenever the training code changes what it computes."""
_OUTPUTS = "teacher-outputs.json"


@dataclass(frozen=True)
class Stages:
    """One run's models, made stage by stage in ``folder``."""

    options: DistilOptions
    problem: SQLProblem
    folder: RunFolder
    device: torch.device

    def models(self, kept: Kept | None = None) -> Models:
        """Tokenizer, teacher and student before the method; ``kept`` judges the teacher's answers."""
        o, tokenizer = self.options, self.ready()
        every = dropped(o.student)
        wanted = o.needs_teacher or every is not None
        teacher = self.teacher(tokenizer) if wanted else None
        student = self.student(tokenizer, teacher, every)
        if not o.needs_teacher:
            teacher = None
        outputs = None
        if o.source in ("teacher", "teacher+student"):
            assert teacher is not None
            outputs = self.outputs(tokenizer, teacher, kept)
        return Models(tokenizer, student, teacher, outputs)

    def ready(self) -> Any:
        """The tokenizer, after a look at what is given: what does not serve is refused before anything is written."""
        o, every = self.options, dropped(self.options.student)
        tokenizer = self.tokenizer(o.needs_teacher or every is not None)
        rewriting_tokens(tokenizer, o.mask_token)
        return tokenizer

    def tokenizer(self, with_teacher: bool) -> Any:
        """That of the models that are given, or one trained on the training pairs."""
        o = self.options
        given = [o.student] if o.student != "scratch" and dropped(o.student) is None else []
        given += [o.teacher] if with_teacher and o.teacher != "scratch" else []
        if not given:
            return train_tokenizer(self.problem.texts(), o.vocabulary)
        found = [open_tokenizer(place) for place in given]
        for other in found[1:]:
            check_same_tokenizer(found[0], other)
        return found[0]

    def teacher(self, tokenizer: Any) -> LanguageModel:
        """The teacher, fine-tuned first unless it is a text-to-SQL model already."""
        o, scratch = self.options, self.options.teacher == "scratch"
        steps = updates(o.teacher_steps, o.teacher_epochs, len(self.problem.train), o.batch_size)
        ready = not scratch and artefact.is_sql_model(local_folder(o.teacher))
        if not steps or ready:
            return LanguageModel(open_model(o.teacher, self.frozen_type).to(self.device)).freeze()
        print(f"teacher: {o.teacher}, {steps} updates of fine-tuning", file=sys.stderr)

        def new() -> Any:
            if not scratch:
                return self.adapted(open_model(o.teacher, self.type), o.teacher_seed)
            return new_decoder(Size(o.teacher_layers, o.teacher_width), len(tokenizer), seed=o.teacher_seed,
                               special=tokenizer, longest=o.max_input + o.max_output)  # fmt: skip

        how = self.optimisation(steps, o.teacher_lr)
        shape = [o.teacher_layers, o.teacher_width] if scratch else None
        place = self.trained("teacher", new, tokenizer, how, o.teacher_seed, shape)
        return LanguageModel(open_model(str(place), self.frozen_type).to(self.device)).freeze()

    def student(self, tokenizer: Any, teacher: LanguageModel | None, every: int | None) -> LanguageModel:
        """The student that the method starts from."""
        o = self.options

        def new() -> Any:
            if every is not None:
                assert teacher is not None
                return drop_layers(teacher.model, every).to(self.type)
            if o.student != "scratch":
                return open_model(o.student, self.type)
            rows = len(tokenizer) if teacher is None else teacher.rows
            return new_decoder(Size(o.student_layers, o.student_width), rows, seed=o.seed, special=tokenizer,
                               longest=o.max_input + o.max_output)  # fmt: skip

        if o.warm_start:
            print(f"warm start of the student: {o.warm_start} updates", file=sys.stderr)
            how = self.optimisation(o.warm_start, o.warm_lr)
            shape = [o.student_layers, o.student_width] if o.student == "scratch" else None
            place = self.trained("warm-start", lambda: self.adapted(new(), o.seed), tokenizer, how, o.seed, shape)
            base = open_model(str(place), self.type)
        else:
            base = new()
        model = LanguageModel(self.adapted(base, o.seed).to(self.device), mixed=self.mixed)
        model.check()
        if o.gradient_checkpointing:
            model.checkpoint_gradients()
        return model

    def trained(
        self, stage: str, new: Callable[[], Any], tokenizer: Any, how: Optimisation, seed: int, shape: list[int] | None
    ) -> Path:
        """The folder of a fine-tuned model: in the cache, of an earlier part of this run, or trained now.

        ``shape`` of a model from scratch; others are not kept in the cache, whose entries nobody would look for.
        """
        own = self.folder.stage(stage)
        model_folder = own.path / "model"
        entry = None
        if shape is not None:
            o = self.options
            told = [VERSION, stage, shape, seed, repr(how), self.problem.digests(), repr(self.problem.form),
                    self.problem.seed, o.reduction, o.precision, o.lora_rank, o.lora_alpha, o.lora_dropout,
                    tokenizer_digest(tokenizer)]  # fmt: skip
            entry = cache_folder("sql-models") / f"{stage}-{digest(json.dumps(told, sort_keys=True))[:24]}"
            if broadcast((entry / "config.json").is_file()):
                return entry
        if not broadcast((model_folder / "config.json").is_file()):
            model = LanguageModel(new().to(self.device), mixed=self.mixed)
            model.check()
            if self.options.gradient_checkpointing:
                model.checkpoint_gradients()
            learner = fine_tuning(model, tokenizer, self.options, self.problem, how, seed=seed,
                                  info={"recipe": f"{self.folder.recipe}: {stage}"})  # fmt: skip
            train(learner, own, steps=how.steps, checkpoint_every=self.options.checkpoint_every,
                  log_every=max(1, how.steps // 500))  # fmt: skip
        if entry is not None and is_writer():
            _keep(model_folder, entry)
        broadcast(None)  # nobody opens it before it is there
        return model_folder

    def outputs(self, tokenizer: Any, teacher: LanguageModel, kept: Kept | None) -> list[Example | None]:
        """The teacher's greedy answers to the training prompts, generated once and kept in the run folder."""
        o, pairs = self.options, self.problem.train
        prompts = self.problem.prompts(tokenizer, pairs, learning=True)
        path = self.folder.path / _OUTPUTS
        found: list[list[int] | None] | None = _read_outputs(path, len(pairs)) if is_writer() else None
        if broadcast(found is None) and is_writer():
            how = Decoding(tokenizer.eos_token_id, padding(tokenizer), o.max_output)
            with Progress("the teacher's answers", len(pairs), unit="questions") as bar:
                outputs = generate(teacher, prompts, how, done=bar.update)
            good = [True] * len(pairs)
            if kept is not None:
                good = kept(range(len(pairs)), [as_text(tokenizer, output) for output in outputs])
                print(f"{sum(good)} of {len(pairs)} answers of the teacher are kept (--teacher-filter "
                      f"{o.teacher_filter})", file=sys.stderr)  # fmt: skip
            found = [list(out) if keep and out else None for out, keep in zip(outputs, good, strict=True)]
            self.folder.ensure()
            write_atomic(path, json.dumps(found).encode())
        found = broadcast(found)
        assert found is not None
        return [
            None if out is None else Example(prompt, tuple(out)) for prompt, out in zip(prompts, found, strict=True)
        ]

    def adapted(self, model: Any, seed: int) -> Any:
        """``model`` with adapters, where the options ask for them."""
        o = self.options
        return add_lora(model, o.lora_rank, o.lora_alpha, dropout=o.lora_dropout, seed=seed) if o.lora_rank else model

    def optimisation(self, steps: int, lr: float) -> Optimisation:
        """That of the method, with other steps and another rate."""
        o = self.options
        return Optimisation(steps, lr, o.warmup, o.schedule, o.weight_decay, o.clip, o.batch_size, o.micro_batch)

    @property
    def type(self) -> torch.dtype:
        """Of trained weights."""
        return {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(self.options.precision, torch.float32)

    @property
    def frozen_type(self) -> torch.dtype:
        """Of weights that are only read."""
        return torch.bfloat16 if self.mixed else self.type

    @property
    def mixed(self) -> bool:
        """Whether computations are in half precision while weights are not."""
        return self.options.precision == "bf16-mixed"


def _keep(folder: Path, entry: Path) -> None:
    """Copies a finished model into the cache, whole or not at all."""
    with locked(entry.name):
        if not entry.is_dir():
            with workspace() as place:
                shutil.copytree(folder, place / "model")
                (place / "model").rename(entry)


def _read_outputs(path: Path, number: int) -> list[list[int] | None] | None:
    """What an earlier part of the run generated; None where it had not come to that."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
        fits = len(found) == number and all(
            row is None or (len(row) > 0 and all(type(t) is int and t >= 0 for t in row)) for row in found
        )
    except (ValueError, TypeError) as error:
        raise ManyoneError(f"{path}: damaged ({error}): remove it, the answers are generated again") from None
    if not fits:
        raise ManyoneError(f"{path}: not the answers to the {number} training pairs: remove it")
    return found
