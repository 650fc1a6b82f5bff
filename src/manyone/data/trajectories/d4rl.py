"""D4RL's flat HDF5 files, and those of d3rlpy and others alike: one row a step, flags where episodes end.

Public names: ``from_d4rl_hdf5``, ``joined``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from manyone.data.trajectories.hdf5 import DAMAGED, open_hdf5
from manyone.data.trajectories.observations import check_numbers, one_hot
from manyone.data.trajectories.references import known_reference
from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError

_PIECE = 1 << 14  # rows read at a time
_OBSERVATIONS, _NEXT = ("observations", "obs"), ("next_observations", "next_obs")
_TERMINALS = ("terminals", "terminations")
_ENDS = ("timeouts", "truncations", "episode_terminals", "dones")  # ends of any kind, and those by time


def from_d4rl_hdf5(
    path: Path | str, name: str | None = None, *, horizon: int | None = None, choices: int | None = None
) -> Trajectories:
    """D4RL's flat HDF5: observations [n, S], actions [n, A], rewards [n], terminals [n] and timeouts [n].

    An episode ends at a terminal or a timeout (by any of their names: terminations, truncations, d3rlpy's
    episode_terminals, dones), after ``horizon`` steps, and where a row's next_observations are not the observations of
    the row that follows: there the file's writer left rows out. ``meta["cuts"]`` counts those. A file without any
    record of ends by time needs ``horizon``, the steps after which episodes were cut, unless next_observations or a
    terminal last row show where they end. Rows after the last end belong to an episode that the file cuts in two; they
    are left out, and counted in ``meta["dropped_steps"]``. The final state is known where the file has
    next_observations. What was done is in words in ``meta["notes"]``. Discrete actions (whole numbers [n]) need
    ``choices``, their number. ``meta["reference"]`` is known by the file's name where it is one of D4RL's.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        try:
            return _read(path, name or path.stem, file, horizon, choices)
        except DAMAGED as problem:
            raise ManyoneError(f"{path}: not a readable HDF5 file ({problem}); fetch it again") from None
        except MemoryError as problem:
            raise ManyoneError(f"{path}: too large for this machine's memory ({problem})") from None


def joined(observations: np.ndarray, following: Any, origin: str) -> np.ndarray:
    """Whether row t of ``following`` [n, S] is row t+1 of ``observations`` [n, S], up to rounding; bool [n-1].

    ``following`` may be an open data set: it is read in pieces. Non-finite entries raise :class:`ManyoneError`.
    """
    found = np.empty(len(observations) - 1, dtype=bool)
    for start in range(0, len(observations), _PIECE):
        part = np.asarray(following[start : start + _PIECE], dtype=np.float32)
        finite = np.isfinite(part).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ManyoneError(f"{origin}: row {row}: next_observations are not finite; remove or mend the episode")
        after = observations[start + 1 : start + _PIECE + 1]
        found[start : start + len(after)] = np.isclose(part[: len(after)], after, rtol=1e-5, atol=1e-6).all(axis=1)
    return found


