"""What policies are trained on and evaluated in: offline data of several tasks, held-out goals of the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyone.engine.progress import Progress
from manyone.errors import ManyoneError

if TYPE_CHECKING:
    from manyone.data.trajectories.trajectories import Trajectories


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
    def longest(self) -> int:
        """Steps of the longest episode, in the data or in the evaluation."""
        return max(self.horizon, *(int(one.lengths.max()) for one in self.data))


def label(task: str) -> str:
    """A task's name in metrics and tables: ``door-open-v3`` -> ``door-open``; others as they are."""
    return task.removesuffix("-v3")


def from_suite(
    suite: str,
    quality: str,
    *,
    episodes: int | None = None,
    horizon: int | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> PolicyProblem:
    """The made data of ``suite`` from the cache; what is missing is made first, with progress on stderr."""
    from manyone.data.trajectories.offline import parse_offline
    from manyone.envs.single.collect import make_offline

    name, size = made_size(suite, quality, episodes, horizon, seed)
    wanted = parse_offline(name, **size)
    if wanted.made():
        data = make_offline(name, **size)
    else:
        with Progress(f"making {wanted}") as bar:
            data = make_offline(name, **size, workers=workers, progress=bar.update)
    longest = max(int(one.lengths.max()) for one in data)
    return PolicyProblem(str(wanted), tuple(data), horizon or longest)


def made_size(
    suite: str, quality: str, episodes: int | None, horizon: int | None, seed: int
) -> tuple[str, dict[str, Any]]:
    """Name and size of made data as ``trajectories.offline`` takes them; expert episodes have a size of their own."""
    name = f"{suite}-{quality}"
    if quality == "expert":
        return name, {}
    return name, {"episodes": episodes, "steps": horizon, "seed": seed}


def from_places(pairs: Sequence[str], *, horizon: int | None = None) -> PolicyProblem:
    """Own data, each as TASK=PLACE: a Minari id, a D4RL HDF5 file or a folder of per-episode .npz files."""
    from manyone.data.trajectories import files
    from manyone.envs.single import make as build

    data = []
    for pair in pairs:
        task, equals, place = pair.partition("=")
        if not equals or not place:
            raise ManyoneError(f"--data {pair}: give TASK=PLACE, e.g. door-open-v3=data/door-open")
        (task,) = build.suite_tasks(task)[:1]
        path = Path(place)
        found = files.from_folder(path) if path.exists() else files.from_minari(place)
        states, actions, _ = build.spaces(task)
        if (found.state_dim, found.action_dim) != (states, actions):
            raise ManyoneError(
                f"--data {pair}: the data have states and actions of width {found.state_dim} and {found.action_dim}, "
                f"but {task} has {states} and {actions}"
            )
        data.append(replace(found, name=task))
    longest = max(int(one.lengths.max()) for one in data)
    return PolicyProblem("own data", tuple(data), horizon or longest)
