"""Offline data of a sequence of tasks as a planner trains on it: windows of states and actions with their returns.

    g_t = r_t + gamma g_{t+1}                        discounted return-to-go            returns_to_go
    C_t = (g_t - min g) / (max g - min g)            over all steps of the task         PlanData.returns

States are standardised by their own task's statistics, actions are brought to [-1, 1] by its bounds. A window is T
consecutive steps of one episode; those that would reach beyond its end are left out (``ends="drop"``) or repeat its
last step (``"pad"``). What is drawn depends on (seed, purpose, task, step) alone.
Public names: :class:`PlanData`, :class:`PlanBatch`, :class:`Aligned`, :func:`returns_to_go`, :func:`joined`,
:func:`narrowed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError
from manyone.policies.tasks import Bounds, PolicyData, TaskTable
from manyone.randomness import generator_for

Ends = Literal["drop", "pad"]


class PlanBatch(NamedTuple):
    """B windows of T steps of one task, aligned: all tasks have the same widths Ds and Da."""

    states: Tensor
    """[B, T, Ds]"""
    actions: Tensor
    """[B, T, Da]"""
    returns: Tensor
    """What the windows' first steps still earn, from 0 (the task's least) to 1 (its most), [B]."""
    valid: Tensor
    """Steps that are within the episode, bool [B, T]; what follows an episode's end repeats its last step."""
    times: Tensor
    """When the windows begin in their episodes, from 0 to 1 for the longest of the task's, [B]."""


class Aligned(NamedTuple):
    """All steps of one task in the spaces that a planner sees."""

    states: Tensor
    """[n, Ds]"""
    actions: Tensor
    """[n, Da]"""


def returns_to_go(rewards: np.ndarray, offsets: np.ndarray, discount: float) -> np.ndarray:
    """g_t = sum_u discount^u r_{t+u} to the end of the episode, float32 [n]; ``offsets`` [E+1] bound the episodes."""
    found = np.zeros(len(rewards) + 1, np.float64)
    last = np.zeros(len(rewards), bool)
    last[offsets[1:] - 1] = True
    going = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        going = float(rewards[t]) + (0.0 if last[t] else discount * going)
        found[t] = going
    return found[:-1].astype(np.float32)


