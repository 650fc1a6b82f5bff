"""Penalties on moving what earlier tasks need: EWC, its plain form L2, and MAS.

    L + (lambda / 2) sum_j F_j (theta_j - theta*_j)^2        from the second task on        Quadratic.penalty

theta* are the weights at the end of the last task and F_j says how much weight j matters to all tasks so far:

    ewc    F_j = sum over tasks of mean_n (d l_n / d theta_j)^2        diagonal Fisher             fisher
           (Kirkpatrick et al., arXiv 1612.00796, eq. 3; over one anchor as in Schwarz et al., arXiv 1805.06370,
           section 3.2, without decay)
    l2     F_j = 1
    mas    F_j = sum over tasks of mean_n |d ||f(x_n)||^2 / d theta_j| of the network's output     sensitivity
           (Aljundi et al., "Memory Aware Synapses", arXiv 1711.09601, eq. 3 and section 4)

l_n is the planner's loss on one window n, with the noise of one diffusion step. With lambda = 0 all three are
fine-tuning, bit for bit. Public names: :class:`Quadratic`, :func:`fisher`, :func:`sensitivity`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from manyone.policies.vqcd.data import PlanBatch
from manyone.policies.vqcd.strategy import Strategy, Trainee, live

Importance = Literal["fisher", "ones", "sensitivity"]


class Quadratic(Strategy):
    """Elastic weight consolidation and its kin: ``protection`` is lambda, ``importance`` what F is.

    F of a task is the mean over ``importance_windows`` of its windows.
    """

    def __init__(
        self,
        trainee: Trainee,
        *,
        importance: Importance = "fisher",
        protection: float = 1.0,
        importance_windows: int = 256,
    ) -> None:
        super().__init__(trainee)
        self.rule, self.protection, self.count = importance, protection, importance_windows
        self.anchor: dict[str, Tensor] = {}
        """theta*; empty before the first task has ended."""
        self.importance: dict[str, Tensor] = {}
        """F of all tasks so far."""

    def penalty(self) -> Tensor | None:
        """(lambda / 2) sum_j F_j (theta_j - theta*_j)^2; None before the first task has ended."""
        if not self.anchor:
            return None
        terms = [
            (self.importance[name] * (value - self.anchor[name]).square()).sum()
            for name, value in self.trainee.network.named_parameters()
        ]
        return self.protection / 2 * torch.stack(terms).sum()

    def end(self, task: int) -> None:
        """Moves the anchor here, and counts what mattered to ``task``."""
        self.anchor = live(self.trainee.network)
        if self.rule == "ones":
            self.importance = {name: torch.ones_like(value) for name, value in self.anchor.items()}
        else:
            measure = fisher if self.rule == "fisher" else sensitivity
            found, before = measure(self.trainee, task, self.count), self.importance
            self.importance = {name: before[name] + own if before else own for name, own in found.items()}
        super().end(task)

    def state_dict(self) -> dict[str, Any]:
        """Anchor and importance."""
        return super().state_dict() | {"anchor": dict(self.anchor), "importance": dict(self.importance)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        device = next(self.trainee.network.parameters()).device
        self.anchor, self.importance = (
            {name: value.to(device) for name, value in state[key].items()} for key in ("anchor", "importance")
        )


def fisher(trainee: Trainee, task: int, windows: int) -> dict[str, Tensor]:
    """Mean over ``windows`` windows of ``task`` of the squared gradient of each one's loss, by parameter."""
    return _mean_over(trainee, task, windows, lambda one, k: trainee.loss(task, one, k), torch.square)


def sensitivity(trainee: Trainee, task: int, windows: int) -> dict[str, Tensor]:
    """Mean over ``windows`` windows of the absolute gradient of the squared norm of each one's output."""
    return _mean_over(trainee, task, windows, lambda one, k: trainee.output(task, one, k).square().sum(), torch.abs)


@torch.enable_grad()
def _mean_over(
    trainee: Trainee,
    task: int,
    windows: int,
    value: Callable[[PlanBatch, int], Tensor],
    size: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Mean of ``size`` of the gradient of ``value`` over single windows: a batch's gradient would be their mean."""
    named = dict(trainee.network.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    done, draw = 0, 0
    while done < windows:
        batch = trainee.batch(task, draw, "importance")
        for row in range(min(len(batch.states), windows - done)):
            one = PlanBatch(*(part[row : row + 1] for part in batch))
            found = torch.autograd.grad(value(one, done), list(named.values()), allow_unused=True)
            for name, gradient in zip(named, found, strict=True):
                if gradient is not None:
                    total[name] += size(gradient)
            done += 1
        draw += 1
    return {name: summed / windows for name, summed in total.items()}
