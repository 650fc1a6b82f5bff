"""What policies are trained on and evaluated in: offline data of several tasks, held-out goals of the same tasks."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from manyone.data.trajectories import files
from manyone.data.trajectories.minari import minari_folder
from manyone.data.trajectories.offline import OfflineName, parse_offline
from manyone.data.trajectories.references import known_reference
from manyone.data.trajectories.trajectories import Trajectories, join
from manyone.engine.inputs import digest
from manyone.engine.progress import Progress
from manyone.envs.single import make
from manyone.envs.single.collect import make_offline
from manyone.errors import ManyoneError
from manyone.policies.held_out import split
from manyone.policies.recipes.options import PolicyOptions

_log = logging.getLogger("manyone")
# TASK=PLACE; a Gymnasium task has keyword arguments behind a question mark, NAME=VALUE&..., and PLACE may have an = too
_PAIR = re.compile(r"(?P<task>[^?=]*(\?[^=&]+=[^=&]*(&[^=&]+=[^=&]*)*)?)=(?P<place>.+)")
_ARRAYS = ("observations", "actions", "rewards", "offsets", "terminated", "final_observations", "successes", "goals")


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
        known = ((one.name, one.meta.get("reference") or known_reference(one.name)) for one in self.data)
        found = {name: (float(pair[0]), float(pair[1])) for name, pair in known if pair}
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
                _log.warning("%s is evaluated for %d steps, but its data end at %d: none of them shows what comes "
                             "later", one.name, steps, longest)  # fmt: skip

    def digests(self) -> dict[str, str]:
        """What the data held, by content."""
        parts = {f"--data {one.name}": one for one in self.data}
        parts |= {f"--data {one.name}, left out": one for one in self.held_out}
        return {label: digest(*(getattr(one, key) for key in _ARRAYS)) for label, one in parts.items()}


def load_problem(options: PolicyOptions) -> PolicyProblem:
    """The data that ``options`` name, made if need be."""
    wanted = offline_name(options)
    if wanted is None:
        keys = [key for word in options.keys for key in word.split(",") if key]
        problem = from_places(
            options.data,
            horizon=options.horizon,
            keys=keys,
            data_horizon=options.data_horizon,
            data_choices=options.data_choices,
            # an earlier version cut the actions of .npz files to -1 and 1 when it read them
            clip=1.0 if options.action_range == "unit" else None,
            simulator=options.simulator,
        )
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
    pairs: Sequence[str],
    *,
    horizon: int | None = None,
    keys: Sequence[str] = (),
    data_horizon: int | None = None,
    data_choices: int | None = None,
    clip: float | None = None,
    simulator: bool = True,
) -> PolicyProblem:
    """Own data, each as TASK=PLACE: a Minari id, a D4RL HDF5 file or a folder of per-episode .npz files.

    TASK may be left out where the data name their environment. Data of one task, TASK=A TASK=B or TASK=A,B, are joined.
    ``keys`` are the entries of dictionary observations (for a task that names none), ``data_horizon`` the steps after
    which the episodes of an HDF5 file without timeouts were cut, ``data_choices`` the number of discrete actions in
    HDF5 and .npz files (default: as the environment has them). ``clip`` cuts the actions of .npz files to
    [-clip, clip]. Without ``simulator`` TASK is any name.
    """
    found: dict[str, list[Trajectories]] = {}
    for pair in pairs:
        one = _from_place(pair, keys, data_horizon, data_choices, clip, simulator)
        found.setdefault(one.name, []).append(one)
    data = [parts[0] if len(parts) == 1 else join(parts) for parts in found.values()]
    return _problem("own data", data, horizon)


def _from_place(
    pair: str,
    keys: Sequence[str],
    data_horizon: int | None,
    choices: int | None,
    clip: float | None,
    simulator: bool,
) -> Trajectories:
    match = None if Path(pair).exists() else _PAIR.fullmatch(pair)
    task, place = (match["task"], match["place"]) if match else ("", pair)
    if not task and not match and not Path(place).exists() and minari_folder(place) is None and "," not in place:
        raise ManyoneError(
            f"--data {pair}: no such file, folder or Minari data set here (minari download ID fetches one of Minari's)"
            "; give TASK=PLACE, e.g. door-open-v3=data/door-open"
        )
    if task and simulator:
        task = _environment(pair, task, keys)
    if task and simulator and choices is None:
        choices = make.choices(task) or None
    own = make.gym_parts(task)[1] if task.startswith("gym:") else ()
    found = files.from_place(place, keys=own or keys, horizon=data_horizon, clip=clip, choices=choices)
    if not task and not simulator:
        raise ManyoneError(f"--data {pair}: give TASK=PLACE; without a simulator TASK is any name")
    if not simulator and found.meta.get("keys") and "?" not in task:
        task += make.gym_task("", found.meta["keys"]).removeprefix("gym:")
    if not task:
        task = make.with_keys(_recorded(found, place), found.meta.get("keys", keys))
    states, actions, _ = make.spaces(task) if simulator else (found.state_dim, found.action_dim, 0)
    if (found.state_dim, found.action_dim) != (states, actions):
        raise ManyoneError(
            f"--data {pair}: the data have states and actions of width {found.state_dim} and {found.action_dim}, "
            f"but {task} has {states} and {actions}"
        )
    if simulator and found.choices != make.choices(task):
        has = [f"{n} discrete actions" if n else "real-valued actions" for n in (found.choices, make.choices(task))]
        raise ManyoneError(f"--data {pair}: the data have {has[0]}, but {task} has {has[1]}")
    return replace(found, name=task)


def _environment(pair: str, task: str, keys: Sequence[str]) -> str:
    """The full name of the environment ``task``, which must be there."""
    try:
        name = make.with_keys(make.suite_tasks(task)[0], keys)
        make.spaces(name)
    except ManyoneError as problem:
        raise ManyoneError(f"--data {pair}: {problem}; --no-simulator trains on data alone") from None
    return name


def _recorded(data: Trajectories, place: str) -> str:
    """The environment that the data themselves name."""
    if "environment" in data.meta:
        return make.recorded_task(data.meta["environment"], place)
    task = make.named_task(data.name, place)
    if task is None:
        raise ManyoneError(f"--data {place}: the data do not name their environment: give TASK={place}")
    return task


def _problem(name: str, data: Sequence[Trajectories], horizon: int | None) -> PolicyProblem:
    return PolicyProblem(name, tuple(data), horizon)


def _horizon(data: Trajectories, asked: int | None) -> int:
    """The steps ``asked`` for, else those of the longest episode, or the environment's where that one has ended."""
    limit, longest = make.limit(data.name), int(data.lengths.max())
    if asked is None and (limit is None or not data.terminated[data.lengths == longest].all()):
        asked = longest
    return min(asked or 10**9, limit or 10**9)
