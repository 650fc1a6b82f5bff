"""A saved policy acts: loads the folder that a run exported, and needs no engine.

    from manyone.policies import load_policy
    policy = load_policy("runs/first/model")
    policy.reset("door-open-v3")                      # target=...: another return to ask for
    action = policy.act(observation, reward)          # reward of the step before; 0 at first

and in ``gymnasium.vector``, where environments begin anew one by one::

    policy.reset(["gym:Hopper-v5"] * envs.num_envs)
    actions = policy.act(observations, rewards)       # [n, S], [n] -> [n, A]
    policy.reset(slots=ended)                         # those whose next observation is an episode's first

Public names: :func:`load_policy`, :class:`Policy`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from manyone.data.trajectories.observations import lay_out
from manyone.envs.single.make import gym_parts
from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.acting import SequencePolicy, checked_observations
from manyone.policies.agnostic import AgnosticPolicy
from manyone.policies.artefact import SavedPolicy, read_policy
from manyone.policies.baselines.cloning import CloningNetwork, CloningPolicy
from manyone.policies.g_harmodt.gate import Gate
from manyone.policies.prompt_diffuser.acting import ACTS_WITH as PROMPTED
from manyone.policies.prompt_diffuser.acting import read_prompted
from manyone.policies.prompt_tuning.acting import ACTS_WITH as ADAPTED
from manyone.policies.prompt_tuning.acting import load_adapted
from manyone.policies.vqcd.artefact import PlannerModel, planner_policy


class _Episode(NamedTuple):
    task: str
    target: float | None


class Policy:
    """A saved policy. :meth:`reset` and :meth:`act` for one episode or n side by side, :attr:`batched` for roll-outs.

    ``model``, ``table``, ``masks`` (or None) and ``assignment`` are its parts, ``info`` what else was saved.
    """

    def __init__(self, saved: SavedPolicy, seed: int = 0) -> None:
        self.model, self.table, self.masks = saved.model, saved.table, saved.masks
        self.assignment, self.info = saved.assignment, saved.info
        self.batched: Any = _acting(saved, seed)
        self._episodes: list[_Episode] = []

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the policy knows."""
        return self.table.names

    def reset(
        self,
        task: str | Sequence[str | None] | None = None,
        *,
        target: float | Sequence[float] | None = None,
        slots: Any = None,
    ) -> None:
        """Begins an episode of ``task``; a policy that infers the task itself, or knows one alone, needs none.

        A sequence of n tasks begins n episodes, one in each slot of a ``gymnasium.vector`` environment. Later,
        ``slots`` (indices, or a mask bool [n]) begins new ones in these slots alone, of the same tasks and targets
        unless others are given. ``target`` is the return to ask for (default: the task's in the artefact).
        """
        if target is not None and not self.batched.reads_returns:
            raise ManyoneError("behaviour cloning reads no target return: leave it out")
        if slots is None:
            names = [task] if task is None or isinstance(task, str) else list(task)
            self._single = task is None or isinstance(task, str)
            chosen, before = list(range(len(names))), [_Episode("", None)] * len(names)
        elif not self._episodes:
            raise ManyoneError("reset(slots=...) before reset: first give the tasks of all slots")
        else:
            chosen, before = _numbers(slots, len(self._episodes)), list(self._episodes)
            names = [task] * len(chosen) if task is None or isinstance(task, str) else list(task)
        several = not isinstance(target, (int, float, np.number, type(None)))
        targets: list[Any] = list(target) if several else [target] * len(chosen)  # type: ignore[arg-type]
        if slots is None and not names:
            raise ManyoneError("no tasks: give one, or a sequence with one for each slot")
        if wrong := [asked for asked in targets if asked is not None and not math.isfinite(asked)]:
            raise ManyoneError(f"target {wrong[0]}: give a finite return to ask for")
        if len(names) != len(chosen) or len(targets) != len(chosen):
            raise ManyoneError(f"{len(names)} tasks and {len(targets)} targets for {len(chosen)} slots: give one each")
        episodes = []
        for slot, name, asked in zip(chosen, names, targets):
            one = _Episode(before[slot].task if name is None else name, before[slot].target if asked is None else asked)
            if not one.task and len(self.tasks) == 1:
                one = one._replace(task=self.tasks[0])
            if not one.task and not self.info.get("task_free"):
                raise ManyoneError(f"this policy must know its task: reset(task) with one of {', '.join(self.tasks)}")
            episodes.append(one)
        if slots is None:
            self.batched.start(episodes)
            self._keys = self._entries(names[0] or "")
            self._episodes, self._first = episodes, np.ones(len(episodes), bool)
        else:
            self.batched.restart(chosen, episodes)
            for slot, one in zip(chosen, episodes):
                self._episodes[slot], self._first[slot] = one, True

    def act(self, observation: Any, reward: Any = 0.0) -> np.ndarray:
        """Action float32 [A] for ``observation`` [S], or [n, A] for [n, S] after a reset of n tasks.

        ``reward``: what the last action of each episode earned (ignored at an episode's first step). Of a dictionary
        the entries that the task's name gives as ``keys`` are read.
        """
        if not self._episodes:
            raise ManyoneError("act before reset: call policy.reset(task) at the start of an episode")
        slots = np.arange(len(self._episodes))
        rewards = np.asarray(reward, np.float32)
        if rewards.shape not in ((), slots.shape):
            raise ManyoneError(f"rewards {list(rewards.shape)}: give one for each of {len(slots)} slots")
        rewards = np.broadcast_to(rewards, len(slots))
        going = np.flatnonzero(~self._first)
        wrong = going[~np.isfinite(rewards[going])]
        if len(wrong):
            raise ManyoneError(f"slot {wrong[0]} ({self._episodes[wrong[0]].task}): the reward is {rewards[wrong[0]]}")
        seen = lay_out(observation, self._keys, batch=not self._single).astype(np.float32)
        states, width = self._widths()
        if seen.shape[-1] == states:
            more = self.model.state_dim - states  # type: ignore[operator]
            seen = np.concatenate((seen, np.zeros((*seen.shape[:-1], more), np.float32)), -1) if more else seen
        seen = seen[None] if self._single else seen
        names = [episode.task for episode in self._episodes]
        checked_observations(seen, torch.from_numpy(slots), self.model.state_dim, names)  # type: ignore[arg-type]
        if len(going):  # nothing moves on before all is known to be right
            self.batched.reward(going, rewards[going])
        actions = self.batched.act(slots, seen)[:, :width]
        self._first[:] = False
        return actions[0] if self._single else actions

    def _widths(self) -> tuple[Any, Any]:
        """(S, A) of the episodes that run; those of the widest task, padded, where they are not all alike."""
        own = set()
        if self.table.widths is not None:
            own = {tuple(self.table.widths[self.table.index(e.task)].tolist()) for e in self._episodes}
        return own.pop() if len(own) == 1 else (self.model.state_dim, self.model.action_dim)

    def _entries(self, task: str) -> tuple[str, ...]:
        """The entries of dictionary observations that are read."""
        own = [name for name in self.tasks if name.partition("?")[0] == task]
        named = (gym_parts(n)[1] for n in (task, *own, *self.tasks) if "keys=" in n)
        return next(filter(None, named), ())


