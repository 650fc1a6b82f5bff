"""Advantages and returns per agent by generalised advantage estimation (GAE), and what finished episodes gave.

Schulman et al., arXiv 1506.02438, equation 16, with rewards and values per agent and one end of episode for the team:

    delta_t = r_t + gamma * V'_{t+1} - V_t        A_t = delta_t + gamma * lambda * [not ended at t] * A_{t+1}

V'_{t+1} is 0 where the episode terminated, the value of the observation before the restart where it was only cut off
(truncated), and the value of the next step otherwise. Public names: :func:`gae`, :func:`finished_episodes`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both [T, B, n]; a return is advantage + value.

    ``rewards`` and ``values`` [T, B, n]; ``next_values`` [T, B, n]: the value of what followed step t (see
    :func:`bootstrapped`); ``terminated`` and ``done`` bool [T, B]: ended for good, ended in any way. Values are in the
    unit of the rewards (not normalised).
    """
    live = (~terminated).to(values.dtype).unsqueeze(-1)
    deltas = rewards + gamma * next_values * live - values
    carry = (gamma * lam) * (~done).to(values.dtype).unsqueeze(-1)
    advantages = torch.empty_like(deltas)
    running = torch.zeros_like(deltas[0])
    for t in range(len(deltas) - 1, -1, -1):
        torch.addcmul(deltas[t], carry[t], running, out=advantages[t])
        running = advantages[t]
    return advantages, advantages + values


def bootstrapped(values: Tensor, last: Tensor, cuts: Tensor, cut_values: Tensor) -> Tensor:
    """The value of what followed each step, [T, B, n]: that of the next step, ``last`` [B, n] after the final step,
    and ``cut_values`` [R, n] where step and slot are listed in ``cuts`` int64 [R, 2]."""
    following = torch.cat([values[1:], last.unsqueeze(0)])
    following[cuts[:, 0], cuts[:, 1]] = cut_values
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
