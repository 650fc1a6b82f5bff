"""The standard artefact of a teacher: policy, critics, and what standardises the states they see; nothing is pickled.

``model.safetensors`` holds the networks and the statistics, ``config.json`` the method, the widths, the environment,
the data's name and digest, and the score.
Public names: :class:`SavedTeacher`, :func:`save_teacher`, :func:`read_teacher`, :func:`load_teacher`; for other files
:func:`parts_of`, :func:`teacher_of`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from manyone.behavior.artefact import Frame, float_tensors, of_the_set
from manyone.behavior.data import BehaviorData
from manyone.behavior.teachers.acting import TeacherPolicy
from manyone.behavior.teachers.networks import Policy, Stack
from manyone.behavior.teachers.trained import TrainedTeacher, Value
from manyone.engine.artefact import (
    CONFIG,
    WEIGHTS,
    below,
    check_shapes,
    load_weights,
    made_of,
    model_config,
    read_model,
    write_model,
)
from manyone.engine.mergeable import Mergeable
from manyone.errors import ManyoneError

_DEEPEST = 16
"""Most hidden layers of a network that is read."""


@dataclass(frozen=True, eq=False)
class SavedTeacher:
    """A teacher with what it needs to act without its data."""

    teacher: TrainedTeacher
    frame: Frame
    info: dict[str, Any] = field(default_factory=dict)
    """JSON data: ``data`` and ``digest``, its data set's name and content; ``steps``, ``seed``; ``score`` if known."""

    def for_data(self, data: BehaviorData, origin: str) -> TrainedTeacher:
        """The teacher for the states of ``data``, which other statistics standardise: its first layers take them up.

        ``ManyoneError``, beginning with ``origin``, where it was trained for other widths, actions or bounds.
        """
        frame, device = self.frame, data.states.device
        own, given = (
            f"states of width {one.state_dim} and {one.action_dim} {'choices' if one.choices else 'actions'}"
            for one in (frame, data)
        )
        if own != given:
            raise ManyoneError(
                f"{origin}: a teacher for {own}; {data.name} has {given}: give the teacher of these data"
            )
        for name, mine, theirs in (("low", frame.low, data.low), ("high", frame.high, data.high)):
            if mine is not None and theirs is not None and not torch.allclose(mine.to(device), theirs):
                raise ManyoneError(f"{origin}: a teacher for actions with {name} {mine.tolist()}, those of {data.name} "
                                   f"have {theirs.tolist()}: make both in the same environment")  # fmt: skip
        teacher = self.teacher.copy(device)
        for network in (teacher.policy.net, teacher.critics):
            if network is not None:
                _restandardise(network, frame, data)
        return teacher

    def policy(self) -> TeacherPolicy:
        """What acts in the environment of :attr:`frame`."""
        return TeacherPolicy(self.teacher, self.frame)


@torch.no_grad()
def _restandardise(network: Stack, own: Frame, data: BehaviorData) -> None:
    """x W + b, for x = (s - mean) / deviation by the ``own`` statistics, as a function of the states of ``data``."""
    mean, deviation = own.mean.to(data.mean), own.deviation.to(data.mean)
    if torch.equal(mean, data.mean) and torch.equal(deviation, data.deviation):
        return
    weight, states = network.weights[0], slice(0, len(mean))
    network.biases[0] += (((data.mean - mean) / deviation) @ weight[:, states])[:, None]
    weight[:, states] *= (data.deviation / deviation)[:, None]


def save_teacher(folder: str | os.PathLike[str], saved: SavedTeacher) -> None:
    """Writes the artefact."""
    tensors, config = parts_of(saved)
    merge = Mergeable(weights=("policy.*", "critics.*"), described=("info",))
    write_model(folder, tensors, config, _card(saved), merge=merge)


