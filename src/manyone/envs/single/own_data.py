"""People's own trajectories with the environments that they belong to, as command lines name them: TASK=PLACE.

Public names: :func:`from_places`, :func:`horizon`, :func:`references`, :func:`given_references`, :func:`digests`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from manyone.data.trajectories import files
from manyone.data.trajectories.minari import minari_folder
from manyone.data.trajectories.references import known_reference
from manyone.data.trajectories.trajectories import Trajectories, join
from manyone.engine.inputs import digest
from manyone.envs.single import make
from manyone.errors import ManyoneError

# TASK=PLACE; a Gymnasium task has keyword arguments behind a question mark, NAME=VALUE&..., and PLACE may have an = too
_PAIR = re.compile(r"(?P<task>[^?=]*(\?[^=&]+=[^=&]*(&[^=&]+=[^=&]*)*)?)=(?P<place>.+)")

_ARRAYS = ("observations", "actions", "rewards", "offsets", "terminated", "final_observations", "successes", "goals")


def from_places(
    pairs: Sequence[str],
    *,
    keys: Sequence[str] = (),
    data_horizon: int | None = None,
    data_choices: int | None = None,
    clip: float | None = None,
    simulator: bool = True,
    option: str = "--data",
) -> list[Trajectories]:
    """Own data, each as TASK=PLACE: a Minari id, a D4RL HDF5 file, a folder of .npz episodes, Prompt-DT's .pkl file.

    TASK may be left out where the data name their environment. Data of one task, TASK=A TASK=B or TASK=A,B, are joined.
    ``keys`` are the entries of dictionary observations (for a task that names none), ``data_horizon`` the steps after
    which the episodes of an HDF5 file without timeouts were cut, ``data_choices`` the number of discrete actions in
    HDF5 and .npz files (default: as the environment has them). ``clip`` cuts the actions of .npz files to
    [-clip, clip]. Without ``simulator`` TASK is any name. ``option`` is what messages call the pairs' option.
    """
    found: dict[str, list[Trajectories]] = {}
    for pair in pairs:
        one = _from_place(pair, keys, data_horizon, data_choices, clip, simulator, option)
        found.setdefault(one.name, []).append(one)
    if keys and not any("?" in name or part.meta.get("keys") for name, parts in found.items() for part in parts):
        raise ManyoneError(f"--keys {','.join(keys)}: none of the data has observations with entries: leave it out")
    return [parts[0] if len(parts) == 1 else join(parts) for parts in found.values()]


def _from_place(
    pair: str,
    keys: Sequence[str],
    data_horizon: int | None,
    choices: int | None,
    clip: float | None,
    simulator: bool,
    option: str,
) -> Trajectories:
    match = None if Path(pair).exists() else _PAIR.fullmatch(pair)
    task, place = (match["task"], match["place"]) if match else ("", pair)
    if not task and not match and not Path(place).exists() and minari_folder(place) is None and "," not in place:
        raise ManyoneError(
            f"{option} {pair}: no such file, folder or Minari data set here (minari download ID fetches one of "
            "Minari's); give TASK=PLACE, e.g. door-open-v3=data/door-open"
        )
    if task and simulator:
        task = _environment(f"{option} {pair}", task, keys)
    if task and simulator and choices is None:
        choices = make.choices(task) or None
    own = make.gym_parts(task)[1] if task.startswith("gym:") else ()
    found = files.from_place(place, keys=own or keys, horizon=data_horizon, clip=clip, choices=choices)
    if not task and not simulator:
        raise ManyoneError(f"{option} {pair}: give TASK=PLACE; without a simulator TASK is any name")
    if not simulator and found.meta.get("keys") and "?" not in task:
        task += make.gym_task("", found.meta["keys"]).removeprefix("gym:")
    if not task:
        task = make.with_keys(_recorded(found, place, option), found.meta.get("keys", keys))
    states, actions, _ = make.spaces(task) if simulator else (found.state_dim, found.action_dim, 0)
    if (found.state_dim, found.action_dim) != (states, actions):
        raise ManyoneError(
            f"{option} {pair}: the data have states and actions of width {found.state_dim} and {found.action_dim}, "
            f"but {task} has {states} and {actions}"
        )
    if simulator and found.choices != make.choices(task):
        has = [f"{n} discrete actions" if n else "real-valued actions" for n in (found.choices, make.choices(task))]
        raise ManyoneError(f"{option} {pair}: the data have {has[0]}, but {task} has {has[1]}")
    return replace(found, name=task)


def _environment(origin: str, task: str, keys: Sequence[str]) -> str:
    """The full name of the environment ``task``, which must be there."""
    try:
        name = make.with_keys(make.suite_tasks(task)[0], keys)
        make.spaces(name)
    except ManyoneError as problem:
        raise ManyoneError(f"{origin}: {problem}; --no-simulator trains on data alone") from None
    return name


def _recorded(data: Trajectories, place: str, option: str) -> str:
    """The environment that the data themselves name."""
    if "environment" in data.meta:
        return make.recorded_task(data.meta["environment"], place)
    task = make.named_task(data.name, place)
    if task is None:
        raise ManyoneError(f"{option} {place}: the data do not name their environment: give TASK={place}")
    return task


def horizon(data: Trajectories, asked: int | None = None) -> int:
    """Steps of an evaluation episode: those ``asked`` for, else those of the longest episode in the data.

    Where that one ended by itself: as long as the environment allows.
    """
    limit, longest = make.limit(data.name), int(data.lengths.max())
    if asked is None and (limit is None or not data.terminated[data.lengths == longest].all()):
        asked = longest
    return min(asked or 10**9, limit or 10**9)


def references(data: Sequence[Trajectories], given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Task -> return of a random and of an expert policy, ``given`` as TASK=RANDOM,EXPERT or known to the data."""
    known = ((one.name, one.meta.get("reference") or known_reference(one.name)) for one in data)
    found = {name: (float(pair[0]), float(pair[1])) for name, pair in known if pair}
    return found | given_references([one.name for one in data], given)


def given_references(tasks: Sequence[str], given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Task -> returns of a random and an expert policy, ``given`` as TASK=RANDOM,EXPERT for some of ``tasks``."""
    found = {}
    for word in given:
        task, _, pair = word.rpartition("=")
        task = make.BODIES.get(task, task)
        try:
            random, expert = (float(value) for value in pair.split(","))
        except ValueError:
            raise ManyoneError(f"--reference {word}: give TASK=RANDOM,EXPERT, two returns") from None
        if task not in tasks or not -math.inf < random < expert < math.inf:
            allowed = f"tasks {', '.join(tasks)}, and RANDOM below EXPERT, both finite"
            raise ManyoneError(f"--reference {word}: needs one of the {allowed}")
        found[task] = random, expert
    return found


def digests(data: Sequence[Trajectories]) -> dict[str, str]:
    """What ``data`` hold, by content, as :func:`manyone.engine.inputs.check_inputs` compares it."""
    return {f"--data {one.name}": digest(*(getattr(one, key) for key in _ARRAYS)) for one in data}
