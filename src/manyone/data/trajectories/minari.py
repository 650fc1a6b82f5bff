"""Minari data sets, read with care and written exactly.

Minari makes the environment that a data set's record names where the record lacks its spaces, which imports whatever
the record says. So the record is read here first, and sets that lack their spaces are refused.

Public names: ``from_minari``, ``to_minari``, ``minari_folder``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyone.data.trajectories.hdf5 import DAMAGED, open_hdf5
from manyone.data.trajectories.observations import action_choices, action_width, lay_out, one_hot, state_width
from manyone.data.trajectories.references import known_reference
from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.documents import loads_json, sound
from manyone.engine.extras import need
from manyone.errors import ManyoneError

_HEAD = "manyone"  # our entry in Minari's metadata.json
_SUCCESS = ("success", "is_success")


def minari_folder(source: Path | str) -> Path | None:
    """The folder of a Minari data set, given it or the set's id; None if there is none on this machine."""
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    return next((p for p in (Path(source), root / source) if (p / "data" / "metadata.json").is_file()), None)


def from_minari(source: Path | str, name: str | None = None, *, keys: Sequence[str] = ()) -> Trajectories:
    """A Minari data set: its folder, or the id of one that is on this machine (``minari download ID`` fetches).

    Observations and actions must be arrays of real numbers (discrete actions become one-hot, their number is
    ``meta["choices"]``); of dictionary observations the entries ``keys`` are laid
    side by side. Success is read from ``infos["success"]`` or ``infos["is_success"]`` (any step) where nothing better
    is known. Where some episodes lack their final observation or success, it is left out of all, and
    ``meta["notes"]`` says so. ``meta["environment"]`` is the set's record of its environment, ``meta["reference"]`` the
    returns of a random and of an expert policy, where it has them or they are known by its environment.
    """
    minari = need("minari", "this data", "policies")
    folder = minari_folder(source)
    if folder is None and Path(source).exists():
        raise ManyoneError(f"{source}: not a Minari data set: it has no data/metadata.json")
    if folder is None:
        raise ManyoneError(
            f"{source}: no such file, folder or Minari data set here; if it is one of Minari's, fetch it with: "
            f"minari download {source}"
        )
    record = _record(folder / "data")
    try:
        dataset = minari.MinariDataset(folder / "data")
        entries = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
        head = record.get(_HEAD, {})
        head = loads_json(head) if isinstance(head, str) else head
        meta = dict(head.get("meta") or {"source": "Minari", "dataset_id": record["dataset_id"]})
        every = dataset.iterate_episodes()
    except (*DAMAGED, AssertionError, AttributeError, ImportError) as problem:
        raise ManyoneError(f"{source}: not a readable Minari data set ({problem}); fetch or make it again") from None
    state_width(dataset.observation_space, keys, str(source))
    action_width(dataset.action_space, str(source))
    space: Any = dataset.action_space
    choices = action_choices(space) or None

    def episodes() -> Iterator[dict[str, Any]]:
        for index, entry in enumerate(entries):
            origin = f"{source}: episode {index}"
            try:
                episode = next(every)
            except StopIteration:
                raise ManyoneError(f"{origin}: missing; the data set says it has {len(entries)}") from None
            except DAMAGED as problem:
                raise ManyoneError(f"{origin}: damaged ({problem}); fetch or make the data again") from None
            found = {
                "observations": lay_out(episode.observations, keys, batch=True, origin=origin),
                "actions": one_hot(episode.actions, choices, origin, int(space.start))
                if choices
                else lay_out(episode.actions, batch=True),
                "rewards": episode.rewards,
                "terminated": bool(np.any(episode.terminations)),
            }
            if not head.get("final_observations", True):
                found["observations"] = found["observations"][:-1]
            if head and "goal" in entry:
                found["goal"] = int(entry["goal"])
            told = [episode.infos[key] for key in _SUCCESS if key in (episode.infos or {})]
            if head and "success" in entry:
                found["success"] = bool(entry["success"])
            elif told:
                found["success"] = bool(np.any(told[0]))
            yield found

    if type(dataset.observation_space).__name__ == "Dict":
        meta["keys"] = list(keys)
    environment = record.get("eval_env_spec") or record.get("env_spec")
    if environment:
        with sound(f"{source}: its environment", "described in JSON"):
            meta["environment"] = loads_json(environment)
    own_name = head.get("name") or record["dataset_id"]
    scores: list[Any] = [record.get(key) for key in ("ref_min_score", "ref_max_score")]
    if all(isinstance(score, (int, float)) and math.isfinite(score) for score in scores) and scores[0] < scores[1]:
        meta["reference"] = scores
    elif "reference" not in meta and (known := _known(own_name, meta.get("environment"))):
        meta["reference"] = list(known)
    name = name or own_name
    return Trajectories.from_episodes(str(name), episodes(), meta=meta, source=source, partial=True, choices=choices)


