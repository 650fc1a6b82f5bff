"""The teachers that manyone brings for its own data sets, so that nobody has to train one first.

``scripts/train_teachers.py`` has made them, each by the method that gave the best one on the set's seed 0. A set of
another seed or size holds roll-outs of the same policies, for which the same teacher serves.
Public names: :func:`packaged_teacher`, :func:`packaged_teachers`, :func:`expert_teacher`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from manyone.behavior.data import BehaviorData
from manyone.behavior.teachers.artefact import read_teacher
from manyone.behavior.teachers.teacher import Teacher, from_functions
from manyone.behavior.teachers.trained import TrainedTeacher
from manyone.envs.single.experts.ladder import ladder
from manyone.envs.single.make import BODIES
from manyone.errors import ManyoneError


def packaged_teachers() -> dict[str, Path]:
    """Data set, e.g. ``mujoco-hopper-medium-replay`` -> folder of the teacher that was trained on it."""
    folder = Path(str(resources.files(__package__))) / "models"
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}


def packaged_teacher(name: str, data: BehaviorData) -> TrainedTeacher | None:
    """The teacher for the data set called ``name`` (a size after an @ is not read); None where there is none.

    ``data`` is that set: its statistics standardise the states that the teacher sees.
    """
    folder = packaged_teachers().get(name.partition("@")[0])
    return None if folder is None else read_teacher(folder).for_data(data, str(folder))


def expert_teacher(data: BehaviorData) -> Teacher:
    """The best TD3 policy behind our own data of the body of ``data``, with its critics (the smaller of their values).

    It was trained online, by far more steps than ``data`` may hold: an upper bound rather than what offline data teach.
    """
    body = next((body for body, task in BODIES.items() if task == data.environment), None)
    if body is None:
        allowed = ", ".join(BODIES.values())
        raise ManyoneError(f"teacher expert: {data.environment or data.name} has none: there are those of {allowed}")
    found = ladder(body)
    actor, critics = found.actors[found.expert], found.critics

    def policy(observations: Tensor) -> Tensor:
        return torch.from_numpy(actor.actions(observations.cpu().numpy())).to(observations.device)

    def values(observations: Tensor, actions: Tensor) -> Tensor:
        both = critics.values(observations.cpu().numpy(), actions.cpu().numpy())
        return torch.from_numpy(both.min(0)).to(observations.device)

    return from_functions(policy, values, data, "expert")
