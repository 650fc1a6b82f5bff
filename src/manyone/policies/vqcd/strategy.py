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

Public names: :class:`Strategy`, :class:`Trainee`, :class:`Kept`, :func:`strategy_class`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.policies.masks import TaskMasks
from manyone.policies.vqcd.data import PlanBatch
from manyone.policies.vqcd.strategies import STRATEGIES


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

    def batch(self, task: int, step: int, purpose: str = "train", newest: float = 1.0) -> PlanBatch:
        """Windows of ``task``, drawn by (seed, purpose, task, step) alone.

        ``newest``: share of the task's windows, the last ones, that they are drawn from (rehearsal memories).
        """

    def loss(self, task: int, batch: PlanBatch, step: int, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The planner's loss on ``batch`` as windows of ``task``; noise is drawn by (seed, task, step).

        ``weights``: parameters by name in place of the live network's (those that are missing are the live ones).
        """

    def another(self, share: float, who: str) -> nn.Module:
        """A fresh network of the same kind with about ``share`` of the live one's parameters, drawn for ``who``."""


@dataclass(frozen=True)
class Kept:
    """What is left of a strategy when training is over: enough to act in every task.

    The parameters of task i are ``shared``, of which those that ``masks`` cover are zero outside mask i, with
    ``own[i]`` in place of the tensors of the same names.
    """

    shared: dict[str, Tensor]
    masks: TaskMasks | None = None
    own: list[dict[str, Tensor]] = field(default_factory=list)

    def of(self, task: int) -> dict[str, Tensor]:
        """Parameters by name with which ``task`` acts."""
        found = dict(self.shared)
        if self.masks is not None:
            found |= {name: found[name] * mask for name, mask in self.masks.unpack(task).items()}
        return found | (self.own[task] if self.own else {})


class Strategy(ABC):
    """How earlier tasks are protected. One object lives through all tasks of a sequence.

    A subclass's constructor takes the trainee and its own numbers by keyword; the recipe gives it the options of the
    same names. A strategy owns nothing that the learner saves: the live network, its optimiser and moving average are
    the learner's, everything else that later steps depend on is in :meth:`state_dict`.
    """

    conditioned: ClassVar[bool] = False
    """Whether the network is told the task, as a one-hot entry of its condition."""
    at_once: ClassVar[bool] = False
    """Whether all tasks are trained together, in one phase of as many steps as all phases have together."""

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

    def filter_gradients(self) -> None:  # noqa: B027  (most strategies have nothing to do here)
        """Changes the gradients of the trained tensors before the optimiser reads them."""

    def after_step(self, task: int, step: int) -> None:  # noqa: B027
        """After the optimiser has moved; ``step`` counts from 0 within ``task``."""

    @abstractmethod
    def kept(self) -> Kept:
        """What acting needs, of the tasks trained so far (of the one in training: as it is now)."""

    def weights(self, task: int) -> dict[str, Tensor]:
        """Parameters of :meth:`network` with which ``task`` acts, by name."""
        return self.kept().of(task)

    def sizes(self) -> dict[str, float]:
        """``parameters`` that are kept, and ``bytes_per_task``, what every further task adds."""
        kept = self.kept()
        own = [sum(t.numel() * t.element_size() for t in one.values()) for one in kept.own]
        masks = 0 if kept.masks is None else kept.masks.nbytes / len(kept.masks)
        parameters = sum(t.numel() for t in kept.shared.values())
        parameters += sum(t.numel() for one in kept.own for name, t in one.items() if name not in kept.shared)
        return {"parameters": float(parameters), "bytes_per_task": masks + sum(own) / max(1, len(own))}

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on beside the live network and its optimiser."""
        return {"task": self.task}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.task = None if state["task"] is None else int(state["task"])


def strategy_class(name: str) -> type[Strategy]:
    """The strategy called ``name``."""
    if name not in STRATEGIES:
        raise ManyoneError(f"strategy {name!r}: must be one of {', '.join(STRATEGIES)}")
    module, _, attribute = STRATEGIES[name].partition(":")
    found: type[Strategy] = getattr(importlib.import_module(f"manyone.policies.vqcd.strategies.{module}"), attribute)
    return found
