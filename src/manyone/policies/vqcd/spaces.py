"""The aligned spaces of a sequence of tasks: two alignments a task, trained on its own data alone, then fixed.

Where tasks have different spaces a planner sees states and actions of one width, which each task's own alignments give
and take back (:mod:`manyone.policies.vqcd.alignment`). Where all are alike it may see the states themselves: the kind
``none``. All steps of a task are aligned once, so that planner training reads tables.
Public names: :class:`Spaces`, :data:`SpaceKind`, :func:`own_or_aligned`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from manyone.errors import ManyoneError
from manyone.policies.vqcd.alignment import (
    ACTION_LATENTS,
    STATE_LATENTS,
    AlignmentTraining,
    AutoEncoder,
    Padding,
    make_alignment,
)
from manyone.policies.vqcd.data import Aligned, PlanData
from manyone.randomness import seed_for

SpaceKind = Literal["vq", "fsq", "ae", "vae", "padding", "none"]
Pair = tuple[AutoEncoder | Padding, AutoEncoder | Padding]
"""Alignment of the states and of the actions of a task."""


def own_or_aligned(widths: Sequence[tuple[int, int]]) -> SpaceKind:
    """What the paper does with tasks of ``widths`` (states, actions): nothing where they are all alike, else ``vq``."""
    return "none" if len(set(widths)) == 1 else "vq"


class Spaces:
    """Alignments of ``kind`` for the tasks of ``data``, whose first ones may be ``given``, trained before.

    ``shape`` are further arguments of :func:`~manyone.policies.vqcd.alignment.make_alignment` (codes, hidden, ...);
    ``state_latents`` and ``action_latents`` of ``latent_width`` entries each make the aligned widths.
    """

    def __init__(
        self,
        data: PlanData,
        kind: SpaceKind = "vq",
        *,
        steps: int = 1000,
        batch_size: int = 256,
        lr: float = 1e-3,
        last_lr: float = 1e-4,
        state_latents: int = STATE_LATENTS,
        action_latents: int = ACTION_LATENTS,
        seed: int = 0,
        given: Sequence[Pair] = (),
        **shape: Any,
    ) -> None:
        widths = [(s.dim, a.dim) for s, a in given] + data.widths
        if kind == "none" and len(set(widths)) > 1:
            found = ", ".join(f"{s} and {a}" for s, a in dict.fromkeys(widths))
            raise ManyoneError(f"alignment none: the tasks' states and actions have different widths ({found}): use vq")
        self.data, self.kind, self.seed, self.first = data, kind, seed, len(given)
        self._training: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "lr": lr, "last_lr": last_lr}
        self.pairs: list[Pair] = list(given)
        """Of each task; those that are not trained yet are as they were drawn."""
        most = [max(w[place] for w in widths) for place in (0, 1)]
        for number, own in enumerate(data.widths, self.first):
            pair = []
            for place, latents in enumerate((state_latents, action_latents)):
                pair.append(make_alignment(
                    "padding" if kind == "none" else kind, own[place], latents=latents, padded_width=most[place],
                    seed=seed_for(seed, "alignment", number, place), **shape,
                ).to(data.device))  # fmt: skip
            self.pairs.append((pair[0], pair[1]))
        if len({(s.width, a.width) for s, a in self.pairs}) > 1:
            found = ", ".join(f"{s.width} and {a.width}" for s, a in self.pairs)
            raise ManyoneError(f"aligned states and actions must have one width in all tasks, but have {found}")
        self._now: tuple[int, list[AlignmentTraining]] | None = None
        self._aligned: dict[int, Aligned] = {}

    @property
    def steps(self) -> int:
        """Training steps of each task; none where nothing is trained."""
        trained = any(p.requires_grad for module in self.pairs[-1] for p in module.parameters())
        return self._training["steps"] if trained else 0

    @property
    def widths(self) -> tuple[int, int]:
        """Aligned widths (Ds, Da) of states and actions."""
        return self.pairs[0][0].width, self.pairs[0][1].width

    def own(self, task: int) -> tuple[Tensor, Tensor]:
        """States and actions of ``task``, as they are aligned."""
        return self.data.states(task - self.first), self.data.actions(task - self.first)

    def step(self, task: int) -> dict[str, float]:
        """One step of both alignments of ``task``."""
        trainings = self._trainings(task)
        found = [one.step() for one in trainings]
        if trainings[0].done:
            self._now = None
        metrics = {"loss": sum(one["loss"] for one in found)}
        return metrics | {f"{what}_mse": one["mse"] for what, one in zip(("state", "action"), found)}

    def aligned(self, task: int) -> Aligned:
        """All steps of ``task``, aligned; made once."""
        if task not in self._aligned:
            for module, data in zip(self.pairs[task], self.own(task)):
                if isinstance(module, Padding):
                    module.settle(data)
            self._aligned[task] = Aligned(*(m.aligned(x) for m, x in zip(self.pairs[task], self.own(task))))
        return self._aligned[task]

    def report(self, task: int) -> dict[str, dict[str, float]]:
        """``states`` and ``actions`` -> how well they are restored and which codes are used, on all of the data."""
        return {
            what: module.report(x) for what, module, x in zip(("states", "actions"), self.pairs[task], self.own(task))
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        tensors = [[module.state_dict() for module in pair] for pair in self.pairs]
        now = None
        if self._now is not None:
            now = {"task": self._now[0], "training": [one.state_dict() for one in self._now[1]]}
        return {"pairs": tensors, "now": now}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        for pair, saved in zip(self.pairs, state["pairs"], strict=True):
            for module, tensors in zip(pair, saved):
                module.load_state_dict(tensors)
        self._aligned, self._now = {}, None
        if state["now"] is not None:
            for one, saved in zip(self._trainings(int(state["now"]["task"])), state["now"]["training"]):
                one.load_state_dict(saved)

    def _trainings(self, task: int) -> list[AlignmentTraining]:
        if self._now is None or self._now[0] != task:
            kinds = zip(("states", "actions"), self.pairs[task], self.own(task))
            self._now = task, [
                AlignmentTraining(module, data, seed=self.seed, who=f"{what} of task {task}", **self._training)
                for what, module, data in kinds
            ]  # fmt: skip
        return self._now[1]
