"""Learning to plan in one task after the other (arXiv 2410.15698, algorithm 1), under any strategy against forgetting.

    for task i:  fit its alignments, fix them, align its data once                   phase "spaces"
                 for Omega steps: loss of windows of T steps, Adam                   phase "plans"
                 the moving average becomes the weights; all tasks so far are scored: p[., i]

An engine ``Learner`` over the whole sequence: what has been learned, the phase's optimiser and moving average and the
scores so far are its state, draws are functions of (seed, task, step) alone, so that a run goes on anywhere as if it
had never stopped. Public names: :class:`PlannerLearner`, :class:`Phase`, :class:`Training`, :class:`Learned`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from manyone.claims.figure import Figure
from manyone.errors import ManyoneError
from manyone.nets.diffusion.ema import Ema
from manyone.nets.memory import keep_freed_memory
from manyone.policies.artefact import save_policy
from manyone.policies.optimiser import learning_rate
from manyone.policies.protocol import History
from manyone.policies.sequence import ScoreTable
from manyone.policies.tasks import TaskTable
from manyone.policies.vqcd.acting import PlannerPolicy, TaskPlanner
from manyone.policies.vqcd.artefact import PlannerModel
from manyone.policies.vqcd.data import PlanBatch, PlanData, joined, narrowed
from manyone.policies.vqcd.inverse import InverseDynamics
from manyone.policies.vqcd.planner import Draws, Planner, Sampling, another
from manyone.policies.vqcd.spaces import Spaces
from manyone.policies.vqcd.strategy import Strategy

InverseKind = Literal["masked", "per-task", "shared"]
_PROBED = 512  # windows on which the loss of every task is compared over time


@dataclass(frozen=True)
class Training:
    """How planners are trained: the numbers of the phase "plans"."""

    steps: int
    """Omega, steps of each task"""
    batch_size: int = 64
    lr: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    dropout: float = 0.25
    """Share of windows that are told no return"""
    ema_decay: float = 0.995
    ema_every: int = 1
    ema_start: int = 0

    def __post_init__(self) -> None:
        for name, value, holds, allowed in (
            ("steps", self.steps, self.steps >= 1, "1 or more"),
            ("batch_size", self.batch_size, self.batch_size >= 1, "1 or more"),
            ("lr", self.lr, self.lr > 0, "above 0"),
            ("dropout", self.dropout, 0 <= self.dropout < 1, "in [0, 1)"),
        ):
            if not holds:
                raise ManyoneError(f"{name} = {value}: must be {allowed}")


class _Course(NamedTuple):
    """What lives through one phase "plans"."""

    trained: list[nn.Parameter]
    adam: torch.optim.Adam
    ema: Ema


class Phase(NamedTuple):
    """A part of the run: steps ``first`` to ``last`` - 1 of the whole."""

    task: int
    kind: Literal["spaces", "plans"]
    first: int
    last: int


@dataclass(frozen=True)
class Learned:
    """A finished model that learns on: what it knew before. Its planner and strategy are given to the learner."""

    table: TaskTable
    scores: list[dict[str, float]] = field(default_factory=list)
    """Task -> score after each of its tasks had been learned."""


class PlannerLearner:
    """Trains ``network`` on the tasks of ``data`` in turn, aligned by ``spaces``.

    ``strategy`` makes, of this learner, what protects earlier tasks; ``at_once``: all tasks are trained together, in
    one phase of as many steps as all phases have together. ``inverse``: the inverse dynamics are part of the network
    and protected as it is (``masked``), a network of their own a task (``per-task``), or one that every task goes on
    training (``shared``). ``before``: a finished model's knowledge, where the sequence goes on; ``spaces`` then
    has its alignments too. ``evaluate`` is called with the learner and gives metrics of the tasks learned so far.
    """

    def __init__(
        self,
        data: PlanData,
        spaces: Spaces,
        network: Planner,
        strategy: Callable[[PlannerLearner], Strategy],
        training: Training,
        *,
        at_once: bool = False,
        inverse: InverseKind = "masked",
        inverses: Sequence[InverseDynamics] = (),
        how: Sampling | None = None,
        plan_every: int = 1,
        requantise: bool = False,
        seed: int = 0,
        before: Learned | None = None,
        info: Mapping[str, Any] | None = None,
        evaluate: Callable[[PlannerLearner], Mapping[str, Any]] | None = None,
    ) -> None:
        self.data, self.spaces, self.training, self.seed = data, spaces, training, seed
        self.live, self.how, self.plan_every, self.requantise = network, how or Sampling(), plan_every, requantise
        self.evaluator, self.info, self.first = evaluate, dict(info or {}), spaces.first
        self.table = data.table
        if before is not None:
            self.table = joined(before.table, data.table)
        self.scoring = ScoreTable(self.table.names, together=at_once)
        """Each task's score after each task of the sequence was learned."""
        self.scoring.rows = list(before.scores) if before is not None else []
        self.losses: list[dict[str, float]] = []
        """Task -> the planner's loss on fixed windows, likewise."""
        parts = {"masked": 0, "per-task": self.tasks, "shared": 1}[inverse]
        own = [copy.deepcopy(one) for one in inverses]
        if network.kind == "states" and (len(own) != parts or (network.inverse is None) != (parts > 0)):
            raise ManyoneError(
                f"inverse {inverse!r} of {self.tasks} tasks needs {parts} inverse dynamics, got {len(own)}"
            )
        self.inverse_kind, self.inverses = inverse, nn.ModuleList(own).to(data.device)
        self.iteration, self.at_once = 0, at_once
        self.strategy = strategy(self)
        self.phases = self._phases()
        self._course: _Course | None = None
        if data.device.type == "cpu":
            keep_freed_memory()

    # ---- what a strategy sees (vqcd/strategy.py, Trainee) -----------------------------------------------------------

    @property
    def network(self) -> Planner:
        """The live network."""
        return self.live

    @property
    def tasks(self) -> int:
        """Tasks of the sequence, with those of the model that it goes on from."""
        return self.first + len(self.data)

    @property
    def steps(self) -> int:
        """Planner steps of each task."""
        return self.training.steps

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, T, Ds, Da): windows of a batch, steps of a window, aligned widths of states and actions."""
        return (self.training.batch_size, self.data.horizon, *self.spaces.widths)

    def batch(self, task: int, step: int, purpose: str = "train", newest: float = 1.0) -> PlanBatch:
        """Windows of ``task``, drawn by (seed, purpose, task, step); of the ``newest`` share of them."""
        if task < self.first:
            raise ManyoneError(f"task {self.table.names[task]!r} was learned before: its data are not here")
        return self.data.batch(task - self.first, self.spaces.aligned(task), step, size=self.training.batch_size,
                               seed=self.seed, purpose=purpose, newest=newest)  # fmt: skip

    def draws(self, task: int, batch: PlanBatch, step: int, purpose: str = "train") -> Draws:
        """What is random in the loss of ``batch``, drawn by (seed, purpose, task, step)."""
        return self.live.draws(len(batch.returns), self.training.dropout, self.seed, purpose, "plans", task, step)

    def loss(self, task: int, batch: PlanBatch, step: int, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss on ``batch`` as windows of ``task``; ``weights``: parameters in place of the network's own."""
        network, draws = self.strategy.network(task), self.draws(task, batch, step)
        if weights is None:
            return network(batch, draws, task, self.inverse_of(task))  # type: ignore[no-any-return]
        given = (batch, draws, task, self.inverse_of(task))
        return functional_call(network, dict(weights), given)  # type: ignore[no-any-return]

    def output(self, task: int, batch: PlanBatch, step: int) -> Tensor:
        """What the network gives where the loss compares it, a row a window, [B, ...]."""
        draws = self.draws(task, batch, step)
        return self.strategy.network(task).outputs(batch, draws, task, self.inverse_of(task))  # type: ignore[operator, no-any-return]

    def count(self, task: int) -> int:
        """Windows of ``task``."""
        return self.data.windows(task - self.first)

    def another(self, share: float, who: str) -> Planner:
        """A fresh planner of the same kind with about ``share`` of the live one's parameters, drawn for ``who``."""
        return another(self.live, share, self.seed, who).to(self.data.device)

    def inverse_of(self, task: int) -> InverseDynamics | None:
        """The inverse dynamics of ``task`` where they are not the network's own."""
        if not len(self.inverses):
            return None
        return self.inverses[task if self.inverse_kind == "per-task" else 0]  # type: ignore[return-value]

    # ---- the engine's Learner ---------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.phases[-1].last

    @property
    def every(self) -> int:
        """Steps of one task, after which all tasks so far are scored."""
        return self.spaces.steps + self.training.steps

    @property
    def learned(self) -> int:
        """Tasks whose training is over."""
        ended = [p for p in self.phases if p.kind == "plans" and p.last <= self.iteration]
        return self.tasks if self.at_once and ended else self.first + len(ended)

    def phase(self) -> Phase:
        """Where the next step belongs (the last phase after the end)."""
        return next((p for p in self.phases if self.iteration < p.last), self.phases[-1])

    def step(self) -> dict[str, Any]:
        """One step of the present phase; metrics name its task."""
        phase = self.phase()
        step = self.iteration - phase.first
        metrics: dict[str, Any]
        if phase.kind == "spaces":
            metrics = self.spaces.step(phase.task)
        else:
            if step == 0:
                self.strategy.begin(phase.task)
                self._course = self._fresh(phase.task)
            assert self._course is not None
            metrics = self._plan_step(self._course, phase, step)
        self.iteration += 1
        if phase.kind == "plans" and self.iteration == phase.last:
            self._end(self._course, phase)
        name = "all tasks" if self.at_once and phase.kind == "plans" else self.table.names[phase.task]
        place = f"{phase.task + 1}/{self.tasks}"
        return metrics | {"phase": f"{phase.kind} of {name} ({place})"}

    def scored(self) -> tuple[str, ...]:
        """The tasks that an evaluation plays now: all that were learned, in the middle of a task this one alone."""
        if self.strategy.task is not None and not self.at_once:
            return (self.table.names[self.strategy.task],)
        return self.table.names[: self.learned]

    def evaluate(self) -> dict[str, Any]:
        """Scores of all tasks learned so far, where one has just been; of the whole sequence at its end.

        In the middle of a task: of this task alone (its curve). Nothing where no task is being planned for.
        """
        learned = self.learned
        ended = any(p.kind == "plans" and p.last == self.iteration for p in self.phases)
        if self.evaluator is None or not (ended or self.strategy.task is not None) or (self.at_once and not ended):
            return {"tasks_learned": learned}
        found = dict(self.evaluator(self))
        if not ended:
            return found | {"tasks_learned": learned}
        losses = self.probe()
        self.losses = [*self.losses[: learned - 1 - self.first], losses]
        found |= self.scoring.take(found, learned)
        return found | {"tasks_learned": learned} | {f"plan_loss/{name}": value for name, value in losses.items()}

    @torch.no_grad()
    def probe(self) -> dict[str, float]:
        """Task -> the planner's loss on windows that stay the same, of the tasks learned so far whose data are here."""
        found = {}
        for task in range(self.first, self.learned):
            parts = []
            for part in range(max(1, _PROBED // self.training.batch_size)):
                batch = self.batch(task, part, "probe")
                given = (batch, self.draws(task, batch, part, "probe"), task, self.inverse_of(task))
                parts.append(functional_call(self.strategy.network(task), self.strategy.weights(task), given))
            found[self.table.names[task]] = float(torch.stack(parts).mean())
        return found

    def scores(self) -> list[list[float | None]]:
        """p[i, j], the score of task i after task j was learned; None where it was not measured."""
        return self.scoring.matrix()

    @property
    def scored_by(self) -> str:
        """What scores are: success, normalised (D4RL's), return, or action_error, negated; empty before the first."""
        return self.scoring.kind

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "iteration": self.iteration,
            "spaces": self.spaces.state_dict(),
            "network": self.live.state_dict(),
            "inverses": self.inverses.state_dict(),
            "strategy": self.strategy.state_dict(),
            "adam": None if self._course is None else self._course.adam.state_dict(),
            "ema": None if self._course is None else self._course.ema.state_dict(),
            "scoring": self.scoring.state_dict(),
            "losses": [dict(row) for row in self.losses],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.iteration = int(state["iteration"])
        self.spaces.load_state_dict(state["spaces"])
        self.live.load_state_dict(state["network"])
        self.inverses.load_state_dict(state["inverses"])
        self.strategy.load_state_dict(state["strategy"])
        self.scoring.load_state_dict(state["scoring"])
        self.losses = [dict(row) for row in state["losses"]]
        self._course = None
        if state["adam"] is not None:
            self._course = self._fresh(self.phase().task)
            self._course.adam.load_state_dict(state["adam"])
            self._course.ema.load_state_dict(state["ema"])

    def export(self, folder: Path) -> None:
        """Writes the standard artefact: one planner for all tasks."""
        tasks = range(self.learned)
        kept = self.strategy.kept()
        model = PlannerModel.of(
            [self.strategy.network(task) for task in tasks],  # type: ignore[misc]
            kept,
            self.spaces.pairs[: self.learned],
            [self.inverse_of(task) for task in tasks],
            self.how,
            plan_every=self.plan_every,
            requantise=self.requantise,
            seed=self.seed,
        )
        info = {"seed": self.seed, "steps": self.iteration, "spaces": self.spaces.kind, "inverse": self.inverse_kind,
                "scores": self.scoring.rows, "scored_by": self.scored_by}  # fmt: skip
        save_policy(folder, model, narrowed(self.table, tasks), kept.masks, info=self.info | info)

    # ---- a policy's learner -----------------------------------------------------------------------------------------

    def policy(self, variant: str = "") -> PlannerPolicy:
        """What acts in the tasks that an evaluation plays now (:meth:`scored`), as it is now."""
        return self.policy_of([self.table.names.index(name) for name in self.scored()])

    def policy_of(self, tasks: Sequence[int]) -> PlannerPolicy:
        """What acts in the tasks of these numbers, learned or being learned, as it is now."""
        actors: dict[int, Planner] = {}
        found = []
        for task in tasks:
            network = self.strategy.network(task)
            if id(network) not in actors:
                actors[id(network)] = copy.deepcopy(network).requires_grad_(False).eval()  # type: ignore[assignment]
            weights = {name: value.detach() for name, value in self.strategy.weights(task).items()}
            states, actions = self.spaces.pairs[task]
            actor = actors[id(network)]
            found.append(TaskPlanner(task, actor, weights, states, actions, self.inverse_of(task)))
        return PlannerPolicy(narrowed(self.table, tasks), found, self.how, plan_every=self.plan_every,
                             requantise=self.requantise, seed=self.seed)  # fmt: skip

    def effort(self) -> dict[str, float]:
        """Moves of the optimiser, and steps of data a task that the loss has compared."""
        taken = sum(min(max(self.iteration - p.first, 0), p.last - p.first) for p in self.phases if p.kind == "plans")
        samples = taken * self.training.batch_size * self.data.horizon / len(self.data)
        return {"updates": float(taken), "samples_per_task": samples}

    def sizes(self) -> dict[str, float]:
        """Parameters of the live network, of a task's alignments, and what the strategy keeps."""
        spaces = [sum(p.numel() for m in pair for p in m.parameters()) for pair in self.spaces.pairs]
        return {
            "trainable_parameters": float(sum(p.numel() for p in self.live.parameters())),
            "alignment_parameters": sum(spaces) / len(spaces),
            **self.strategy.sizes(),
        }

    def figures(self, policy: Any, history: History) -> Iterator[Figure]:
        """None here: what a run draws is in the recipe's figures."""
        return iter(())

    # ---- parts ------------------------------------------------------------------------------------------------------

    def _phases(self) -> list[Phase]:
        found: list[Phase] = []
        own = range(self.first, self.tasks)
        plan, spaces = self.training.steps, self.spaces.steps
        order: list[tuple[int, Literal["spaces", "plans"], int]] = []
        if self.at_once:
            order += [(task, "spaces", spaces) for task in own]
            order += [(self.tasks - 1, "plans", plan * len(own))]
        else:
            for task in own:
                order += [(task, "spaces", spaces), (task, "plans", plan)]
        for task, kind, count in order:
            start = found[-1].last if found else 0
            if count:
                found.append(Phase(task, kind, start, start + count))
        return found

    def _fresh(self, task: int) -> _Course:
        """A fresh optimiser and moving average of what ``task`` trains."""
        inverses: list[nn.Parameter] = []
        for number, one in enumerate(self.inverses):
            active = self.inverse_kind == "shared" or number == task or self.at_once
            for parameter in one.parameters():
                parameter.requires_grad_(active)
            inverses += list(one.parameters()) if active else []
        trained, t = [*self.strategy.trainable(task), *inverses], self.training
        ema = Ema(trained, t.ema_decay, every=t.ema_every, start=t.ema_start)
        return _Course(trained, torch.optim.Adam(trained, lr=t.lr, fused=True), ema)

    def _plan_step(self, course: _Course, phase: Phase, step: int) -> dict[str, float]:
        t = self.training
        course.adam.zero_grad(set_to_none=True)
        weights = self.strategy.overrides()
        total, shown = torch.zeros((), device=self.data.device), 0.0
        for task, share in self.strategy.shares(phase.task, step):
            batch = self.strategy.windows(task, step)
            found = self.loss(task, self.batch(task, step) if batch is None else batch, step, weights)
            total, shown = total + share * found, shown + share * float(found.detach())
        penalty = self.strategy.penalty()
        total = total if penalty is None else total + penalty
        total.backward()
        rate = learning_rate(step, t.lr, 0, t.schedule, phase.last - phase.first)
        self.strategy.filter_gradients()
        for group in course.adam.param_groups:
            group["lr"] = rate
        course.adam.step()
        self.strategy.after_step(phase.task, step)
        course.ema.update(step + 1)
        metrics = {"loss": float(total.detach()), "learning_rate": rate}
        return metrics if penalty is None else metrics | {"penalty": float(penalty.detach())}

    def _end(self, course: _Course | None, phase: Phase) -> None:
        assert course is not None
        with torch.no_grad():
            for parameter, value in zip(course.trained, course.ema.values):
                parameter.copy_(value)
        self.strategy.end(phase.task)
        self._course = None