def _known(name: str, environment: Any) -> tuple[float, float] | None:
    """The reference returns that go with a set's record of its ``environment``, or with its ``name`` if it has none."""
    if not isinstance(environment, dict):
        return known_reference(str(name))
    steps = environment.get("max_episode_steps")
    varied = environment.get("kwargs") or environment.get("additional_wrappers") or steps not in (None, 1000)
    return None if varied else known_reference(str(environment.get("id")))


def _record(data: Path) -> dict[str, Any]:
    """``metadata.json`` of a Minari data set, checked; so is the file that holds its arrays, where that is HDF5."""
    path = data / "metadata.json"
    try:
        record = loads_json(path.read_bytes())
        lacking = [key for key in ("observation_space", "action_space") if not isinstance(record.get(key), str)]
    except (OSError, ValueError, AttributeError) as problem:
        raise ManyoneError(f"{path}: not a readable Minari data set ({problem}); fetch or make it again") from None
    if lacking:
        raise ManyoneError(
            f"{path}: has no {' and no '.join(lacking)}, and its environment is not made to find out: that would run "
            "what the file names; write the set again with Minari, giving observation_space and action_space"
        )
    if (data / "main_data.hdf5").exists():
        with open_hdf5(data / "main_data.hdf5") as file:
            held = len(file)
    else:  # a folder an episode
        held = sum(1 for entry in data.iterdir() if entry.is_dir())
    total = record.get("total_episodes")
    if not isinstance(total, int) or isinstance(total, bool) or not 0 <= total <= held:
        raise ManyoneError(
            f"{path}: total_episodes {str(total)[:40]}, and there are {held}; fetch or make the data again"
        )
    return record  # type: ignore[no-any-return]


def to_minari(data: Trajectories, dataset_id: str, *, root: Path | str | None = None, author: str = "manyone") -> Path:
    """Writes ``data`` as the Minari data set ``dataset_id``, e.g. "metaworld/door-open-v3/near-v0"; its folder.

    ``root`` is the folder of all Minari data sets (default: Minari's own). Goal and success of an episode are in its
    metadata. Minari wants T+1 observations: where the final state is unknown, the last one is written twice, and
    :func:`from_minari` leaves it out again. Discrete actions are written as numbers of a Discrete space.
    """
    minari, gymnasium = (need(module, "this data", "policies") for module in ("minari", "gymnasium"))
    buffer = need("minari.data_collector", "this data", "policies").EpisodeBuffer
    bound = 1.0 if np.abs(data.actions).max() <= 1 else np.inf
    space: Any = gymnasium.spaces.Box(-bound, bound, (data.action_dim,), np.float32)
    if data.choices:
        space = gymnasium.spaces.Discrete(data.choices)
    buffers, entries = [], []
    for index in range(data.episodes):
        episode = data.episode(index)
        final = episode.get("final_observation", episode["observations"][-1])
        last = np.arange(data.lengths[index]) == data.lengths[index] - 1
        buffers.append(
            buffer(
                observations=np.concatenate([episode["observations"], final[None]]),
                actions=episode["actions"].argmax(1) if data.choices else np.asarray(episode["actions"]),
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
                action_space=space,
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
