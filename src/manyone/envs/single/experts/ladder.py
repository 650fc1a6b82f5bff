"""The checkpoints that are shipped: about ten policies a body along one run of TD3, and the best one's critics.

``scripts/train_mujoco_experts.py`` trains them (Fujimoto et al. 2018, arXiv 1802.09477) and packs them, rounded to
float16; the returns that the file tells are those of the rounded policies. Everything here is NumPy: worker processes
start fast.

Public names: ``Ladder``, ``Actor``, ``Critics``, ``ladder``, ``path_of``, ``NOISE``, ``MEDIUM``; for packing ``actor``,
``rounded``, ``FORMAT``, ``HEAD``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from manyone.data.trajectories.references import normalised_score
from manyone.envs.single import make
from manyone.errors import ManyoneError

NOISE = 0.1
"""Deviation of the normal noise that training added to actions, and that roll-outs for data add again."""
MEDIUM = 0.4
"""The medium policy is the one whose normalised score is nearest to this share of the expert's."""
FORMAT = 1
HEAD = "manyone"
"""The entry of a file's metadata that tells everything else, as JSON."""
_LAYERS = ("0", "2", "4")


@dataclass(frozen=True, eq=False)
class Actor:
    """a = tanh(W3 relu(W2 relu(W1 (s - mean) / deviation + b1) + b2) + b3), within the bodies' bounds -1 and 1."""

    weights: tuple[np.ndarray, ...]
    """float32 [in, out], three of them"""
    biases: tuple[np.ndarray, ...]
    """float32 [out]"""
    mean: np.ndarray
    """float32 [S]"""
    deviation: np.ndarray
    """float32 [S]"""

    def actions(self, observations: np.ndarray) -> np.ndarray:
        """float32 [..., A] for the environment's own ``observations`` [..., S]."""
        x = (np.asarray(observations, np.float32) - self.mean) / self.deviation
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.maximum(np.matmul(x, weight) + bias, 0)
        return np.asarray(np.tanh(np.matmul(x, self.weights[-1]) + self.biases[-1]))


@dataclass(frozen=True, eq=False)
class Critics:
    """The two critics of TD3: discounted return (0.99) from a state and an action, as the run had learned it."""

    weights: tuple[np.ndarray, ...]
    """float32 [2, in, out]"""
    biases: tuple[np.ndarray, ...]
    """float32 [2, 1, out]"""
    mean: np.ndarray
    deviation: np.ndarray
    layer_norm: bool
    """Whether hidden layers are normalised before their ReLU."""

    def values(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """float32 [2, n] for ``observations`` [n, S] and ``actions`` [n, A] of the environment."""
        states = (np.asarray(observations, np.float32) - self.mean) / self.deviation
        x = np.concatenate([states, np.asarray(actions, np.float32)], axis=-1)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.matmul(x, weight) + bias
            if self.layer_norm:
                x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
            x = np.maximum(x, 0)
        return np.asarray((np.matmul(x, self.weights[-1]) + self.biases[-1])[..., 0])


@dataclass(frozen=True, eq=False)
class Ladder:
    """The policies of one body, in the order of training."""

    body: str
    task: str
    """The environment, as ``manyone.envs.single.make`` takes it."""
    steps: tuple[int, ...]
    """Environment steps that each policy had learned from."""
    returns: tuple[float, ...]
    """Mean undiscounted return of each policy, over ``info["episodes"]`` episodes."""
    noisy_returns: tuple[float, ...]
    """The same with normal noise of deviation ``NOISE`` on the actions."""
    actors: tuple[Actor, ...]
    critics: Critics
    """Those of the policy :attr:`expert`."""
    info: Mapping[str, Any]
    """How they were made: settings, seed, script; plain JSON values."""

    @property
    def noise(self) -> float:
        """``NOISE``"""
        return NOISE

    @property
    def expert(self) -> int:
        """Number of the best policy."""
        return int(np.argmax(self.returns))

    @property
    def medium(self) -> int:
        """Number of the policy whose normalised score with noise is nearest to ``MEDIUM`` times the expert's."""
        scores = normalised_score(np.array(self.noisy_returns), self.task)
        return int(np.argmin(np.abs(scores - MEDIUM * scores[self.expert])))


def path_of(body: str) -> Path:
    """The file of ``body``."""
    if body not in make.BODIES:
        raise ManyoneError(f"no experts of {body!r}: there are {', '.join(make.BODIES)}")
    return Path(__file__).with_name(f"{body}.safetensors")


@functools.lru_cache(maxsize=8)
def ladder(body: str) -> Ladder:
    """The policies of ``body`` (hopper, halfcheetah or walker2d)."""
    path = path_of(body)
    with safe_open(path, framework="numpy") as file:
        head = json.loads((file.metadata() or {}).get(HEAD, "{}"))
        if head.get("format") != FORMAT:
            raise ManyoneError(f"{path}: format {head.get('format')}, this version reads {FORMAT}; install it anew")
        arrays = {key: file.get_tensor(key).astype(np.float32) for key in file.keys()}  # noqa: SIM118
    stacked = {key: value for key, value in arrays.items() if not key.startswith("critics.")}
    actors = tuple(actor({key: value[i] for key, value in stacked.items()}) for i in range(len(head["steps"])))
    best = int(np.argmax(head["returns"]))
    critics = Critics(
        weights=tuple(arrays[f"critics.weights.{i}"] for i in range(3)),
        biases=tuple(arrays[f"critics.biases.{i}"] for i in range(3)),
        mean=arrays["mean"][best],
        deviation=arrays["deviation"][best],
        layer_norm=bool(head["settings"]["layer_norm"]),
    )
    steps, returns, noisy = (tuple(head.pop(key)) for key in ("steps", "returns", "noisy_returns"))
    return Ladder(body, make.BODIES[body], steps, returns, noisy, actors, critics, head)


def actor(arrays: Mapping[str, np.ndarray]) -> Actor:
    """The policy of one checkpoint, as training saved it."""
    return Actor(
        weights=tuple(np.ascontiguousarray(arrays[f"actor.{layer}.weight"].T, np.float32) for layer in _LAYERS),
        biases=tuple(arrays[f"actor.{layer}.bias"].astype(np.float32) for layer in _LAYERS),
        mean=arrays["mean"],
        deviation=arrays["deviation"],
    )


def rounded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A checkpoint in the types that are shipped: float16, and the observations' statistics in float32."""
    whole = ("mean", "deviation")
    return {key: value.astype(np.float32 if key in whole else np.float16) for key, value in arrays.items()}