def load_policy(folder: str | os.PathLike[str], device: str = "cpu", *, seed: int = 0) -> Policy:
    """The policy in ``folder``, the ``model`` folder of a run.

    ``seed`` is of what it draws as it acts, where it does: a prompt an episode, of a prompt diffuser.
    """
    return Policy(read_policy(folder, device), seed)


load = load_policy
"""The artefact's reader, by the name that it has in every field."""


def _numbers(slots: Any, count: int) -> list[int]:
    """Slots given as indices or as a mask."""
    given = np.asarray(slots)
    if given.dtype == bool and given.shape == (count,):
        return np.flatnonzero(given).tolist()
    if given.ndim != 1 or (given.size and (given.dtype == bool or given.min() < 0 or given.max() >= count)):
        raise ManyoneError(f"slots {given.tolist()}: give numbers of 0 to {count - 1}, or a mask of {count}")
    return given.astype(np.int64).tolist()


def _acting(saved: SavedPolicy, seed: int) -> Any:
    """What acts in many episodes at once (the roll-outs' ``BatchedPolicy``)."""
    if isinstance(saved.model, CloningNetwork):
        return CloningPolicy(saved.model, saved.table)
    if isinstance(saved.model, PlannerModel):
        return planner_policy(saved.model, saved.table, saved.masks)
    assert isinstance(saved.model, DecisionTransformer)
    way = saved.info.get("acts_with")
    if way is None:
        return SequencePolicy(saved.model, saved.table, saved.masks, assignment=saved.assignment)
    if way == ADAPTED:
        return load_adapted(saved)
    if way == PROMPTED:
        return read_prompted(saved, seed)
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
