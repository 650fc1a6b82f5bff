"""What all offline RL methods share: rows drawn by counter, one backward pass a step, targets, state and artefact.

A method says which networks it has, what its losses are, and which target networks follow. Whatever is random in step
k is a function of (seed, k) alone, so that a resumed training goes on bit by bit.
Public names: :class:`TeacherLearner`, :class:`Batch`, :func:`returns_to_go`.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from manyone.behavior.artefact import Frame
from manyone.behavior.data import BehaviorData
from manyone.behavior.teachers.artefact import SavedTeacher, save_teacher
from manyone.behavior.teachers.networks import Init, Policy, Stack
from manyone.behavior.teachers.trained import TrainedTeacher
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

Schedule = Literal["constant", "policy", "all"]
"""Which learning rates fall to 0 along a half cosine: none, the policy's (IQL as published), or all."""
_SCORES = ("return", "normalised", "value_correlation")  # of the last evaluation, that go into the artefact
_RETURN_RANGE = 1000.0  # D4RL's IQL scales rewards such that the returns of the data span this


class Batch(NamedTuple):
    """Rows of the data, n of them."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    """[n], scaled."""
    next_states: Tensor
    goes_on: Tensor
    """[n]: 1, or 0 after a terminal step."""
    rows: Tensor
    noise: torch.Generator
    """For further draws of this step."""


class TeacherLearner(ABC):
    """An engine ``Learner`` that trains the ``networks`` of one method on ``data``.

    ``rates``: learning rate of each network. ``steps``: updates after which the ``schedule`` ends. ``average``: the
    policy that acts is the trained one's average over about the last 1 / (1 - average) steps; 0: the trained one
    itself. ``scale``: what rewards are multiplied with while training; None: such that the data's returns span 1000 (or
    are 1000, where all episodes have one return: those of a perfect controller, or a single one);
    the teacher's values are those of the rewards themselves.
    """

    METHOD: ClassVar[str]
    NEEDS_REWARDS: ClassVar[bool] = True

    def __init__(
        self,
        data: BehaviorData,
        networks: Mapping[str, nn.Module],
        rates: Mapping[str, float],
        *,
        steps: int,
        seed: int = 0,
        batch_size: int = 256,
        schedule: Schedule = "constant",
        average: float = 0.0,
        scale: float | None = 1.0,
        tau: float = 0.005,
        evaluate: Callable[[TeacherLearner], Mapping[str, Any]] | None = None,
    ) -> None:
        if self.NEEDS_REWARDS and not bool(data.rewards.any()):
            raise ManyoneError(
                f"{data.name}: all rewards are 0, and {self.METHOD} learns from rewards: give data with rewards; bc "
                "and obd --objective dbc need none"
            )
        self.data, self.steps_planned, self.seed, self.batch_size = data, steps, seed, batch_size
        self.schedule, self.average, self.tau, self.evaluator, self.iteration = schedule, average, tau, evaluate, 0
        self.scores: dict[str, Any] = {}
        self.scale = _scale_of(data) if scale is None else scale
        self.networks = nn.ModuleDict(dict(networks)).to(data.states.device)
        self.policy: Policy = self.networks["policy"]  # type: ignore[assignment]
        self.targets = nn.ModuleDict({name: copy.deepcopy(self.networks[name]) for name in self.followed()})
        self.acting = copy.deepcopy(self.policy) if average else self.policy
        self.rates = dict(rates)
        self.adam = torch.optim.Adam(
            [{"params": list(self.networks[name].parameters()), "lr": rate} for name, rate in rates.items()], fused=True
        )
        known = data.has_next | data.terminals
        if self.NEEDS_REWARDS and not bool(known.any()):
            raise ManyoneError(f"{data.name}: no step's next state is known, and {self.METHOD} learns from these: give "
                               "episodes of several steps, or with next_observations")  # fmt: skip
        self._known = known.nonzero()[:, 0] if self.NEEDS_REWARDS and not bool(known.all()) else None
        self._goes_on = (~data.terminals).float()

    def followed(self) -> tuple[str, ...]:
        """The networks that have a target network."""
        return ()

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars whose sum the step descends on."""

    def moves_targets(self) -> bool:
        """Whether targets follow after this step."""
        return True

    def step(self) -> dict[str, float]:
        """One update of all networks."""
        losses = self.losses(self.batch())
        for group, (name, rate) in zip(self.adam.param_groups, self.rates.items(), strict=True):
            falls = self.schedule == "all" or (self.schedule == "policy" and name == "policy")
            group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * self.iteration / self.steps_planned) if falls else 1)
        self.adam.zero_grad()
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        self.adam.step()
        if self.targets and self.moves_targets():
            for name, target in self.targets.items():
                _follow(target, self.networks[name], self.tau)
        if self.average:
            _follow(self.acting, self.policy, max(1 - self.average, 1 / (self.iteration + 1)))
        self.iteration += 1
        return {"loss": float(total.detach()), **{f"loss/{name}": float(v.detach()) for name, v in losses.items()}}

    def batch(self) -> Batch:
        """The rows of the next step, drawn with replacement."""
        data, device = self.data, self.data.states.device
        noise = generator_for(self.seed, "teacher", self.METHOD, self.iteration, device=device)
        count = len(data) if self._known is None else len(self._known)
        rows = torch.randint(count, (self.batch_size,), generator=noise, device=device)
        if self._known is not None:
            rows = self._known[rows]
        own = (data.states, data.actions, data.rewards, data.next_states, self._goes_on)
        states, actions, rewards, following, goes_on = (value[rows] for value in own)
        return Batch(states, actions, rewards * self.scale, following, goes_on, rows, noise)

    def teacher(self) -> TrainedTeacher:
        """What has been learned so far; its networks go on changing with the training."""
        critics: Any = dict(self.networks.items()).get("critics")
        return TrainedTeacher(self.METHOD, self.acting, critics, scale=self.scale)

    def evaluate(self) -> dict[str, Any]:
        """What the ``evaluate`` given at the start says."""
        self.scores = dict(self.evaluator(self)) if self.evaluator else {}
        return self.scores

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {"networks": self.networks.state_dict(), "targets": self.targets.state_dict(),
                "acting": self.acting.state_dict(), "adam": self.adam.state_dict(),
                "iteration": self.iteration}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.networks.load_state_dict(state["networks"])
        self.targets.load_state_dict(state["targets"])
        self.acting.load_state_dict(state["acting"])
        self.adam.load_state_dict(state["adam"])
        self.iteration = int(state["iteration"])

    def export(self, folder: Path) -> None:
        """Writes the standard artefact."""
        save_teacher(folder, self.saved())

    def saved(self) -> SavedTeacher:
        """The teacher as it is now with what it needs to act, on the CPU; with the score of its last evaluation."""
        info = {"data": self.data.name, "digest": self.data.digest, "steps": self.iteration, "seed": self.seed}
        info |= {name: float(self.scores[name]) for name in _SCORES if name in self.scores}
        return SavedTeacher(self.teacher().copy(), Frame.of(self.data), info)


