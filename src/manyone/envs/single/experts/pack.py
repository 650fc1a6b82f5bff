"""Writes the files of shipped policies, which are read without PyTorch.

``write``: a body's checkpoints (:mod:`~manyone.envs.single.experts.ladder`); ``write_matrices``: linear policies
(:mod:`~manyone.envs.single.experts.matrices`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyone.engine.tensors import save_tensors
from manyone.envs.single.experts import matrices
from manyone.envs.single.experts.ladder import FORMAT, HEAD, rounded


def write(
    path: Path,
    checkpoints: Sequence[Mapping[str, np.ndarray]],
    steps: Sequence[int],
    returns: Sequence[float],
    noisy_returns: Sequence[float],
    info: Mapping[str, Any],
) -> None:
    """Writes a body's file: the actors of ``checkpoints``, rounded, and the critics of the one with the best return.

    ``checkpoints`` are as training saved them; ``info`` needs ``settings`` with ``layer_norm``.
    """
    every = [rounded(one) for one in checkpoints]
    best = every[int(np.argmax(returns))]
    critics = {key: value for key, value in best.items() if key.startswith("critics.")}
    arrays = critics | {key: np.stack([one[key] for one in every]) for key in best if key not in critics}
    told = {"steps": list(steps), "returns": list(returns), "noisy_returns": list(noisy_returns)}
    head = {"format": FORMAT, **told, **info}
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
    save_tensors(tensors, path, {HEAD: json.dumps(head, sort_keys=True)})


def write_matrices(
    path: Path,
    weights: np.ndarray,
    means: np.ndarray,
    deviations: np.ndarray,
    tasks: Sequence[Mapping[str, Any]],
    info: Mapping[str, Any],
) -> None:
    """Writes a family's file: ``weights`` [N, T, A, S], ``means`` and ``deviations`` [N, T, S] of T policies a task.

    ``tasks``: what each of the N has to tell, ``steps``, ``returns``, ``noisy_returns`` (T each) and ``random_return``.
    """
    head = {"format": matrices.FORMAT, "tasks": list(tasks), **info}
    arrays = {"weights": (weights, np.float16), "mean": (means, np.float32), "deviation": (deviations, np.float32)}
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value, dtype)) for key, (value, dtype) in arrays.items()}
    path.parent.mkdir(exist_ok=True)
    save_tensors(tensors, path, {matrices.HEAD: json.dumps(head, sort_keys=True)})
