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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.behavior.artefact import Frame, of_the_set
from manyone.behavior.students.network import StudentSpec, make_student
from manyone.engine.artefact import CONFIG, WEIGHTS, below, made_of, read_model, write_model
from manyone.errors import ManyoneError


@dataclass(frozen=True, eq=False)
class StudentPolicies:
    """K students of one architecture that act in one environment."""

    frame: Frame
    spec: StudentSpec
    weights: Mapping[str, Tensor]
    """The students' parameters, each [K, ...]."""
    info: dict[str, Any] = field(default_factory=dict)
    """How they were trained; plain JSON values."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_student", make_student(self.spec, self.frame.state_dim, self.frame.action_dim))

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
        return self._student.forward(self.weights, self.frame.normalise(observations))  # type: ignore[attr-defined]

    def actions(self, observations: Any, *, ensemble: bool = False) -> np.ndarray:
        """The environment's own actions, float32 [K, n, A], for observations [n, S]; discrete: one-hot.

        ``ensemble``: those of the students' mean action (or mean probabilities) alone, [1, n, A].
        """
        unit = self.unit_actions(torch.as_tensor(np.asarray(observations, np.float32)))
        return self.frame.own_actions(unit.mean(0, keepdim=True) if ensemble else unit).numpy()


class Lockstep:
    """The roll-outs' ``BatchedPolicy``: episode i is played by student ``members[i]``, or all by the ``ensemble``."""

    def __init__(self, policies: StudentPolicies, members: Sequence[int] | None = None) -> None:
        """``members`` None: the ensemble of all students plays every episode."""
        self.policies = policies
        self.members = None if members is None else np.asarray(members, np.int64)
        self._acting, self._numbers = policies, np.arange(len(policies))  # the students that still play

    def start(self, episodes: Sequence[Any]) -> None:
        """New episodes."""
        if self.members is not None and len(episodes) != len(self.members):
            raise ManyoneError(f"{len(self.members)} students named for {len(episodes)} episodes: name one for each")
        self._acting, self._numbers = self.policies, np.arange(len(self.policies))

    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """Actions float32 [b, A] of the episodes ``slots`` [b] for their observations [b, S]."""
        seen = np.asarray(observations, np.float32)
        if self.members is None:
            return self.policies.actions(seen, ensemble=True)[0]
        own = self._narrow(self.members[np.asarray(slots)])
        # each student's episodes side by side; shorter rows are filled up
        counts = np.bincount(own, minlength=len(self._acting))
        order = np.argsort(own, kind="stable")
        place = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts)
        laid = np.zeros((len(self._acting), max(1, int(counts.max())), seen.shape[1]), np.float32)
        laid[own[order], place] = seen[order]
        found = self._acting.frame.own_actions(self._acting.unit_actions(torch.from_numpy(laid))).numpy()
        actions = np.empty((len(own), found.shape[2]), np.float32)
        actions[order] = found[own[order], place]
        return actions

    def _narrow(self, members: np.ndarray) -> np.ndarray:
        """Places of ``members`` among those that act: who plays no more is left out once that is every second one."""
        present = np.unique(members)
        if not np.isin(present, self._numbers).all():  # a later episode of one that was left out
            self._acting, self._numbers = self.policies, np.arange(len(self.policies))
        if 2 * len(present) <= len(self._numbers):
            weights = {name: value[torch.from_numpy(present)] for name, value in self.policies.weights.items()}
            self._acting, self._numbers = replace(self.policies, weights=weights), present
        return np.searchsorted(self._numbers, members)

    def reward(self, slots: Any, rewards: Any) -> None:
        """Rewards change nothing."""


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
    config = {
        "behavior": "policies", "students": len(policies), "spec": asdict(policies.spec),
        "frame": policies.frame.config(), "info": policies.info,
    }  # fmt: skip
    tensors = {f"weights.{name}": value for name, value in policies.weights.items()}
    write_model(folder, tensors | policies.frame.tensors(), config, _card(policies))


def load_policies(folder: str | os.PathLike[str], device: str = "cpu") -> StudentPolicies:
    """What :func:`save_policies` wrote, or the run's ``model`` folder."""
    config, tensors = read_model(folder, "a cloned policy", ("behavior", "spec", "frame"), device)
    path = Path(folder) / CONFIG
    if config["behavior"] != "policies":
        raise ManyoneError(f"{path}: a {config['behavior']}, not a policy: manyone run bc --data {folder} trains one")
    with made_of(path):
        frame = Frame.of_files(config["frame"], tensors, path)
        spec, info = StudentSpec(**config["spec"]), dict(config["info"])
        weights = below(tensors, "weights.")
        count = int(config["students"])
        wanted = make_student(spec, frame.state_dim, frame.action_dim).init([0])
        for name in sorted({*wanted, *weights}):
            found = list(weights[name].shape) if name in weights else "missing"
            needed = [count, *wanted[name].shape[1:]] if name in wanted else "no such tensor"
            if found != needed:
                raise ManyoneError(f"{path.with_name(WEIGHTS)}: {name} is {found}, {CONFIG} describes {needed}")
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
