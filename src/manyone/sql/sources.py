"""Where the sequences come from that teacher and student are compared on; any source goes with any divergence.

    gold            the data                                             FKD, RKD
    teacher         the teacher's outputs, generated once before         SeqKD
    student         the student's outputs, generated for every batch     GKD
    mixtures        per batch one of two                                 ImitKD (gold, student), f-distill
    imperfect       gold with a few tokens as the student would write    KID, and its relatives (:mod:`.imperfect`)
    adaptive        gold, then more and more of the student's, replayed  DistiLLM (arXiv 2402.03898)

A source gives for some examples of a step the batch that both models read, the labels of the hard loss, and the places
where the divergence counts. Public names: :class:`Source`, :class:`Prepared` and a class for each source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from manyone.engine.fabric import gather
from manyone.errors import ManyoneError
from manyone.randomness import generator_for
from manyone.sql.collate import Batch, Example, pack
from manyone.sql.generation import Decoding, generate
from manyone.sql.imperfect import Draw, Imperfection, Tokens, rewrite
from manyone.sql.language_model import LanguageModel

LossPlaces = Literal["output", "after-change"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a step learns from, for some of its examples."""

    batch: Batch
    """What teacher and student read."""
    labels: Tensor | None
    """int64 [B, T], read where ``batch.out``: hard labels in the very same places; None where there are none."""
    distil: Tensor
    """bool [B, T], a part of ``batch.out``: tokens whose prediction is compared with the teacher's."""
    figures: Mapping[str, float]
    """Sums over these examples."""


class Source(Protocol):
    """Gives the sequences of a step. All that it draws is a function of (seed, step, example)."""

    def prepare(self, examples: Sequence[int], step: int) -> Prepared:
        """The sequences for these examples, on the student's device."""

    def observe(self, figures: Mapping[str, float]) -> None:
        """Hears the figures of a whole step, summed over micro-batches and processes."""

    def validated(self, loss: float) -> None:
        """Hears the validation loss of an evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """What later steps depend on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores it."""


class _Stateless:
    """A source that depends on nothing but its arguments."""

    def observe(self, figures: Mapping[str, float]) -> None:
        """Nothing to learn from it."""

    def validated(self, loss: float) -> None:
        """Nothing to learn from it."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


class Fixed(_Stateless):
    """Outputs that lie there: gold, or a teacher's."""

    def __init__(self, outputs: Sequence[Example], pad: int, device: torch.device) -> None:
        self.outputs, self.pad, self.device = outputs, pad, device

    def prepare(self, examples: Sequence[int], step: int) -> Prepared:
        """The outputs; they are their own labels."""
        batch = pack([self.outputs[i] for i in examples], self.pad).to(self.device)
        return Prepared(batch, batch.ids, batch.out, {})


class StudentOutputs(_Stateless):
    """Outputs that the student generates now; hard labels do not fit them."""

    def __init__(self, student: LanguageModel, outputs: Sequence[Example], how: Decoding, seed: int) -> None:
        self.student, self.outputs, self.how, self.seed = student, outputs, how, seed

    def prepare(self, examples: Sequence[int], step: int) -> Prepared:
        """Fresh outputs for the prompts."""
        batch = pack(self.fresh(examples, step), self.how.pad).to(self.student.device)
        return Prepared(batch, None, batch.out, {"generated": len(batch)})

    def fresh(self, examples: Sequence[int], step: int) -> list[Example]:
        """Prompts with the outputs that the student generates."""
        prompts = [self.outputs[i].prompt for i in examples]
        found = generate(self.student, prompts, self.how, Draw(self.seed, step, tuple(examples)))
        return [Example(prompt, output) for prompt, output in zip(prompts, found, strict=True)]


