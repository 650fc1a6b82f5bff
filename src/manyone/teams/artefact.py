"""The standard artefact of a team: one folder that a fresh process loads and acts with.

    from manyone.teams.artefact import load_team
    team = load_team("runs/first/model")
    team.reset()
    actions = team.act(observations)                    # numpy [n, d] in, int64 [n] out; [B, n, d] for B copies

``model.safetensors`` holds the weights, ``config.json`` everything else that the policy is made of: its kind and
options, the task, the graph (rows receive), whether the gate decides. ``policy.pt2`` is the greedy policy with its
graph as one program that needs torch alone (see ``exported``). Nothing is pickled.
Public: ``save_team``, ``load_team``, ``Team``, ``check_observations``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

import manyone
from manyone.envs.team_types import Observation, TeamSpec
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

_FORMAT = 1
WEIGHTS, CONFIG, PROGRAM = "model.safetensors", "config.json", "policy.pt2"


def check_observations(
    spec: TeamSpec, observations: Any, available: Any = None, alive: Any = None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """(observations float32 [B, n, d], available bool [B, n, A] or None, alive bool [B, n]) of what a user gave.

    ``ManyoneError`` for a wrong shape, a number that is not finite, or a living agent without an available action.
    """
    seen = np.asarray(observations, np.float32)
    single = seen.ndim == 2
    seen = seen[None] if single else seen
    if seen.ndim != 3 or seen.shape[1:] != (spec.agents, spec.observation_dim):
        raise ManyoneError(
            f"observations {list(np.shape(observations))}: this team takes [{spec.agents}, {spec.observation_dim}] or "
            f"[B, {spec.agents}, {spec.observation_dim}] (agents, width of an observation)"
        )
    if not np.isfinite(seen).all():
        agent = int(np.argwhere(~np.isfinite(seen))[0][1])
        raise ManyoneError(f"observations: agent {agent}'s holds NaN or infinity; a policy takes finite numbers")

    def batched(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        array = np.asarray(value).astype(bool)
        array = array[None] if single else array
        if array.shape != shape:
            raise ManyoneError(f"{name} {list(np.shape(value))}: must be {list(shape[1:] if single else shape)}")
        return array

    mask = None
    if available is not None:
        if not spec.discrete:
            raise ManyoneError("available: continuous actions are always all allowed; leave it out")
        mask = batched("available", available, (len(seen), spec.agents, spec.actions))
        if not mask.any(-1).all():
            agent = int(np.argwhere(~mask.any(-1))[0][1])
            raise ManyoneError(f"available: agent {agent} has no action at all; dead agents keep at least one")
    living = np.ones(seen.shape[:2], bool) if alive is None else batched("alive", alive, seen.shape[:2])
    return seen, mask, living
