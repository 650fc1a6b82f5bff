"""What acting through alignments costs: a known good policy acts, but sees and does only what they let through.

With states s aligned by f_s and restored by g_s, actions a by f_a and g_a, and a policy pi of the environment's own
states and actions:

    raw       a = pi(s)
    actions   a = g_a(f_a(pi(s)))
    both      a = g_a(f_a(pi(g_s(f_s(s)))))

A planner of aligned states cannot be expected to do better than ``both`` lets its teacher do. No planner is needed to
measure it, so that codes, widths and training steps can be chosen before one is trained.

Public names: :class:`ThroughAlignments`, :data:`Way`, :data:`WAYS`, :func:`expert_of`, :func:`mean_difference`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from manyone.envs.single.experts.ladder import ladder
from manyone.envs.single.make import BODIES
from manyone.errors import ManyoneError
from manyone.policies.acting import EpisodeLike, checked_observations
from manyone.policies.tasks import TaskTable
from manyone.policies.vqcd.alignment import Alignment, feature_difference

Way = Literal["raw", "actions", "both"]
WAYS: tuple[Way, ...] = get_args(Way)


class Expert(Protocol):
    """A policy of one task without memory."""

    def actions(self, observations: np.ndarray) -> np.ndarray:
        """Actions [b, A] for the environment's own observations [b, S]."""


def expert_of(task: str) -> Expert | None:
    """The best policy that comes with the package for ``task``; None where there is none."""
    body = next((name for name, its in BODIES.items() if its == task), None)
    if body is None:
        return None
    found = ladder(body)
    return found.actors[found.expert]


class ThroughAlignments:
    """``experts`` act in many episodes at once through their tasks' alignments (the roll-outs' ``BatchedPolicy``).

    ``table`` has the statistics, bounds and widths of the tasks; ``pairs`` the alignments of the standardised states
    and of the actions within -1 and 1 of each task, in the table's order. Experts by the names of their tasks.
    """

    reads_returns = False

    def __init__(
        self, experts: Mapping[str, Expert], table: TaskTable, pairs: Sequence[tuple[Alignment, Alignment]], way: Way
    ) -> None:
        if way not in WAYS:
            raise ManyoneError(f"way {way!r}: must be {', '.join(WAYS)}")
        if len(pairs) != len(table.names):
            raise ManyoneError(f"{len(pairs)} pairs of alignments for {len(table.names)} tasks: give each task one")
        self.experts, self.table, self.pairs, self.way = dict(experts), table, list(pairs), way
        self.state_dim = table.mean.shape[1]
        self.action_dim = max(actions.dim for _, actions in pairs)

    def start(self, episodes: Sequence[EpisodeLike]) -> None:
        """Begins new episodes; slot s is ``episodes[s]`` from now on."""
        self.names, self.task = [""] * len(episodes), np.zeros(len(episodes), np.int64)
        self.restart(range(len(episodes)), episodes)

    def restart(self, slots: Sequence[int], episodes: Sequence[EpisodeLike]) -> None:
        """Begins ``episodes`` [b] in the slots [b]; all other slots go on."""
        for slot, episode in zip(slots, episodes, strict=True):
            number = self.table.index(episode.task)
            if self.table.names[number] not in self.experts:
                raise ManyoneError(f"there is no expert of {episode.task!r}: there are {', '.join(self.experts)}")
            self.names[slot], self.task[slot] = self.table.names[number], number

    @torch.no_grad()
    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """Actions float32 [b, A] for ``observations`` [b, S] of the episodes ``slots`` [b]."""
        slots = np.asarray(slots, np.int64)
        seen = checked_observations(observations, torch.from_numpy(slots), self.state_dim, self.names)
        found = np.zeros((len(slots), self.action_dim), np.float32)
        for number in np.unique(self.task[slots]):
            own = np.flatnonzero(self.task[slots] == number)
            actions = self._act(int(number), seen[torch.from_numpy(own)])
            found[own, : actions.shape[1]] = actions
        return found

    def reward(self, slots: Any, rewards: Any) -> None:
        """Nothing depends on rewards here."""

    def _act(self, task: int, seen: Tensor) -> np.ndarray:
        states, actions = self.pairs[task]
        expert, own = self.experts[self.table.names[task]], seen[:, : states.dim].to(self.table.mean)
        if self.way == "both":
            mean, deviation = (t[task, : states.dim] for t in (self.table.mean, self.table.deviation))
            own = states.restored(states.aligned((own - mean) / deviation)) * deviation + mean
        wanted = torch.from_numpy(np.asarray(expert.actions(own.cpu().numpy()))).to(own)
        if self.way != "raw":
            unit = self._widened(wanted, task, actions.dim, own=False)
            wanted = self._widened(actions.restored(actions.aligned(unit)), task, actions.dim, own=True)
        return wanted.cpu().numpy()

    def _widened(self, actions: Tensor, task: int, width: int, own: bool) -> Tensor:
        """Actions of ``task`` brought to -1 to 1, or back: the table's bounds are as wide as the widest task's."""
        if self.table.bounds is None:
            return actions
        wide = torch.nn.functional.pad(actions, (0, self.table.bounds.shape[-1] - width))
        change = self.table.own_actions if own else self.table.unit_actions
        return change(wide, task)[:, :width]


def mean_difference(aligned: Sequence[Tensor], *, seed: int = 0) -> float:
    """The mean over pairs of tasks of :func:`~manyone.policies.vqcd.alignment.feature_difference`; 0 for one task.

    ``aligned``: the aligned vectors of each task, [n, width].
    """
    found = [feature_difference(one, other, seed=seed) for one, other in combinations(aligned, 2)]
    return sum(found) / len(found) if found else 0.0
