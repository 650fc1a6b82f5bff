"""Cloning one task after the other with a memory of earlier ones: what continual planners must beat (IL-rehearsal).

    task i:  L = mean over n = round(q B) pairs of the memory and B - n pairs of D_i of (pi(s, j) - a)^2
    memory:  of each finished task j some pairs of D_j, drawn when it ends (n_memory of them), or a distilled set

The behaviour-cloning baseline of Hu et al. (arXiv 2410.15698; what they leave open is ours): an MLP on state and
one-hot task. Each remembered pair's task is drawn uniformly. The optimiser begins anew with each task, as planners'
does. A distilled set (a few hundred optimised pairs, arXiv 2410.22728) can stand for a task's memory.
Public names: :class:`RehearsalLearner`, :class:`Pairs`, :func:`given_pairs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyone.claims.figure import Figure
from manyone.errors import ManyoneError
from manyone.policies.artefact import save_policy
from manyone.policies.baselines.cloning import CloningNetwork, CloningPolicy
from manyone.policies.optimiser import learning_rate
from manyone.policies.protocol import History, sizes_of
from manyone.policies.sequence import ScoreTable
from manyone.policies.tasks import PolicyData, TaskTable
from manyone.randomness import generator_for


class Pairs(NamedTuple):
    """States and actions of one task as the network reads and gives them, padded to the widest."""

    states: Tensor
    """[n, S]"""
    actions: Tensor
    """[n, A]"""


class LearnedPolicy(CloningPolicy):
    """A cloning policy of whose tasks only some are played: as wide as the widest of these."""

    def __init__(self, network: CloningNetwork, table: TaskTable, state_dim: int, action_dim: int) -> None:
        super().__init__(network, table)
        self.state_dim, self.action_dim = state_dim, action_dim

    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """Actions float32 [b, A] for ``observations`` [b, S] of the episodes ``slots`` [b]."""
        seen = np.asarray(observations)
        wide = np.pad(seen, ((0, 0), (0, self.network.state_dim - seen.shape[1])))
        return super().act(slots, wide)[:, : self.action_dim]


class RehearsalLearner:
    """Trains ``network`` on the tasks of ``data`` in turn, ``steps`` each. An engine ``Learner``.

    ``memory``: pairs that are kept of a finished task; 0: none (sequential cloning). ``given``: task -> pairs that are
    its memory instead, normalised as ``data`` are. ``share`` of a batch is taken from the memory once there is one.
    """

    def __init__(
        self,
        network: CloningNetwork,
        data: PolicyData,
        *,
        steps: int,
        memory: int = 1000,
        given: Mapping[int, Pairs] | None = None,
        share: float = 0.5,
        seed: int = 0,
        batch_size: int = 256,
        lr: float = 1e-3,
        schedule: str = "cosine",
        evaluate: Callable[[RehearsalLearner], Mapping[str, Any]] | None = None,
    ) -> None:
        shape = (network.state_dim, network.action_dim, network.tasks, network.widths)
        if shape != (data.state_dim, data.action_dim, len(data), data.widths):
            raise ManyoneError("the cloning network was built for other widths or another number of tasks")
        for name, value, holds, allowed in (
            ("steps", steps, steps >= 1, "1 or more"),
            ("memory", memory, memory >= 0, "0 or more"),
            ("share", share, 0 < share < 1, "above 0 and below 1"),
            ("batch_size", batch_size, batch_size >= 2, "2 or more"),
            ("lr", lr, lr > 0, "above 0"),
        ):
            if not holds:
                raise ManyoneError(f"{name} = {value}: must be {allowed}")
        self.network, self.data, self.steps, self.seed = network, data, steps, seed
        self.memory, self.share, self.batch_size, self.lr, self.schedule = memory, share, batch_size, lr, schedule
        self.given = {task: Pairs(*(part.to(data.device) for part in pairs)) for task, pairs in (given or {}).items()}
        self.kept: dict[int, Pairs] = {}
        """Memory of each finished task."""
        self.table, self.scoring = data.table, ScoreTable(data.names)
        self.evaluator, self.iteration = evaluate, 0
        self._adam = self._fresh()

    # ---- the engine's Learner -------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.steps * len(self.data)

    @property
    def every(self) -> int:
        """Steps of one task, after which all tasks so far are scored."""
        return self.steps

    @property
    def learned(self) -> int:
        """Tasks whose training is over."""
        return self.iteration // self.steps

    def step(self) -> dict[str, Any]:
        """One step on the present task and the memory."""
        task, step = divmod(self.iteration, self.steps)
        if task >= len(self.data):
            raise ManyoneError(f"all {len(self.data)} tasks have been learned: there is no step {self.iteration}")
        if step == 0:
            self._adam = self._fresh()
        old = round(self.share * self.batch_size) if self.kept else 0
        loss = self._error(self.drawn(task, step, self.batch_size - old), task)
        if old:
            tasks, pairs = self.remembered(task, step, old)
            loss = torch.cat((loss, self._error(pairs, tasks)))
        for group in self._adam.param_groups:
            group["lr"] = learning_rate(step, self.lr, 0, self.schedule, self.steps)
        mean = loss.mean()
        self._adam.zero_grad()
        mean.backward()
        self._adam.step()
        self.iteration += 1
        if step == self.steps - 1 and (self.memory or task in self.given):
            self.kept[task] = self.given[task] if task in self.given else self.drawn(task, 0, self.memory, "memory")
        return {"loss": float(mean.detach()), "learning_rate": self._adam.param_groups[0]["lr"],
                "phase": f"{self.table.names[task]} ({task + 1}/{len(self.data)})"}  # fmt: skip

    def drawn(self, task: int, step: int, count: int, purpose: str = "cloning") -> Pairs:
        """``count`` pairs of the data of ``task``, drawn uniformly by (seed, purpose, task, step)."""
        batch = self.data.batch([task], step, self.seed, batch_size=count, purpose=purpose)
        return Pairs(batch.steps["observations"][0, :, 0], batch.steps["actions"][0, :, 0])

    def remembered(self, task: int, step: int, count: int) -> tuple[Tensor, Pairs]:
        """``count`` pairs of the memory with their tasks int64 [count], for step ``step`` of ``task``."""
        draw = generator_for(self.seed, "rehearse", task, step)
        known = torch.tensor(list(self.kept))
        sizes = torch.tensor([len(pairs.states) for pairs in self.kept.values()])
        chosen = torch.randint(len(known), (count,), generator=draw)
        rows = (torch.rand(count, dtype=torch.float64, generator=draw) * sizes[chosen]).long()
        places = rows + torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))[chosen]
        places = places.to(self.data.device)
        everything = [torch.cat(parts)[places] for parts in zip(*self.kept.values(), strict=True)]
        return known[chosen].to(self.data.device), Pairs(*everything)

    def scored(self) -> tuple[str, ...]:
        """The tasks that an evaluation plays now: all that were learned, in the middle of a task this one alone."""
        if self.iteration % self.steps:
            return (self.table.names[self.learned],)
        return self.table.names[: self.learned]

    def evaluate(self) -> dict[str, Any]:
        """Scores of all tasks learned so far, or in the middle of a task of this one; of the sequence at its end."""
        if self.evaluator is None or self.iteration == 0:
            return {"tasks_learned": self.learned}
        found = dict(self.evaluator(self)) | {"tasks_learned": self.learned}
        return found if self.iteration % self.steps else found | self.scoring.take(found, self.learned)

    def scores(self) -> list[list[float | None]]:
        """p[i, j], the score of task i after task j was learned; None where it was not measured."""
        return self.scoring.matrix()

    @property
    def scored_by(self) -> str:
        """What scores are; empty before the first."""
        return self.scoring.kind

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "optimiser": self._adam.state_dict(),
            "kept": {str(task): list(pairs) for task, pairs in self.kept.items()},
            "scoring": self.scoring.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.iteration = int(state["iteration"])
        self.network.load_state_dict(state["network"])
        self._adam.load_state_dict(state["optimiser"])
        device = self.data.device
        self.kept = {int(task): Pairs(*(part.to(device) for part in parts)) for task, parts in state["kept"].items()}
        self.scoring.load_state_dict(state["scoring"])

    def export(self, folder: Path) -> None:
        """Writes the standard artefact."""
        info = {"method": "il-rehearsal", "seed": self.seed, "steps": self.iteration, "scores": self.scoring.rows}
        save_policy(folder, self.network, self.table, info=info)

    # ---- a policy's learner ---------------------------------------------------------------------------------------

    def policy(self, variant: str = "") -> LearnedPolicy:
        """The policy as it is now, for the tasks that were learned and the one that is being learned."""
        count = min(len(self.data), self.learned + (self.iteration % self.steps > 0))
        widths = self.data.widths[:count] if self.data.widths else ((self.data.state_dim, self.data.action_dim),)
        states, actions = (max(own) for own in zip(*widths, strict=True))
        return LearnedPolicy(self.network, self.table, states, actions)

    def effort(self) -> dict[str, float]:
        """Updates of the network and pairs a task that the loss has compared."""
        return {"updates": float(self.iteration),
                "samples_per_task": self.iteration * self.batch_size / len(self.data)}  # fmt: skip

    def sizes(self) -> dict[str, float]:
        """The network's parameters, and the bytes of memory that a task adds."""
        memory = [part.numel() * part.element_size() for pairs in self.kept.values() for part in pairs]
        return sizes_of([self.network]) | {"bytes_per_task": sum(memory) / max(1, len(self.kept))}

    def figures(self, policy: Any, history: History) -> Iterator[Figure]:
        """None: there is neither mask nor plan."""
        return iter(())

    # ---- parts ----------------------------------------------------------------------------------------------------

    def _fresh(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.network.parameters(), lr=self.lr)

    def _error(self, pairs: Pairs, tasks: int | Tensor) -> Tensor:
        """Mean squared error of each pair over its task's own actions, [n]."""
        number = torch.as_tensor(tasks, device=pairs.states.device).expand(len(pairs.states))
        error = (self.network(pairs.states, number) - pairs.actions).square()
        if not self.network.widths:
            return error.mean(-1)
        kept = self.network.kept_actions[number]
        return torch.where(kept, error, 0).sum(-1) / kept.sum(-1)


def given_pairs(data: PolicyData, task: int, observations: Tensor | Any, actions: Tensor | Any, where: str) -> Pairs:
    """Pairs in the environment's units as ``data`` has those of ``task``; ``where`` they are from opens messages."""
    states, unit = (torch.as_tensor(part, dtype=torch.float32) for part in (observations, actions))
    widths = data.widths[task] if data.widths else (data.state_dim, data.action_dim)
    if states.ndim != 2 or unit.ndim != 2 or len(states) != len(unit) or (states.shape[1], unit.shape[1]) != widths:
        shapes = f"{list(states.shape)} and {list(unit.shape)}"
        raise ManyoneError(f"{where}: observations and actions are {shapes}; {data.names[task]} has {widths}")
    table = data.table
    states = _widened(states, data.state_dim)
    states = (states - table.mean[task]) / table.deviation[task]
    if data.widths:
        states[:, widths[0] :] = 0
    return Pairs(states, table.unit_actions(_widened(unit, data.action_dim), task).clamp(-1, 1))


def _widened(values: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[1]))
