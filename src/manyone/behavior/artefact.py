"""The standard artefact of a distilled set: a folder with a few hundred pairs and all that training on them needs.

``model.safetensors`` holds states and actions with the statistics and bounds that belong to them, ``config.json`` the
environment, the data's digest, the objective and how students are trained; ``distilled.npz`` has the same pairs for
everybody else: observations and actions as the environment knows them. Nothing is pickled. A folder may hold several
sets, each by its name.

Public names: :class:`Distilled`, :class:`Frame`, :func:`save_distilled`, :func:`load_distilled`, :func:`is_distilled`,
:func:`float_tensors`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.behavior.data import BehaviorData
from manyone.behavior.inner import InnerLoop
from manyone.behavior.students.network import StudentSpec
from manyone.engine.artefact import CONFIG, WEIGHTS, below, made_of, model_config, read_model, write_model
from manyone.engine.mergeable import Mergeable
from manyone.errors import ManyoneError

NPZ = "distilled.npz"
_MOST_CHOICES, _LONGEST_EPISODE = 1 << 20, 10_000_000
"""What a file may claim: far beyond any environment, and within what a machine can do."""


@dataclass(frozen=True, eq=False)
class Frame:
    """How states and unit actions of a set belong to observations and actions of its environment."""

    name: str
    environment: str | None
    mean: Tensor
    """float32 [S]"""
    deviation: Tensor
    """float32 [S]"""
    low: Tensor | None
    """float32 [A], the least action; None where actions are discrete."""
    high: Tensor | None
    """float32 [A]"""
    choices: int
    """Number of discrete actions; 0 where they are continuous."""
    horizon: int
    """Steps of an evaluation episode."""
    reference: tuple[float, float] | None = None
    """Returns of a random and of an expert policy."""

    @property
    def state_dim(self) -> int:
        """Width S of a state."""
        return len(self.mean)

    @property
    def action_dim(self) -> int:
        """Width A of an action, or the number of choices."""
        return self.choices or len(self.low)  # type: ignore[arg-type]

    def normalise(self, observations: Tensor) -> Tensor:
        """Observations [..., S] as states."""
        return (observations - self.mean) / self.deviation

    def own_actions(self, unit: Tensor) -> Tensor:
        """Unit actions [..., A] as the environment's, never beyond the bounds; probabilities as one-hot choices."""
        if self.low is None or self.high is None:
            return torch.nn.functional.one_hot(unit.argmax(-1), unit.shape[-1]).to(unit.dtype)
        centre, half = self._range
        return (centre + unit * half).clamp(self.low, self.high)

    @cached_property
    def _range(self) -> tuple[Tensor, Tensor]:
        assert self.low is not None
        assert self.high is not None
        return (self.low + self.high) / 2, (self.high - self.low) / 2

    def normalised(self, returns: float) -> float | None:
        """D4RL's score, 0 for a random and 1 for an expert policy; None where nobody knows these."""
        if self.reference is None:
            return None
        random, expert = self.reference
        return (returns - random) / (expert - random)

    def config(self) -> dict[str, Any]:
        """What is no tensor, as JSON data."""
        return {
            "name": self.name, "environment": self.environment, "choices": self.choices, "horizon": self.horizon,
            "reference": None if self.reference is None else list(self.reference),
        }  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        found = {"mean": self.mean, "deviation": self.deviation, "low": self.low, "high": self.high}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def of(cls, data: BehaviorData) -> Frame:
        """That of a data set, on the CPU."""

        def own(value: Tensor) -> Tensor:
            return value.detach().cpu()

        low, high = (None if value is None else own(value) for value in (data.low, data.high))
        return cls(data.name, data.environment, own(data.mean), own(data.deviation), low, high, data.choices,
                   data.horizon, data.reference)  # fmt: skip

    @classmethod
    def of_files(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Frame:
        """Inverse of :meth:`config` and :meth:`tensors`; ``path`` is named where they do not belong together.

        ``tensors`` may hold others, which are not looked at.
        """
        named = {k: tensors[k] for k in ("mean", "deviation", "low", "high") if k in tensors}
        own = float_tensors(named, path.with_name(WEIGHTS))
        for entry, least, most in (("choices", 0, _MOST_CHOICES), ("horizon", 1, _LONGEST_EPISODE)):
            if type(config[entry]) is not int or not least <= config[entry] <= most:
                raise ManyoneError(
                    f"{path}: {entry} {config[entry]!r:.40}: must be a whole number from {least} to {most}"
                )
        name, environment, reference = config["name"], config["environment"], config["reference"]
        _check_name(path, "name", name)
        if environment is not None:
            _check_name(path, "environment", environment)
        if reference is not None:
            random, expert = (float(value) for value in reference)
            if not (math.isfinite(random) and math.isfinite(expert) and random != expert):
                raise ManyoneError(f"{path}: reference {reference!r:.40}: must be two different returns")
            reference = random, expert
        found = cls(name, environment, own["mean"], own["deviation"], own.get("low"), own.get("high"),
                    config["choices"], config["horizon"], reference)  # fmt: skip
        shapes = [value.shape for value in (found.low, found.high) if value is not None]
        fits = found.mean.ndim == 1 and found.deviation.shape == found.mean.shape and len(set(shapes)) <= 1
        fits &= bool(found.choices) != bool(shapes) and len(shapes) in (0, 2) and all(len(s) == 1 for s in shapes)
        fits = fits and bool((found.deviation > 0).all())
        if fits and found.low is not None and found.high is not None:
            fits = bool((found.low < found.high).all())
        if not fits:
            raise ManyoneError(f"{path.with_name(WEIGHTS)}: statistics or bounds are not those of {CONFIG}")
        return found


@dataclass(frozen=True, eq=False)
class Distilled:
    """N synthetic pairs of one data set, and how students are trained on them."""

    frame: Frame
    states: Tensor
    """float32 [N, S], standardised."""
    actions: Tensor
    """float32 [N, A]: unit actions, which may lie beyond -1 and 1; discrete: free labels [N, C]."""
    spec: StudentSpec
    inner: InnerLoop
    info: dict[str, Any] = field(default_factory=dict)
    """Objective, teacher and its score, seed, the data's digest ...; plain JSON values."""

    @classmethod
    def of(
        cls, data: BehaviorData, states: Tensor, actions: Tensor, *, spec: StudentSpec, inner: InnerLoop,
        info: Mapping[str, Any] | None = None,
    ) -> Distilled:  # fmt: skip
        """Pairs that stand for ``data``."""
        known = {"data": data.name, "digest": data.digest, "transitions": len(data)}
        states, actions = (value.detach().float().cpu() for value in (states, actions))
        return cls(Frame.of(data), states, actions, spec, inner, {**known, **(info or {})})

    def __len__(self) -> int:
        """Number of pairs N."""
        return len(self.states)

    @property
    def name(self) -> str:
        """The data set that they stand for."""
        return self.frame.name

    def observations(self) -> Tensor:
        """The states as the environment gives them, [N, S]."""
        return self.states * self.frame.deviation + self.frame.mean

    def own_actions(self) -> Tensor:
        """The actions as the environment takes them, within its bounds, [N, A]; discrete: the labels [N, C]."""
        return self.actions if self.frame.choices else self.frame.own_actions(self.actions)

    def beyond(self) -> float:
        """The share of actions that lie beyond the bounds (and are cut in ``distilled.npz``)."""
        return 0.0 if self.frame.choices else float((self.actions.abs() > 1).float().mean())


def save_distilled(folder: str | os.PathLike[str], sets: Distilled | Mapping[str, Distilled]) -> None:
    """Writes one set, or several by their names."""
    named = {sets.name: sets} if isinstance(sets, Distilled) else dict(sets)
    if not named:
        raise ManyoneError(f"{folder}: nothing to save: no distilled set was given")
    tensors: dict[str, Tensor] = {}
    entries = []
    for number, (name, one) in enumerate(named.items()):
        own = {"states": one.states, "actions": one.actions, **one.frame.tensors()}
        tensors |= {f"{number}.{key}": value for key, value in own.items()}
        entries.append(
            {
                "name": name,
                "pairs": len(one),
                "frame": one.frame.config(),
                "spec": asdict(one.spec),
                "inner": asdict(one.inner),
                "info": one.info,
            }
        )
    config = {"behavior": "distilled set", "sets": entries}
    why = "its pairs are data, not weights: train policies on each (manyone run bc --data MODEL) and merge those"
    write_model(folder, tensors, config, _card(named), {NPZ: _npz(named)}, merge=Mergeable(never=why))


def load_distilled(folder: str | os.PathLike[str], name: str | None = None) -> Distilled:
    """The set in ``folder``, the ``model`` folder of a run; of several the one called ``name``."""
    sets = load_all(folder)
    if name is None and len(sets) == 1:
        return next(iter(sets.values()))
    if name not in sets:
        asked = "give name=" if name is None else f"no set called {name!r};"
        raise ManyoneError(f"{folder}: {asked} one of {', '.join(sets)}")
    return sets[name]


load = load_distilled
save = save_distilled
"""The artefact's reader and writer, by the names that they have in every field."""


def load_all(folder: str | os.PathLike[str]) -> dict[str, Distilled]:
    """All sets in ``folder`` by their names."""
    config, tensors = read_model(folder, "a distilled set", ("behavior",))
    path = Path(folder) / CONFIG
    if config["behavior"] != "distilled set":
        raise ManyoneError(
            f"{folder}: a {config['behavior']!r:.40}, not a distilled set: give the model folder of an obd run"
        )
    tensors = float_tensors(tensors, path.with_name(WEIGHTS))
    found = {}
    with made_of(path, tensors):
        for number, entry in enumerate(config["sets"]):
            own = below(tensors, f"{number}.")
            frame = Frame.of_files(entry["frame"], own, path)
            one = Distilled(
                frame, own["states"], own["actions"], StudentSpec(**entry["spec"]), InnerLoop(**entry["inner"]),
                dict(entry["info"]),
            )  # fmt: skip
            needed = "softmax" if frame.choices else "tanh"
            if one.spec.output != needed:
                raise ManyoneError(f"{path}: students with a {one.spec.output} output; these actions need {needed}")
            wanted = [(entry["pairs"], frame.state_dim), (entry["pairs"], frame.action_dim)]
            if [tuple(one.states.shape), tuple(one.actions.shape)] != wanted or not len(one):
                shapes = f"{list(one.states.shape)} and {list(one.actions.shape)}"
                raise ManyoneError(f"{path.with_name(WEIGHTS)}: pairs of {shapes}, {CONFIG} describes {wanted!r:.80}")
            _check_name(path, "name", entry["name"])
            found[entry["name"]] = one
    if not found:
        raise ManyoneError(f"{path}: holds no distilled set")
    return found


def float_tensors(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``tensors`` of the file ``path`` in float32; ``ManyoneError`` names one that holds no (finite) real numbers."""
    found = {}
    for name, value in tensors.items():
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise ManyoneError(f"{path}: {name} is {kind}, not floating-point: save it again with manyone")
        found[name] = value.float()
        if not bool(found[name].isfinite().all()):
            raise ManyoneError(f"{path}: {name} has numbers that are not finite: make it again")
    return found


def _check_name(path: Path, entry: str, value: object) -> None:
    if not (isinstance(value, str) and value and value.isprintable()):
        raise ManyoneError(f"{path}: {entry} {value!r:.40}: must be a line of text")


def is_distilled(place: str | os.PathLike[str]) -> bool:
    """Whether ``place`` is a folder of distilled sets."""
    path = Path(place)
    return (path / CONFIG).is_file() and model_config(path, "a distilled set").get("behavior") == "distilled set"


def of_the_set(frame: Frame, info: Mapping[str, Any]) -> str:
    """What a card says about data and training."""
    lines = [f"- environment: {frame.environment or 'none'}"]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in info.items() if value not in (None, "")]
    return "\n".join(lines)


def _npz(sets: Mapping[str, Distilled]) -> Callable[[Path], None]:
    """Writes what other programs read: of several sets each array's name begins with the set's and a slash."""
    arrays: dict[str, np.ndarray] = {}
    for name, one in sets.items():
        front = f"{name}/" if len(sets) > 1 else ""
        own = {"observations": one.observations(), "actions": one.own_actions(), **one.frame.tensors()}
        arrays |= {front + key: value.numpy() for key, value in own.items()}

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    return write


def _card(sets: Mapping[str, Distilled]) -> str:
    parts = [
        f"## {name}: {len(one)} pairs\n\n{of_the_set(one.frame, one.info)}\n- students: {one.spec.kind}, "
        f"{one.spec.layers} layers of width {one.spec.width}, {one.inner.steps} full-batch steps of SGD "
        f"{one.inner.lr:g} (momentum {one.inner.momentum:g})\n"
        for name, one in sets.items()
    ]
    name = f', name="{next(iter(sets))}"' if len(sets) > 1 else ""
    return f"""# Distilled behavior

A few (state, action) pairs that stand for a large offline data set (Offline Behavior Distillation, arXiv 2410.22728).
There are no rewards and no next states: the pairs are for behaviour cloning alone. They are optimised, not recorded:
states need not be ones that the environment can reach.

{chr(10).join(parts)}
```python
from manyone.behavior import load_distilled, students

distilled = load_distilled("PATH OF THIS FOLDER"{name})
policies = students.train(distilled, seeds=10)  # a fraction of a second
```

`distilled.npz` has the same pairs in the environment's own units.
"""
