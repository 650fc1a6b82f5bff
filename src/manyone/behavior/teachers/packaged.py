"""The teachers that manyone brings for its own data sets, so that nobody has to train one first.

``scripts/train_teachers.py`` has made them, each by the method that gave the best one on the set's seed 0. A set of
another seed or size holds roll-outs of the same policies, for which the same teacher serves.
Public names: :func:`packaged_teacher`, :func:`packaged_teachers`, :func:`expert_teacher`; for making them :func:`pack`,
:func:`unpack`.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from manyone.behavior.data import BehaviorData
from manyone.behavior.teachers.artefact import SavedTeacher, parts_of, teacher_of
from manyone.behavior.teachers.teacher import Teacher, from_functions
from manyone.behavior.teachers.trained import TrainedTeacher
from manyone.engine.tensors import save_tensors
from manyone.envs.single.experts.ladder import ladder
from manyone.envs.single.make import BODIES
from manyone.errors import ManyoneError

_HEAD = "manyone"


def packaged_teachers() -> dict[str, Path]:
    """Data set, e.g. ``mujoco-hopper-medium-replay`` -> file of the teacher that was trained on it."""
    folder = Path(str(resources.files(__package__))) / "files"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def packaged_teacher(name: str, data: BehaviorData) -> TrainedTeacher | None:
    """The teacher for the data set called ``name`` (a size after an @ is not read); None where there is none.

    ``data`` is that set: its statistics standardise the states that the teacher sees.
    """
    path = packaged_teachers().get(name.partition("@")[0])
    return None if path is None else unpack(path).for_data(data, name)


def pack(path: Path, saved: SavedTeacher) -> None:
    """Writes a teacher into one file: its networks as float16, the statistics as they are."""
    tensors, config = parts_of(saved)
    small = {k: v.half() if k.startswith(("policy.", "critics.")) else v for k, v in tensors.items()}
    save_tensors({k: v.contiguous() for k, v in small.items()}, path, {_HEAD: json.dumps(config, sort_keys=True)})


def unpack(path: Path) -> SavedTeacher:
    """What :func:`pack` wrote; the networks compute in float32."""
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()[_HEAD])
    return teacher_of(config, load_file(path), path)


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