def parts_of(saved: SavedTeacher) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, configuration as JSON data) of a teacher."""
    teacher, critics = saved.teacher, saved.teacher.critics
    tensors = {f"policy.{k}": v for k, v in teacher.policy.state_dict().items()}
    if critics is not None:
        tensors |= {f"critics.{k}": v for k, v in critics.state_dict().items()}
    config = {
        "behavior": "teacher",
        "method": teacher.name,
        "policy": teacher.policy.config(),
        "critics": None if critics is None else critics.config(),
        "value": teacher.value,
        "scale": teacher.scale,
        "frame": saved.frame.config(),
        "info": saved.info,
    }
    return tensors | saved.frame.tensors(), config


def teacher_of(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> SavedTeacher:
    """The inverse of :func:`parts_of`, in float32; ``path``, of the tensors, is named where the two do not fit."""
    frame, at = Frame.of_files(config["frame"], tensors, path.with_name(CONFIG)), path.with_name(CONFIG)
    tensors = float_tensors(tensors, path)
    value, scale = config["value"], float(config["scale"])
    if value not in get_args(Value) or not (scale > 0 and math.isfinite(scale)):
        raise ManyoneError(f"{at}: value {value!r:.40} and scale {scale:g}: must be min or first, and above 0")
    own, other = dict(config["policy"]), None if config["critics"] is None else dict(config["critics"])
    allowed = ("softmax",) if frame.choices else ("tanh", "gaussian")
    if own["head"] not in allowed:
        raise ManyoneError(f"{at}: head {own['head']!r:.40}: these actions need {' or '.join(allowed)}")
    _check_sizes(at, "policy", [own["states"], own["width"], own["actions"]], frame.state_dim, frame.action_dim)
    _check_sizes(at, "policy", [own["layers"]], most=_DEEPEST)
    # nothing is made that the file has no tensors for: its shapes come first
    check_shapes(Policy.shapes(**own), below(tensors, "policy."), path)
    policy, critics = Policy(**own), None
    load_weights(policy, below(tensors, "policy."), path)
    if other is not None:
        inputs = frame.state_dim + (0 if frame.choices else frame.action_dim)
        _check_sizes(at, "critics", [len(other["sizes"])], most=_DEEPEST + 2)
        _check_sizes(at, "critics", [*other["sizes"]], inputs, frame.choices or 1)
        _check_sizes(at, "critics", [other["members"]])
        if not isinstance(other["norm"], bool):
            raise ManyoneError(f"{at}: norm {other['norm']!r:.40}: must be true or false")
        check_shapes(Stack.shapes(other["sizes"], other["members"]), below(tensors, "critics."), path)
        critics = Stack(**other)
        load_weights(critics, below(tensors, "critics."), path)
    teacher = TrainedTeacher(str(config["method"]), policy, critics, value, scale)
    return SavedTeacher(teacher.copy(), frame, dict(config["info"]))


def _check_sizes(
    path: Path, name: str, sizes: Sequence[Any], first: int | None = None, last: int | None = None, most: int = 1 << 20
) -> None:
    """``sizes`` are whole numbers from 1 to ``most``, the ``first`` and the ``last`` as given."""
    for size in sizes:
        if type(size) is not int or not 1 <= size <= most:
            raise ManyoneError(f"{path}: {name}: a size of {size!r:.40}: must be a whole number from 1 to {most}")
    if first is not None and (sizes[0], sizes[-1]) != (first, last):
        raise ManyoneError(f"{path}: {name} from {sizes[0]} to {sizes[-1]} numbers: these data need {first} to {last}")


def read_teacher(folder: str | os.PathLike[str]) -> SavedTeacher:
    """What :func:`save_teacher` wrote, on the CPU."""
    kind = model_config(folder, "a teacher").get("behavior", "teacher")
    if kind != "teacher":
        raise ManyoneError(
            f"{folder}: a {kind!s:.40}, not a teacher: give the folder of a calql, iql or td3bc run (obd keeps the "
            "one that it trains in stages/teacher-...)"
        )
    config, tensors = read_model(folder, "a teacher", ("behavior", "frame"))
    with made_of(folder, tensors):
        return teacher_of(config, tensors, Path(folder) / WEIGHTS)


def load_teacher(folder: str | os.PathLike[str], data: BehaviorData) -> TrainedTeacher:
    """The teacher in ``folder`` for ``data``; ``ManyoneError`` where it was trained for other widths."""
    return read_teacher(folder).for_data(data, str(folder))


def _card(saved: SavedTeacher) -> str:
    what = "policy" if saved.teacher.critics is None else "policy and critics"
    return f"""# {saved.frame.name}: a teacher ({saved.teacher.name}), {what} by offline reinforcement learning

{of_the_set(saved.frame, saved.info)}

```python
from manyone.behavior import load_teacher

teacher = load_teacher("PATH OF THIS FOLDER", data)  # a BehaviorData
actions = teacher.actions(data.states)               # greedy unit actions; with critics teacher.values(states, actions)
```
"""
