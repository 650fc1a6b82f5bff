"""Rehearsal of the Continual Diffuser (CoD): now and then a step on what was kept of an earlier task.

Hu et al., "Continual Diffuser (CoD): Mastering Continual Offline Reinforcement Learning with Experience Rehearsal"
(arXiv 2409.02512). With E = ``rehearse_every`` (14) and the newest share q = ``rehearse_newest`` (0.01) of the windows
of each finished task kept:

    step s of task i > 1:   s mod E = E - 1    L = L_j on windows kept of j, uniform over the tasks before i    shares
                            otherwise          L = L_i

A rehearsed batch takes the place of one of the task's own, so that all strategies take as many steps on as many
windows. ``rehearsal`` is told the task; ``rcr`` (CoD-RCR) is told the return alone and must see from the state where it
is. Public names: :class:`Rehearsal`, :func:`rehearsed`.
"""

from __future__ import annotations

import math

import torch

from manyone.policies.vqcd.data import PlanBatch
from manyone.policies.vqcd.strategy import Strategy, Trainee
from manyone.randomness import generator_for


def rehearsed(seed: int, task: int, step: int, every: int) -> int:
    """The task whose windows step ``step`` of ``task`` takes: ``task`` itself or, each ``every``-th, one before it."""
    if task == 0 or step % every != every - 1:
        return task
    return int(torch.randint(task, (), generator=generator_for(seed, "rehearsed task", task, step)))


class Rehearsal(Strategy):
    """CoD: one set of weights that rehearses the newest windows of earlier tasks."""

    def __init__(self, trainee: Trainee, *, rehearse_every: int = 14, rehearse_newest: float = 0.01) -> None:
        super().__init__(trainee)
        self.every, self.newest = rehearse_every, rehearse_newest

    def shares(self, task: int, step: int) -> list[tuple[int, float]]:
        """The task, or an earlier one."""
        return [(rehearsed(self.trainee.seed, task, step, self.every), 1.0)]

    def windows(self, task: int, step: int) -> PlanBatch | None:
        """Of an earlier task only what was kept."""
        return None if task == self.task else self.trainee.batch(task, step, "rehearse", self.newest)

    def sizes(self) -> dict[str, float]:
        """A task adds the steps that its kept windows cover: states, actions and a return each."""
        _, steps, states, actions = self.trainee.shape
        counts = [math.ceil(self.newest * self.trainee.count(task)) for task in range(self.trainee.tasks)]
        rows = sum(counts) / len(counts) + steps - 1
        size = next(self.trainee.network.parameters()).element_size()
        return super().sizes() | {"bytes_per_task": rows * (states + actions + 1) * size}