@torch.no_grad()
def _follow(target: nn.Module, network: nn.Module, rate: float) -> None:
    torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), rate)


def twin_critics(data: BehaviorData, width: int, *, seed: int, norm: bool = False, init: Init = "uniform") -> Stack:
    """Twin critics with two hidden layers: of (state, action), or of discrete actions all at once."""
    inputs, outputs = (data.state_dim, data.choices) if data.choices else (data.state_dim + data.action_dim, 1)
    return Stack((inputs, width, width, outputs), 2, norm=norm, seed=seed, name="critics", init=init)


def _scale_of(data: BehaviorData) -> float:
    """What makes the returns span 1000."""
    span = float(data.returns.max() - data.returns.min()) or float(data.returns.abs().max())
    return _RETURN_RANGE / span if span else 1.0


def critic_values(
    critics: nn.Module, states: Tensor, actions: Tensor, *, discrete: bool, frozen: bool = False
) -> Tensor:
    """q(s, a) of each member, [M, n]; discrete ``actions`` are one-hot."""
    if discrete:
        return (critics(states, frozen) * actions).sum(-1)
    return critics(torch.cat([states, actions], -1), frozen)[..., 0]


def returns_to_go(data: BehaviorData, discount: float) -> Tensor:
    """sum_k discount^k r_{t+k} until the end of the row's episode, float32 [n]."""
    ends = torch.ones(len(data), dtype=torch.bool, device=data.episode.device)
    ends[:-1] = data.episode[1:] != data.episode[:-1]
    last = ends.nonzero()[:, 0]
    rows = torch.arange(len(data), device=last.device)
    left = last[torch.searchsorted(last, rows)] - rows
    found = data.rewards.clone()
    order, counts = torch.argsort(left, stable=True), torch.bincount(left)
    for now in order.split(counts.tolist())[1:]:  # all rows that are k steps before an end, for k = 1, 2, ...
        found[now] += discount * found[now + 1]
    return found
