"""Offline data of many tasks as a policy trains on it: batches, prompts, statistics, targets.

A training window starts at a row drawn uniformly from a task's training rows, that is: an episode in proportion to its
length, then a start uniformly (Chen et al. 2021). States are standardised, returns-to-go divided by a scale; both come
from the data, per task or pooled. A prompt is the tail of a good trajectory without its last step (Xu et al. 2022).
Prompts come from the best tenth of the episodes by return, which no training window touches, with or without a prompt:
methods are compared on equal data. ``legacy_prompt`` is the rule of the HarmoDT program instead. What is drawn depends
on (seed, task, step) alone.

Networks give u in [-1, 1]; the action is a = c + h u, with the centre c and half the width h of the task's bounds.
Public names: :class:`PolicyData`, :class:`TaskBatch`, :class:`TaskTable`, :data:`POOLED`, :func:`label`, :func:`slug`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyone.data.trajectories.trajectories import Trajectories, pooled_statistics
from manyone.data.trajectories.windows import Windows, gather
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

_log = logging.getLogger("manyone")
Steps = dict[str, Tensor]
Bounds = tuple[np.ndarray, np.ndarray]
"""Least and largest action of a task, [A] each."""
Pool = Literal["task", "pooled"]
_LARGEST = float(np.finfo(np.float32).max)
PROMPT_FRACTION = 0.1
"""Share of a task's episodes, the best by return, that prompts are taken from and training leaves out."""
POOLED: dict[str, Any] = {"normalisation": "pooled", "scale": "pooled", "target": "pooled"}
"""What :class:`PolicyData` takes so that neither states nor returns tell the task."""


def label(task: str) -> str:
    """A task's name in metrics and tables: ``door-open-v3`` -> ``door-open``; others as they are."""
    return task.removesuffix("-v3")


def slug(task: str) -> str:
    """A task's name as a file's or folder's: ``gym:Ant-v5?healthy_reward=0`` -> ``gym-Ant-v5-healthy_reward=0``."""
    return re.sub(r"[^\w.,=+-]+", "-", task)


class TaskBatch(NamedTuple):
    """Windows of M tasks (or members x tasks), ready for the network."""

    steps: Steps
    """observations [M, B, K, S], actions [M, B, K, A], returns_to_go, timesteps, valid [M, B, K]"""
    prompt: Steps | None
    """The same with K* steps; None if there are no prompts."""
    tasks: Tensor
    """Task number of each of the M, int64 [M]."""


