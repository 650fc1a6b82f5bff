"""What an episode and a set of trajectories must satisfy, in one place; errors name the file (or name) and episode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from manyone.errors import ManyoneError

if TYPE_CHECKING:
    from manyone.data.trajectories import Trajectories

CHUNK = 1 << 20
"""Rows read at a time from memory-mapped arrays."""


def plain_episode(raw: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """One episode in the flat form's types; lengths and widths checked. ``origin`` names file and episode."""
    for key in ("observations", "actions", "rewards"):
        if key not in raw:
            raise ManyoneError(f"{origin}: has no {key} (it has {', '.join(map(str, raw)) or 'nothing'})")
    try:
        observations, actions, rewards = (
            np.asarray(raw[key], dtype=np.float32) for key in ("observations", "actions", "rewards")
        )
    except (TypeError, ValueError) as problem:
        raise ManyoneError(f"{origin}: not arrays of numbers ({problem})") from None
    rewards = rewards[:, 0] if rewards.ndim == 2 and rewards.shape[1] == 1 else rewards
    if observations.ndim != 2 or actions.ndim != 2 or rewards.ndim != 1:
        shapes = f"{observations.shape}, {actions.shape} and {rewards.shape}"
        raise ManyoneError(f"{origin}: observations, actions, rewards are {shapes}; expected [T, S], [T, A] and [T]")
    steps, final = len(rewards), raw.get("final_observation")
    if not steps or len(actions) != steps or len(observations) not in (steps, steps + 1):
        counts = f"{len(observations)} observations, {len(actions)} actions and {steps} rewards"
        raise ManyoneError(f"{origin}: {counts}; expected T (or T+1), T and T with T at least 1")
    if len(observations) == steps + 1:
        observations, final = observations[:-1], observations[-1]
    if final is not None:
        final = np.asarray(final, dtype=np.float32)
        if final.shape != observations.shape[1:]:
            raise ManyoneError(f"{origin}: final observation {final.shape}, expected {observations.shape[1:]}")
    success, goal = raw.get("success"), raw.get("goal")
    return {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "final_observations": final,
        "terminated": bool(raw.get("terminated", False)),
        "successes": None if success is None else bool(success),
        "goals": None if goal is None else int(goal),
    }


def check_arrays(data: Trajectories, origin: str) -> None:
    """Raises :class:`ManyoneError` at the first thing that is wrong with ``data``."""
    offsets, steps = data.offsets, len(data.rewards)
    if offsets.ndim != 1 or len(offsets) < 2 or offsets[0] != 0 or (np.diff(offsets) < 1).any():
        raise ManyoneError(f"{origin}: offsets must rise from 0 by at least one step per episode")
    if offsets[-1] != steps:
        last = int(np.searchsorted(offsets, steps, side="right")) - 1
        raise ManyoneError(
            f"{origin}: episode {min(last, data.episodes - 1)}: {steps} rewards, the episodes need {offsets[-1]}"
        )
    for key, dims in (("observations", 2), ("actions", 2), ("rewards", 1)):
        array = getattr(data, key)
        if array.ndim != dims or len(array) != steps or 0 in array.shape:
            raise ManyoneError(f"{origin}: {key} have shape {array.shape}, expected {steps} rows in {dims} dimensions")
        for start in range(0, steps, CHUNK):
            part = np.isfinite(array[start : start + CHUNK]).reshape(-1, math.prod(array.shape[1:]))
            if not part.all():
                row = start + int(np.argmin(part.all(axis=1)))
                episode = int(np.searchsorted(offsets, row, side="right")) - 1
                where = f"episode {episode}, step {row - offsets[episode]}"
                raise ManyoneError(f"{origin}: {where}: {key} are not finite; remove or mend the episode")
    wanted = {
        "final_observations": (data.episodes, data.state_dim),
        **dict.fromkeys(("terminated", "successes", "goals"), (data.episodes,)),
    }
    for key, shape in wanted.items():
        array = getattr(data, key)
        if array is not None and array.shape != shape:
            raise ManyoneError(f"{origin}: {key} have shape {array.shape}, expected {shape}")
    if data.final_observations is not None and not np.isfinite(data.final_observations).all():
        episode = int(np.argmin(np.isfinite(data.final_observations).all(axis=1)))
        raise ManyoneError(f"{origin}: episode {episode}: the final observation is not finite; remove the episode")