class PlanData:
    """The data of N tasks, in the order in which they are learned, cut into windows of ``horizon`` T steps.

    ``bounds`` of the actions are as :class:`~manyone.policies.tasks.PolicyData` takes them. ``discount`` is of the
    returns that plans are conditioned on. ``target`` is the share that policies ask for unless they are told otherwise,
    0 for the return of a task's worst episode and 1 for that of its best: ``table.target`` is that return.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectories],
        horizon: int = 8,
        *,
        discount: float = 0.99,
        ends: Ends = "drop",
        target: float = 0.95,
        bounds: Sequence[Bounds | None] | Literal["unit"] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if horizon < 2:
            raise ManyoneError(f"horizon = {horizon}: a plan needs 2 or more states")
        if not 0 < discount <= 1:
            raise ManyoneError(f"discount = {discount}: must be above 0 and at most 1")
        if ends not in ("drop", "pad"):
            raise ManyoneError(f"ends {ends!r}: must be drop or pad")
        base = PolicyData(trajectories, horizon, hold_out=False, bounds=bounds, device=device)
        self.names, self.horizon, self.device = base.names, horizon, base.device
        self.widths = [(one.state_dim, one.action_dim) for one in trajectories]
        first = base.windows.first_row.tolist()
        self._first = first
        self._flat = base.windows.flat
        self._returns, self._last, self._starts, self._times, extremes = [], [], [], [], []
        for one in trajectories:
            found = torch.from_numpy(returns_to_go(one.rewards, one.offsets, discount))
            low, high = float(found.min()), float(found.max())
            self._returns.append(((found - low) / (high - low if high > low else 1.0)).to(self.device))
            last = torch.from_numpy(np.repeat(one.offsets[1:] - 1, one.lengths))
            rows = torch.arange(len(one))
            starts = rows if ends == "pad" else rows[rows + horizon - 1 <= last]
            if not len(starts):
                raise ManyoneError(
                    f"{one.name}: no episode has {horizon} steps (the longest has {int(one.lengths.max())}): take a "
                    "smaller horizon, or pad windows at the ends of episodes"
                )
            self._last.append(last.to(self.device))
            clock = rows - torch.from_numpy(np.repeat(one.offsets[:-1], one.lengths))
            self._times.append((clock / float(one.lengths.max())).to(self.device))
            self._starts.append(starts.to(self.device))
            extremes.append((float(one.returns.min()), float(one.returns.max())))
        worst, best = torch.tensor(extremes).unbind(1)
        scale = torch.where(best > worst, best - worst, 1.0)
        widths = torch.tensor(self.widths)
        self.table: TaskTable = replace(base.table, scale=scale, target=worst + target * scale, widths=widths)
        """Names, statistics, bounds and widths of the tasks; ``scale``: how far best and worst episode lie apart."""

    def __len__(self) -> int:
        return len(self.names)

    def states(self, task: int) -> Tensor:
        """Standardised states of ``task``, [n, S] of its own width."""
        return self._own("observations", task, self.widths[task][0])

    def actions(self, task: int) -> Tensor:
        """Actions of ``task`` in [-1, 1], [n, A] of its own width."""
        return self._own("actions", task, self.widths[task][1])

    def returns(self, task: int) -> Tensor:
        """C_t of every step of ``task``, [n] in [0, 1]; 0 where all are equal."""
        return self._returns[task]

    def windows(self, task: int) -> int:
        """Windows of ``task`` that can be drawn."""
        return len(self._starts[task])

    def batch(
        self,
        task: int,
        aligned: Aligned,
        step: int,
        *,
        size: int,
        seed: int,
        purpose: str = "train",
        newest: float = 1.0,
    ) -> PlanBatch:
        """``size`` windows of ``task`` from its ``aligned`` steps; ``newest``: from this share of them, the last."""
        starts = self._starts[task]
        fewest = min(len(starts) - 1, int((1 - newest) * len(starts)))
        draw = generator_for(seed, purpose, "windows", task, step)
        chosen = torch.randint(fewest, len(starts), (size,), generator=draw).to(self.device)
        wanted = starts[chosen].unsqueeze(1) + torch.arange(self.horizon, device=self.device)
        last = self._last[task][wanted[:, :1]]
        rows = torch.minimum(wanted, last)
        first = rows[:, 0]
        return PlanBatch(aligned.states[rows], aligned.actions[rows], self._returns[task][first], wanted <= last,
                         self._times[task][first])  # fmt: skip

    def _own(self, key: str, task: int, width: int) -> Tensor:
        return self._flat[key][self._first[task] : self._first[task + 1], :width]


def narrowed(table: TaskTable, tasks: Sequence[int]) -> TaskTable:
    """The rows ``tasks`` of ``table``, as wide as the widest of them."""
    found = table.subset(tasks)
    states, actions = (int(width) for width in _widths(found).amax(0))
    bounds = None if found.bounds is None else found.bounds[..., :actions]
    return replace(found, mean=found.mean[:, :states], deviation=found.deviation[:, :states], bounds=bounds)


def joined(first: TaskTable, second: TaskTable) -> TaskTable:
    """The tasks of both tables, the narrower states and actions padded."""
    if twice := set(first.names) & set(second.names):
        raise ManyoneError(f"task {min(twice)!r} is known to the model already: give it another name, or another task")

    def rows(one: TaskTable, name: str, fill: float, width: int) -> Tensor:
        value = getattr(one, name)
        return F.pad(value, (0, width - value.shape[-1]), value=fill)

    states = max(one.mean.shape[1] for one in (first, second))
    bounds = [_bounds(one) for one in (first, second)]
    actions = max(b.shape[-1] for b in bounds)
    padded = [torch.cat([F.pad(b[:, :1], (0, actions - b.shape[-1]), value=-1.0),
                         F.pad(b[:, 1:], (0, actions - b.shape[-1]), value=1.0)], 1) for b in bounds]  # fmt: skip
    return TaskTable(
        names=(*first.names, *second.names),
        mean=torch.cat([rows(one, "mean", 0.0, states) for one in (first, second)]),
        deviation=torch.cat([rows(one, "deviation", 1.0, states) for one in (first, second)]),
        scale=torch.cat((first.scale, second.scale)),
        target=torch.cat((first.target, second.target)),
        prompt=None,
        bounds=torch.cat(padded),
        widths=torch.cat([_widths(one) for one in (first, second)]),
    )


def _widths(table: TaskTable) -> Tensor:
    assert table.widths is not None  # planners' tables always have them
    return table.widths


def _bounds(table: TaskTable) -> Tensor:
    if table.bounds is not None:
        return table.bounds
    ones = torch.ones(len(table.names), 1, int(_widths(table)[:, 1].max()))
    return torch.cat((-ones, ones), 1)
