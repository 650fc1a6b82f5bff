"""Advantages and returns per agent by generalised advantage estimation (GAE), and what finished episodes gave.

Schulman et al., arXiv 1506.02438, equation 16, with rewards, values and ends of each agent's own:

    delta_t = r_t + gamma * V'_{t+1} - V_t        A_t = delta_t + gamma * lambda * [not over at t] * A_{t+1}

An agent is over when the team's episode ends and when it leaves alone. V'_{t+1} is 0 where it terminated, the value of
what it saw last where it was only cut off (truncated), and the value of the next step otherwise. Whoever has its number
afterwards has a return of its own. An agent that waits (absent and not over) gathers rewards and makes no prediction:
over a gap from t + 1 to t + k, delta_t = r_t + gamma r_{t+1} + ... + gamma^{k+1} V_{t+k+1} - V_t, and A_{t+k+1} enters
with lambda once. Public names: :func:`gae`, :func:`bootstrapped`, :func:`finished_episodes`, :func:`own_ends`,
:func:`with_stand_ins`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.envs.teams.types import Observation, Step


def own_ends(alive: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """(terminated, truncated), bool [B, n]: how each agent ended in ``step``, with the team or alone; ``alive`` [B, n]
    before it."""
    after = step.observation.alive
    if step.final is not None:
        after = torch.where(step.done.unsqueeze(-1), step.final.alive, after)
    cut = (step.truncated & ~step.terminated).unsqueeze(-1)
    alone = torch.zeros_like(alive) if step.cut is None else step.cut
    left = alive & ~after & ~alone if step.left is None else step.left
    terminated = left | step.terminated.unsqueeze(-1)
    return terminated, (cut | alone) & ~terminated


def with_stand_ins(values: Tensor, seen: Observation) -> Tensor:
    """``values`` [B, n] of what is ``seen``; of agents that are not there, the mean of those alive (0 where nobody is).

    No value was ever fitted to the zeros that these see; of a team that shares its reward the mean is the same return.
    An agent that waits and sees something (a player whose turn it is not) has a return of its own.
    """
    count = seen.alive.sum(-1, keepdim=True).clamp(min=1)
    mean = torch.where(seen.alive, values, 0.0).sum(-1, keepdim=True) / count
    return torch.where(seen.present(), values, mean)


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    over: Tensor,
    alive: Tensor | None = None,
    *,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both [T, B, n]; a return is advantage + value.

    ``rewards`` and ``values`` [T, B, n]; ``next_values`` [T, B, n]: the value of what followed step t (see
    :func:`bootstrapped`); ``terminated`` and ``over`` bool [T, B, n]: the agent ended for good, in any way; ``alive``
    bool [T, B, n] (None: all). Values are in the unit of the rewards (not normalised). What is returned where an agent
    is absent means nothing.
    """
    live, goes_on = (~terminated).to(values.dtype), (~over).to(values.dtype)
    carry = (gamma * lam) * goes_on
    advantages = torch.empty_like(values)
    running, gathered = torch.zeros_like(values[0]), next_values[-1]  # A and, of who waits, the return from t + 1 on
    for t in range(len(values) - 1, -1, -1):
        following = next_values[t]
        if alive is not None and t + 1 < len(values):
            following = torch.where(alive[t + 1] | over[t], following, gathered)
        gathered = rewards[t] + gamma * following * live[t]
        torch.addcmul(gathered - values[t], carry[t], running, out=advantages[t])
        running = advantages[t] if alive is None else torch.where(alive[t], advantages[t], gamma * goes_on[t] * running)
    return advantages, advantages + values


def bootstrapped(values: Tensor, last: Tensor, cuts: Tensor, cut_values: Tensor, whose: Tensor | None = None) -> Tensor:
    """The value of what followed each step, [T, B, n]: that of the next step, ``last`` [B, n] after the final step,
    and ``cut_values`` [R, n] where step and slot are listed in ``cuts`` int64 [R, 2]; there of the agents ``whose``
    bool [R, n] (None: all)."""
    following = torch.cat([values[1:], last.unsqueeze(0)])
    at = cuts[:, 0], cuts[:, 1]
    following[at] = cut_values if whose is None else torch.where(whose, cut_values, following[at])
    return following


def finished_episodes(rewards: Tensor, done: Tensor, returns: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return and length of the episode that ended at each step, both [T, B], right where ``done``.

    ``rewards`` [T, B] (the team's: the mean over agents); ``returns`` and ``lengths`` [B]: what the running episodes
    had gathered before these steps, brought up to date in place.
    """
    ended_returns, ended_lengths = torch.empty_like(rewards), torch.empty_like(rewards)
    for t in range(len(rewards)):
        ended_returns[t] = returns.add_(rewards[t])
        ended_lengths[t] = lengths.add_(1)
        returns.masked_fill_(done[t], 0)
        lengths.masked_fill_(done[t], 0)
    return ended_returns, ended_lengths
