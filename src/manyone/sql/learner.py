"""Distillation of a causal language model as a ``Learner``: a source, a divergence, and hard labels beside them.

    L = L_KD + w L_MLE        (section 2.4 of the method; w = 1)

``L_KD`` compares both models on what the source gives, ``L_MLE`` is the cross-entropy with gold tokens: of the same
forward pass (``mle_on = "imperfect"``, the default: the student learns to write the right token after a wrong one), or
of another one on clean gold. AdamW, linear warm-up, cosine to 0; batches in micro-batches and over processes,
normalised by the tokens of the whole batch.

Public names: :class:`DistilLearner`, :class:`Objective`, :class:`Optimisation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manyone.engine.fabric import gather, rank
from manyone.errors import ManyoneError
from manyone.randomness import BatchOrder
from manyone.sql.collate import Batch, Example, pack
from manyone.sql.divergences import Divergence
from manyone.sql.language_model import LanguageModel
from manyone.sql.loss import Kernel, Reduction, Terms, Totals, output_loss
from manyone.sql.parallel import Parallel
from manyone.sql.sources import Prepared, Source


@dataclass(frozen=True)
class Objective:
    """What a student descends on."""

    divergence: Divergence | None = None
    """None: hard labels alone."""
    mle: float = 1.0
    """C4: w, the weight of the hard labels."""
    mle_on: Literal["imperfect", "clean"] = "imperfect"
    """C3: the forward pass that they are compared with."""
    reduction: Reduction = "token"
    """C10: mean over tokens, or over sequences of the mean over their tokens."""
    budget: int = 1 << 30
    """Bytes of float32 logits that are formed at once."""
    kernel: Kernel = "own"
    """What forms the loss: own, or Liger's fused one."""


@dataclass(frozen=True)
class Optimisation:
    """AdamW and its schedule."""

    steps: int
    lr: float = 2e-4
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises."""
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    clip: float | None = None
    """Largest norm of the gradient."""
    batch_size: int = 16
    micro_batch: int | None = None
    """Sequences of a forward pass; None: all that a process has of a batch."""

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ..."""
        rising = max(1, math.ceil(self.warmup * self.steps)) if self.warmup else 0
        if step < rising:
            return self.lr * (step + 1) / rising
        if self.schedule == "constant":
            return self.lr
        done = (step - rising) / max(1, self.steps - rising)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


