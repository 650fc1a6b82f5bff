"""Prompts of many tasks as tensors, and the few episodes of new tasks that a frozen policy is adapted with.

A prompt tau* is the tail of an episode without its last step, K* steps of (g, s, a) at timesteps t (Xu et al.,
"Prompting Decision Transformer", arXiv 2206.13499); Hu et al., "Prompt Tuning with Diffusion for Few-Shot Pre-trained
Policy Generalization" (arXiv 2411.01168), generate one from the condition y = (g, t / horizon) of each step
(:func:`conditions`), together with its rewards. Everything is normalised as the frozen policy reads it. What is drawn
depends on (seed, purpose, task, step) alone.

A new task's states are standardised with the statistics of the policy's training tasks where these share them, else
with those of the task's own few episodes; a task that the policy was trained on keeps its own
(``FewShots.statistics`` says which). Nothing else of a new task is read.
Public names: :class:`PromptPool`, :class:`FewShots`, :func:`conditions`, :func:`imitation_losses`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.artefact import SavedPolicy
from manyone.policies.tasks import Bounds, PolicyData, Steps, TaskBatch, TaskTable
from manyone.randomness import generator_for

_log = logging.getLogger("manyone")
Statistics = Literal["auto", "policy", "shots"]


def conditions(prompts: Mapping[str, Tensor], horizon: int) -> Tensor:
    """y of ``prompts`` (returns_to_go and timesteps [..., K*]): (g, t / horizon) of each step, [..., K*, 2]."""
    g = prompts["returns_to_go"]
    return torch.stack((g, prompts["timesteps"].to(g.dtype) / horizon), -1)


@dataclass(frozen=True)
class PromptPool:
    """Prompts of M tasks, n in all, task by task, normalised by the tasks' table."""

    steps: Steps
    """observations [n, K*, S], actions [n, K*, A], returns_to_go, rewards, timesteps (int64), valid [n, K*]; all steps
    are valid. Rewards are in units of the environment."""
    first: Tensor
    """Where each task's prompts begin, int64 [M + 1] on the CPU."""
    horizon: int
    """What timesteps are divided by in conditions."""
    returns: Tensor
    """Return of the episode that each prompt ends, in units of the environment, [n]."""

    @classmethod
    def from_trajectories(
        cls, episodes: Sequence[Trajectories], table: TaskTable, steps: int, horizon: int
    ) -> PromptPool:
        """The tails of all ``episodes`` of M tasks, ``steps`` (K*) long, as the policy reads them by ``table`` [M].

        An episode of K* steps or fewer gives no prompt; a task of none but such raises :class:`ManyoneError`.
        """
        if len(episodes) != len(table.names):
            raise ManyoneError(f"prompts of {len(episodes)} tasks, but there are {len(table.names)}: give each its own")
        parts: dict[str, list[Tensor]] = {}
        counts, returns = [], []
        for number, one in enumerate(episodes):
            ends = one.offsets[1:][one.lengths > steps] - 1  # the last step is left out
            if not len(ends):
                raise ManyoneError(
                    f"{one.name}: no episode is longer than {steps} steps, which a prompt takes besides the last one"
                )
            if short := one.episodes - len(ends):
                _log.warning("%s: %d of %d episodes are too short for a prompt of %d steps and give none",
                             one.name, short, one.episodes, steps)  # fmt: skip
            rows = ends[:, None] + np.arange(-steps, 0)
            starts = np.repeat(one.offsets[:-1][one.lengths > steps], steps).reshape(rows.shape)
            found = {key: torch.from_numpy(np.asarray(getattr(one, key)[rows]))
                     for key in ("observations", "actions", "returns_to_go", "rewards")}  # fmt: skip
            found["observations"] = (found["observations"] - table.mean[number].cpu()) / table.deviation[number].cpu()
            found["returns_to_go"] = found["returns_to_go"] / table.scale[number].cpu()
            found["actions"] = table.to("cpu").unit_actions(found["actions"], number).clamp(-1, 1)
            found["timesteps"] = torch.from_numpy(rows - starts)
            found["valid"] = torch.ones(rows.shape, dtype=torch.bool)
            counts.append(len(ends))
            returns.append(torch.from_numpy(one.returns[one.lengths > steps]))
            for key, value in found.items():
                parts.setdefault(key, []).append(value.to(table.mean.dtype) if value.is_floating_point() else value)
        first = torch.cat((torch.zeros(1, dtype=torch.int64), torch.tensor(counts).cumsum(0)))
        device = table.mean.device
        joined = {key: torch.cat(value).to(device) for key, value in parts.items()}
        return cls(joined, first, horizon, torch.cat(returns).to(device))

    def __len__(self) -> int:
        """Number of tasks M."""
        return len(self.first) - 1

    @property
    def length(self) -> int:
        """K*."""
        return self.steps["valid"].shape[-1]

    def count(self, task: int) -> int:
        """Prompts of ``task``."""
        return int(self.first[task + 1] - self.first[task])

    def task(self, task: int) -> Steps:
        """All prompts of ``task``, [n, K*, ...]."""
        rows = slice(int(self.first[task]), int(self.first[task + 1]))
        return {key: value[rows] for key, value in self.steps.items()}

    def stacked(self) -> Steps:
        """All prompts as [M, n, K*, ...], with n those of the task that has most; others repeat theirs in turn."""
        counts = [self.count(task) for task in range(len(self))]
        rows = torch.stack([self.first[i] + torch.arange(max(counts)) % n for i, n in enumerate(counts)])
        where = rows.to(self.steps["valid"].device)
        return {key: value[where] for key, value in self.steps.items()}

    def draw(
        self, tasks: Sequence[int], step: int, seed: int = 0, *, batch_size: int = 8, purpose: str = "prompt"
    ) -> Steps:
        """``batch_size`` prompts of each of the G ``tasks``, [G, B, K*, ...]."""
        rows = torch.empty(len(tasks), batch_size, dtype=torch.int64)
        for row, task in zip(rows, tasks):
            draw = generator_for(seed, purpose, int(task), step)
            torch.randint(self.count(task), (batch_size,), generator=draw, out=row)
            row += self.first[task]
        where = rows.to(self.steps["valid"].device)
        return {key: value[where] for key, value in self.steps.items()}

    def conditions(self, prompts: Mapping[str, Tensor]) -> Tensor:
        """y of ``prompts`` of this pool, [..., K*, 2]."""
        return conditions(prompts, self.horizon)

    def best_of_all(self, count: int) -> PromptPool:
        """The prompts of the ``count`` episodes with the highest returns, whatever their task, as one task's pool."""
        rows = torch.argsort(-self.returns, stable=True)[:count]
        steps = {key: value[rows] for key, value in self.steps.items()}
        return PromptPool(steps, torch.tensor([0, len(rows)]), self.horizon, self.returns[rows])

    def best(self) -> Steps:
        """The prompt of each task's episode with the highest return, [M, K*, ...]."""
        first = self.first.tolist()
        rows = [low + int(self.returns[low:high].argmax()) for low, high in pairwise(first)]
        return {key: value[rows] for key, value in self.steps.items()}


