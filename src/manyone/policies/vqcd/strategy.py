"""How earlier tasks are protected while a planner learns the next one: what every strategy of the grid can do.

VQ-CD (arXiv 2410.15698) protects them by disjoint weight masks (section "selective weights activation"); its rivals
penalise, freeze, rehearse or start anew. A learner calls a strategy in this order, for every task in turn::

    begin(task)                                     the live network becomes what the task starts from
    for step in range(steps):
        for t, weight in shares(task, step):        whose windows this step takes
            loss += weight * loss of (windows(t, step) or the data's own)    under overrides()
        loss += penalty(); backward; filter_gradients(); optimiser; after_step(task, step)
    the moving average of the trained tensors is copied into them
    end(task)

What a learner must know before there is a network (whether it is told the task, whether all tasks come at once) is in
the strategy's :class:`~manyone.policies.vqcd.strategies.Entry`.
Public names: :class:`Strategy`, :class:`Trainee`, :class:`Kept`, :func:`entry_of`, :func:`make_strategy`,
:func:`live`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.policies.masks import Shapes, TaskMasks
from manyone.policies.vqcd.data import PlanBatch
from manyone.policies.vqcd.strategies import STRATEGIES, Entry


class Trainee(Protocol):
    """What a strategy sees of the learner that it belongs to."""

    @property
    def network(self) -> nn.Module:
        """The live network; its named parameters are what optimisation moves and :meth:`Strategy.weights` names."""

    @property
    def tasks(self) -> int:
        """Tasks of the sequence."""

    @property
    def steps(self) -> int:
        """Planner steps of each task."""

    @property
    def seed(self) -> int:
        """Seed of every draw."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, T, Ds, Da): windows of a batch, steps of a window, aligned widths of states and actions."""

    def batch(self, task: int, step: int, purpose: str = "train", newest: float = 1.0) -> PlanBatch:
        """Windows of ``task``, drawn by (seed, purpose, task, step) alone.

        ``newest``: share of the task's windows, the last ones, that they are drawn from (rehearsal memories).
        """

    def loss(self, task: int, batch: PlanBatch, step: int, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The planner's loss on ``batch`` as windows of ``task``; noise is drawn by (seed, task, step).

        ``weights``: parameters by name in place of the live network's (those that are missing are the live ones).
        """

    def output(self, task: int, batch: PlanBatch, step: int) -> Tensor:
        """What the live network gives where :meth:`loss` compares it: all its outputs, one row a window, [B, ...]."""

    def count(self, task: int) -> int:
        """How many windows the data of ``task`` have."""

    def another(self, share: float, who: str) -> nn.Module:
        """A fresh network of the same kind with about ``share`` of the live one's parameters, drawn for ``who``."""


@dataclass(frozen=True)
class Kept:
    """What is left of a strategy when training is over: enough to act in every task.

    The parameters of task i are ``shared``, of which those that ``masks`` cover are zero outside mask i, with
    ``own[i]`` in place of the tensors of the same names, and with the products of ``factors[i]`` added.
    """

    shared: dict[str, Tensor]
    masks: TaskMasks | None = None
    own: list[dict[str, Tensor]] = field(default_factory=list)
    factors: list[dict[str, tuple[Tensor, Tensor]]] = field(default_factory=list)
    """Of each task: by parameter B [m, r] and A [r, n], whose product has as many entries as the parameter."""
    narrow: dict[int, Shapes] = field(default_factory=dict)
    """Task -> shapes of its masked tensors where these are the leading corners of the shared ones."""

    def of(self, task: int) -> dict[str, Tensor]:
        """Parameters by name with which ``task`` acts."""
        found = dict(self.shared)
        if self.masks is not None:
            shapes, masks = self.narrow.get(task, self.masks.shapes), self.masks.unpack(task)
            corners = {name: tuple(map(slice, shape)) for name, shape in shapes.items()}
            found |= {name: found[name][at] * masks[name][at].to(found[name].device) for name, at in corners.items()}
        found |= self.own[task] if self.own else {}
        factors = self.factors[task] if self.factors else {}
        return found | {name: found[name] + (b @ a).view_as(found[name]) for name, (b, a) in factors.items()}

    def sizes(self) -> dict[str, float]:
        """``parameters`` that are kept, and ``bytes_per_task``, what every further task adds."""
        tasks = max(1, len(self.own), len(self.factors))
        own = [t for one in self.own for t in one.values()]
        own += [t for one in self.factors for pair in one.values() for t in pair]
        replaced = {name for one in self.own for name in one} & set(self.shared)
        parameters = sum(t.numel() for name, t in self.shared.items() if name not in replaced)
        masks = 0 if self.masks is None else self.masks.nbytes / len(self.masks)
        added = masks + sum(t.numel() * t.element_size() for t in own) / tasks
        return {"parameters": float(parameters + sum(t.numel() for t in own)), "bytes_per_task": added}


def live(network: nn.Module) -> dict[str, Tensor]:
    """The parameters of ``network`` as they are now, by name; copies."""
    return {name: value.detach().clone() for name, value in network.named_parameters()}


class Strategy:
    """How earlier tasks are protected: as it stands, not at all. One object lives through all tasks of a sequence.

    A subclass's constructor takes the trainee and its own numbers by keyword; the recipe gives it the options of the
    same names. A strategy owns nothing that the learner saves: the live network, its optimiser and moving average are
    the learner's, everything else that later steps depend on is in :meth:`state_dict`.
    """

    def __init__(self, trainee: Trainee) -> None:
        self.trainee = trainee
        self.task: int | None = None
        """The task that is being trained; None between tasks."""

    def begin(self, task: int) -> None:
        """Prepares the live network for ``task``; called once, before its first step."""
        self.task = task

    def end(self, task: int) -> None:
        """Takes over what was learned; called once, after the last step of ``task``."""
        self.task = None

    def network(self, task: int) -> nn.Module:
        """The network that trains on and acts in ``task``; a strategy with several networks tells them apart."""
        return self.trainee.network

    def trainable(self, task: int) -> list[nn.Parameter]:
        """Tensors that the optimiser moves while ``task`` is trained."""
        return [p for p in self.network(task).parameters() if p.requires_grad]

    def overrides(self) -> dict[str, Tensor] | None:
        """Parameters by name that this step computes from what is trained (adapters); None: the live ones are used."""
        return None

    def shares(self, task: int, step: int) -> list[tuple[int, float]]:
        """Tasks whose windows the step takes, with the weights of their losses."""
        return [(task, 1.0)]

    def windows(self, task: int, step: int) -> PlanBatch | None:
        """Windows of ``task`` that the strategy makes itself (replay); None: the data's own."""
        return None

    def penalty(self) -> Tensor | None:
        """A term of the loss, or None."""
        return None

    def filter_gradients(self) -> None:
        """Changes the gradients of the trained tensors before the optimiser reads them."""

    def after_step(self, task: int, step: int) -> None:
        """After the optimiser has moved; ``step`` counts from 0 within ``task``."""

    def kept(self) -> Kept:
        """What acting needs, of the tasks trained so far (of the one in training: as it is now)."""
        return Kept(live(self.trainee.network))

    def weights(self, task: int) -> dict[str, Tensor]:
        """Parameters of :meth:`network` with which ``task`` acts, by name."""
        return self.kept().of(task)

    def sizes(self) -> dict[str, float]:
        """``parameters`` that are kept, and ``bytes_per_task``, what every further task adds."""
        return self.kept().sizes()

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on beside the live network and its optimiser."""
        return {"task": self.task}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.task = None if state["task"] is None else int(state["task"])


def entry_of(name: str) -> Entry:
    """Where the strategy called ``name`` is and what it takes."""
    if name not in STRATEGIES:
        raise ManyoneError(f"strategy {name!r}: must be one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def make_strategy(name: str, trainee: Trainee, options: Mapping[str, Any]) -> Strategy:
    """The strategy called ``name`` for ``trainee``, with those of ``options`` that it takes."""
    entry = entry_of(name)
    module, _, attribute = entry.place.partition(":")
    found: type[Strategy] = getattr(importlib.import_module(f".strategies.{module}", __package__), attribute)
    own = {key: options[key] for key in entry.options if key in options}
    return found(trainee, **own, **entry.fixed)