class DistilLearner:
    """Trains ``student`` on the examples ``gold`` as ``source`` and ``objective`` say (an engine ``Learner``).

    ``usable``: numbers of the examples that steps draw from (default: all). ``validation``: examples whose gold
    cross-entropy :meth:`evaluate` measures, besides what ``evaluate`` does. ``export`` writes the artefact.
    """

    def __init__(
        self,
        student: LanguageModel,
        gold: Sequence[Example],
        source: Source,
        objective: Objective,
        optimisation: Optimisation,
        *,
        teacher: LanguageModel | None = None,
        pad: int,
        seed: int = 0,
        usable: Sequence[int] | None = None,
        validation: Sequence[Example] = (),
        evaluate: Callable[[DistilLearner], Mapping[str, float]] | None = None,
        export: Callable[[DistilLearner, Path], None] | None = None,
        parallel: Parallel | None = None,
    ) -> None:
        if objective.divergence is not None and teacher is None:
            raise ManyoneError(f"divergence {objective.divergence.name}: needs a teacher")
        if objective.divergence is None and not objective.mle:
            raise ManyoneError("neither a divergence nor a weight of the hard labels: nothing to learn from")
        self.student, self.teacher, self.gold, self.source = student, teacher, gold, source
        self.objective, self.optimisation, self.pad, self.seed = objective, optimisation, pad, seed
        self.usable = list(range(len(gold))) if usable is None else list(usable)
        self.validation, self._evaluate, self._export = validation, evaluate, export
        if teacher is not None:
            teacher.freeze()
        self.parallel = parallel or Parallel()
        self.trainable = student.parameters()
        if not self.trainable:
            raise ManyoneError("the student has no trainable parameter")
        # float32 copies of half-precision parameters are not kept: what is trained in bf16 is trained in bf16
        self.adam = torch.optim.AdamW(list(self.trainable.values()), lr=optimisation.lr,
                                      weight_decay=optimisation.weight_decay, fused=False)  # fmt: skip
        self.order = BatchOrder(len(self.usable), optimisation.batch_size, seed, "sql batches")
        self.done = 0
        self._whole: Any = None
        student.model.train()

    def step(self) -> dict[str, float]:
        """One update."""
        examples = [self.usable[i] for i in self.order.batch(self.done).tolist()]
        parts = self._parts(examples[self.parallel.rank :: self.parallel.size])
        with self.parallel.whole(self.student):
            prepared = [self.source.prepare(part, self.done) for part in parts]
        self.student.model.train()
        clean = [self._clean(part, one) for part, one in zip(parts, prepared, strict=True)]
        distil, hard, figures = self._totals(prepared, clean)
        lr = self.optimisation.rate(self.done)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.zero_grad(set_to_none=True)
        kd, ce = 0.0, 0.0
        for one, own in zip(prepared, clean, strict=True):
            first, second = self._backward(one, own, distil, hard)
            kd, ce = kd + first, ce + second
        norm = self.parallel.finish(self.student, list(self.trainable.values()), self.optimisation.clip)
        self.adam.step()
        self.done += 1
        self.source.observe(figures)
        kd, ce = (sum(found) for found in zip(*gather((kd, ce)), strict=True))
        metrics = {"loss": kd + ce, "lr": lr, "grad_norm": norm, "tokens": max(distil.tokens, hard.tokens)}
        if self.objective.divergence is not None:
            metrics |= {"divergence": kd}
        if self.objective.mle:
            metrics |= {"mle": ce / self.objective.mle}
        return metrics | _shares(figures, len(examples))

    def losses(self, prepared: Prepared, clean: Batch | None, distil: Totals, hard: Totals) -> tuple[Tensor, Tensor]:
        """(divergence, weighted cross-entropy) of a micro-batch of a batch with these totals, with gradient."""
        wanted, batch = self.objective, prepared.batch
        shared = wanted.mle > 0 and clean is None
        states = self.student.hidden(batch)[batch.predicting]
        zero = states.new_zeros((), dtype=torch.float32)
        other = None
        distilling = None
        if wanted.divergence is not None and self.teacher is not None:
            with self.teacher.evaluating():
                other = self.teacher.hidden(batch)[batch.predicting]
            distilling = _spread(distil.weights(prepared.distil.sum(1), wanted.reduction), prepared.distil, batch.out)
        labels = batch.targets if prepared.labels is None else prepared.labels[batch.out]
        own = hard.weights(batch.lengths, wanted.reduction) * wanted.mle if shared else None
        kd, ce = output_loss(self.student, states, Terms(labels, distilling, own), wanted.divergence, self.teacher,
                             other, budget=wanted.budget, kernel=wanted.kernel)  # fmt: skip
        if clean is not None:
            states = self.student.hidden(clean)[clean.predicting]
            weights = hard.weights(clean.lengths, wanted.reduction) * wanted.mle
            ce = output_loss(self.student, states, Terms(clean.targets, None, weights), budget=wanted.budget)[1]
        return (kd if distilling is not None else zero), ce

    def evaluate(self) -> dict[str, float]:
        """``val_loss``, mean cross-entropy per gold token, and what the given function measures."""
        found: dict[str, float] = {}
        if self.validation:
            with self.parallel.whole(self.student):
                found["val_loss"] = gold_loss(self.student, self.validation, self.pad)
            self.source.validated(found["val_loss"])
        self._whole = self.parallel.gathered(self.student)  # all processes are here, only one will export
        if self._evaluate is not None:
            with self.parallel.whole(self.student):
                found |= self._evaluate(self)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Trainable parameters, optimiser, source and the number of steps."""
        weights = {name: self.parallel.full(value) for name, value in self.trainable.items()}
        adam = [{k: self.parallel.full(v) for k, v in self.adam.state.get(p, {}).items()}
                for p in self.trainable.values()]  # fmt: skip
        return {"done": self.done, "weights": weights, "adam": adam, "source": self.source.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        with torch.no_grad():
            for (name, value), own in zip(self.trainable.items(), state["adam"], strict=True):
                self.parallel.put(value, state["weights"][name])
                if own:
                    self.adam.state[value] = {k: self.parallel.like(value, k, v) for k, v in own.items()}
        self.source.load_state_dict(state["source"])
        self.done = state["done"]

    def export(self, folder: Path) -> None:
        """Writes the artefact, where the constructor was told how."""
        if self._export is not None:
            self._export(self, folder)

    def whole_model(self) -> Any:
        """The student's transformers or PEFT model in one piece, as of the last evaluation where it is sharded."""
        return self.student.model if self._whole is None else self._whole

    def _parts(self, examples: Sequence[int]) -> list[list[int]]:
        """This process's examples in micro-batches, alike in length."""
        size = self.optimisation.micro_batch or max(1, len(examples))
        if size >= len(examples):
            return [list(examples)] if examples else []
        ordered = sorted(examples, key=lambda i: (len(self.gold[i].prompt) + len(self.gold[i].output), i))
        return [ordered[first : first + size] for first in range(0, len(ordered), size)]

    def _clean(self, part: Sequence[int], prepared: Prepared) -> Batch | None:
        """The gold batch of a forward pass of its own, where hard labels need one."""
        if not self.objective.mle or (prepared.labels is not None and self.objective.mle_on == "imperfect"):
            return None
        if prepared.labels is prepared.batch.ids:  # they are clean already
            return None
        return pack([self.gold[i] for i in part], self.pad).to(self.student.device)

    def _totals(
        self, prepared: Sequence[Prepared], clean: Sequence[Batch | None]
    ) -> tuple[Totals, Totals, dict[str, float]]:
        """Counts of the divergence and of the hard labels, and figures, over the whole batch."""
        distil, hard = Totals(0, 0), Totals(0, 0)
        figures: dict[str, float] = {}
        for one, own in zip(prepared, clean, strict=True):
            distil += _totals_of(one.distil.sum(1))
            hard += _totals_of((one.batch if own is None else own).lengths)
            for name, value in one.figures.items():
                figures[name] = figures.get(name, 0.0) + value
        for other, (d, h, f) in enumerate(gather((distil, hard, figures))):
            if other != rank():
                distil, hard = distil + d, hard + h
                figures = {name: figures.get(name, 0.0) + f.get(name, 0.0) for name in {**figures, **f}}
        return distil, hard, figures

    def _backward(self, one: Prepared, own: Batch | None, distil: Totals, hard: Totals) -> tuple[float, float]:
        kd, ce = self.losses(one, own, distil, hard)
        (kd + ce).backward()
        return float(kd.detach()), float(ce.detach())


