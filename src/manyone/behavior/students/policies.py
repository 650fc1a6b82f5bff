"""Trained students that act: K of them in lock-step with one product a layer, one alone, or their ensemble.

    from manyone.behavior import load_policy
    policy = load_policy("runs/bc/model")
    policy.reset()
    action = policy.act(observation)                  # [S] -> [A], or [n, S] -> [n, A]

Students are greedy: tanh(mu), or the most probable choice. Observations and actions are the environment's own; what
standardises the one and bounds the other is part of the artefact.

Public names: :class:`StudentPolicies`, :class:`Lockstep`, :func:`save_policies`, :func:`load_policies`,
:func:`load_policy`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyone.behavior.artefact import Frame, float_tensors, of_the_set
from manyone.behavior.students.network import Student, StudentSpec, make_student
from manyone.engine.artefact import CONFIG, WEIGHTS, below, check_shapes, made_of, read_model, write_model
from manyone.engine.mergeable import Mergeable
from manyone.errors import ManyoneError


@dataclass(frozen=True, eq=False)
class StudentPolicies:
    """K students of one architecture that act in one environment."""

    frame: Frame
    spec: StudentSpec | Student
    """The architecture, or a student of the user's own, which acts but has no artefact."""
    weights: Mapping[str, Tensor]
    """The students' parameters, each [K, ...]."""
    info: dict[str, Any] = field(default_factory=dict)
    """How they were trained; plain JSON values."""

    def __post_init__(self) -> None:
        found = self.student
        if (found.state_dim, found.action_dim) != (self.frame.state_dim, self.frame.action_dim):
            raise ManyoneError(
                f"a student from {found.state_dim} to {found.action_dim} numbers: {self.frame.name} needs "
                f"{self.frame.state_dim} and {self.frame.action_dim}"
            )
        needed = "softmax" if self.frame.choices else "tanh"
        if isinstance(self.spec, StudentSpec) and self.spec.output != needed:
            raise ManyoneError(
                f"students with a {self.spec.output} output: the actions of {self.frame.name} need {needed}"
            )

    @cached_property
    def student(self) -> Student:
        """What the weights belong to."""
        if isinstance(self.spec, StudentSpec):
            return make_student(self.spec, self.frame.state_dim, self.frame.action_dim)
        return self.spec

    def __len__(self) -> int:
        """Number of students K."""
        return len(next(iter(self.weights.values())))

    def member(self, number: int) -> StudentPolicies:
        """One student alone."""
        if not -len(self) <= number < len(self):
            raise ManyoneError(f"student {number}: there are students 0 to {len(self) - 1}")
        number %= len(self)
        return replace(self, weights={k: v[number : number + 1] for k, v in self.weights.items()})

    @torch.no_grad()
    def unit_actions(self, observations: Tensor) -> Tensor:
        """What each student does, [K, n, A] from -1 to 1 or probabilities, for observations [n, S] or [K, n, S]."""
        return self.student.forward(self.weights, self.frame.normalise(observations))

    def actions(self, observations: Any, *, ensemble: bool = False) -> np.ndarray:
        """The environment's own actions, float32 [K, n, A], for observations [n, S] or [K, n, S]; discrete: one-hot.

        ``ensemble``: those of the students' mean action (or mean probabilities) alone, [1, n, A].
        """
        unit = self.unit_actions(torch.as_tensor(np.asarray(observations, np.float32)))
        if ensemble:  # in double precision: the mean of equal actions is exactly these
            unit = unit.double().mean(0, keepdim=True).float()
        return self.frame.own_actions(unit).numpy()


class Lockstep:
    """The roll-outs' ``BatchedPolicy``: episode i is played by student ``members[i]``, or all by the ``ensemble``."""

    def __init__(self, policies: StudentPolicies, members: Sequence[int] | None = None) -> None:
        """``members`` None: the ensemble of all students plays every episode."""
        self.policies = policies
        self.members = None if members is None else np.asarray(members, np.int64)
        wrong = [m for m in ([] if members is None else members) if not 0 <= m < len(policies)]
        if wrong:
            raise ManyoneError(f"student {wrong[0]}: there are students 0 to {len(policies) - 1}")
        self._laid_out: tuple[np.ndarray, _Layout] | None = None

    def start(self, episodes: Sequence[Any]) -> None:
        """New episodes."""
        if self.members is not None and len(episodes) != len(self.members):
            raise ManyoneError(f"{len(self.members)} students named for {len(episodes)} episodes: name one for each")
        self._laid_out = None

    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """Actions float32 [b, A] of the episodes ``slots`` [b] for their observations [b, S]."""
        seen = np.asarray(observations, np.float32)
        if self.members is None:
            return self.policies.actions(seen, ensemble=True)[0]
        slots = np.asarray(slots)
        if self._laid_out is None or not np.array_equal(self._laid_out[0], slots):  # mostly as at the step before
            self._laid_out = slots.copy(), _Layout.of(self.policies, self.members[slots])
        layout = self._laid_out[1]
        layout.seen[layout.row, layout.place] = seen
        return layout.students.actions(layout.seen)[layout.row, layout.place]

    def reward(self, slots: Any, rewards: Any) -> None:
        """Rewards change nothing."""


