"""One offline data set as resident tensors: what distillation, teachers and baselines draw their batches from.

States are standardised by the data's own statistics, (s - mean) / (deviation + 1e-3), as the published method does
(arXiv 2410.22728, appendix); the same numbers standardise what a student sees in the environment, so they travel with
everything that is made of the data. Actions are unit actions: the environment's bounds are -1 and 1. Discrete actions
are rows of probabilities (one-hot in the data).

Public names: :class:`BehaviorData`, :func:`behavior_data`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.data.trajectories.trajectories import Trajectories, pooled_moments
from manyone.engine.inputs import digest
from manyone.errors import ManyoneError

FLOOR = 1e-3
"""What is added to the deviation of every state dimension: a constant one stays finite."""
_log = logging.getLogger("manyone")
_ARRAYS = ("observations", "actions", "rewards", "offsets", "terminated", "final_observations")


@dataclass(frozen=True, eq=False)
class BehaviorData:
    """n transitions of one data set, states of width S, actions of width A (or C choices)."""

    name: str
    environment: str | None
    """The task to act in (``gym:Hopper-v5``); None: nothing to act in."""
    states: Tensor
    """float32 [n, S], standardised."""
    actions: Tensor
    """float32 [n, A] from -1 to 1; of discrete actions [n, C], one-hot."""
    rewards: Tensor
    """float32 [n]"""
    next_states: Tensor
    """float32 [n, S], standardised; where ``has_next`` is False the state itself stands."""
    has_next: Tensor
    """bool [n]: whether the state after the step is known."""
    terminals: Tensor
    """bool [n]: whether the step ended in a terminal state."""
    episode: Tensor
    """int64 [n]: the number of the row's episode."""
    returns: Tensor
    """float32 [n]: undiscounted return of the row's episode."""
    mean: Tensor
    """float32 [S]"""
    deviation: Tensor
    """float32 [S], never 0."""
    low: Tensor | None
    """float32 [A], the least action; None where actions are discrete."""
    high: Tensor | None
    """float32 [A]"""
    choices: int
    """Number C of discrete actions; 0 where actions are continuous."""
    horizon: int
    """Steps of an evaluation episode."""
    digest: str
    """SHA-256 of the data's content."""
    reference: tuple[float, float] | None = None
    """Returns of a random and of an expert policy, between which normalised scores go from 0 to 1."""

    def __len__(self) -> int:
        """Number of transitions n."""
        return len(self.states)

    @property
    def state_dim(self) -> int:
        """Width S of a state."""
        return self.states.shape[1]

    @property
    def action_dim(self) -> int:
        """Width A of an action, or the number of choices."""
        return self.actions.shape[1]

    @cached_property
    def first(self) -> Tensor:
        """The first row of each episode, int64 [E]; of chosen rows too, whose episodes' numbers have gaps."""
        begins = torch.ones(len(self), dtype=torch.bool, device=self.episode.device)
        begins[1:] = self.episode[1:] != self.episode[:-1]
        return begins.nonzero()[:, 0]

    def normalise(self, observations: Tensor) -> Tensor:
        """Observations [..., S] of the environment as states."""
        return (observations - self.mean) / self.deviation

    def observations(self, states: Tensor) -> Tensor:
        """The inverse of :meth:`normalise`."""
        return states * self.deviation + self.mean

    def unit_actions(self, actions: Tensor) -> Tensor:
        """Actions [..., A] of the environment as unit actions; discrete ones are probabilities and stay."""
        if self.low is None or self.high is None:
            return actions
        half = (self.high - self.low) / 2
        return (actions - (self.low + self.high) / 2) / torch.where(half > 0, half, 1)

    def own_actions(self, unit: Tensor) -> Tensor:
        """The inverse of :meth:`unit_actions`, never beyond the bounds."""
        if self.low is None or self.high is None:
            return unit
        return ((self.low + self.high) / 2 + unit * ((self.high - self.low) / 2)).clamp(self.low, self.high)

    def rows(self, chosen: Tensor) -> BehaviorData:
        """The rows ``chosen`` (int64 or bool) with the statistics and bounds of the whole set."""
        own = ("states", "actions", "rewards", "next_states", "has_next", "terminals", "episode", "returns")
        picked: dict[str, Any] = {name: getattr(self, name)[chosen] for name in own}
        return replace(self, **picked)

    def best(self, fraction: float) -> BehaviorData:
        """The episodes with the highest returns: ``fraction`` of all, at least one."""
        order = torch.argsort(self.returns[self.first], descending=True, stable=True)
        best = order[: max(1, round(fraction * len(order)))]
        return self.rows(torch.isin(self.episode, self.episode[self.first[best]]))

    def to(self, device: str | torch.device) -> BehaviorData:
        """The same on ``device``."""
        moved: dict[str, Any] = {
            f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


def behavior_data(
    trajectories: Trajectories,
    *,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
    environment: str | None = None,
    horizon: int | None = None,
    device: str | torch.device = "cpu",
) -> BehaviorData:
    """The transitions of ``trajectories``.

    ``bounds``: least and largest action [A] each; None or infinite ones: -1 and 1 if the data keep within them, else
    the data's own. Actions beyond their bounds are clipped, with a warning. Data whose ``meta`` counts discrete
    ``choices`` hold them one-hot. ``horizon``: of evaluation episodes (None: the longest episode's length).
    """
    one = trajectories
    if len(one) < 2:
        raise ManyoneError(f"{one.name}: {len(one)} transition: a data set to distil needs at least 2")
    if horizon is not None and not (isinstance(horizon, int) and horizon >= 1):
        raise ManyoneError(f"horizon {horizon!r:.40}: must be a whole number from 1, or None for the longest episode's")
    choices = one.choices
    mean, deviation = (torch.from_numpy(value.astype(np.float32)) for value in pooled_moments([one]))
    deviation += FLOOR
    # a copy: the arrays are memory-mapped, and every batch gathers rows of them
    states = (torch.from_numpy(np.array(one.observations, np.float32)) - mean) / deviation
    actions = torch.from_numpy(np.array(one.actions, np.float32))
    ends = torch.from_numpy(one.offsets[1:].astype(np.int64)) - 1
    following = torch.cat([states[1:], states[-1:]])
    has_next, terminals = (torch.full((len(states),), value) for value in (True, False))
    if one.final_observations is not None:
        following[ends] = (torch.from_numpy(np.array(one.final_observations, np.float32)) - mean) / deviation
    else:
        following[ends], has_next[ends] = states[ends], False
    terminals[ends] = torch.from_numpy(np.array(one.terminated))
    episode = torch.repeat_interleave(torch.from_numpy(one.lengths.astype(np.int64)))
    low = high = None
    if not choices:
        low, high = _bounds(one, bounds, actions)
    data = BehaviorData(
        name=one.name,
        environment=environment,
        states=states,
        actions=actions,
        rewards=torch.from_numpy(np.array(one.rewards, np.float32)),
        next_states=following,
        has_next=has_next | terminals,  # nothing is read of the state after a terminal one
        terminals=terminals,
        episode=episode,
        returns=torch.from_numpy(np.array(one.returns, np.float32))[episode],
        mean=mean,
        deviation=deviation,
        low=low,
        high=high,
        choices=choices,
        horizon=horizon or int(one.lengths.max()),
        digest=digest(*(getattr(one, name) for name in _ARRAYS)),
        reference=_reference(one.meta),
    )
    if low is not None and high is not None:
        beyond = ((actions < low) | (actions > high)).any(1).float().mean().item()
        if beyond:
            _log.warning("%s: %.1f %% of the actions lie beyond the bounds and are clipped", one.name, 100 * beyond)
        data = replace(data, actions=data.unit_actions(actions.clamp(low, high)))
    return data.to(device)


def _bounds(one: Trajectories, given: tuple[np.ndarray, np.ndarray] | None, actions: Tensor) -> tuple[Tensor, Tensor]:
    least, most = actions.amin(0), actions.amax(0)
    within = bool((least >= -1).all() and (most <= 1).all())
    low, high = (torch.full_like(least, -1), torch.full_like(most, 1)) if within else (least, most)
    if given is not None:
        own = [torch.from_numpy(np.array(value, np.float32)) for value in given]
        shapes = [list(value.shape) for value in own]
        if shapes != [list(least.shape)] * 2:
            raise ManyoneError(
                f"{one.name}: actions of width {one.action_dim}, but bounds of shapes {shapes[0]} and {shapes[1]}: "
                f"give the data of this environment, and two bounds of [{one.action_dim}]"
            )
        wrong = own[0].isnan() | own[1].isnan() | (own[0] >= own[1])
        if bool(wrong.any()):
            entry = int(wrong.int().argmax())
            found = " and ".join(f"{float(value[entry]):g}" for value in own)
            raise ManyoneError(
                f"{one.name}: action {entry} has the bounds {found}: give the least first, then a larger one"
            )
        low, high = torch.where(own[0].isfinite(), own[0], low), torch.where(own[1].isfinite(), own[1], high)
    if bool((high <= low).any()):
        entry = int((high <= low).int().argmax())
        raise ManyoneError(f"{one.name}: action {entry} is always {low[entry]:g}: leave it out, or give its bounds")
    return low, high


def _reference(meta: dict[str, Any]) -> tuple[float, float] | None:
    found = meta.get("reference")
    return None if found is None else (float(found[0]), float(found[1]))