@dataclass(frozen=True)
class TaskTable:
    """What a policy must know of its tasks at run time: N names, statistics, targets and evaluation prompts."""

    names: tuple[str, ...]
    mean: Tensor
    """Mean of the states, [N, S]."""
    deviation: Tensor
    """Standard deviation of the states, [N, S]; below 1e-3 it counts as 1."""
    scale: Tensor
    """What returns-to-go are divided by, [N]."""
    target: Tensor
    """Return asked for at the start of an episode, in units of reward, [N]."""
    prompt: Steps | None
    """Evaluation prompts, normalised: observations [N, K*, S], ...; None if there are none."""
    bounds: Tensor | None = None
    """Least and largest action, [N, 2, A]; None: -1 and 1 in all tasks."""
    widths: Tensor | None = None
    """States and actions of each task, int64 [N, 2], where these differ: what is beyond them is padding."""

    def index(self, task: str) -> int:
        """Number of the task called ``task``; of a Gymnasium task also without its keyword arguments, if it is one."""
        plain = [name.partition("?")[0] for name in self.names]
        if task not in self.names and plain.count(task) == 1:
            return plain.index(task)
        if task not in self.names:
            raise ManyoneError(f"task {task!r} is unknown to this policy: it has {', '.join(self.names)}")
        return self.names.index(task)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> TaskTable:
        """The same on ``device``; floating-point tensors in ``dtype``."""

        def move(t: Tensor) -> Tensor:
            return t.to(device, dtype if t.is_floating_point() else None)

        prompt = None if self.prompt is None else {k: move(v) for k, v in self.prompt.items()}
        fields: dict[str, Any] = {key: move(value) for key, value in self._each().items()}
        return replace(self, **fields, prompt=prompt)

    def subset(self, tasks: Sequence[int]) -> TaskTable:
        """The rows ``tasks``, in that order."""
        prompt = None if self.prompt is None else {k: v[list(tasks)] for k, v in self.prompt.items()}
        fields = {key: value[list(tasks)] for key, value in self._each().items()}
        return TaskTable(tuple(self.names[i] for i in tasks), **fields, prompt=prompt)

    def with_targets(self, target: Tensor | float) -> TaskTable:
        """The same with other targets ([N], or one for all)."""
        return replace(self, target=torch.as_tensor(target).to(self.target).expand_as(self.target).clone())

    def unit_actions(self, actions: Tensor, tasks: int | Tensor) -> Tensor:
        """Actions [..., A] of ``tasks`` (one, or [...]) as the network gives them: within the bounds, from -1 to 1."""
        if self.bounds is None:
            return actions
        low, high = self.bounds[tasks].unbind(-2)
        half = (high - low) / 2
        return (actions - (low + high) / 2) / torch.where(half > 0, half, 1)

    def own_actions(self, unit: Tensor, tasks: int | Tensor) -> Tensor:
        """The inverse of :meth:`unit_actions`, never beyond the bounds."""
        if self.bounds is None:
            return unit
        low, high = self.bounds[tasks].unbind(-2)
        return ((low + high) / 2 + unit * ((high - low) / 2)).clamp(low, high)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as an artefact keeps them."""
        return self._each() | {f"prompt.{k}": v for k, v in (self.prompt or {}).items()}

    @classmethod
    def from_tensors(cls, names: Sequence[str], tensors: Mapping[str, Tensor]) -> TaskTable:
        """Inverse of :meth:`tensors`."""
        prompt = {k.removeprefix("prompt."): v for k, v in tensors.items() if k.startswith("prompt.")}
        fields: dict[str, Any] = {key: tensors[key] for key in ("mean", "deviation", "scale", "target")}
        more: dict[str, Any] = {key: tensors.get(key) for key in ("bounds", "widths")}
        return cls(tuple(names), **fields, prompt=prompt or None, **more)

    def _each(self) -> dict[str, Tensor]:
        """What has a row a task, but for the prompts."""
        found = {key: getattr(self, key) for key in ("mean", "deviation", "scale", "target", "bounds", "widths")}
        return {key: value for key, value in found.items() if value is not None}


class PolicyData:
    """The data of N tasks. Where their widths differ, S and A are the widest, and narrower tasks end in zeros.

    ``context`` K and ``prompt`` K* in steps (0: no prompts); ``scale``: what returns-to-go are divided by, the largest
    absolute return of the ``"task"``'s or of all data (``"pooled"``), or a number, or one a task; targets are the
    ``target_quantile`` of the returns of each ``"task"`` or of all (``target="pooled"``); ``normalisation`` of states
    likewise, or a mean and deviation [N, S] that are given.
    ``hold_out``: training windows leave out the episodes that prompts are taken from, also where ``prompt`` is 0 (a
    task's only episode is left out for a prompt alone); statistics, scales and targets are of all episodes. With
    ``legacy_prompt`` nothing is left out.

    ``bounds``: least and largest action of each task; the data's own where they are infinite. A task without any, or
    ``bounds=None``, has -1 and 1 if its data keep within them and else its data's own; ``"unit"`` is -1 and 1 whatever
    the data hold. Actions outside their bounds are clipped, with a warning. With pooled ``normalisation`` the bounds
    are pooled too.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectories],
        context: int = 20,
        prompt: int = 0,
        *,
        normalisation: Pool | tuple[Tensor, Tensor] = "task",
        scale: Pool | float | Sequence[float] = "task",
        target: Pool = "task",
        target_quantile: float = 0.9,
        legacy_prompt: bool = False,
        hold_out: bool = True,
        bounds: Sequence[Bounds | None] | Literal["unit"] | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._preparation: dict[str, Any] = {
            "context": context, "prompt": prompt, "normalisation": normalisation, "scale": scale, "target": target,
            "target_quantile": target_quantile, "legacy_prompt": legacy_prompt, "hold_out": hold_out, "device": device,
            "dtype": dtype,
        }  # fmt: skip
        for name, value, least in (("context", context, 1), ("prompt", prompt, 0)):
            if value < least:
                raise ManyoneError(f"{name} = {value}: must be at least {least}")
        if not 0 <= target_quantile <= 1:
            raise ManyoneError(f"target_quantile = {target_quantile}: must be in [0, 1]")
        for name, choice in (("normalisation", normalisation), ("target", target)):
            if not isinstance(choice, tuple) and choice not in ("task", "pooled"):
                raise ManyoneError(f"{name} {choice!r}: must be task or pooled")
        names = [one.name for one in trajectories]
        if len(set(names)) < len(names):
            raise ManyoneError(f"two data sets have the same task name: {', '.join(sorted(names))}")
        self.context, self.prompt_steps = context, prompt
        self.legacy_prompt, self.hold_out = legacy_prompt, hold_out
        self.device, self.dtype = torch.device(device), dtype
        self.trajectories = list(trajectories)
        self.windows = Windows(self.trajectories, context, device)
        self.state_dim = max(one.state_dim for one in self.trajectories)
        self.action_dim = max(one.action_dim for one in self.trajectories)
        self._check_widths(normalisation)
        self.table = self._table(normalisation, scale, target, target_quantile)
        self.windows.normalise(self.table.mean.to(self.device), self.table.deviation.to(self.device))
        if bounds != "unit":
            self._bound(bounds or [None] * len(self), pooled=normalisation == "pooled")
        self._scale = self.table.scale.to(self.device)
        self._split()
        if prompt:
            best = [int(np.argmax(one.returns)) for one in self.trajectories]
            at = self._prompts(torch.arange(len(self)), torch.tensor(best))
            self.table = replace(self.table, prompt={k: v.cpu() for k, v in at.items()})

    def __len__(self) -> int:
        return len(self.trajectories)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.table.names

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """States and actions of each task where these differ; empty where all are alike."""
        return () if self.table.widths is None else tuple((s, a) for s, a in self.table.widths.tolist())

    @property
    def window_steps(self) -> float:
        """Steps of data that a training window holds in the mean over draws and tasks: at most ``context``."""
        return sum(self._steps) / len(self)

    def batch(
        self,
        tasks: Sequence[int] | Tensor,
        step: int,
        seeds: Sequence[int] | int = 0,
        *,
        batch_size: int = 8,
        purpose: str = "train",
    ) -> TaskBatch:
        """``batch_size`` windows of each of the G ``tasks`` for training step ``step``; leading axis seeds x tasks.

        What a seed draws for a task at a step does not depend on the other seeds and tasks, only on ``purpose``.
        """
        numbers = [int(t) for t in tasks]
        seeds = [seeds] if isinstance(seeds, int) else list(seeds)
        draws = torch.empty(2, len(seeds) * len(numbers), batch_size, dtype=torch.int64)
        for row, (seed, task) in enumerate((s, t) for s in seeds for t in numbers):
            draw = generator_for(seed, purpose, task, step)
            torch.randint(self._rows[task], (batch_size,), generator=draw, out=draws[0, row])
            if self.prompt_steps and not self.legacy_prompt:
                torch.randint(self._choices[task], (batch_size,), generator=draw, out=draws[1, row])
        where = torch.tensor(numbers * len(seeds))
        draws[0] += self._first[where].unsqueeze(1)
        if self.legacy_prompt:
            # item j takes the j-th from the end of the ascending order, so item 0 takes the worst
            draws[1] = -torch.arange(batch_size) % torch.tensor(self._choices)[where].unsqueeze(1)
        draws, tasks_here = draws.to(self.device), where.to(self.device)
        place = torch.searchsorted(self._ends, draws[0], right=True)
        rows = draws[0] - self._ends[place] + self._last_rows[place]
        steps = self._cast(self.windows.at(rows), tasks_here.unsqueeze(1))
        prompt = None
        if self.prompt_steps:
            prompt = self._prompts(tasks_here.unsqueeze(1), self._prompt_table[tasks_here.unsqueeze(1), draws[1]])
        return TaskBatch(steps, prompt, where)

    def like(
        self, trajectories: Sequence[Trajectories], bounds: Sequence[Bounds | None] | Literal["unit"] | None = None
    ) -> PolicyData:
        """Data of other tasks, prepared in the same way; they have their own ``bounds``."""
        return PolicyData(trajectories, **self._preparation, bounds=bounds)

    def subset(self, tasks: Sequence[int]) -> PolicyData:
        """The tasks ``tasks`` alone, e.g. for a network of their own; their windows and prompts stay what they are."""
        chosen = object.__new__(PolicyData)
        chosen.__dict__.update(self.__dict__)
        chosen.trajectories = [self.trajectories[i] for i in tasks]
        chosen.table = self.table.subset(tasks)
        chosen._rows, chosen._choices = [self._rows[i] for i in tasks], [self._choices[i] for i in tasks]
        chosen._steps = [self._steps[i] for i in tasks]
        chosen._scale = self._scale[list(tasks)]
        chosen._first = self._first[list(tasks)]
        chosen._prompt_table = self._prompt_table[list(tasks)]
        chosen._numbers = self._numbers[list(tasks)]
        return chosen

    def _table(
        self,
        normalisation: Pool | tuple[Tensor, Tensor],
        scale: Pool | float | Sequence[float],
        target: Pool,
        quantile: float,
    ) -> TaskTable:
        data = self.trajectories
        if isinstance(normalisation, tuple):
            shapes = [list(value.shape) for value in normalisation]
            if shapes != [[len(data), self.state_dim]] * 2:
                raise ManyoneError(
                    f"normalisation of {shapes}: give a mean and deviation {[len(data), self.state_dim]}"
                )
            statistics = [(m.cpu().numpy(), d.cpu().numpy()) for m, d in zip(*normalisation)]
        elif normalisation == "pooled":
            statistics = [pooled_statistics(data)] * len(data)
        else:
            statistics = [one.statistics() for one in data]
        every = np.concatenate([one.returns for one in data])
        largest = [float(np.abs(every if scale == "pooled" else one.returns).max()) for one in data]
        if not isinstance(scale, str):
            largest = [float(scale)] * len(data) if isinstance(scale, (int, float)) else [float(x) for x in scale]
            if len(largest) != len(data) or not min(largest) > 0:
                raise ManyoneError(f"scale = {scale}: must be above 0, one number or one for each of {len(data)} tasks")
        elif scale not in ("task", "pooled"):
            raise ManyoneError(f"scale {scale!r}: must be task, pooled or a number")
        targets = [float(np.quantile(every if target == "pooled" else one.returns, quantile)) for one in data]
        return TaskTable(
            names=tuple(one.name for one in data),
            mean=torch.from_numpy(np.stack([_padded(m, self.state_dim, 0) for m, _ in statistics])),
            deviation=torch.from_numpy(np.stack([_padded(d, self.state_dim, 1) for _, d in statistics])),
            scale=torch.tensor([x if x > 0 else 1.0 for x in largest]),
            target=torch.tensor(targets),
            prompt=None,
            widths=None if len(self._widths) == 1 else torch.tensor([(one.state_dim, one.action_dim) for one in data]),
        )

    def _check_widths(self, normalisation: Pool | tuple[Tensor, Tensor]) -> None:
        self._widths = {(one.state_dim, one.action_dim): one.name for one in reversed(self.trajectories)}
        if len(self._widths) > 1 and normalisation == "pooled":
            found = ", ".join(f"{name} {s} and {a}" for (s, a), name in reversed(self._widths.items()))
            raise ManyoneError(
                f"tasks differ in the widths of their states and actions ({found}), which tells them apart: a policy "
                "that is told no task needs equal ones; use harmodt, mt-dt or another method that is told its task"
            )

    def _bound(self, bounds: Sequence[Bounds | None], *, pooled: bool) -> None:
        """Brings the windows' actions into [-1, 1] and keeps the bounds in the table."""
        if len(bounds) != len(self):
            raise ManyoneError(f"bounds of {len(bounds)} tasks, but there are {len(self)}: give each task its own")
        each = [_bounds(one, own) for one, own in zip(self.trajectories, bounds)]
        found = torch.from_numpy(np.stack([_padded(b, self.action_dim, np.array([[-1], [1]])) for b in each]))
        rows = [slice(*self.windows.first_row[task : task + 2].tolist()) for task in range(len(self))]
        actions = self.windows.flat["actions"]
        for task, (low, high) in enumerate(found.to(actions)):
            actions[rows[task]] = actions[rows[task]].clamp(low, high)
        if pooled:
            found = torch.stack((found[:, 0].amin(0), found[:, 1].amax(0))).expand_as(found).clone()
        if bool((found.abs() == 1).all()):
            return
        self.table = replace(self.table, bounds=found)
        table = self.table.to(self.device)
        for task, own in enumerate(rows):
            actions[own] = table.unit_actions(actions[own], task)

    def _split(self) -> None:
        """Which episodes windows are cut from and which are prompts, as flat tables."""
        ends, last_rows, self._rows, firsts, self._choices, prompts = [], [], [], [], [], []
        self._steps: list[float] = []
        total = 0
        for number, one in enumerate(self.trajectories):
            train = np.arange(one.episodes)
            if self.legacy_prompt:
                held = np.argsort(one.returns, kind="stable")
            elif self.hold_out:
                if self.prompt_steps and one.episodes < 2:
                    raise ManyoneError(
                        f"{one.name}: one episode cannot be prompt and training data: give two or more, or prompt=0"
                    )
                held = one.best(PROMPT_FRACTION)[: one.episodes - 1]
                train = np.setdiff1d(train, held)
            else:
                held = one.best(PROMPT_FRACTION)
            lengths = one.lengths[train]
            short = np.minimum(lengths, self.context)  # so many windows of an episode are cut off by its end
            steps = (lengths - short) * self.context + short * (short + 1) / 2
            self._steps.append(float(steps.sum() / lengths.sum()))
            first = int(self.windows.first_row[number])
            ends.append(total + np.cumsum(lengths))
            last_rows.append(first + one.offsets[train + 1])
            self._rows.append(int(lengths.sum()))
            firsts.append(total)
            total += self._rows[-1]
            self._choices.append(len(held))
            prompts.append(torch.from_numpy(np.ascontiguousarray(held)))
        self._first = torch.tensor(firsts)
        self._ends = torch.from_numpy(np.concatenate(ends)).to(self.device)
        self._last_rows = torch.from_numpy(np.concatenate(last_rows)).to(self.device)
        table = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
        self._prompt_table = table.to(self.device)
        self._numbers = torch.arange(len(self), device=self.device)

    def _prompts(self, tasks: Tensor, episodes: Tensor) -> Steps:
        """Tails of ``episodes`` of ``tasks`` without their last step: steps max(0, T-1-K*) .. T-2."""
        tasks, episodes = torch.broadcast_tensors(tasks.to(self.device), episodes.to(self.device))
        numbers = self._numbers[tasks]
        index = self.windows.first_episode[numbers] + episodes
        low, high = self.windows.offsets[index], self.windows.offsets[index + 1] - 1
        start = torch.maximum(low, high - self.prompt_steps)
        found = gather(self.windows.flat, start, high, self.prompt_steps)
        return self._cast(found, tasks)

    def _cast(self, steps: Steps, tasks: Tensor) -> Steps:
        steps["returns_to_go"] = steps["returns_to_go"] / self._scale[tasks].unsqueeze(-1)
        return {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in steps.items()}


