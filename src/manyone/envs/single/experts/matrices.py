"""The linear policies that are shipped: for each task about six along a random search, from nearly random to the best.

    a = clip(M (s - mean) / deviation + noise, low, high)

``scripts/train_linear_experts.py`` searches them (Mania et al. 2018, arXiv 1803.07055) and packs them: matrices rounded
to float16, statistics of the states in float32; the returns that the files tell are those of the rounded policies. A
family has one file. Everything here is NumPy: worker processes start fast.

Public names: ``Matrices``, ``Linear``, ``matrices``, ``path_of``, ``NOISE``; for packing ``FORMAT``, ``HEAD``.
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

from manyone.envs.single import make
from manyone.envs.single.experts.ladder import MEDIUM
from manyone.envs.single.families import FAMILIES, parse
from manyone.errors import ManyoneError

NOISE = 0.02
"""Deviation of the normal noise on actions in data, in half widths of their range: linear gaits stand little more."""
FORMAT = 1
HEAD = "manyone"
"""The entry of a file's metadata that tells everything else, as JSON."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear policy of states that are centred and scaled."""

    weights: np.ndarray
    """float64 [A, S]"""
    mean: np.ndarray
    """float64 [S]"""
    deviation: np.ndarray
    """float64 [S]"""

    def actions(self, observations: np.ndarray) -> np.ndarray:
        """float64 [..., A] for the environment's own ``observations`` [..., S], not yet clipped to its bounds."""
        scaled = (np.asarray(observations, np.float64) - self.mean) / self.deviation
        return np.asarray(np.matmul(self.weights, scaled[..., None])[..., 0])


@dataclass(frozen=True, eq=False)
class Matrices:
    """The policies of one task, in the order of their returns."""

    task: str
    """The environment, as ``manyone.envs.single.make`` takes it."""
    steps: tuple[int, ...]
    """Environment steps that each policy had learned from, those of the searches that it goes on from among them."""
    returns: tuple[float, ...]
    """Mean undiscounted return of each policy over whole episodes, ``info["episodes"]`` of them."""
    noisy_returns: tuple[float, ...]
    """The same with normal noise of deviation ``NOISE`` on the actions."""
    random_return: float
    """The same of uniformly random actions."""
    actors: tuple[Linear, ...]
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
        """Number of the policy nearest, with noise, to ``MEDIUM`` of the way from random actions to the expert."""
        way = np.array(self.noisy_returns) - self.random_return
        return int(np.argmin(np.abs(way - MEDIUM * way[self.expert])))


def path_of(task: str) -> Path:
    """The file with the policies of ``task``; :class:`ManyoneError` where none are shipped."""
    family = task.partition(":")[0]
    body = next((body for body, its in make.LINEAR_BODIES.items() if its == task), None)
    name = body or (family.replace("cheetah17", "cheetah") if family in FAMILIES else "")
    path = Path(__file__).with_name("linear") / f"{name}.safetensors"
    if not name or not path.is_file():
        known = ", ".join(sorted(found.stem for found in path.parent.glob("*.safetensors")))
        raise ManyoneError(f"no experts of {task!r} come with the package: there are those of {known}")
    return path


@functools.lru_cache(maxsize=128)
def matrices(task: str) -> Matrices:
    """The policies of ``task`` (``cheetah-vel:7``, ``gym:Swimmer-v5``)."""
    path = path_of(task)
    number = parse(task)[1] if task.partition(":")[0] in FAMILIES else 0
    states, actions, _ = make.spaces(task)
    with safe_open(path, framework="numpy") as file:
        head = json.loads((file.metadata() or {}).get(HEAD, "{}"))
        if head.get("format") != FORMAT:
            raise ManyoneError(f"{path}: format {head.get('format')}, this version reads {FORMAT}; install it anew")
        arrays = {key: file.get_slice(key)[number].astype(np.float64) for key in ("weights", "mean", "deviation")}
    known = arrays["mean"].shape[-1]  # cheetahs of 20 observations: the last three do not matter
    more = [(0, 0), (0, states - known)]
    weights = np.pad(arrays["weights"], [(0, 0), *more])
    mean, deviation = np.pad(arrays["mean"], more), np.pad(arrays["deviation"], more, constant_values=1)
    if weights.shape[1:] != (actions, states):
        raise ManyoneError(
            f"{path}: its matrices are {list(weights.shape[1:])}, not {[actions, states]}; install it anew"
        )
    own = head.pop("tasks")[number]
    return Matrices(
        task=task,
        steps=tuple(own["steps"]),
        returns=tuple(own["returns"]),
        noisy_returns=tuple(own["noisy_returns"]),
        random_return=own["random_return"],
        actors=tuple(Linear(*one) for one in zip(weights, mean, deviation, strict=True)),
        info=head,
    )
