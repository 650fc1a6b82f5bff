"""What policies are trained on and evaluated in: offline data of several tasks, and held-out goals of the same tasks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyone.errors import ManyoneError

if TYPE_CHECKING:
    from manyone.data.trajectories import Trajectories


@dataclass(frozen=True)
class PolicyProblem:
    """Data sets and the environments that they belong to, one a task, in the same order."""

    name: str
    tasks: tuple[str, ...]
    """Environments by name (``manyone.envs.build``)."""
    data: tuple[Trajectories, ...]
    horizon: int
    """Steps of an evaluation episode."""

    @property
    def labels(self) -> list[str]:
        """What the tasks are called in metrics: the environments' names, without Meta-World's version."""
        return [label(t) for t in self.tasks]


def label(task: str) -> str:
    """``door-open-v3`` -> ``door-open``; other names as they are."""
    return task.removesuffix("-v3")


def from_suite(
    suite: str, quality: str, *, episodes: int | None, horizon: int | None, seed: int = 0, workers: int | None = None
) -> PolicyProblem:
    """The made data of ``suite`` from the cache; what is missing is made first, with progress on stderr."""
    from manyone.data.offline import load_offline
    from manyone.envs import build

    tasks = build.suite_tasks(suite)
    data = load_offline(f"{suite}-{quality}", episodes=episodes, seed=seed)
    return PolicyProblem(f"{suite}-{quality}", tuple(tasks), tuple(data), horizon or build.spaces(tasks[0])[2])


def from_places(pairs: Sequence[str], *, horizon: int | None) -> PolicyProblem:
    """Own data, each as TASK=PLACE: a Minari id, a D4RL HDF5 file or a folder of per-episode .npz files."""
    from manyone.data import trajectory_files
    from manyone.envs import build

    tasks, data = [], []
    for pair in pairs:
        task, equals, place = pair.partition("=")
        if not equals or not place:
            raise ManyoneError(f"--data {pair}: give TASK=PLACE, e.g. door-open-v3=data/door-open")
        tasks.append(build.suite_tasks(task)[0])
        data.append(_read(trajectory_files, place))
    return PolicyProblem("own data", tuple(tasks), tuple(data), horizon or build.spaces(tasks[0])[2])


def _read(files: Any, place: str) -> Trajectories:
    path = Path(place)
    if path.suffix in (".hdf5", ".h5"):
        return files.from_d4rl_hdf5(path)
    if path.is_dir():
        return files.from_npz_folder(path)
    return files.from_minari(place)
