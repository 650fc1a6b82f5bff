"""Playing a team whose agents run in processes of their own: how good it is, and what its messages cost.

Public: ``measure``, ``Measured``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from manyone.envs.teams.types import TeamEnv
from manyone.errors import ManyoneError
from manyone.teams.processes.executor import Decentralised


@dataclass(frozen=True)
class Measured:
    """E episodes: ``returns`` (sum over steps of the agents' mean reward), ``lengths``, ``success`` (None where the
    task has none), ``messages`` and ``bytes`` on the links and the ``requests`` (declines included), all [E]."""

    returns: np.ndarray
    lengths: np.ndarray
    success: np.ndarray | None
    messages: np.ndarray
    bytes: np.ndarray
    requests: np.ndarray

    def figures(self) -> dict[str, float]:
        """Means over episodes."""
        parts = {
            "return": self.returns, "episode_length": self.lengths, "success": self.success,
            "messages": self.messages, "bytes": self.bytes, "requests": self.requests,
        }  # fmt: skip
        return {name: float(np.mean(values)) for name, values in parts.items() if values is not None}


def measure(env: TeamEnv, team: Decentralised, *, episodes: int, seed: int = 0) -> Measured:
    """Plays ``episodes`` greedy episodes of ``env``, which starts anew, with the agents' processes.

    ``env`` shows as many frames as the team was trained on (``make_team(..., frames=4)``).

    Slot b plays its first ceil(E / B) episodes, so that which episodes count does not depend on their lengths.
    """
    if episodes < 1:
        raise ManyoneError(f"episodes = {episodes}: must be at least 1")
    rounds = -(-episodes // env.batch)
    counts = np.zeros((5, env.batch))  # return, length, messages, bytes, requests of the running episodes
    finished = np.zeros(env.batch, int)
    results = np.zeros((6, rounds, env.batch))
    seen = env.reset(seed)
    while (finished < rounds).any():
        decided = team.decide(
            seen.observations.cpu().numpy(),
            None if seen.available is None else seen.available.cpu().numpy(),
            seen.alive.cpu().numpy(),
        )
        step = env.step(torch.from_numpy(decided.actions).to(env.device))
        counts[0] += step.rewards.mean(-1).cpu().numpy()
        counts[1] += 1
        counts[2] += decided.messages.sum((1, 2))
        counts[3] += decided.bytes.sum((1, 2))
        counts[4] += decided.requests.sum((1, 2))
        for b in np.flatnonzero(step.done.cpu().numpy()):
            if finished[b] < rounds:
                results[:5, finished[b], b] = counts[:, b]
                results[5, finished[b], b] = float(step.success[b])
            finished[b] += 1
            counts[:, b] = 0
        seen = step.observation
    returns, lengths, messages, sizes, requests, success = results.reshape(6, -1)[:, :episodes]
    return Measured(
        returns,
        lengths.astype(int),
        success > 0 if env.spec.reports_success else None,
        messages.astype(int),
        sizes.astype(int),
        requests.astype(int),
    )
