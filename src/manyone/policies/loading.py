"""A saved policy acts: loads the folder that a run exported, and needs no engine.

    from manyone.policies import load_policy
    policy = load_policy("runs/first/model")
    policy.reset("door-open-v3")
    action = policy.act(observation, reward)          # reward of the step before; 0 at first

Public names: :func:`load_policy`, :class:`Policy`.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from manyone.data.trajectories.observations import lay_out
from manyone.envs.single.make import gym_parts
from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.acting import SequencePolicy
from manyone.policies.agnostic import AgnosticPolicy
from manyone.policies.artefact import SavedPolicy, read_policy
from manyone.policies.baselines.cloning import CloningNetwork, CloningPolicy
from manyone.policies.g_harmodt.gate import Gate


class _Episode(NamedTuple):
    task: str


class Policy:
    """A saved policy. :meth:`reset` and :meth:`act` for one episode, :attr:`batched` for roll-outs of many.

    ``model``, ``table``, ``masks`` (or None) and ``assignment`` are its parts, ``info`` what else was saved.
    """

    def __init__(self, saved: SavedPolicy) -> None:
        self.model, self.table, self.masks = saved.model, saved.table, saved.masks
        self.assignment, self.info = saved.assignment, saved.info
        self.batched: Any = _acting(saved)
        self._running = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the policy knows."""
        return self.table.names

    def reset(self, task: str | None = None) -> None:
        """Begins an episode of ``task``; a policy that infers the task itself needs none."""
        if task is None and not self.info.get("task_free"):
            raise ManyoneError(f"this policy must know its task: reset(task) with one of {', '.join(self.tasks)}")
        own = [name for name in self.tasks if name.partition("?")[0] == task]
        named = (gym_parts(n)[1] for n in (task or "", *own, *self.tasks) if n.startswith("gym:"))
        self._keys = next(filter(None, named), ())
        self.batched.start([_Episode(task or "")])
        self._running, self._first = True, True

    def act(self, observation: Any, reward: float = 0.0) -> np.ndarray:
        """Action float32 [A] for ``observation`` [S]; ``reward`` is what the last action earned (ignored at first).

        Of a dictionary the entries that the task's name gives as ``keys`` are read.
        """
        if not self._running:
            raise ManyoneError("act before reset: call policy.reset(task) at the start of an episode")
        if not self._first:
            self.batched.reward(np.zeros(1, np.int64), np.array([reward], np.float32))
        self._first = False
        flat = lay_out(observation, self._keys).astype(np.float32)
        return self.batched.act(np.zeros(1, np.int64), flat[None])[0]


def load_policy(folder: str | os.PathLike[str], device: str = "cpu") -> Policy:
    """The policy in ``folder``, the ``model`` folder of a run."""
    return Policy(read_policy(folder, device))


load = load_policy
"""The artefact's reader, by the name that it has in every field."""


def _acting(saved: SavedPolicy) -> Any:
    """What acts in many episodes at once (the roll-outs' ``BatchedPolicy``)."""
    if isinstance(saved.model, CloningNetwork):
        return CloningPolicy(saved.model, saved.table)
    assert isinstance(saved.model, DecisionTransformer)
    way = saved.info.get("acts_with")
    if way is None:
        return SequencePolicy(saved.model, saved.table, saved.masks, assignment=saved.assignment)
    if way != "agnostic":
        raise ManyoneError(f"this policy acts with {way!r}, which this version does not know")
    gate = _gate(saved) if "gate" in saved.info else None
    return AgnosticPolicy(
        saved.model, saved.table, saved.masks, assignment=saved.assignment, gate=gate, selection=saved.info["selection"]
    )


def _gate(saved: SavedPolicy) -> Gate:
    gate = Gate(**saved.info["gate"])
    try:
        gate.load_state_dict({n.removeprefix("gate."): v for n, v in saved.extra.items() if n.startswith("gate.")})
    except RuntimeError as error:
        raise ManyoneError(f"the saved gate does not fit its description: {str(error).splitlines()[0]}") from None
    return gate.requires_grad_(False)