def _bounds(data: Trajectories, given: Bounds | None) -> np.ndarray:
    """Least and largest action of a task, float32 [2, A]; says what is unusual about them."""
    actions = data.actions
    own = np.stack((actions.min(0), actions.max(0)))
    if given is None:
        fits = bool((np.abs(own) <= 1).all())
        given = (np.full(data.action_dim, -1.0 if fits else -np.inf), np.full(data.action_dim, 1.0 if fits else np.inf))
    bounds = np.stack(given).astype(np.float32)
    if bounds.shape != own.shape or not (bounds[0] <= bounds[1]).all():
        raise ManyoneError(f"{data.name}: bounds {bounds.tolist()}: give {data.action_dim} least and largest actions")
    unknown = np.asarray(np.abs(bounds).max(0) > _LARGEST / 2)  # environments write the largest number for infinity
    if unknown.any():
        low, high = own[:, unknown]
        steady = low == high  # any width does
        bounds[:, unknown] = low - steady, high + steady
        _log.warning("%s: %d of %d dimensions of the actions have no known bounds: those of the data are taken (%s)",
                     data.name, unknown.sum(), len(unknown), _shown(bounds[:, unknown]))  # fmt: skip
    slack = 1e-6 * np.abs(bounds).max()  # rounding is no trespass
    outside = ((actions < bounds[0] - slack) | (actions > bounds[1] + slack)).any(1).sum()
    if outside:
        _log.warning("%s: %d of %d actions lie outside their bounds (%s): they are clipped, as environments do",
                     data.name, outside, len(actions), _shown(bounds))  # fmt: skip
    return bounds


def _padded(values: np.ndarray, width: int, filling: Any) -> np.ndarray:
    """``values`` [..., w] with ``filling`` (broadcast) behind them up to [..., width]."""
    more = np.broadcast_to(np.asarray(filling, values.dtype), (*values.shape[:-1], width - values.shape[-1]))
    return np.concatenate((values, more), -1)


def _shown(bounds: np.ndarray) -> str:
    pairs = list(dict.fromkeys(f"{low:g} to {high:g}" for low, high in bounds.T))
    return ", ".join(pairs[:4]) + ", ..." * (len(pairs) > 4)
