"""Trajectories from and to the files that others use: Minari, D4RL's HDF5, .npz and pickled episodes.

Every reader checks what it reads; a damaged, cut or inconsistent file raises :class:`ManyoneError` naming the file and,
where there is one, the episode. No file runs code or makes another one be read: of pickles only lists, dictionaries and
arrays are read (:mod:`manyone.assets.safe_pickle`). What a reader had to leave out or cut is said in ``meta["notes"]``.

Public names: ``from_minari``, ``to_minari``, ``from_d4rl_hdf5``, ``from_npz_folder``, ``from_npz_file``,
``from_pickle_file``, ``from_folder`` and ``from_place`` (find out which of them a path is), ``pairs_from_npz`` (states
and actions alone).
"""

from __future__ import annotations

import contextlib
import itertools
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyone.assets.safe_pickle import load_plain
from manyone.data.trajectories.d4rl import from_d4rl_hdf5, joined
from manyone.data.trajectories.minari import from_minari, to_minari
from manyone.data.trajectories.npz import check_npz
from manyone.data.trajectories.observations import check_numbers, one_hot
from manyone.data.trajectories.trajectories import Trajectories, join
from manyone.engine.arrays import DAMAGED
from manyone.errors import ManyoneError

# NotImplementedError: zipfile's answer to a compression that it does not know, as a damaged header shows it
_DAMAGED = (*DAMAGED, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
_STACKED = {"observations": ("observations", "o"), "actions": ("actions", "a"), "rewards": ("rewards", "r")}
_HDF5 = (".hdf5", ".h5")
_LARGEST_PICKLE = 1 << 30
_PROMPT_DT = re.compile(r"(?P<family>.+)-(?P<task>\d+)(-prompt)?-[a-z]+")
_PROMPT_DT_FAMILIES = {
    "ant_dir": "ant-dir",
    "cheetah_dir": "cheetah-dir",
    "cheetah_vel": "cheetah-vel",
    "ML1-pick-place-v2": "ml1-pick-place",
}

__all__ = [
    "from_d4rl_hdf5", "from_folder", "from_minari", "from_npz_file", "from_npz_folder", "from_pickle_file",
    "from_place", "pairs_from_npz", "to_minari",
]  # fmt: skip


def from_place(
    place: str,
    name: str | None = None,
    *,
    keys: Sequence[str] = (),
    horizon: int | None = None,
    clip: float | None = 1.0,
    choices: int | None = None,
) -> Trajectories:
    """The data set at ``place``: what :func:`from_folder` takes, or the id of a Minari data set on this machine.

    Several places with commas between them are one data set in as many parts.
    """
    if Path(place).exists():
        return from_folder(place, name, keys=keys, horizon=horizon, clip=clip, choices=choices)
    parts = [part for part in place.split(",") if part]
    if len(parts) > 1:
        return join([from_place(part, name, keys=keys, horizon=horizon, clip=clip, choices=choices) for part in parts])
    if Path(place).suffix in (*_HDF5, ".npz", ".pkl") or place.startswith((".", "/", "~")):
        raise ManyoneError(f"{place}: no such file or folder")
    return from_minari(place, name, keys=keys)


def from_folder(
    path: Path | str,
    name: str | None = None,
    *,
    limit: int | None = None,
    keys: Sequence[str] = (),
    horizon: int | None = None,
    clip: float | None = 1.0,
    choices: int | None = None,
) -> Trajectories:
    """The data set at ``path``: our own folder, a Minari folder, .npz episodes, an .npz, .pkl or .hdf5 file.

    ``limit`` keeps the first episodes only; ``keys`` are for Minari (:func:`from_minari`), ``horizon`` for HDF5 files
    (:func:`from_d4rl_hdf5`), ``clip`` is for .npz and .pkl files (:func:`from_npz_folder`). ``choices`` is the number
    of discrete actions in HDF5, .npz and .pkl files; a set of another form knows its own, which must be the same.
    """
    path = Path(path)
    if path.is_dir() and (path / "trajectories.json").is_file():
        data = Trajectories.open(path)
    elif path.is_dir() and (path / "data" / "metadata.json").is_file():
        data = from_minari(path, name, keys=keys)
    elif path.is_dir():
        return from_npz_folder(path, name, limit=limit, clip=clip, choices=choices)
    elif path.suffix == ".npz":
        data = from_npz_file(path, name, clip=clip, choices=choices)
    elif path.suffix == ".pkl":
        data = from_pickle_file(path, name, clip=clip, choices=choices)
    elif path.suffix in _HDF5:
        data = from_d4rl_hdf5(path, name, horizon=horizon, choices=choices)
    else:
        raise ManyoneError(f"{path}: expected a folder of episodes, an .npz, .pkl or .hdf5 file")
    if choices is not None and data.choices != choices:
        has = f"{data.choices} choices" if data.choices else "real-valued actions"
        raise ManyoneError(f"{path}: has {has}, not the {choices} choices that are given (--data-choices)")
    return data if limit is None or limit >= data.episodes else data.select(range(_positive(limit)))


def from_npz_folder(
    folder: Path | str,
    name: str | None = None,
    *,
    limit: int | None = None,
    clip: float | None = 1.0,
    choices: int | None = None,
) -> Trajectories:
    """The per-episode files ``0.npz``, ``1.npz``, ... of MTDiff and HarmoDT, in numerical order.

    Each holds observations [T, S], actions [T, A], rewards [T] or [T, 1] and, if known, terminals [T] and
    next_observations [T, S]. ``limit`` takes the first episodes (1,000 of 2,000 are those papers' sub-optimal data);
    ``clip`` bounds actions to [-clip, clip], because those files hold policy outputs before the environment clipped
    them (None: as they are). With ``choices`` actions are discrete: whole numbers from 0, [T] or [T, 1].
    """
    folder = Path(folder)
    files = sorted((p for p in folder.glob("*.npz") if p.stem.isdecimal()), key=lambda p: int(p.stem))
    if not files:
        raise ManyoneError(f"{folder}: no episodes; expected files 0.npz, 1.npz, ...")
    files = files[: len(files) if limit is None else _positive(limit)]

    owners: list[Path] = []  # the file of each episode

    def episodes() -> Iterator[dict[str, Any]]:
        for path in files:
            with _arrays(path) as arrays:
                found: dict[str, Any] = {key: _one(path, arrays, (key,)) for key in _STACKED}
                check_numbers(found["observations"], found["actions"], str(path), choices)
                found["actions"] = _told(found["actions"], clip, choices, str(path))
                if "terminals" in arrays:
                    found["terminated"] = bool(np.any(_one(path, arrays, ("terminals",))))
                following = _one(path, arrays, ("next_observations",)) if "next_observations" in arrays else None
            for piece in _pieces(path, found, following):
                owners.append(path)
                yield piece

    meta = {"source": "npz episodes", "clipped_actions": clip if choices is None else None}
    try:
        data = Trajectories.from_episodes(name or folder.name, episodes(), meta=meta, source=folder, choices=choices)
    except ManyoneError as problem:
        raise ManyoneError(_with_file(str(problem), folder, owners)) from None
    if cuts := data.episodes - len(files):
        data.meta.update(cuts=cuts, notes=[f"{cuts} episode cuts where next_observations do not join the next row"])
    return data


def from_npz_file(
    path: Path | str, name: str | None = None, *, clip: float | None = 1.0, choices: int | None = None
) -> Trajectories:
    """One .npz of stacked episodes of equal length: observations (``o``) [E, T, S], actions (``a``), rewards (``r``).

    ``clip`` and ``choices`` as for :func:`from_npz_folder`.
    """
    path = Path(path)
    with _arrays(path) as arrays:
        stacked = {key: _one(path, arrays, names) for key, names in _STACKED.items()}
    check_numbers(stacked["observations"][0], stacked["actions"], str(path), choices)
    if choices is not None and stacked["actions"].ndim in (2, 3):
        flat = stacked["actions"].reshape(-1, *stacked["actions"].shape[2:])
        stacked["actions"] = one_hot(flat, choices, str(path)).reshape(*stacked["actions"].shape[:2], choices)
    counts = {key: value.shape[:2] for key, value in stacked.items()}
    if len(set(counts.values())) != 1 or any(v.ndim != 3 for k, v in stacked.items() if k != "rewards"):
        shapes = ", ".join(f"{key} {value.shape}" for key, value in stacked.items())
        raise ManyoneError(f"{path}: {shapes}; expected [E, T, S], [E, T, A] and [E, T] with the same E and T")
    stacked["actions"] = _told(stacked["actions"], clip, None, str(path))
    episodes = ({key: value[e] for key, value in stacked.items()} for e in range(len(stacked["rewards"])))
    meta = {"source": "stacked npz", "clipped_actions": clip if choices is None else None}
    return Trajectories.from_episodes(name or path.stem, episodes, meta=meta, source=path, choices=choices)


def from_pickle_file(
    path: Path | str, name: str | None = None, *, clip: float | None = 1.0, choices: int | None = None
) -> Trajectories:
    """Pickled episodes as Prompt-DT publishes them: ``ant_dir-7-expert.pkl``, ``ant_dir-7-prompt-expert.pkl``.

    A list of dictionaries with observations [T, S], actions [T, A], rewards [T] or [T, 1] and, if known, terminals [T]
    and next_observations [T, S]; files of up to 1 GiB. The default name is the task that the file's name tells
    (``ant-dir:7``), where it is of Prompt-DT's form. ``clip`` and ``choices`` as for :func:`from_npz_folder`.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > _LARGEST_PICKLE:
            raise ManyoneError(f"{path}: {size} bytes; pickles of up to {_LARGEST_PICKLE} are read")
        loaded = load_plain(path.read_bytes(), str(path))
    except OSError as problem:
        raise ManyoneError(f"{path}: cannot be read ({problem})") from None
    if not isinstance(loaded, list) or not loaded or not all(isinstance(one, dict) for one in loaded):
        raise ManyoneError(f"{path}: expected a list of episodes, each a dictionary of observations, actions, rewards")

    def episodes() -> Iterator[dict[str, Any]]:
        for number, one in enumerate(loaded):
            origin = f"{path}: episode {number}"
            found: dict[str, Any] = {key: _listed(one, key, origin) for key in _STACKED}
            check_numbers(found["observations"], found["actions"], origin, choices)
            found["actions"] = _told(found["actions"], clip, choices, origin)
            if "terminals" in one:
                found["terminated"] = bool(np.any(_listed(one, "terminals", origin)))
            following = _listed(one, "next_observations", origin) if "next_observations" in one else None
            yield from _pieces(origin, found, following)

    match = _PROMPT_DT.fullmatch(path.stem)
    told = f"{_PROMPT_DT_FAMILIES.get(match['family'], match['family'])}:{match['task']}" if match else path.stem
    meta = {"source": "pickled episodes", "clipped_actions": clip if choices is None else None}
    data = Trajectories.from_episodes(name or told, episodes(), meta=meta, source=path, choices=choices)
    if cuts := data.episodes - len(loaded):
        data.meta.update(cuts=cuts, notes=[f"{cuts} episode cuts where next_observations do not join the next row"])
    return data


def _listed(episode: Mapping[str, Any], key: str, origin: str) -> np.ndarray:
    """The numbers under ``key``, an array or a list of numbers or rows."""
    if key not in episode:
        raise ManyoneError(f"{origin}: has no {key} (it has {', '.join(episode)})")
    try:
        array = np.asarray(episode[key])
    except ValueError as problem:
        raise ManyoneError(f"{origin}: {key} cannot be read ({problem})") from None
    if array.dtype.kind not in "fiub":
        raise ManyoneError(f"{origin}: {key} hold {array.dtype}; expected numbers")
    return array


def pairs_from_npz(path: Path | str, name: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Observations [n, S] and actions [n, A], float32, of an .npz of bare pairs, such as a distilled set's.

    They are called ``observations`` and ``actions``; in a file of several sets ``NAME/observations``, of which those of
    ``name`` are read. A folder stands for the ``distilled.npz`` in it.
    """
    path = Path(path)
    path = path / "distilled.npz" if path.is_dir() else path
    with _arrays(path) as arrays:
        observations, actions = (_one(path, arrays, (f"{name}/{key}", key)) for key in ("observations", "actions"))
    check_numbers(observations, actions, str(path))
    if observations.ndim != 2 or actions.ndim != 2 or len(observations) != len(actions) or not len(actions):
        shapes = f"{observations.shape} and {actions.shape}"
        raise ManyoneError(f"{path}: observations and actions are {shapes}; expected [n, S] and [n, A], n at least 1")
    found = observations.astype(np.float32), actions.astype(np.float32)
    if not all(np.isfinite(part).all() for part in found):
        raise ManyoneError(f"{path}: observations or actions are not finite")
    return found


@contextlib.contextmanager
def _arrays(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    if zipfile.is_zipfile(path):
        check_npz(path)
    try:
        loaded = np.load(path, allow_pickle=False)
    except _DAMAGED as problem:
        raise ManyoneError(f"{path}: not a readable .npz file ({_words(problem)}); fetch it again") from None
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ManyoneError(f"{path}: one bare array; expected an .npz with observations, actions and rewards")
    with loaded:
        yield loaded


def _one(path: Path, arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """The array under the first of ``names`` that is there, of numbers."""
    found = next((name for name in names if name in arrays), None)
    if found is None:
        raise ManyoneError(f"{path}: has no {' or '.join(names)} (it has {', '.join(arrays)})")
    try:
        array = np.asarray(arrays[found])
    except _DAMAGED as problem:
        raise ManyoneError(f"{path}: {found} cannot be read ({_words(problem)})") from None
    if array.dtype.kind not in "fiub":
        raise ManyoneError(f"{path}: {found} hold {array.dtype}; expected numbers")
    return array


def _words(problem: Exception) -> str:
    """NumPy's message; not the one that advises to unpickle, which is its answer to whatever it does not know."""
    return (
        "not an array file, or one of Python objects, which are never unpickled"
        if "pickle" in str(problem)
        else str(problem)
    )


def _pieces(path: Path | str, found: dict[str, Any], following: np.ndarray | None) -> Iterator[dict[str, Any]]:
    """The episodes of one file: it is cut where next_observations do not join the next row."""
    steps = len(found["rewards"])
    if following is None or following.shape != np.shape(found["observations"]) or len(following) != steps:
        yield found | ({} if following is None else {"final_observation": following[-1]})
        return
    ends = [*(np.flatnonzero(~joined(found["observations"], following, str(path))) + 1).tolist(), steps]
    if len(ends) == steps > 1:
        raise ManyoneError(
            f"{path}: no row's next_observations are the observations of the row that follows: these are single "
            "transitions, not an episode"
        )
    for low, high in itertools.pairwise([0, *ends]):
        piece = {key: found[key][low:high] for key in _STACKED}
        yield piece | {
            "terminated": found.get("terminated", False) and high == steps,
            "final_observation": following[high - 1],
        }


def _told(actions: np.ndarray, clip: float | None, choices: int | None, origin: str) -> np.ndarray:
    """Actions as the reader was told to take them: one-hot, clipped, or as they are."""
    if choices is not None:
        return one_hot(actions, choices, origin)
    return actions if clip is None else np.clip(actions, -clip, clip)


def _with_file(message: str, folder: Path, files: Sequence[Path]) -> str:
    """Puts the file's name where a message has the folder and the episode's number."""
    start = f"{folder}: episode "
    number = message.removeprefix(start).split(":")[0].split(",")[0].split(" ")[0]
    if not message.startswith(start) or not number.isdecimal():
        return message
    return f"{files[int(number)]}: episode {message.removeprefix(start)}"


def _positive(limit: int) -> int:
    if limit < 1:
        raise ManyoneError(f"{limit}: must be 1 or more")
    return limit
