"""Trajectories from and to the files that others use: Minari, D4RL's HDF5, folders of .npz episodes, stacked .npz.

Every reader streams episodes into :meth:`Trajectories.from_episodes`, which checks them; a damaged, cut or inconsistent
file raises :class:`ManyoneError` naming the file and, where there is one, the episode. Nothing is ever unpickled.

Public names: ``from_minari``, ``to_minari``, ``from_d4rl_hdf5``, ``from_npz_folder``, ``from_npz_file``,
``from_folder`` (finds out which of them a path is).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.extras import need
from manyone.errors import ManyoneError

# NotImplementedError: zipfile's answer to a compression that it does not know, as a damaged header shows it
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)
_STACKED = {"observations": ("observations", "o"), "actions": ("actions", "a"), "rewards": ("rewards", "r")}
_HEAD = "manyone"  # our entry in Minari's metadata.json


def from_folder(
    path: Path | str, name: str | None = None, *, limit: int | None = None, clip: float | None = 1.0
) -> Trajectories:
    """The data set at ``path``, whatever its form: our own folder, a Minari folder, .npz episodes, .npz or .hdf5 file.

    ``limit`` keeps the first episodes only; ``clip`` is for .npz files (:func:`from_npz_folder`).
    """
    path = Path(path)
    if path.is_dir() and (path / "trajectories.json").is_file():
        data = Trajectories.open(path)
    elif path.is_dir() and (path / "data" / "metadata.json").is_file():
        data = from_minari(path, name)
    elif path.is_dir():
        return from_npz_folder(path, name, limit=limit, clip=clip)
    elif path.suffix == ".npz":
        data = from_npz_file(path, name, clip=clip)
    elif path.suffix in (".hdf5", ".h5"):
        data = from_d4rl_hdf5(path, name)
    else:
        raise ManyoneError(f"{path}: expected a folder of episodes, an .npz or an .hdf5 file")
    return data if limit is None or limit >= data.episodes else data.select(range(_positive(limit)))


def from_npz_folder(
    folder: Path | str, name: str | None = None, *, limit: int | None = None, clip: float | None = 1.0
) -> Trajectories:
    """The per-episode files ``0.npz``, ``1.npz``, ... of MTDiff and HarmoDT, in numerical order.

    Each holds observations [T, S], actions [T, A], rewards [T] or [T, 1] and, if known, terminals [T] and
    next_observations [T, S]. ``limit`` takes the first episodes (1,000 of 2,000 are those papers' sub-optimal data);
    ``clip`` bounds actions to [-clip, clip], because those files hold policy outputs before the environment clipped
    them (None: as they are).
    """
    folder = Path(folder)
    files = sorted((p for p in folder.glob("*.npz") if p.stem.isdecimal()), key=lambda p: int(p.stem))
    if not files:
        raise ManyoneError(f"{folder}: no episodes; expected files 0.npz, 1.npz, ...")
    files = files[: len(files) if limit is None else _positive(limit)]

    def episodes() -> Iterator[dict[str, Any]]:
        for path in files:
            with _arrays(path) as arrays:
                found: dict[str, Any] = {
                    key: _one(path, arrays, (key,)) for key in ("observations", "actions", "rewards")
                }
                found["actions"] = _clipped(found["actions"], clip)
                if "terminals" in arrays:
                    found["terminated"] = bool(np.any(_one(path, arrays, ("terminals",))))
                if "next_observations" in arrays:
                    found["final_observation"] = _one(path, arrays, ("next_observations",))[-1]
            yield found

    meta = {"source": "npz episodes", "clipped_actions": clip}
    try:
        return Trajectories.from_episodes(name or folder.name, episodes(), meta=meta, source=folder)
    except ManyoneError as problem:
        raise ManyoneError(_with_file(str(problem), folder, files)) from None


def from_npz_file(path: Path | str, name: str | None = None, *, clip: float | None = 1.0) -> Trajectories:
    """One .npz of stacked episodes of equal length: observations (``o``) [E, T, S], actions (``a``), rewards (``r``).

    ``clip`` as for :func:`from_npz_folder`.
    """
    path = Path(path)
    with _arrays(path) as arrays:
        stacked = {key: _one(path, arrays, names) for key, names in _STACKED.items()}
    counts = {key: value.shape[:2] for key, value in stacked.items()}
    if len(set(counts.values())) != 1 or any(v.ndim != 3 for k, v in stacked.items() if k != "rewards"):
        shapes = ", ".join(f"{key} {value.shape}" for key, value in stacked.items())
        raise ManyoneError(f"{path}: {shapes}; expected [E, T, S], [E, T, A] and [E, T] with the same E and T")
    stacked["actions"] = _clipped(stacked["actions"], clip)
    episodes = ({key: value[e] for key, value in stacked.items()} for e in range(len(stacked["rewards"])))
    meta = {"source": "stacked npz", "clipped_actions": clip}
    return Trajectories.from_episodes(name or path.stem, episodes, meta=meta, source=path)


def from_d4rl_hdf5(path: Path | str, name: str | None = None, *, horizon: int | None = None) -> Trajectories:
    """D4RL's flat HDF5: observations, actions, rewards, terminals and timeouts, one row a step.

    An episode ends at a terminal or a timeout, or after ``horizon`` steps (needed where a file has no timeouts). Steps
    after the last end belong to an episode that the file cuts in two; they are left out, and counted in
    ``meta["dropped_steps"]``. The final state is known where the file has next_observations.
    """
    path = Path(path)
    h5py = _library("h5py")
    try:
        with h5py.File(path, "r") as file:
            keys = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
            arrays = {key: file[key][()] for key in keys if key in file}
    except _DAMAGED as problem:
        raise ManyoneError(f"{path}: not a readable HDF5 file ({problem}); fetch it again") from None
    lacking = [key for key in ("observations", "actions", "rewards", "terminals") if key not in arrays]
    if lacking:
        raise ManyoneError(f"{path}: has no {' and no '.join(lacking)}; expected the keys of D4RL")
    steps = len(arrays["rewards"])
    for key, value in arrays.items():
        if len(value) != steps:
            raise ManyoneError(f"{path}: {len(value)} {key} for {steps} rewards; the file is inconsistent")
    if "timeouts" not in arrays and horizon is None:
        raise ManyoneError(f"{path}: has no timeouts; give horizon, the number of steps after which episodes were cut")
    flags = {key: arrays[key].astype(bool).reshape(-1) for key in ("terminals", "timeouts") if key in arrays}
    ended = flags["terminals"] | flags.get("timeouts", np.zeros(steps, dtype=bool))
    offsets = np.concatenate([[0], _cut(np.flatnonzero(ended) + 1, steps, horizon)])
    if len(offsets) == 1:
        raise ManyoneError(f"{path}: no episode ends (no terminal, no timeout) in {steps} steps; give horizon")

    def episodes() -> Iterator[dict[str, Any]]:
        for low, high in itertools.pairwise(offsets):
            found: dict[str, Any] = {key: arrays[key][low:high] for key in ("observations", "actions", "rewards")}
            found["terminated"] = bool(flags["terminals"][high - 1])
            if "next_observations" in arrays:
                found["final_observation"] = arrays["next_observations"][high - 1]
            yield found

    meta = {"source": "D4RL HDF5", "dropped_steps": int(steps - offsets[-1])}
    return Trajectories.from_episodes(name or path.stem, episodes(), meta=meta, source=path)


def from_minari(source: Path | str, name: str | None = None, *, keys: Sequence[str] = ()) -> Trajectories:
    """A Minari data set: its folder, or the id of one that is on this machine (``minari download ID`` fetches).

    Observations and actions must be flat arrays; of dictionary observations the entries ``keys`` are laid side by
    side. Success is read from ``infos["success"]`` (any step) where nothing better is known.
    """
    minari = _library("minari")
    path = Path(source)
    try:
        if (path / "data" / "metadata.json").is_file():
            dataset = minari.MinariDataset(path / "data")
        elif path.exists():
            raise ManyoneError(f"{path}: not a Minari data set: it has no data/metadata.json")
        else:
            dataset = minari.load_dataset(str(source), download=False)
        entries = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
        head = dataset.storage.metadata.get(_HEAD, {})
        head = json.loads(head) if isinstance(head, str) else head
        every = dataset.iterate_episodes()
    except FileNotFoundError:
        raise ManyoneError(f"{source}: no such Minari data set here; fetch it with: minari download {source}") from None
    except (*_DAMAGED, AssertionError) as problem:
        raise ManyoneError(f"{source}: not a readable Minari data set ({problem}); fetch or make it again") from None

    def episodes() -> Iterator[dict[str, Any]]:
        for index, entry in enumerate(entries):
            origin = f"{source}: episode {index}"
            try:
                episode = next(every)
            except StopIteration:
                raise ManyoneError(f"{origin}: missing; the data set says it has {len(entries)}") from None
            except _DAMAGED as problem:
                raise ManyoneError(f"{origin}: damaged ({problem}); fetch or make the data again") from None
            found = {
                "observations": _flat(episode.observations, keys, origin),
                "actions": _flat(episode.actions, (), origin),
                "rewards": episode.rewards,
                "terminated": bool(np.any(episode.terminations)),
            }
            if not head.get("final_observations", True):
                found["observations"] = found["observations"][:-1]
            if "goal" in entry:
                found["goal"] = int(entry["goal"])
            if "success" in entry:
                found["success"] = bool(entry["success"])
            elif episode.infos and "success" in episode.infos:
                found["success"] = bool(np.any(episode.infos["success"]))
            yield found

    meta = head.get("meta") or {"source": "Minari", "dataset_id": dataset.spec.dataset_id}
    name = name or head.get("name") or dataset.spec.dataset_id
    return Trajectories.from_episodes(str(name), episodes(), meta=meta, source=source)


def to_minari(data: Trajectories, dataset_id: str, *, root: Path | str | None = None, author: str = "manyone") -> Path:
    """Writes ``data`` as the Minari data set ``dataset_id``, e.g. "metaworld/door-open-v3/near-v0"; its folder.

    ``root`` is the folder of all Minari data sets (default: Minari's own). Goal and success of an episode are in its
    metadata. Minari wants T+1 observations: where the final state is unknown, the last one is written twice, and
    :func:`from_minari` leaves it out again.
    """
    minari, gymnasium = _library("minari"), _library("gymnasium")
    buffer = _library("minari.data_collector").EpisodeBuffer
    bound = 1.0 if np.abs(data.actions).max() <= 1 else np.inf
    buffers, entries = [], []
    for index in range(data.episodes):
        episode = data.episode(index)
        final = episode.get("final_observation", episode["observations"][-1])
        last = np.arange(data.lengths[index]) == data.lengths[index] - 1
        buffers.append(
            buffer(
                observations=np.concatenate([episode["observations"], final[None]]),
                actions=np.asarray(episode["actions"]),
                rewards=np.asarray(episode["rewards"]),  # type: ignore[arg-type]
                terminations=last & episode["terminated"],
                truncations=last & (not episode["terminated"]),
            )
        )
        entries.append({key: episode[key] for key in ("goal", "success") if key in episode})
    with _minari_root(root), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # Minari asks for an environment, an e-mail address and a permalink
        try:
            dataset = minari.create_dataset_from_buffers(
                dataset_id=dataset_id,
                buffer=buffers,
                observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (data.state_dim,), np.float32),
                action_space=gymnasium.spaces.Box(-bound, bound, (data.action_dim,), np.float32),
                author=author,
                algorithm_name=str(data.meta.get("policy", "unknown")),
                description=str(data.meta.get("description", data.name)),
            )
        except ValueError as problem:
            raise ManyoneError(f"{dataset_id}: Minari refuses it ({problem})") from None
        if any(entries):
            dataset.storage.update_episode_metadata(entries)
        head = {"name": data.name, "meta": data.meta, "final_observations": data.final_observations is not None}
        dataset.storage.update_metadata({_HEAD: json.dumps(head, sort_keys=True)})
    return Path(dataset.storage.data_path).parent


@contextlib.contextmanager
def _minari_root(root: Path | str | None) -> Iterator[None]:
    """Minari takes the place of its data sets from the environment alone."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    if root is not None:
        os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        yield
    finally:
        os.environ.pop("MINARI_DATASETS_PATH", None)
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


@contextlib.contextmanager
def _arrays(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    try:
        loaded = np.load(path, allow_pickle=False)
    except _DAMAGED as problem:
        raise ManyoneError(f"{path}: not a readable .npz file ({problem}); fetch it again") from None
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ManyoneError(f"{path}: one bare array; expected an .npz with observations, actions and rewards")
    with loaded:
        yield loaded


def _one(path: Path, arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """The array under the first of ``names`` that is there, as float32."""
    found = next((name for name in names if name in arrays), None)
    if found is None:
        raise ManyoneError(f"{path}: has no {' or '.join(names)} (it has {', '.join(arrays)})")
    try:
        return np.asarray(arrays[found], dtype=np.float32)
    except (*_DAMAGED, TypeError) as problem:
        hint = "Python objects are never unpickled" if "pickle" in str(problem) else str(problem)
        raise ManyoneError(f"{path}: {found} cannot be read ({hint})") from None


def _flat(value: Any, keys: Sequence[str], origin: str) -> np.ndarray:
    """A [T, ...] array as [T, width]; the entries ``keys`` of a dictionary side by side."""
    if isinstance(value, dict):
        lacking = [key for key in keys if key not in value]
        if not keys or lacking:
            raise ManyoneError(
                f"{origin}: dictionary with {', '.join(value)}: give keys, the entries to lay side by side"
            )
        return np.concatenate([_flat(value[key], (), origin) for key in keys], axis=1)
    if isinstance(value, tuple):
        raise ManyoneError(f"{origin}: tuples of arrays cannot be used; expected flat arrays")
    array = np.asarray(value)
    return array.reshape(len(array), -1)


def _cut(ends: np.ndarray, steps: int, horizon: int | None) -> np.ndarray:
    """Ends of episodes (exclusive), with those longer than ``horizon`` cut every ``horizon`` steps."""
    if horizon is None:
        return ends
    found: list[int] = []
    begin = 0
    for end in [*ends.tolist(), None]:
        found += range(begin + _positive(horizon), (steps if end is None else end - 1) + 1, horizon)
        if end is not None:
            found.append(end)
            begin = end
    return np.array(found, dtype=np.int64)


def _clipped(actions: np.ndarray, clip: float | None) -> np.ndarray:
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


def _library(name: str) -> Any:
    return need(name, "this data", "policies")