class _Layout(NamedTuple):
    """Where episodes stand in one batched product: each student's side by side, shorter rows filled up by zeros."""

    students: StudentPolicies  # those that act
    row: np.ndarray  # int64 [b]: the episode's student among them
    place: np.ndarray  # int64 [b]: its place in the student's row
    seen: np.ndarray  # float32 [K, n, S]

    @classmethod
    def of(cls, policies: StudentPolicies, members: np.ndarray) -> _Layout:
        acting, row, counts = np.unique(members, return_inverse=True, return_counts=True)
        place = np.empty(len(row), np.int64)
        place[np.argsort(row, kind="stable")] = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        students = policies
        if len(acting) < len(policies):
            students = replace(policies, weights={name: value[acting] for name, value in policies.weights.items()})
        return cls(students, row, place, np.zeros((len(acting), counts.max(), policies.frame.state_dim), np.float32))


class Policy:
    """One saved student, or an ensemble of several, for one episode or n side by side."""

    def __init__(self, policies: StudentPolicies) -> None:
        self.policies, self.info = policies, policies.info
        self.batched = Lockstep(policies)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The environment that it was trained for."""
        return (self.policies.frame.environment or self.policies.frame.name,)

    def reset(self, task: Any = None, *, target: Any = None, slots: Any = None) -> None:
        """Begins episodes; nothing has to be told to a policy that looks at the present state alone."""
        if target is not None:
            raise ManyoneError("a cloned policy reads no target return: leave it out")

    def act(self, observation: Any, reward: Any = 0.0) -> np.ndarray:
        """Action float32 [A] for ``observation`` [S], or [n, A] for [n, S]; of discrete actions their numbers."""
        seen = np.asarray(observation, np.float32)
        width = self.policies.frame.state_dim
        if seen.ndim not in (1, 2) or seen.shape[-1] != width:
            raise ManyoneError(f"observations {list(seen.shape)}: expected [{width}] or [n, {width}] for this policy")
        if not np.isfinite(seen).all():
            raise ManyoneError("an observation is not finite: mend the environment, or end the episode there")
        actions = self.policies.actions(np.atleast_2d(seen), ensemble=True)[0]
        actions = actions.argmax(-1) if self.policies.frame.choices else actions
        return actions if seen.ndim == 2 else actions[0]


def save_policies(folder: str | os.PathLike[str], policies: StudentPolicies) -> None:
    """Writes the artefact of all students."""
    if not isinstance(policies.spec, StudentSpec):
        raise ManyoneError(f"{folder}: a student of your own has no artefact: save its weights with safetensors")
    config = {
        "behavior": "policies", "students": len(policies), "spec": asdict(policies.spec),
        "frame": policies.frame.config(), "info": policies.info,
    }  # fmt: skip
    tensors = {f"weights.{name}": value for name, value in policies.weights.items()}
    merge = Mergeable(weights=("weights.*",), described=("info",))
    write_model(folder, tensors | policies.frame.tensors(), config, _card(policies), merge=merge)


def load_policies(folder: str | os.PathLike[str], device: str = "cpu") -> StudentPolicies:
    """What :func:`save_policies` wrote, or the run's ``model`` folder."""
    config, tensors = read_model(folder, "a cloned policy", ("behavior",), device)
    path = Path(folder) / CONFIG
    if config["behavior"] != "policies":
        fix = f"manyone run bc --data {folder} trains one"
        if config["behavior"] != "distilled set":
            fix = "give the model folder of a bc run"
        raise ManyoneError(f"{folder}: a {config['behavior']!r:.40}, not a policy: {fix}")
    with made_of(path, tensors):
        frame = Frame.of_files(config["frame"], tensors, path)
        spec, info = StudentSpec(**config["spec"]), dict(config["info"])
        weights = below(float_tensors(tensors, path.with_name(WEIGHTS)), "weights.")
        count = config["students"]
        if type(count) is not int or count < 1:
            raise ManyoneError(f"{path}: students {count!r:.40}: must be a whole number from 1")
        wanted = make_student(spec, frame.state_dim, frame.action_dim).tensor_shapes(count)
        check_shapes(wanted, weights, path.with_name(WEIGHTS))
        return StudentPolicies(frame, spec, weights, info)


def load_policy(folder: str | os.PathLike[str], device: str = "cpu") -> Policy:
    """The policy in ``folder``, the ``model`` folder of a run; several students act as their ensemble."""
    return Policy(load_policies(folder, device))


def _card(policies: StudentPolicies) -> str:
    one = f"an ensemble of {len(policies)} policies" if len(policies) > 1 else "a policy"
    return f"""# {policies.frame.name}: {one} by behaviour cloning

{of_the_set(policies.frame, policies.info)}

```python
from manyone.behavior import load_policy

policy = load_policy("PATH OF THIS FOLDER")
policy.reset()
action = policy.act(observation)  # [{policies.frame.state_dim}] numbers, as the environment gives them
```
"""
