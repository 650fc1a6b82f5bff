"""Episodes of shipped policies with their exploration noise, or of uniformly random actions: n in lock-step.

An episode depends on its policy and its seed alone, so any cut into pieces gives the same ones. This module imports no
torch: worker processes start fast.

Public names: ``shipped``, ``episodes``, ``roll_out``, ``Share``, ``shares``, ``Actor``, ``Policies``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from manyone.envs.single import make as build
from manyone.envs.single.experts.ladder import ladder
from manyone.envs.single.experts.matrices import matrices
from manyone.envs.single.stepping import stepper

_PIECE = 5  # episodes of up to 1000 steps that a worker plays in lock-step before it answers


class Actor(Protocol):
    """A policy."""

    def actions(self, observations: np.ndarray) -> np.ndarray:
        """Actions [..., A] for the environment's own ``observations`` [..., S]; they may go beyond its bounds."""


class Policies(Protocol):
    """What is shipped for a task: policies in the order of training, as :class:`Ladder` has them."""

    @property
    def task(self) -> str:
        """The environment, as ``manyone.envs.single.make`` takes it."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Environment steps that each policy had learned from."""

    @property
    def returns(self) -> tuple[float, ...]:
        """Mean undiscounted return of each policy."""

    @property
    def noisy_returns(self) -> tuple[float, ...]:
        """The same with the noise that data are made with."""

    @property
    def noise(self) -> float:
        """Deviation of that noise, in half widths of the actions' range."""

    @property
    def actors(self) -> Sequence[Actor]:
        """The policies."""

    @property
    def expert(self) -> int:
        """Number of the best policy."""

    @property
    def medium(self) -> int:
        """Number of the policy about two fifths of the way from random actions to the expert."""


def shipped(name: str) -> Policies:
    """The policies that come with the package, of a body (``hopper``) or a task (``cheetah-vel:7``)."""
    body = next((body for body, task in build.BODIES.items() if name in (body, task)), None)
    return matrices(name) if body is None else ladder(body)


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
    _pieces: dict[int, list[dict[str, Any]]] = field(default_factory=dict)  # by the number of the first episode
    _episodes: int = 0
    _size: int = 0  # as ``amount``

    @property
    def filled(self) -> int:
        """How much of ``amount`` is there."""
        return min(self.amount, self._size)

    def add(self, first: int, episodes: list[dict[str, Any]]) -> None:
        """Takes a piece that was needed: its ``episodes`` from number ``first`` on."""
        self._pieces[first] = episodes
        self._episodes += len(episodes)
        self._size += sum(len(one["rewards"]) for one in episodes) if self.in_steps else len(episodes)

    def needed(self, horizon: int) -> list[tuple[int, int]]:
        """(first, count) of the pieces to be played next, from what is known of the episodes' lengths; none if full."""
        begin, missing = self._episodes, self.amount - self._size
        if missing <= 0:
            return []
        if self.in_steps:
            length = self._size / begin if begin else horizon
            # the first episodes may be the shortest: at most three times as many again
            missing = min(math.ceil(missing / length), max(3 * begin, math.ceil(self.amount / horizon)))
            missing = -(-missing // _PIECE) * _PIECE
        return [(first, min(_PIECE, begin + missing - first)) for first in range(begin, begin + missing, _PIECE)]

    def kept(self) -> list[dict[str, Any]]:
        """Exactly ``amount``, in the order of the episodes."""
        every = [one for first in sorted(self._pieces) for one in self._pieces[first]]
        if not self.in_steps:
            return every[: self.amount]
        found, left = [], self.amount
        for one in every:
            if left <= 0:
                break
            found.append(_cut(one, left))
            left -= len(one["rewards"])
        return found


def _cut(episode: dict[str, Any], steps: int) -> dict[str, Any]:
    """At most the first ``steps`` of an episode."""
    if len(episode["rewards"]) <= steps:
        return episode
    shorter = {key: episode[key][:steps] for key in ("actions", "rewards")}
    return {"observations": episode["observations"][: steps + 1], **shorter, "terminated": False, "goal": 0}


def shares(quality: str, of: Policies, amount: int, *, in_steps: bool) -> list[Share]:
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


def episodes(name: str, policy: int | None, seeds: Sequence[int], horizon: int, noise: float) -> list[dict[str, Any]]:
    """One episode a seed of policy number ``policy`` of :func:`shipped`, or of random actions; see :func:`roll_out`."""
    found = shipped(name)
    return roll_out(found.task, None if policy is None else found.actors[policy], seeds, horizon, noise)


def roll_out(task: str, actor: Actor | None, seeds: Sequence[int], horizon: int, noise: float) -> list[dict[str, Any]]:
    """One episode a seed, as trajectories take them.

    Actions are the policy's plus ``noise`` times standard normal numbers (times half the width of the actions' range),
    clipped to the environment's bounds; ``actor`` None: uniform between these.
    """
    count, (low, high) = len(seeds), build.bounds(task)
    states, width, _ = build.spaces(task)
    start, step = stepper(task, count, horizon)
    centre, half = (low + high) / 2, (high - low) / 2
    jitter = half * np.stack([_noise(seed, (horizon, width), None if actor is None else noise) for seed in seeds])
    observations = np.zeros((count, horizon + 1, states))
    actions = np.zeros((count, horizon, width), np.float32)
    rewards, lengths, terminated = np.zeros((count, horizon)), np.zeros(count, np.int64), np.zeros(count, bool)
    running = np.arange(count)
    observations[:, 0] = start(seeds)
    for t in range(horizon):
        wanted = centre + jitter[running, t]
        if actor is not None:  # a product a row: what a row gives must not depend on how many there are
            wanted = np.clip(actor.actions(observations[running, t, None])[:, 0] + jitter[running, t], low, high)
        # the action that is stored is the one that is played
        actions[running, t] = wanted
        observations[running, t + 1], rewards[running, t], ended, _ = step(running, actions[running, t])
        terminated[running], lengths[running] = ended, t + 1
        running = running[~terminated[running]]
        if not len(running):
            break
    return [
        {
            "observations": observations[i, : n + 1],
            "actions": actions[i, :n],
            "rewards": rewards[i, :n],
            "terminated": bool(terminated[i]),
            "goal": 0,
        }
        for i, n in enumerate(lengths)
    ]


def _noise(seed: int, shape: tuple[int, int], deviation: float | None) -> np.ndarray:
    """Normal numbers of ``deviation``; uniform ones in -1 to 1 where it is None."""
    draw = np.random.Generator(np.random.Philox(seed))
    return draw.uniform(-1, 1, shape) if deviation is None else deviation * draw.standard_normal(shape)
