"""What policies are trained on and evaluated in: offline data of several tasks, held-out goals of the same tasks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from manyone.data.trajectories import files
from manyone.data.trajectories.offline import OfflineName, parse_offline
from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.progress import Progress
from manyone.envs.single import make
from manyone.envs.single.collect import make_offline
from manyone.errors import ManyoneError
from manyone.policies.held_out import split
from manyone.policies.recipes.options import PolicyOptions

_log = logging.getLogger("manyone")


@dataclass(frozen=True)
class PolicyProblem:
    """Data sets and the environments that they belong to, one a task; a data set is called as its environment."""

    name: str
    data: tuple[Trajectories, ...]
    horizon: int | None = None
    """Steps of an evaluation episode; None: each task's own."""
    held_out: tuple[Trajectories, ...] = ()
    """Without environments: episodes of each task to compare actions with."""

    @property
    def tasks(self) -> list[str]:
        """The environments by name (``manyone.envs.single.make``)."""
        return [one.name for one in self.data]

    @property
    def bounds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Least and largest action of each environment, [A] each; infinite where it has no bound."""
        if self.held_out:
            return [(np.full(one.action_dim, -np.inf), np.full(one.action_dim, np.inf)) for one in self.data]
        return [make.bounds(task) for task in self.tasks]

    @property
    def horizons(self) -> dict[str, int]:
        """Steps of an evaluation episode of each environment."""
        return {one.name: _horizon(one, self.horizon) for one in self.data}

    @property
    def longest(self) -> int:
        """Steps of the longest episode, in the data or in the evaluation."""
        longest = [int(one.lengths.max()) for one in self.data]
        return max(self.horizon or 0, *longest, *(() if self.held_out else self.horizons.values()))

    def references(self, given: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Task -> return of a random and of an expert policy, ``given`` as TASK=RANDOM,EXPERT or known to the data."""
        known = ((one.name, one.meta["reference"]) for one in self.data if "reference" in one.meta)
        found = {name: (float(low), float(high)) for name, (low, high) in known}
        for word in given:
            task, _, pair = word.rpartition("=")
            try:
                random, expert = (float(value) for value in pair.split(","))
            except ValueError:
                raise ManyoneError(f"--reference {word}: give TASK=RANDOM,EXPERT, two returns") from None
            if task not in self.tasks or not random < expert:
                allowed = f"tasks {', '.join(self.tasks)}, and RANDOM below EXPERT"
                raise ManyoneError(f"--reference {word}: needs one of the {allowed}")
            found[task] = random, expert
        return found

    def warn_of_time(self) -> None:
        """Says where an evaluation goes on when the data end, or the environment before it."""
        for one, steps in zip(self.data, self.horizons.values()):
            longest = int(one.lengths.max())
            if self.horizon is not None and steps < self.horizon:
                _log.warning("%s ends its episodes at %d steps, before --horizon %d", one.name, steps, self.horizon)
            if steps > longest:
                _log.warning("%s is evaluated for %d steps, but its data end at %d: sequence models have not learned "
                             "later time steps", one.name, steps, longest)  # fmt: skip


def load_problem(options: PolicyOptions) -> PolicyProblem:
    """The data that ``options`` name, made if need be."""
    wanted = offline_name(options)
    if wanted is None:
        # an earlier version cut the actions of .npz files to -1 and 1 when it read them
        clip = 1.0 if options.action_range == "unit" else None
        problem = from_places(options.data, horizon=options.horizon, clip=clip, simulator=options.simulator)
        if options.simulator:
            problem.warn_of_time()
            return problem
        parts = [split(one, options.data_seed) for one in problem.data]
        return replace(problem, data=tuple(own for own, _ in parts), held_out=tuple(held for _, held in parts))
    return from_suite(wanted, horizon=options.horizon, workers=options.workers)


def offline_name(options: PolicyOptions) -> OfflineName | None:
    """The made data that ``options`` name; None for own data. Expert episodes have a size of their own."""
    if options.suite is None:
        return None
    name = f"{options.suite}-{options.quality}"
    if options.quality == "expert":
        return parse_offline(name)
    return parse_offline(name, episodes=options.episodes, steps=options.horizon, seed=options.data_seed)


def from_suite(wanted: OfflineName, *, horizon: int | None = None, workers: int | None = None) -> PolicyProblem:
    """The made data ``wanted`` from the cache; what is missing is made first, with progress on stderr."""
    if wanted.made():
        data = make_offline(str(wanted), seed=wanted.seed)
    else:
        with Progress(f"making {wanted}") as bar:
            data = make_offline(str(wanted), seed=wanted.seed, workers=workers, progress=bar.update)
    return _problem(str(wanted), data, horizon)


def from_places(
    pairs: Sequence[str], *, horizon: int | None = None, clip: float | None = None, simulator: bool = True
) -> PolicyProblem:
    """Own data, each as TASK=PLACE: a Minari id, a D4RL HDF5 file or a folder of per-episode .npz files.

    ``clip`` cuts the actions of .npz files to [-clip, clip]. Without ``simulator`` TASK is any name.
    """
    return _problem("own data", [_from_place(pair, clip, simulator) for pair in pairs], horizon)


def _from_place(pair: str, clip: float | None, simulator: bool) -> Trajectories:
    task, equals, place = pair.partition("=")
    if not equals or not place:
        raise ManyoneError(f"--data {pair}: give TASK=PLACE, e.g. door-open-v3=data/door-open")
    if simulator:
        task = _environment(pair, task)
    path = Path(place)
    found = files.from_folder(path, clip=clip) if path.exists() else files.from_minari(place)
    states, actions, _ = make.spaces(task) if simulator else (found.state_dim, found.action_dim, 0)
    if (found.state_dim, found.action_dim) != (states, actions):
        raise ManyoneError(
            f"--data {pair}: the data have states and actions of width {found.state_dim} and {found.action_dim}, "
            f"but {task} has {states} and {actions}"
        )
    return replace(found, name=task)


def _environment(pair: str, task: str) -> str:
    """The full name of the environment ``task``, which must be there."""
    try:
        (name,) = make.suite_tasks(task)[:1]
        make.spaces(name)
    except ManyoneError as problem:
        raise ManyoneError(f"--data {pair}: {problem}; --no-simulator trains on data alone") from None
    return name


def _problem(name: str, data: Sequence[Trajectories], horizon: int | None) -> PolicyProblem:
    return PolicyProblem(name, tuple(data), horizon)


def _horizon(data: Trajectories, asked: int | None) -> int:
    """The steps ``asked`` for, else those of the longest episode, or the environment's where that one has ended."""
    limit, longest = make.limit(data.name), int(data.lengths.max())
    if asked is None and (limit is None or not data.terminated[data.lengths == longest].all()):
        asked = longest
    return min(asked or 10**9, limit or 10**9)
