"""A frozen policy that was adapted to new tasks acts: with weights of each task's own, or with tuned prompts.

Where a task has several prompts, the episodes that begin take them in turn, so that scores are means over prompts.
Public names: :class:`AdaptedPolicy`, :func:`save_adapted`, :func:`load_adapted`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from manyone.engine.artefact import below
from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.acting import EpisodeLike, SequencePolicy
from manyone.policies.artefact import SavedPolicy, save_policy
from manyone.policies.prompt_tuning.trained import Acting
from manyone.policies.tasks import Steps, TaskTable

ACTS_WITH = "adapted"
"""What an artefact says of how it acts (``info["acts_with"]``)."""


class AdaptedPolicy(SequencePolicy):
    """``model``, frozen, for the M tasks of ``table`` with what adapts it: batched over all episodes."""

    def __init__(self, model: DecisionTransformer, table: TaskTable, acting: Acting) -> None:
        prompts: Steps | Tensor | None = acting.prompts
        if isinstance(prompts, dict) and prompts["valid"].shape[1] == 1:  # read once a task, not once an episode
            table, prompts = replace(table, prompt={k: v[:, 0].detach() for k, v in prompts.items()}), None
        super().__init__(model, table, own=acting.own)
        self._prompts = prompts
        self._begun = [0] * len(table.names)

    def start(self, episodes: Sequence[EpisodeLike]) -> None:
        """Begins new episodes; slot s is ``episodes[s]`` from now on, and a task's first takes its first prompt."""
        self._begun = [0] * len(self.table.names)
        super().start(episodes)

    def restart(self, slots: Sequence[int], episodes: Sequence[EpisodeLike]) -> None:
        """Begins ``episodes`` [b] in the slots [b]; all other slots go on."""
        super().restart(slots, episodes)
        if self._prompts is None or not len(slots):
            return
        tasks = [self.table.index(episode.task) for episode in episodes]
        rows = []
        for task in tasks:
            rows.append(self._begun[task])
            self._begun[task] += 1
        if isinstance(self._prompts, Tensor):
            self.give_prompts(slots, self._prompts[tasks, [row % self._prompts.shape[1] for row in rows]])
        else:
            turns = [row % self._prompts["valid"].shape[1] for row in rows]
            self.give_prompts(slots, {name: value[tasks, turns] for name, value in self._prompts.items()})


def save_adapted(
    folder: str | os.PathLike[str],
    model: DecisionTransformer,
    table: TaskTable,
    acting: Acting,
    *,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes the artefact: the frozen network, and beside it what each of the M tasks of ``table`` has of its own."""
    extra = {f"own.{name}": value for name, value in acting.own.items()}
    if isinstance(acting.prompts, Tensor):
        extra["tokens"] = acting.prompts
    else:
        extra |= {f"prompts.{name}": value for name, value in (acting.prompts or {}).items()}
    save_policy(folder, model, table, extra=extra, info={**(info or {}), "acts_with": ACTS_WITH}, adapted=True)


def load_adapted(saved: SavedPolicy) -> AdaptedPolicy:
    """The policy that :func:`save_adapted` wrote."""
    if not isinstance(saved.model, DecisionTransformer):
        raise ManyoneError(f"an adapted {type(saved.model).__name__}: this version adapts decision transformers")
    prompts = saved.extra.get("tokens", below(saved.extra, "prompts.") or None)
    acting, model, count = Acting(below(saved.extra, "own."), prompts), saved.model, len(saved.table.names)
    if any(value.ndim == 0 or len(value) != count for value in acting.own.values()):
        raise ManyoneError(f"the saved weights are not of {count} tasks each: copy the whole folder again")
    if prompts is not None and not _fits(prompts, model, count):
        raise ManyoneError(
            f"the saved prompts do not fit the network and its {count} tasks: copy the whole folder again"
        )
    return AdaptedPolicy(model, saved.table, acting)


def _fits(prompts: Steps | Tensor, model: DecisionTransformer, tasks: int) -> bool:
    """Whether ``prompts`` from a file are R of each task as the network reads them."""
    if isinstance(prompts, Tensor):
        return prompts.ndim == 4 and prompts.shape[0] == tasks and prompts.shape[-1] == model.width
    widths = {"observations": (model.state_dim,), "actions": (model.action_dim,)}
    keys = ("observations", "actions", "returns_to_go", "timesteps", "valid")
    if sorted(prompts) != sorted(keys) or prompts["valid"].ndim != 3 or len(prompts["valid"]) != tasks:
        return False
    return all(prompts[key].shape == (*prompts["valid"].shape, *widths.get(key, ())) for key in keys)
