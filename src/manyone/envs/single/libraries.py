"""Which optional libraries tasks and data of one's own need, by their names: looked for before anything is made.

Public names: :func:`of_suite`, :func:`of_places`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from manyone.data.trajectories.offline import OfflineName
from manyone.engine.extras import Extra
from manyone.envs.single import make
from manyone.errors import ManyoneError

_ON_DATA_ALONE = "--no-simulator trains on data alone"
_HDF5 = (".hdf5", ".h5")
_BY_KIND = {
    "metaworld": ("gymnasium", "mujoco", "metaworld"),
    "ml1": ("gymnasium", "mujoco", "metaworld"),
    "locomotion": ("gymnasium", "mujoco"),
}


def of_suite(wanted: OfflineName, extra: str) -> tuple[Extra, ...]:
    """What plays a suite and makes its data, which are kept as Minari data sets too; ``extra`` brings it."""
    names = [*_libraries(wanted.suite), *([] if wanted.made() else ["minari"])]
    return tuple(Extra(name, wanted.suite, extra) for name in names)


def of_places(pairs: Sequence[str], extra: str, *, simulator: bool = True) -> tuple[Extra, ...]:
    """What reads data of one's own, each as TASK=PLACE or PLACE, and plays their tasks."""
    return tuple(dict.fromkeys(one for pair in pairs for one in _of_place(pair, extra, simulator)))


def _of_place(pair: str, extra: str, simulator: bool) -> Iterator[Extra]:
    task, _, places = ("", "", pair) if Path(pair).exists() else pair.rpartition("=")
    if simulator:
        yield from (Extra(name, pair, extra, _ON_DATA_ALONE) for name in _libraries(task))
    for path in map(Path, places.split(",")):
        if path.suffix in _HDF5:
            yield Extra("h5py", pair, extra)
        elif (path / "data" / "metadata.json").is_file() or not (path.exists() or path.suffix):  # a folder, or an id
            yield Extra("minari", pair, extra)


def _libraries(task: str) -> tuple[str, ...]:
    """What ``task``, a suite, or the task that data name themselves (""), is played in."""
    try:
        tasks = make.suite_tasks(task) if task else []
        kinds = {make.kind(one) for one in tasks}
    except ManyoneError:  # no task of ours: that is said where it is made
        return ("gymnasium",)
    found = dict.fromkeys(name for one in kinds for name in _BY_KIND.get(one, ("gymnasium",)))
    ours = {*make.BODIES.values(), *make.LINEAR_BODIES.values()} & set(tasks)
    return tuple(found or ("gymnasium",)) + (("mujoco",) if ours else ())