class Mixture:
    """Per step one of two sources: ``second`` with probability ``share``."""

    def __init__(self, first: Source, second: Source, share: float, seed: int) -> None:
        self.first, self.second, self.share, self.seed = first, second, share, seed

    def prepare(self, examples: Sequence[int], step: int) -> Prepared:
        """That of the source whose turn it is."""
        drawn = float(torch.rand((), generator=generator_for(self.seed, "mixture", step)))
        return (self.second if drawn < self.share else self.first).prepare(examples, step)

    def observe(self, figures: Mapping[str, float]) -> None:
        """Both hear it."""
        self.first.observe(figures)
        self.second.observe(figures)

    def validated(self, loss: float) -> None:
        """Both hear it."""
        self.first.validated(loss)
        self.second.validated(loss)

    def state_dict(self) -> dict[str, Any]:
        """Those of both."""
        return {"first": self.first.state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores both."""
        self.first.load_state_dict(state["first"])
        self.second.load_state_dict(state["second"])


class Imperfect:
    """Gold outputs made imperfect (KID).

    ``changed_share``: instead of a fixed ratio, that share of the eligible tokens is to differ from gold: the ratio
    follows the rewriting error, which falls as the student learns. ``places``: C9.
    """

    def __init__(
        self,
        student: LanguageModel,
        outputs: Sequence[Example],
        how: Imperfection,
        tokens: Tokens,
        pad: int,
        seed: int,
        *,
        places: LossPlaces = "output",
        changed_share: float | None = None,
    ) -> None:
        self.student, self.outputs, self.how, self.tokens = student, outputs, how, tokens
        self.pad, self.seed, self.places, self.changed_share = pad, seed, places, changed_share
        self.error: float | None = None

    @property
    def ratio(self) -> float:
        """alpha, as it is now."""
        if self.changed_share is None or self.error is None:
            return self.how.ratio
        return min(1.0, self.changed_share / max(self.error, 1e-3))

    def prepare(self, examples: Sequence[int], step: int) -> Prepared:
        """Mask, predict, rewrite; labels are gold."""
        gold = pack([self.outputs[i] for i in examples], self.pad).to(self.student.device)
        how = replace(self.how, ratio=self.ratio)
        found = rewrite(how, gold, self.tokens, Draw(self.seed, step, tuple(examples)), self.student)
        places = gold.out
        if self.places == "after-change":
            changed = found.changed.long()
            places = places & (changed.cumsum(1) - changed > 0)
        figures = {"masked": float(found.chosen.sum()), "changed": float(found.changed.sum())}
        return Prepared(found.batch, gold.ids, places, figures)

    def observe(self, figures: Mapping[str, float]) -> None:
        """Follows the rewriting error, a moving average over about 20 steps."""
        if self.changed_share is not None and figures.get("masked"):
            error = figures["changed"] / figures["masked"]
            self.error = error if self.error is None else 0.95 * self.error + 0.05 * error

    def validated(self, loss: float) -> None:
        """Nothing to learn from it."""

    def state_dict(self) -> dict[str, Any]:
        """The followed error."""
        return {"error": self.error}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores it."""
        self.error = state["error"]


class Adaptive:
    """DistiLLM's adaptive off-policy data: gold first, more of the student's outputs whenever validation gets worse.

    A step uses student data with probability ``threshold``, which starts at 0 and rises by 0.1 when the validation loss
    exceeds the last recorded one by 0.1; fresh outputs with probability threshold (1 - step / steps), which also go
    into a replay buffer of ``capacity``, and replayed ones else.
    """

    RISE, MARGIN = 0.1, 0.1  # the authors' values

    def __init__(self, gold: Fixed, student: StudentOutputs, steps: int, seed: int, capacity: int = 1000) -> None:
        self.gold, self.student, self.steps, self.seed = gold, student, steps, seed
        self.threshold = 0.0
        self.recorded: float | None = None
        self.buffer: deque[Example] = deque(maxlen=capacity)
        self._fresh: list[tuple[int, Example]] = []

    def prepare(self, examples: Sequence[int], step: int) -> Prepared:
        """Gold, fresh or replayed outputs."""
        drawn = float(torch.rand((), generator=generator_for(self.seed, "adaptive", step)))
        if drawn < self.threshold * (1 - step / self.steps) or (drawn < self.threshold and not self.buffer):
            fresh = self.student.fresh(examples, step)
            self._fresh += list(zip(examples, fresh, strict=True))
            return self._batch(fresh, {"generated": len(fresh)})
        if drawn < self.threshold:
            where = Draw(self.seed, step, tuple(examples)).uniforms("replay", 1)[:, 0] * len(self.buffer)
            return self._batch([self.buffer[i] for i in where.long().tolist()], {"replayed": len(examples)})
        return self.gold.prepare(examples, step)

    def _batch(self, rows: Sequence[Example], figures: Mapping[str, float]) -> Prepared:
        batch = pack(rows, self.gold.pad).to(self.gold.device)
        return Prepared(batch, None, batch.out, figures)

    def observe(self, figures: Mapping[str, float]) -> None:
        """Fresh outputs of all processes go into the buffer, in the order of their examples."""
        if figures.get("generated"):
            everywhere = [one for part in gather(self._fresh) for one in part]
            self.buffer.extend(example for _, example in sorted(everywhere))
        self._fresh = []

    def validated(self, loss: float) -> None:
        """Raises the threshold where the student got worse."""
        if self.recorded is None:
            self.recorded = loss
        elif loss >= self.recorded + self.MARGIN:
            self.threshold, self.recorded = min(1.0, self.threshold + self.RISE), loss

    def state_dict(self) -> dict[str, Any]:
        """Threshold, recorded loss and buffer."""
        rows = [[list(e.prompt), list(e.output)] for e in self.buffer]
        return {"threshold": self.threshold, "recorded": self.recorded, "buffer": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores them."""
        self.threshold, self.recorded = state["threshold"], state["recorded"]
        self.buffer.clear()
        self.buffer.extend(Example(tuple(prompt), tuple(output)) for prompt, output in state["buffer"])


def check_teacher_outputs(outputs: Sequence[Example | None]) -> list[int]:
    """The numbers of the examples whose teacher output was kept; ``ManyoneError`` where none was."""
    kept = [number for number, one in enumerate(outputs) if one is not None]
    if not kept:
        raise ManyoneError("none of the teacher's outputs was kept: use --teacher-filter none, or a better teacher")
    return kept