class FewShots:
    """A frozen policy, and the few episodes of each of M new tasks prepared as the policy's own data were.

    ``shots``: the episodes that imitation windows are cut from, all of them. ``prompts``: the episodes whose tails are
    prompts, task by task (default: the shots). ``statistics``: ``"policy"`` (those that all training tasks share, or
    pooled from their table), ``"shots"`` (the task's own few episodes), or ``"auto"``: a task that the policy knows
    keeps its own, another has the shared ones if there are any, else those of its shots; scales of returns alike.
    Targets are the ``target_quantile`` of the returns of the shots, or ``targets`` (in units of reward). ``horizon``:
    what timesteps are divided by in conditions (default: the longest episode). ``bounds``: of the tasks' actions, as
    :class:`~manyone.policies.tasks.PolicyData` takes them.

    The network never trains: its parameters require no gradient. It may have no prompt; then ``pool`` is None.
    """

    def __init__(
        self,
        policy: SavedPolicy,
        shots: Sequence[Trajectories],
        prompts: Sequence[Trajectories] | None = None,
        *,
        statistics: Statistics = "auto",
        bounds: Sequence[Bounds | None] | Literal["unit"] | None = None,
        target_quantile: float = 0.9,
        targets: Sequence[float] | None = None,
        horizon: int | None = None,
    ) -> None:
        self.model = frozen(policy)
        parameter = next(self.model.parameters())
        self._check_widths(shots)
        self.known = known = policy.table.to("cpu")
        """The tasks that the policy was trained on."""
        self.statistics: dict[str, str] = {}
        """Task -> where its statistics come from: "its own of the training", "the training tasks" or "the shots"."""
        means, deviations, scales = [], [], []
        for one in shots:
            origin, mean, deviation, scale = _statistics(known, one, statistics)
            self.statistics[one.name] = origin
            means.append(mean)
            deviations.append(deviation)
            scales.append(scale)
        self.data = PolicyData(
            shots, self.model.context, normalisation=(torch.stack(means), torch.stack(deviations)), scale=scales,
            target_quantile=target_quantile, hold_out=False, bounds=bounds, device=parameter.device,
            dtype=parameter.dtype,
        )  # fmt: skip
        table = self.data.table.to(parameter.device, parameter.dtype)
        if targets is not None:
            if len(targets) != len(shots):
                raise ManyoneError(f"{len(targets)} targets for {len(shots)} tasks: give each its own")
            table = table.with_targets(torch.tensor(targets))
        self._rewards: Tensor | None = None
        self.pool: PromptPool | None = None
        if self.model.prompt:
            sources = list(shots if prompts is None else prompts)
            longest = max(int(one.lengths.max()) for one in (*shots, *sources))
            self.pool = PromptPool.from_trajectories(sources, table, self.model.prompt, horizon or longest)
            best = self.pool.best()
            table = replace(table, prompt={key: value for key, value in best.items() if key != "rewards"})
        self.table = table
        """Names, statistics, targets and best prompts of the M tasks."""

    def __len__(self) -> int:
        """Number of tasks M."""
        return len(self.data)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the new tasks."""
        return self.data.names

    def batch(
        self,
        step: int,
        seed: int = 0,
        *,
        batch_size: int = 32,
        tasks: Sequence[int] | None = None,
        purpose: str = "adapt",
    ) -> TaskBatch:
        """``batch_size`` windows [G, B, K, ...] of each of the G ``tasks`` (default: all M), with as many prompts.

        What a task draws does not depend on the others.
        """
        numbers = list(range(len(self)) if tasks is None else tasks)
        found = self.data.batch(numbers, step, seed, batch_size=batch_size, purpose=purpose)
        if self.pool is None:
            return found
        prompt = self.pool.draw(numbers, step, seed, batch_size=batch_size, purpose=f"{purpose} prompt")
        return found._replace(prompt=prompt)

    def transitions(
        self, step: int, seed: int = 0, *, count: int = 64, tasks: Sequence[int] | None = None, purpose: str = "context"
    ) -> Tensor:
        """``count`` steps (s, a, r) of the shots of each of the G ``tasks``, [G, count, S + A + 1].

        States and actions as the policy reads them, rewards as the environment's.
        """
        numbers = list(range(len(self)) if tasks is None else tasks)
        first = self.data.windows.first_row.cpu()
        rows = torch.empty(len(numbers), count, dtype=torch.int64)
        for row, task in zip(rows, numbers):
            draw = generator_for(seed, purpose, task, step)
            torch.randint(int(first[task + 1] - first[task]), (count,), generator=draw, out=row)
            row += first[task]
        return self._transitions(rows)

    def every_transition(self, task: int) -> Tensor:
        """All steps of the shots of ``task``, [n, S + A + 1]."""
        first, last = self.data.windows.first_row[task : task + 2].tolist()
        return self._transitions(torch.arange(first, last))

    def _transitions(self, rows: Tensor) -> Tensor:
        if self._rewards is None:
            every = np.concatenate([one.rewards for one in self.data.trajectories])
            self._rewards = torch.from_numpy(every).to(self.table.mean)
        at, flat = rows.to(self._rewards.device), self.data.windows.flat
        parts = [flat["observations"][at], flat["actions"][at], self._rewards[at].unsqueeze(-1)]
        return torch.cat([part.to(self._rewards.dtype) for part in parts], -1)

    def _check_widths(self, shots: Sequence[Trajectories]) -> None:
        for one in shots:
            if (one.state_dim, one.action_dim) != (self.model.state_dim, self.model.action_dim):
                raise ManyoneError(
                    f"{one.name}: states and actions are {one.state_dim} and {one.action_dim} wide, but the policy "
                    f"reads {self.model.state_dim} and gives {self.model.action_dim}"
                )


def frozen(policy: SavedPolicy) -> DecisionTransformer:
    """The network of ``policy`` without gradients, which must be one that can serve a new task."""
    model = policy.model
    if not isinstance(model, DecisionTransformer):
        raise ManyoneError(f"a {type(model).__name__} reads no prompt: give the policy of a decision transformer")
    if model.id_tokens or model.widths:
        raise ManyoneError("a network with tokens or maps of each task has none for a new task: use recipe prompt-dt")
    if policy.masks is not None:
        raise ManyoneError("a network with a mask of each task has none for a new task: use recipe prompt-dt")
    return model.eval().requires_grad_(False)


def imitation_losses(
    model: DecisionTransformer, weights: Mapping[str, Tensor], batch: TaskBatch, prompt: Mapping[str, Tensor] | None
) -> Tensor:
    """L_DT of each task, [G]: mean over valid steps and dimensions of (a - pi(prompt, history))^2, without dropout.

    ``weights``: parameters by name, shared or with a leading axis of members; ``prompt`` [G, B, K*, ...] stands in the
    place of the batch's own.
    """
    steps = batch.steps
    error = model.run(weights, steps, prompt if model.prompt else None) - steps["actions"]
    valid = steps["valid"]
    return (error.square().sum(-1) * valid).sum((1, 2)) / (valid.sum((1, 2)) * model.action_dim)


def _statistics(known: TaskTable, shots: Trajectories, wanted: Statistics) -> tuple[str, Tensor, Tensor, float]:
    """(origin, mean [S], deviation [S], scale) for the states and returns of a new task."""
    if wanted not in ("auto", "policy", "shots"):
        raise ManyoneError(f"statistics {wanted!r}: must be auto, policy or shots")
    if wanted == "auto" and shots.name in known.names:
        row = known.names.index(shots.name)
        return "its own of the training", known.mean[row], known.deviation[row], float(known.scale[row])
    mean, deviation, shared = _pooled(known)
    if wanted == "policy" or (wanted == "auto" and shared):
        return "the training tasks", mean, deviation, float(known.scale.mean())
    mean, deviation = (torch.from_numpy(value) for value in shots.statistics())
    largest = float(np.abs(shots.returns).max())
    return "the shots", mean, deviation, largest if largest > 0 else 1.0


def unseen_table(known: TaskTable, names: Sequence[str]) -> TaskTable:
    """What a policy is told of tasks ``names`` of which there are no data: the training tasks' statistics and mean
    target, and the prompt of the first of them."""
    mean, deviation, _ = _pooled(known)
    count = len(names)

    def each(value: Tensor) -> Tensor:
        return value.expand(count, *value.shape).clone()

    if known.bounds is not None and not bool((known.bounds == known.bounds[0]).all()):
        raise ManyoneError("the training tasks have different bounds of actions: a task without data has none")
    return TaskTable(
        tuple(names), each(mean), each(deviation), each(known.scale.mean()), each(known.target.mean()),
        None if known.prompt is None else {key: each(value[0]) for key, value in known.prompt.items()},
        None if known.bounds is None else each(known.bounds[0]),
    )  # fmt: skip


def _pooled(known: TaskTable) -> tuple[Tensor, Tensor, bool]:
    """Mean and deviation [S] of the states of all tasks, of equal weight; whether all tasks share them already."""
    if bool((known.mean == known.mean[0]).all() and (known.deviation == known.deviation[0]).all()):
        return known.mean[0], known.deviation[0], True
    mean = known.mean.mean(0)
    # law of total variance
    variance = known.deviation.square().mean(0) + (known.mean - mean).square().mean(0)
    return mean, variance.sqrt(), False
