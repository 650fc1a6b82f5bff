"""A planner that acts in many episodes of many tasks at once (arXiv 2410.15698, algorithm 2).

    s_z = aligned state; plan x from noise with x[0] = s_z; a = decoder of f_inv(x[0], x[1])       PlannerPolicy.act

All episodes of a task are planned for in one call, which is of twice as many rows for guidance. ``plan_every`` k
executes the first k actions of a plan before the next one. Noise is a function of (seed, slot, step of the episode)
alone, so that who shares a batch changes nothing that is drawn.
Public names: :class:`PlannerPolicy`, :class:`TaskPlanner`, :func:`normal_noise`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.policies.acting import EpisodeLike, checked_observations
from manyone.policies.tasks import TaskTable
from manyone.policies.vqcd.alignment import AutoEncoder, Padding
from manyone.policies.vqcd.inverse import InverseDynamics
from manyone.policies.vqcd.planner import Planner, Sampling
from manyone.randomness import counter_words, seed_for


@dataclass(frozen=True)
class TaskPlanner:
    """What one task acts with."""

    number: int
    """Of the task, as the planner is told it."""
    network: Planner
    weights: Mapping[str, Tensor]
    """Parameters of ``network`` by name."""
    states: AutoEncoder | Padding
    actions: AutoEncoder | Padding
    inverse: InverseDynamics | None = None
    """Where the network has none of its own."""

    @property
    def bound(self) -> float | tuple[Tensor, Tensor]:
        """What the entries of a plan keep within."""
        if self.network.kind == "states":
            return self.states.bound
        parts = [torch.full((one.width,), one.bound) for one in (self.states, self.actions)]
        high = torch.cat(parts).to(self.network.where.device)
        return -high, high


def normal_noise(seed: int, slots: np.ndarray, steps: np.ndarray, count: int, stream: int = 0) -> Tensor:
    """Standard normal numbers, float32 [b, count]: a function of (seed, slot, step, stream), by Box and Muller."""
    half = (count + 1) // 2
    words = counter_words(seed_for(seed, "plan noise"), (slots, steps, np.zeros_like(slots)), 2 * half, stream)
    uniform = (words.astype(np.float64) + 0.5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(uniform[:, :half])), 2 * np.pi * uniform[:, half:]
    found = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)), 1)[:, :count]
    return torch.from_numpy(found.astype(np.float32))


class PlannerPolicy:
    """Plans and acts (the roll-outs' ``BatchedPolicy``): task ``table.names[i]`` with ``tasks[i]``.

    Episodes with a ``target`` ask for the share of the task's returns that it is, 0 for the least and 1 for the most
    episode of its data: ``table.target`` is what share ``how.target`` is, ``table.scale`` how far the two lie apart.
    ``requantise`` moves planned states to the nearest quantised ones before the inverse dynamics read them.
    """

    reads_returns = True
    """Whether a target return makes a difference."""

    def __init__(
        self,
        table: TaskTable,
        tasks: Sequence[TaskPlanner],
        how: Sampling,
        *,
        plan_every: int = 1,
        requantise: bool = False,
        seed: int = 0,
    ) -> None:
        if len(tasks) != len(table.names) or not tasks:
            raise ManyoneError(f"{len(tasks)} planners for {len(table.names)} tasks: give each task one")
        horizon = min(one.network.horizon for one in tasks)
        if not 1 <= plan_every < horizon:
            raise ManyoneError(f"plan_every = {plan_every}: must be 1 to {horizon - 1}, the actions of a plan")
        self.device = tasks[0].network.where.device
        self.table, self.tasks = table.to(self.device, torch.float32), list(tasks)
        self.how, self.plan_every, self.requantise, self.seed = how, plan_every, requantise, seed
        self.state_dim = max(one.states.dim for one in tasks)
        self.action_dim = max(one.actions.dim for one in tasks)

    # ---- the roll-outs' interface ---------------------------------------------------------------------------------

    def start(self, episodes: Sequence[EpisodeLike]) -> None:
        """Begins new episodes; slot s is ``episodes[s]`` from now on."""
        count = len(episodes)
        self.names, self.task = [""] * count, np.zeros(count, np.int64)
        self.targets, self.clock = np.zeros(count, np.float32), np.zeros(count, np.int64)
        self._planned = np.zeros((count, self.plan_every, self.action_dim), np.float32)
        self._used = np.zeros(count, np.int64)  # actions of its plan that an episode has taken
        self.restart(range(count), episodes)

    def restart(self, slots: Sequence[int], episodes: Sequence[EpisodeLike]) -> None:
        """Begins ``episodes`` [b] in the slots [b]; all other slots go on."""
        for slot, episode in zip(slots, episodes, strict=True):
            number = self.table.index(episode.task)
            target, share = getattr(episode, "target", None), self.how.target
            if target is not None:
                share += float((target - self.table.target[number]) / self.table.scale[number])
            self.names[slot], self.task[slot], self.clock[slot] = episode.task, number, 0
            self.targets[slot], self._used[slot] = share, self.plan_every

    @torch.no_grad()
    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """Actions float32 [b, A] for ``observations`` [b, S] of the distinct episodes ``slots`` [b]."""
        slots = np.asarray(slots, np.int64)
        seen = checked_observations(observations, torch.from_numpy(slots), self.state_dim, self.names)
        anew = np.flatnonzero(self._used[slots] >= self.plan_every)
        for number in np.unique(self.task[slots[anew]]):
            own = anew[self.task[slots[anew]] == number]
            _, actions = self.plans(slots[own], seen[torch.from_numpy(own)])
            width = self.tasks[number].actions.dim
            self._planned[slots[own], :, :width] = actions.cpu().numpy()
        self._used[slots[anew]] = 0
        return self._planned[slots, self._used[slots]]

    def reward(self, slots: Any, rewards: Any) -> None:
        """Moves the clock of the episodes ``slots``; what is asked for stays."""
        slots = np.asarray(slots, np.int64)
        self.clock[slots] += 1
        self._used[slots] += 1

    def took(self, slots: Any, actions: Any) -> None:
        """Other actions [b, A] were taken than those of the last :meth:`act`: the rest of the plan is void."""
        self._used[np.asarray(slots, np.int64)] = self.plan_every

    # ---- its parts ------------------------------------------------------------------------------------------------

    def plans(self, slots: np.ndarray, observations: Tensor) -> tuple[Tensor, Tensor]:
        """(plans [b, T, C], the first actions [b, plan_every, A]) for the episodes ``slots`` [b] of one task.

        ``observations`` [b, S] are the environments'; plans are aligned, actions are the environment's own.
        """
        number = int(self.task[slots[0]])
        one, table = self.tasks[number], self.table
        network, rows, width = one.network, len(slots), one.states.dim
        seen = observations.to(self.device, torch.float32)
        first = one.states.aligned(((seen - table.mean[number]) / table.deviation[number])[:, :width])
        shape = (rows, network.horizon, network.channels)

        def draw(stream: int) -> Tensor:
            return normal_noise(self.seed, slots, self.clock[slots], shape[1] * shape[2], stream).view(shape).to(first)

        put(network, one.weights)
        returns = torch.from_numpy(self.targets[slots]).to(first)
        plan = network.plan(first, returns, draw(0), self.how, task=one.number, bound=one.bound,
                            draws=lambda k: draw(k + 1))  # fmt: skip
        return plan, self._acted(one, number, plan[:, : self.plan_every + 1])

    def _acted(self, one: TaskPlanner, number: int, plan: Tensor) -> Tensor:
        if self.requantise and one.network.kind == "states":
            plan = torch.cat((plan[:, :1], one.states.quantised(plan[:, 1:])), 1)
        unit = one.actions.restored(one.network.planned_actions(plan, one.inverse)).clamp(-1, 1)
        padded = torch.nn.functional.pad(unit, (0, self.action_dim - unit.shape[-1]))
        return self.table.own_actions(padded, number)[..., : unit.shape[-1]]


def put(network: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Makes ``weights`` the parameters of ``network``, without a copy; every parameter must be among them."""
    for name, parameter in network.named_parameters():
        parameter.data = weights[name]
