"""A policy of its own for every task, trained side by side: the bound that sharing one network is compared with.

Public names: :class:`EachTask`, :class:`ByTask`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from manyone.claims.figure import Figure
from manyone.errors import ManyoneError
from manyone.policies.acting import EpisodeLike
from manyone.policies.harmodt.learner import PolicyLearner
from manyone.policies.protocol import History, sizes_of
from manyone.policies.tasks import slug


class EachTask:
    """``learners`` of one task each, ``at_once`` of them taking a step in turn. An engine ``Learner``.

    ``evaluate`` is called with this object and gives metrics.
    """

    def __init__(
        self,
        learners: Sequence[PolicyLearner],
        *,
        at_once: int = 1,
        evaluate: Callable[[EachTask], Mapping[str, Any]] | None = None,
    ) -> None:
        if not learners or any(len(one.data) != 1 for one in learners):
            raise ManyoneError("EachTask needs learners with the data of one task each")
        if not 1 <= at_once <= len(learners):
            raise ManyoneError(f"at_once = {at_once}: must be 1 to {len(learners)}, the tasks")
        self.learners, self.at_once, self.evaluator, self.iteration = list(learners), at_once, evaluate, 0

    def step(self) -> dict[str, float]:
        """One step of each of the next ``at_once`` learners; their mean metrics."""
        first = self.iteration * self.at_once
        found = [self.learners[(first + k) % len(self.learners)].step() for k in range(self.at_once)]
        self.iteration += 1
        return {name: sum(f[name] for f in found) / len(found) for name in ("loss", "learning_rate")}

    def evaluate(self) -> dict[str, Any]:
        """What the ``evaluate`` given at the start says."""
        return dict(self.evaluator(self)) if self.evaluator else {}

    def policy(self, variant: Literal[""] = "") -> ByTask:
        """The policies as they are now, as one."""
        return ByTask({one.data.names[0]: one.policy() for one in self.learners})

    def effort(self) -> dict[str, float]:
        """The mean of the networks'."""
        each = [one.effort() for one in self.learners]
        return {name: sum(e[name] for e in each) / len(each) for name in each[0]}

    def sizes(self) -> dict[str, float]:
        """Parameters of all networks."""
        return sizes_of(one.model for one in self.learners)

    def figures(self, policy: Any, history: History) -> Iterator[Figure]:
        """None: nothing is shared."""
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {"iteration": self.iteration, "learners": [one.state_dict() for one in self.learners]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.iteration = int(state["iteration"])
        for one, saved in zip(self.learners, state["learners"]):
            one.load_state_dict(saved)

    def export(self, folder: Path) -> None:
        """One artefact a task, in folders called as the tasks (":" becomes "-")."""
        for one in self.learners:
            one.export(folder / slug(one.data.names[0]))


class ByTask:
    """Acts in every episode with the policy that belongs to its task (the roll-outs' ``BatchedPolicy``)."""

    reads_returns = True

    def __init__(self, policies: Mapping[str, Any]) -> None:
        self.policies = dict(policies)

    def start(self, episodes: Sequence[EpisodeLike]) -> None:
        """Begins new episodes."""
        names = [e.task for e in episodes]
        missing = [name for name in names if name not in self.policies]
        if missing:
            raise ManyoneError(f"no policy for task {missing[0]!r}: there are {', '.join(self.policies)}")
        self._owner = np.array([list(self.policies).index(name) for name in names])
        self._slot = np.zeros(len(names), dtype=np.int64)
        for number, policy in enumerate(self.policies.values()):
            own = np.flatnonzero(self._owner == number)
            self._slot[own] = np.arange(len(own))
            if len(own):
                policy.start([episodes[int(i)] for i in own])

    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """Actions float32 [b, A] for ``observations`` [b, S] of the episodes ``slots`` [b]."""
        slots, observations = np.asarray(slots), np.asarray(observations)
        found = np.zeros((len(slots), max(p.model.action_dim for p in self.policies.values())), np.float32)
        for number, policy in enumerate(self.policies.values()):
            own = np.flatnonzero(self._owner[slots] == number)
            if len(own):
                actions = policy.act(self._slot[slots[own]], observations[own][:, : policy.model.state_dim])
                found[own, : actions.shape[1]] = actions
        return found

    def reward(self, slots: Any, rewards: Any) -> None:
        """Passes the rewards [b] on."""
        self._pass_on("reward", slots, rewards)

    def took(self, slots: Any, actions: Any) -> None:
        """Passes the actions [b, A] on that were taken instead of those of the last :meth:`act`."""
        self._pass_on("took", slots, actions, True)

    def _pass_on(self, what: str, slots: Any, values: Any, actions: bool = False) -> None:
        slots, values = np.asarray(slots), np.asarray(values)
        for number, policy in enumerate(self.policies.values()):
            own = np.flatnonzero(self._owner[slots] == number)
            if len(own):
                mine = values[own, : policy.model.action_dim] if actions else values[own]
                getattr(policy, what)(self._slot[slots[own]], mine)
