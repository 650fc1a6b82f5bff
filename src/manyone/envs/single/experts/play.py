"""Episodes of shipped policies with their exploration noise, or of uniformly random actions: n in lock-step.

An episode depends on its policy and its seed alone, so any cut into pieces gives the same ones. This module imports no
torch: worker processes start fast.

Public names: ``episodes``, ``roll_out``, ``Share``, ``shares``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from manyone.envs.single import lockstep, make
from manyone.envs.single.experts.ladder import Actor, Ladder, ladder

_PIECE = 5  # episodes of up to 1000 steps that a worker plays in lock-step before it answers


@dataclass(eq=False)
class Share:
    """A part of a data set that one policy plays: its episodes number 0, 1, ... until the part is full.

    How many those are shows as they are played. Which pieces are asked for and who plays them does not change what is
    kept: the first episodes, the last one cut.
    """

    policy: int | None
    """Number of the policy; None: uniformly random actions."""
    step: int
    """Steps that the policy had learned from; 0 for random actions."""
    amount: int
    """Transitions or episodes."""
    in_steps: bool
    """Whether ``amount`` counts transitions."""
    pieces: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """Episodes by the number of the first one."""

    @property
    def filled(self) -> int:
        """How much of ``amount`` is there."""
        return min(self.amount, self._size())

    def needed(self, horizon: int) -> list[tuple[int, int]]:
        """(first, count) of the pieces to be played next, from what is known of the episodes' lengths; none if full."""
        begin = sum(map(len, self.pieces.values()))
        missing = self.amount - self._size()
        if missing <= 0:
            return []
        if self.in_steps:
            length = self._size() / begin if begin else horizon
            # the first episodes may be the shortest: at most three times as many again
            missing = min(math.ceil(missing / length), max(3 * begin, math.ceil(self.amount / horizon)))
            missing = -(-missing // _PIECE) * _PIECE
        return [(first, min(_PIECE, begin + missing - first)) for first in range(begin, begin + missing, _PIECE)]

    def kept(self) -> list[dict[str, Any]]:
        """Exactly ``amount``, in the order of the episodes."""
        every = [one for first in sorted(self.pieces) for one in self.pieces[first]]
        if not self.in_steps:
            return every[: self.amount]
        found, left = [], self.amount
        for one in every:
            if left <= 0:
                break
            found.append(_cut(one, left))
            left -= len(one["rewards"])
        return found

    def _size(self) -> int:
        every = [one for piece in self.pieces.values() for one in piece]
        return sum(len(one["rewards"]) for one in every) if self.in_steps else len(every)


def _cut(episode: dict[str, Any], steps: int) -> dict[str, Any]:
    """At most the first ``steps`` of an episode."""
    if len(episode["rewards"]) <= steps:
        return episode
    shorter = {key: episode[key][:steps] for key in ("actions", "rewards")}
    return {"observations": episode["observations"][: steps + 1], **shorter, "terminated": False, "goal": 0}


def shares(quality: str, of: Ladder, amount: int, *, in_steps: bool) -> list[Share]:
    """What a data set of ``amount`` transitions (or episodes) is made of, in the order of training.

    ``random``, ``medium`` and ``expert`` have one policy; ``medium-expert`` has half of each; ``medium-replay`` has
    random actions and all policies in equal parts, as the run's replay buffer has every stage of training.
    """
    policies: list[int | None]
    if quality == "medium-replay":
        policies = [None, *range(len(of.steps))]
    elif quality == "medium-expert":
        policies = [of.medium, of.expert]
    else:
        policies = [{"random": None, "medium": of.medium, "expert": of.expert}[quality]]
    least, more = divmod(amount, len(policies))
    found = []
    for number, policy in enumerate(policies):
        step = 0 if policy is None else of.steps[policy]
        found.append(Share(policy, step, least + (number < more), in_steps))
    return [share for share in found if share.amount]


def episodes(body: str, policy: int | None, seeds: Sequence[int], horizon: int, noise: float) -> list[dict[str, Any]]:
    """One episode a seed of policy number ``policy`` of ``body`` (None: random actions); see :func:`roll_out`."""
    found = ladder(body)
    return roll_out(found.task, None if policy is None else found.actors[policy], seeds, horizon, noise)


def roll_out(task: str, actor: Actor | None, seeds: Sequence[int], horizon: int, noise: float) -> list[dict[str, Any]]:
    """One episode a seed, as trajectories take them.

    Actions are the policy's plus ``noise`` times standard normal numbers, clipped to -1 and 1; ``actor`` None: uniform
    in -1 to 1.
    """
    width = make.spaces(task)[1]
    draws = [np.random.Generator(np.random.Philox(seed)) for seed in seeds]
    if actor is None:
        jitter = np.stack([draw.uniform(-1, 1, (horizon, width)) for draw in draws])
    else:
        jitter = np.stack([noise * draw.standard_normal((horizon, width)) for draw in draws])

    def act(rows: np.ndarray, observations: np.ndarray, step: int) -> np.ndarray:
        if actor is None:
            return jitter[rows, step]
        # a product a row: what a row gives must not depend on how many there are
        wanted = actor.actions(observations[:, None])[:, 0]
        return np.clip(wanted + jitter[rows, step], -1, 1)

    return lockstep.episodes(task, seeds, horizon, act)
