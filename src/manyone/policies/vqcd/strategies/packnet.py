"""PackNet: every task keeps its largest weights, frozen and readable by all later tasks; the rest is free for them.

Mallya and Lazebnik, "PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning" (arXiv 1711.05769,
section 3); shares and frozen biases as Continual World has them (Wolczyk et al., arXiv 2105.10919). Of a tensor of two
or more dimensions with n free entries, task i of I (counted from 1)

    trains all that are free, in the forward pass beside those that tasks < i own        owner < 0 or owner < i
    keeps the floor(n / (I - i + 1)) that are largest in size, the last task all          PackNet.prune
    sets the others to zero: they are free again
    trains what it keeps for the rest of its steps                                        ``retrain``
    freezes it: no later task moves it, task i goes on reading it

Tensors of one dimension (biases, norms) are frozen when the first task has ended. Unlike disjoint masks a task reuses
what earlier ones have learned, and magnitude decides, not chance. Public names: :class:`PackNet`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manyone.policies.masks import TaskMasks
from manyone.policies.vqcd.strategy import Kept, Strategy, Trainee, live

FREE = -1
"""Owner of what no task has kept."""


class PackNet(Strategy):
    """``retrain``: share of a task's steps that come after the pruning."""

    def __init__(self, trainee: Trainee, *, retrain: float = 0.2) -> None:
        super().__init__(trainee)
        self.retrain = retrain
        self.owner = {
            name: torch.full(value.shape, FREE, dtype=torch.int16, device=value.device)
            for name, value in trainee.network.named_parameters()
            if value.ndim > 1
        }
        """Task that owns each entry of the tensors that are shared out; :data:`FREE`: none."""
        self.fixed: dict[str, Tensor] = {}
        """Values that entries have which the task in training may not move."""
        self.pruned = False
        """Whether the task in training has been cut to its share."""

    @property
    def _prune_at(self) -> int:
        """Steps of a task before it is pruned."""
        return self.trainee.steps - round(self.retrain * self.trainee.steps)

    def begin(self, task: int) -> None:
        """Whatever is not free stays as it is from here on."""
        super().begin(task)
        self.fixed, self.pruned = live(self.trainee.network), False

    def trainable(self, task: int) -> list[nn.Parameter]:
        """Biases and norms belong to the first task."""
        return [p for p in self.trainee.network.parameters() if task == 0 or p.ndim > 1]

    def movable(self, task: int) -> dict[str, Tensor]:
        """Entries that ``task`` may move now, bool, of the tensors that are shared out."""
        wanted = task if self.pruned else FREE
        return {name: owner == wanted for name, owner in self.owner.items()}

    @torch.no_grad()
    def filter_gradients(self) -> None:
        """Nothing pulls at what may not move."""
        assert self.task is not None
        for name, movable in self.movable(self.task).items():
            gradient = self.trainee.network.get_parameter(name).grad
            if gradient is not None:
                gradient.mul_(movable)

    def after_step(self, task: int, step: int) -> None:
        """Undoes what momentum or decay moved all the same; prunes when it is time."""
        self._restore(task)
        if not self.pruned and step + 1 >= self._prune_at:
            self.prune(task)

    @torch.no_grad()
    def prune(self, task: int) -> None:
        """Gives ``task`` the largest of the free entries of each tensor, its share, and sets the others to zero."""
        left = self.trainee.tasks - task
        for name, owner in self.owner.items():
            value = self.trainee.network.get_parameter(name)
            free = (owner == FREE).flatten()
            size = torch.where(free, value.flatten().abs(), -1.0)
            kept = size.argsort(descending=True, stable=True)[: int(free.sum()) // left]
            owner.view(-1)[kept] = task
            value.mul_(owner != FREE)
            self.fixed[name].mul_(owner != FREE)
        self.pruned = True

    def end(self, task: int) -> None:
        """Freezes what the task keeps (the average of its steps, where the learner has put that in place)."""
        if not self.pruned:
            self.prune(task)
        self._restore(task)
        super().end(task)

    @torch.no_grad()
    def _restore(self, task: int) -> None:
        for name, movable in self.movable(task).items():
            value = self.trainee.network.get_parameter(name)
            torch.where(movable, value, self.fixed[name], out=value.data)

    def kept(self) -> Kept:
        """The live weights; mask i has what tasks up to i own and, of the task in training, what it trains."""
        shapes = {name: owner.shape for name, owner in self.owner.items()}
        masks = TaskMasks.ones(shapes, self.trainee.tasks)
        for task in range(self.trainee.tasks):
            training = task == self.task and not self.pruned
            masks.set(task, {n: (o != FREE) & (o <= task) | (training & (o == FREE)) for n, o in self.owner.items()})
        return Kept(live(self.trainee.network), masks)

    def state_dict(self) -> dict[str, Any]:
        """Who owns what."""
        return super().state_dict() | {"owner": dict(self.owner), "fixed": dict(self.fixed), "pruned": self.pruned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        for name, owner in self.owner.items():
            owner.copy_(state["owner"][name])
        device = next(self.trainee.network.parameters()).device
        self.fixed = {name: value.to(device) for name, value in state["fixed"].items()}
        self.pruned = bool(state["pruned"])