def gold_loss(model: LanguageModel, examples: Sequence[Example], pad: int, batch_size: int = 32) -> float:
    """Mean cross-entropy per output token of ``examples``."""
    total, count = 0.0, 0
    with model.evaluating():
        for first in range(0, len(examples), batch_size):
            batch = pack(examples[first : first + batch_size], pad).to(model.device)
            logits = model.predictions(batch, batch.out).float()
            total += float(torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum"))
            count += len(logits)
    return total / max(1, count)


def _totals_of(counts: Tensor) -> Totals:
    return Totals(float(counts.sum()), float((counts > 0).sum()))


def _spread(weights: Tensor, places: Tensor, out: Tensor) -> Tensor:
    """``weights`` of the tokens ``places`` among all output tokens, 0 for the others."""
    whole = torch.zeros(out.shape, dtype=weights.dtype, device=weights.device)
    whole[places] = weights
    return whole[out]


def _shares(figures: Mapping[str, float], examples: int) -> dict[str, float]:
    """Figures of a step as what people read."""
    found = {name: figures[name] / examples for name in ("generated", "replayed") if name in figures}
    if "masked" in figures:
        found["masked"] = figures["masked"] / examples
        found["rewrite_error"] = figures["changed"] / max(1.0, figures["masked"])
    return found