def _read(path: Path, name: str, file: Any, horizon: int | None, choices: int | None) -> Trajectories:
    sets = {key: _find(file, names, path) for key, names in (
        ("observations", _OBSERVATIONS), ("actions", ("actions",)), ("rewards", ("rewards",)),
        ("terminals", _TERMINALS), ("next_observations", _NEXT))}  # fmt: skip
    ends = [one for key in _ENDS if (one := _find(file, (key,), path)) is not None]
    lacking = [key for key in ("observations", "actions", "rewards") if sets[key] is None]
    if sets["terminals"] is None and not ends:
        lacking.append("terminals")
    if lacking:
        raise ManyoneError(
            f"{path}: has no {' and no '.join(lacking)} (it has {', '.join(sorted(file)[:9]) or 'nothing'}); expected "
            "the keys of D4RL: observations, actions, rewards, terminals and timeouts"
        )
    steps = len(sets["rewards"])
    if not steps:
        raise ManyoneError(f"{path}: holds no steps; give a file with episodes")
    for key, one in (*sets.items(), *zip((e.name for e in ends), ends, strict=True)):
        if one is not None and len(one) != steps:
            raise ManyoneError(f"{path}: {len(one)} {key.strip('/')} for {steps} rewards; the file is inconsistent")
    check_numbers(sets["observations"], sets["actions"], str(path), choices)
    terminal = np.zeros(steps, bool) if sets["terminals"] is None else _flags(sets["terminals"])
    ended = np.logical_or.reduce([terminal, *map(_flags, ends)])
    observations, notes = _floats(sets["observations"], path), []
    cuts, following = 0, sets["next_observations"]
    if following is not None and steps and observations.ndim == 2:
        if following.shape != observations.shape:
            shapes = f"{following.shape} and {observations.shape}"
            raise ManyoneError(f"{path}: next_observations and observations have shapes {shapes}; they must be equal")
        apart = ~joined(observations, following, str(path)) & ~ended[:-1]
        cuts = int(apart.sum())
        if cuts > steps / 2 and cuts == int((~ended[:-1]).sum()):
            raise ManyoneError(
                f"{path}: no row's next_observations are the observations of the row that follows: these are single "
                "transitions, not episodes; policies need rows in order of time (if they are, remove next_observations)"
            )
        if cuts:
            notes.append(f"{cuts} episode cuts where next_observations do not join the next row")
        ended[:-1] |= apart
    if not ends and following is None and horizon is None:
        if not (steps and terminal[-1]):
            raise ManyoneError(
                f"{path}: has no timeouts; give horizon (--data-horizon), the number of steps after which its episodes "
                "were cut"
            )
        notes.append("no timeouts: every episode is taken to end at a terminal")
    offsets = np.concatenate([[0], _cut(np.flatnonzero(ended) + 1, steps, horizon)])
    if len(offsets) == 1:
        raise ManyoneError(
            f"{path}: no episode ends (no terminal, no timeout) in {steps} steps; give horizon (--data-horizon)"
        )
    kept, last = int(offsets[-1]), offsets[1:] - 1
    if kept < steps:
        notes.append(f"{steps - kept} steps after the last end of an episode left out")
    meta: dict[str, Any] = {"source": "D4RL HDF5", "dropped_steps": steps - kept, "cuts": cuts, "notes": notes}
    actions = _floats(sets["actions"], path)
    if choices is not None:
        actions, meta["choices"] = one_hot(actions, choices, str(path)), choices
    if returns := known_reference(name) or known_reference(path.name):
        meta["reference"] = list(returns)
    try:
        return Trajectories(
            name=name,
            observations=observations[:kept],
            actions=actions[:kept],
            rewards=_floats(sets["rewards"], path).reshape(-1)[:kept],
            offsets=offsets,
            terminated=terminal[last],
            final_observations=None if following is None else _rows(following, last),
            meta=meta,
        )
    except ManyoneError as problem:
        raise ManyoneError(str(problem).replace(f"{name}:", f"{path}:", 1)) from None


def _find(file: Any, names: tuple[str, ...], path: Path) -> Any:
    """The data set under the first of ``names`` that is there; None if none is."""
    found = next((file[name] for name in names if name in file), None)
    if found is not None and not hasattr(found, "dtype"):
        has = ", ".join(found)
        raise ManyoneError(f"{path}: {names[0]} is a group with {has}; expected one array [steps, width]")
    return found


def _floats(dataset: Any, path: Path) -> np.ndarray:
    """The whole data set as float32, without a copy in its own type."""
    if dataset.dtype.kind not in "fiub":
        raise ManyoneError(f"{path}: {dataset.name.strip('/')} hold {dataset.dtype}; expected numbers")
    return np.asarray(dataset.astype(np.float32)[()])


def _rows(dataset: Any, rows: np.ndarray) -> np.ndarray:
    """The ascending ``rows`` of an open data set as float32, read in pieces: picking rows singly takes HDF5 minutes."""
    parts = []
    for start in range(0, len(dataset), _PIECE):
        inside = rows[(rows >= start) & (rows < start + _PIECE)] - start
        parts.append(np.asarray(dataset[start : start + _PIECE], dtype=np.float32)[inside])
    return np.concatenate(parts)


def _flags(dataset: Any) -> np.ndarray:
    return np.asarray(dataset[()]).astype(bool).reshape(-1)


def _cut(ends: np.ndarray, steps: int, horizon: int | None) -> np.ndarray:
    """Ends of episodes (exclusive), with those longer than ``horizon`` cut every ``horizon`` steps."""
    if horizon is None:
        return ends
    if horizon < 1:
        raise ManyoneError(f"horizon {horizon} (--data-horizon): must be 1 or more")
    found: list[int] = []
    begin = 0
    for end in [*ends.tolist(), None]:
        found += range(begin + horizon, (steps if end is None else end - 1) + 1, horizon)
        if end is not None:
            found.append(end)
            begin = end
    return np.array(found, dtype=np.int64)
