"""Acting behind generated prompts: a frozen decision transformer, and a diffusion model that makes every prompt.

Each episode has a prompt of its own, drawn once from (seed, task, number of the task's episode): the condition y =
(g, t) of one of the task's few prompts, then the reverse chain. So a return is a mean over prompts and episodes.
Without the new task's data (zero-shot) conditions are those of the best episodes of other tasks (ours; the paper does
not say).
Public names: :class:`PromptGenerator`, :class:`PromptedPolicy`, :func:`save_prompted`, :func:`read_prompted`,
:func:`read_base`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyone.engine.artefact import below
from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.acting import EpisodeLike, SequencePolicy
from manyone.policies.artefact import SavedPolicy, save_policy
from manyone.policies.prompt_diffuser.model import Limits, PromptDiffuser, chain_noise
from manyone.policies.prompt_diffuser.prompts import PromptPool
from manyone.policies.tasks import Steps, TaskTable
from manyone.randomness import generator_for

ACTS_WITH = "prompt-diffuser"
"""How an artefact's ``info["acts_with"]`` names this way of acting."""


@dataclass(frozen=True)
class PromptGenerator:
    """Prompts of M tasks by their names: one diffusion model under the weights of each."""

    diffuser: PromptDiffuser
    names: tuple[str, ...]
    weights: dict[str, Tensor]
    """phi by name, [M, ...] each; or [1, ...]: one for all tasks."""
    limits: Limits
    """[M, C] or [1, C]"""
    conditions: PromptPool
    """Whose returns-to-go and timesteps are the conditions: M tasks, or one that counts for all."""
    context: Tensor | None = None
    """Encoding of each task's few episodes, [M, D], where the model reads one."""

    def draw(self, task: str, numbers: Sequence[int], seed: int = 0) -> tuple[Steps, Tensor]:
        """Prompts [b, K*, ...] of the episodes ``numbers`` [b] of ``task``, and what they were made of, x [b, K*, C].

        An episode's prompt depends on (seed, task, its number) alone.
        """
        if task not in self.names:
            raise ManyoneError(f"no prompts of {task!r} can be made: there are {', '.join(self.names)}")
        place, diffuser, pool = self.names.index(task), self.diffuser, self.conditions
        streams: list[tuple[str | int, ...]] = [(seed, "episode prompt", task, number) for number in numbers]
        source = place if len(pool) > 1 else 0
        chosen = [int(torch.randint(pool.count(source), (1,), generator=generator_for(*one, "y"))) for one in streams]
        given = {key: value[chosen] for key, value in pool.task(source).items()}
        weights = {name: value[min(place, len(value) - 1)] for name, value in self.weights.items()}
        row = slice(place, place + 1) if len(self.limits.low) > 1 else slice(None)
        noise = chain_noise((diffuser.schedule.steps, 1, diffuser.length, diffuser.channels), streams, diffuser.mean)
        context = None if self.context is None else self.context[place : place + 1]
        with torch.no_grad():
            y = diffuser.condition(given, context)
            x = diffuser.chain(weights, y, noise, Limits(self.limits.low[row], self.limits.high[row]))
            return diffuser.prompts(x, given), x

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as an artefact keeps them."""
        own = {f"phi.{name}": value for name, value in self.weights.items()}
        own |= {f"statistics.{name}": value for name, value in self.diffuser.statistics().items()}
        own |= {"limits.low": self.limits.low, "limits.high": self.limits.high}
        own |= {"conditions.first": self.conditions.first, "conditions.returns": self.conditions.returns}
        own |= {f"conditions.{key}": self.conditions.steps[key] for key in ("returns_to_go", "timesteps", "valid")}
        return own | ({} if self.context is None else {"context": self.context})

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], names: Sequence[str], tensors: Mapping[str, Tensor],
                     device: str | torch.device = "cpu") -> PromptGenerator:  # fmt: skip
        """Inverse of :meth:`tensors`; ``config`` is the diffusion model's."""
        diffuser = PromptDiffuser(**config).to(device).requires_grad_(False)
        tensors = {name: value.to(device) for name, value in tensors.items()}
        for name, value in diffuser.statistics().items():
            value.copy_(tensors[f"statistics.{name}"])
        steps = below(tensors, "conditions.")
        first, returns = steps.pop("first").cpu(), steps.pop("returns")
        pool = PromptPool(steps, first, diffuser.horizon, returns)
        limits = Limits(tensors["limits.low"], tensors["limits.high"])
        return cls(diffuser, tuple(names), below(tensors, "phi."), limits, pool, tensors.get("context"))


class PromptedPolicy(SequencePolicy):
    """A sequence policy whose episodes have generated prompts, drawn from ``seed``.

    ``prompts_drawn`` of an episode's task counts the episodes of that task since :meth:`start`.
    """

    def __init__(
        self, model: DecisionTransformer, table: TaskTable, generator: PromptGenerator, *, seed: int = 0
    ) -> None:
        super().__init__(model, table)
        self.generator, self.seed = generator, seed
        self._drawn: dict[str, int] = {}

    def start(self, episodes: Sequence[EpisodeLike]) -> None:
        """Begins new episodes; slot s is ``episodes[s]`` from now on."""
        self._drawn = {}
        super().start(episodes)

    def restart(self, slots: Sequence[int], episodes: Sequence[EpisodeLike]) -> None:
        """Begins ``episodes`` [b] in the slots [b], each behind a prompt of its own; all other slots go on."""
        super().restart(slots, episodes)
        of_task: dict[str, list[int]] = {}
        for slot in slots:
            of_task.setdefault(self.table.names[int(self.tasks[slot])], []).append(int(slot))
        for task, own in of_task.items():
            first = self._drawn.get(task, 0)
            self._drawn[task] = first + len(own)
            prompts, _ = self.generator.draw(task, range(first, first + len(own)), self.seed)
            self.give_prompts(own, prompts)


def save_prompted(
    folder: str | os.PathLike[str],
    model: DecisionTransformer,
    table: TaskTable,
    generator: PromptGenerator,
    *,
    base: PromptGenerator | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes the standard artefact: the frozen policy, the tasks, and what generates their prompts.

    ``base``: the diffusion model of all training tasks, from which later tasks start (:func:`read_base`).
    """
    extra = {f"diffuser.{name}": value for name, value in generator.tensors().items()}
    extra |= {} if base is None else {f"base.{name}": value for name, value in base.tensors().items()}
    more = {"acts_with": ACTS_WITH, "diffuser": generator.diffuser.config(), "base": base is not None}
    learned = ("diffuser.phi.*", "base.phi.*")
    save_policy(folder, model, table, extra=extra, info={**(info or {}), **more}, learned=learned)


def read_prompted(saved: SavedPolicy, seed: int = 0) -> PromptedPolicy:
    """The policy that :func:`save_prompted` wrote, with its prompts drawn from ``seed``."""
    assert isinstance(saved.model, DecisionTransformer)
    device = next(saved.model.parameters()).device
    tensors = below(saved.extra, "diffuser.")
    generator = PromptGenerator.from_tensors(saved.info["diffuser"], saved.table.names, tensors, device)
    return PromptedPolicy(saved.model, saved.table, generator, seed=seed)


def read_base(saved: SavedPolicy) -> PromptGenerator | None:
    """The diffusion model of the training tasks in an artefact of :func:`save_prompted`; None where it has none."""
    if saved.info.get("acts_with") != ACTS_WITH or not saved.info.get("base"):
        return None
    device = next(saved.model.parameters()).device
    return PromptGenerator.from_tensors(saved.info["diffuser"], (), below(saved.extra, "base."), device)
