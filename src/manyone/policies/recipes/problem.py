"""What policies are trained on and evaluated in: offline data of several tasks, held-out goals of the same tasks."""

from __future__ import annotations

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
from manyone.policies.recipes.options import PolicyOptions


@dataclass(frozen=True)
class PolicyProblem:
    """Data sets and the environments that they belong to, one a task; a data set is called as its environment."""

    name: str
    data: tuple[Trajectories, ...]
    horizon: int
    """Steps of an evaluation episode."""

    @property
    def tasks(self) -> list[str]:
        """The environments by name (``manyone.envs.single.make``)."""
        return [one.name for one in self.data]

    @property
    def bounds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Least and largest action of each environment, [A] each; infinite where it has no bound."""
        return [make.bounds(task) for task in self.tasks]

    @property
    def longest(self) -> int:
        """Steps of the longest episode, in the data or in the evaluation."""
        return max(self.horizon, *(int(one.lengths.max()) for one in self.data))


def load_problem(options: PolicyOptions) -> PolicyProblem:
    """The data that ``options`` name, made if need be."""
    wanted = offline_name(options)
    if wanted is None:
        # an earlier version cut the actions of .npz files to -1 and 1 when it read them
        clip = 1.0 if options.action_range == "unit" else None
        return from_places(options.data, horizon=options.horizon, clip=clip)
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


def from_places(pairs: Sequence[str], *, horizon: int | None = None, clip: float | None = None) -> PolicyProblem:
    """Own data, each as TASK=PLACE: a Minari id, a D4RL HDF5 file or a folder of per-episode .npz files.

    ``clip`` cuts the actions of .npz files to [-clip, clip].
    """
    return _problem("own data", [_from_place(pair, clip) for pair in pairs], horizon)


def _from_place(pair: str, clip: float | None) -> Trajectories:
    task, equals, place = pair.partition("=")
    if not equals or not place:
        raise ManyoneError(f"--data {pair}: give TASK=PLACE, e.g. door-open-v3=data/door-open")
    (task,) = make.suite_tasks(task)[:1]
    path = Path(place)
    found = files.from_folder(path, clip=clip) if path.exists() else files.from_minari(place)
    states, actions, _ = make.spaces(task)
    if (found.state_dim, found.action_dim) != (states, actions):
        raise ManyoneError(
            f"--data {pair}: the data have states and actions of width {found.state_dim} and {found.action_dim}, "
            f"but {task} has {states} and {actions}"
        )
    return replace(found, name=task)


def _problem(name: str, data: Sequence[Trajectories], horizon: int | None) -> PolicyProblem:
    return PolicyProblem(name, tuple(data), horizon or max(int(one.lengths.max()) for one in data))
