"""Trajectories of one task as flat contiguous arrays with episode offsets.

Every offline data set of the project has this one form: rows are steps, episode ``e`` is the rows
``offsets[e]:offsets[e+1]``. ``Trajectories.open`` maps the files of a folder into memory instead of reading them.
Windows of them for training are in :mod:`manyone.data.trajectories.windows`.

Returns-to-go are undiscounted suffix sums of the rewards within an episode, g_t = sum_{u >= t} r_u (Chen et al. 2021,
Decision Transformer, section 3).

Public names: ``Trajectories``, ``join``, ``suffix_sums``, ``pooled_statistics``, ``pooled_moments``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from manyone.data.trajectories.observations import check_numbers, one_hot
from manyone.engine.arrays import load_npy
from manyone.engine.documents import loads_json
from manyone.engine.files import part_beside, writing
from manyone.errors import ManyoneError

_FILE = "trajectories.json"
_FORMAT = 1
_STEADY = 1e-3  # dimensions that vary less than this are constant: dividing by their deviation would only blow up noise
_ARRAYS = {
    "observations": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "offsets": np.int64,
    "final_observations": np.float32,
    "terminated": np.bool_,
    "successes": np.bool_,
    "goals": np.int64,
}
CHUNK = 1 << 20
"""Rows read at a time from memory-mapped arrays."""
_OPTIONAL = ("final_observations", "successes", "goals")


@dataclass(frozen=True, eq=False)
class Trajectories:
    """The episodes of one task: n steps in E episodes, states of width S, actions of width A.

    Arrays of another type are converted; wrong shapes, NaN and infinite values raise :class:`ManyoneError` naming the
    data set (or its file) and the episode.
    """

    name: str
    observations: np.ndarray
    """float32 [n, S]: the state before each step."""
    actions: np.ndarray
    """float32 [n, A]; discrete ones are one-hot, and ``meta["choices"]`` is A."""
    rewards: np.ndarray
    """float32 [n]"""
    offsets: np.ndarray
    """int64 [E+1]: from 0 to n, strictly increasing."""
    terminated: np.ndarray
    """bool [E]: whether the episode ended in a terminal state (otherwise it was cut off)."""
    final_observations: np.ndarray | None = None
    """float32 [E, S]: the state after the last step."""
    successes: np.ndarray | None = None
    """bool [E]: whether the task was solved at any step."""
    goals: np.ndarray | None = None
    """int64 [E]: index of the goal that the episode had."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What is to be known about the data (origin, licence, quality); plain JSON values.

    ``choices``: number of discrete actions, where they are that; ``reference``: returns of a random and of an expert
    policy; ``environment``: Minari's record of it."""

    def __post_init__(self) -> None:
        check_numbers(np.asanyarray(self.observations), np.asanyarray(self.actions), self.name)
        for key, dtype in _ARRAYS.items():
            value = getattr(self, key)
            if value is not None:
                object.__setattr__(self, key, np.asanyarray(value).astype(dtype, copy=False))
        check_arrays(self, self.name)

    @property
    def episodes(self) -> int:
        """Number of episodes E."""
        return len(self.offsets) - 1

    @property
    def state_dim(self) -> int:
        """Width S of a state."""
        return self.observations.shape[1]

    @property
    def action_dim(self) -> int:
        """Width A of an action."""
        return self.actions.shape[1]

    @property
    def choices(self) -> int:
        """Number of discrete actions; 0 where actions are real numbers."""
        return int(self.meta.get("choices", 0))

    def __len__(self) -> int:
        """Number of steps n."""
        return len(self.rewards)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Steps of each episode, int64 [E]."""
        return np.diff(self.offsets)

    @cached_property
    def returns_to_go(self) -> np.ndarray:
        """g_t = sum of the rewards from step t to the end of its episode, float32 [n]."""
        return suffix_sums(self.rewards, self.offsets)

    @cached_property
    def returns(self) -> np.ndarray:
        """Undiscounted return of each episode, float32 [E]."""
        return self.returns_to_go[self.offsets[:-1]]

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the states over all steps, float32 [S] each; a deviation < 1e-3 becomes 1."""
        return pooled_statistics([self])

    def best(self, fraction: float) -> np.ndarray:
        """The episodes with the highest returns, best first: ``fraction`` of all, at least one (int64 indices)."""
        if not 0 < fraction <= 1:
            raise ManyoneError(f"{self.name}: the best {fraction} of the episodes: must be above 0 and at most 1")
        return np.argsort(-self.returns, kind="stable")[: max(1, round(fraction * self.episodes))]

    def summary(self) -> str:
        """Episodes, steps, returns and success in a line, with what the reader of the files left out or cut."""
        low, middle, high = (float(np.quantile(self.returns, q, method="higher")) for q in (0, 0.5, 1))
        text = f"{self.episodes} episodes, {len(self)} steps, return {low:.4g} to {high:.4g} (median {middle:.4g})"
        if self.successes is not None:
            text += f", success {self.successes.mean():.2f}"
        return "; ".join([text, *self.meta.get("notes", ())])

    def select(self, episodes: Sequence[int] | np.ndarray) -> Trajectories:
        """The given episodes, in the given order, as a data set of their own (arrays are copied)."""
        chosen = np.asarray(episodes, dtype=np.int64).reshape(-1)
        if not len(chosen) or chosen.min() < -self.episodes or chosen.max() >= self.episodes:
            raise ManyoneError(f"{self.name}: cannot select episodes {chosen.tolist()} of {self.episodes}")
        chosen = chosen % self.episodes
        offsets = np.concatenate([[0], np.cumsum(self.lengths[chosen])])
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], self.lengths[chosen])
        per_episode: dict[str, Any] = {
            key: None if (value := getattr(self, key)) is None else np.asarray(value[chosen])
            for key in ("terminated", *_OPTIONAL)
        }
        per_step = {key: np.asarray(getattr(self, key)[rows]) for key in ("observations", "actions", "rewards")}
        return Trajectories(name=self.name, offsets=offsets, meta=dict(self.meta), **per_step, **per_episode)

    def episode(self, index: int) -> dict[str, Any]:
        """Episode ``index`` in the form that :meth:`from_episodes` takes (views, not copies)."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        found: dict[str, Any] = {key: getattr(self, key)[rows] for key in ("observations", "actions", "rewards")}
        found["terminated"] = bool(self.terminated[index])
        if self.final_observations is not None:
            found["final_observation"] = self.final_observations[index]
        if self.successes is not None:
            found["success"] = bool(self.successes[index])
        if self.goals is not None:
            found["goal"] = int(self.goals[index])
        return found

    @classmethod
    def from_episodes(
        cls,
        name: str,
        episodes: Iterable[Mapping[str, Any]],
        *,
        meta: Mapping[str, Any] | None = None,
        source: str | Path | None = None,
        partial: bool = False,
        choices: int | None = None,
    ) -> Trajectories:
        """A data set from episodes: mappings with ``observations``, ``actions`` and ``rewards``.

        ``observations`` has T rows, or T+1 with the final state last. Optional: ``final_observation`` [S],
        ``terminated``, ``success`` (bool), ``goal`` (int), each in all episodes or in none (``terminated``: False
        where missing). With ``partial`` what only some episodes have is left out, and said in ``meta["notes"]``.
        ``source`` is named in errors. With ``choices`` actions are discrete: whole numbers from 0 [T], kept one-hot.
        """
        origin = str(source) if source is not None else name
        parts: dict[str, list[Any]] = {key: [] for key in ("observations", "actions", "rewards", "lengths")}
        each: dict[str, list[Any]] = {"terminated": [], "final_observations": [], "successes": [], "goals": []}
        for index, raw in enumerate(episodes):
            one = plain_episode(raw, f"{origin}: episode {index}", choices)
            if index and one["observations"].shape[1:] != parts["observations"][0].shape[1:]:
                widths = (one["observations"].shape[1], parts["observations"][0].shape[1])
                raise ManyoneError(f"{origin}: episode {index}: states of width {widths[0]}, others have {widths[1]}")
            if index and one["actions"].shape[1:] != parts["actions"][0].shape[1:]:
                widths = (one["actions"].shape[1], parts["actions"][0].shape[1])
                raise ManyoneError(f"{origin}: episode {index}: actions of width {widths[0]}, others have {widths[1]}")
            for key in ("observations", "actions", "rewards"):
                parts[key].append(one[key])
            parts["lengths"].append(len(one["rewards"]))
            for key in each:
                if index and not partial and (one[key] is None) != (each[key][0] is None):
                    odd = "lacks" if one[key] is None else "alone has"
                    raise ManyoneError(f"{origin}: episode {index} {odd} {key}: give them for all episodes or for none")
                each[key].append(one[key])
        if not parts["lengths"]:
            raise ManyoneError(f"{origin}: no episodes")
        per_episode: dict[str, Any] = {k: None if any(x is None for x in v) else np.array(v) for k, v in each.items()}
        notes = []
        for key, values in each.items():
            lacking = sum(x is None for x in values)
            if 0 < lacking < len(values):
                notes.append(f"{key.replace('_', ' ')} of {len(values) - lacking} of {len(values)} episodes left out")
        meta = dict(meta or {})
        if choices is not None:
            meta["choices"] = choices
        if notes:
            meta["notes"] = [*meta.get("notes", ()), *notes]
        try:
            return cls(
                name=name,
                observations=np.concatenate(parts["observations"]),
                actions=np.concatenate(parts["actions"]),
                rewards=np.concatenate(parts["rewards"]),
                offsets=np.concatenate([[0], np.cumsum(parts["lengths"])]),
                meta=meta,
                **per_episode,
            )
        except ManyoneError as problem:
            raise ManyoneError(str(problem).replace(f"{name}:", f"{origin}:", 1)) from None

    def save(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Writes one .npy file per array and ``trajectories.json``; ``folder`` appears whole or not at all."""
        folder = Path(folder)
        if folder.exists() and not overwrite:
            raise ManyoneError(f"{folder}: exists already; remove it, or pass overwrite=True")
        with writing(folder), part_beside(folder) as part:
            present = [key for key in _ARRAYS if getattr(self, key) is not None]
            for key in present:
                np.save(part / f"{key}.npy", np.asarray(getattr(self, key)), allow_pickle=False)
            head = {"format": _FORMAT, "name": self.name, "arrays": present, "meta": self.meta}
            (part / _FILE).write_text(json.dumps(head, indent=2, sort_keys=True) + "\n")
            if folder.exists():
                shutil.rmtree(folder)
            part.replace(folder)
        return folder

    @classmethod
    def open(cls, folder: Path | str) -> Trajectories:
        """The data set that :meth:`save` wrote; arrays are memory-mapped, read-only, and checked once in passing."""
        folder = Path(folder)
        try:
            head = loads_json((folder / _FILE).read_bytes())
            version, name, present, meta = (head[key] for key in ("format", "name", "arrays", "meta"))
            if not isinstance(name, str) or not isinstance(present, list) or not isinstance(meta, dict):
                raise ValueError("name, arrays or meta are of another kind")
        except OSError as problem:
            raise ManyoneError(
                f"{folder / _FILE}: cannot be read ({problem.strerror}); not a trajectory folder"
            ) from None
        except (ValueError, KeyError, TypeError) as problem:
            raise ManyoneError(f"{folder / _FILE}: damaged ({problem}); make the data again") from None
        if version != _FORMAT:
            raise ManyoneError(f"{folder / _FILE}: format {version}, this version reads {_FORMAT}")
        arrays: dict[str, Any] = {}
        for key in (*(k for k in _ARRAYS if k not in _OPTIONAL), *(k for k in _OPTIONAL if k in present)):
            path = folder / f"{key}.npy"
            try:
                arrays[key] = load_npy(path, "r")
            except ValueError as problem:
                raise ManyoneError(f"{path}: missing or damaged ({problem}); make the data again") from None
            if arrays[key].dtype != _ARRAYS[key]:
                raise ManyoneError(f"{path}: holds {arrays[key].dtype}, expected {np.dtype(_ARRAYS[key])}")
        try:
            return cls(name=name, meta=meta, **arrays)
        except ManyoneError as problem:
            raise ManyoneError(str(problem).replace(f"{name}:", f"{folder}:", 1)) from None


def join(parts: Sequence[Trajectories]) -> Trajectories:
    """The episodes of all ``parts`` in one data set with the name of the first.

    What only some parts know of their episodes (final states, success, goals) is left out, as ``meta["notes"]`` says;
    ``meta["parts"]`` holds what each part's ``meta`` was.
    """
    first = parts[0]
    for one in parts:
        if one.choices != first.choices:
            raise ManyoneError(f"{first.name}: data sets with discrete actions and with others cannot be joined")
        if (one.state_dim, one.action_dim) != (first.state_dim, first.action_dim):
            raise ManyoneError(
                f"{first.name}: a data set of states and actions of width {one.state_dim} and {one.action_dim} cannot "
                f"be joined to one of {first.state_dim} and {first.action_dim}"
            )
    starts = np.cumsum([0, *(len(one) for one in parts)])
    notes = [f"{len(parts)} data sets joined"]
    arrays: dict[str, Any] = {
        "offsets": np.concatenate([[0], *(one.offsets[1:] + start for one, start in zip(parts, starts, strict=False))])
    }
    for key in _ARRAYS:
        values = [getattr(one, key) for one in parts]
        if key != "offsets" and all(value is not None for value in values):
            arrays[key] = np.concatenate(values)
        elif key != "offsets" and any(value is not None for value in values):
            notes.append(f"{key.replace('_', ' ')} left out: not all of them have them")
    meta: dict[str, Any] = {"parts": [one.meta for one in parts]}
    meta |= {key: first.meta[key] for key in ("keys", "environment", "reference", "choices") if key in first.meta}
    meta["notes"] = notes + [note for one in parts for note in one.meta.get("notes", ())]
    return Trajectories(name=first.name, meta=meta, **arrays)


def suffix_sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sums of ``values`` [n] from each row to the end of its episode, float32 [n].

    Summed in float64 within each episode (a difference of global sums would lose digits in long data sets). Episodes
    of like length are laid side by side, so the loop runs over blocks of some 4 million steps.
    """
    lengths = np.diff(offsets)
    order = np.argsort(lengths, kind="stable")
    sums = np.empty(len(values), dtype=np.float32)
    begin = 0
    while begin < len(order):
        # the longest episode of a block decides its width; lengths ascend, so the block's last one
        fits = (np.arange(1, len(order) - begin + 1) * lengths[order[begin:]]) <= 4 * CHUNK
        block = order[begin : begin + max(1, int(fits.sum()))]
        steps = np.arange(lengths[block[-1]])
        inside = steps < lengths[block, None]
        rows = (offsets[block, None] + steps)[inside]
        padded = np.zeros(inside.shape)
        padded[inside] = values[rows]
        sums[rows] = padded[:, ::-1].cumsum(axis=1)[:, ::-1][inside]
        begin += len(block)
    return sums


def pooled_statistics(data: Sequence[Trajectories]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the states over all steps of all ``data``, float32 [S]; deviation < 1e-3 -> 1."""
    mean, deviation = pooled_moments(data)
    return mean, np.where(deviation < _STEADY, np.float32(1), deviation)


def pooled_moments(data: Sequence[Trajectories]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the states over all steps of all ``data``, float32 [S], as they are."""

    def chunks() -> Iterator[np.ndarray]:
        for one in data:
            for start in range(0, len(one), CHUNK):
                yield one.observations[start : start + CHUNK].astype(np.float64)

    total = sum(len(one) for one in data)
    mean = sum(chunk.sum(axis=0) for chunk in chunks()) / total
    deviation = np.sqrt(sum(((chunk - mean) ** 2).sum(axis=0) for chunk in chunks()) / total)
    return np.asarray(mean, dtype=np.float32), np.asarray(deviation, dtype=np.float32)


def plain_episode(raw: Mapping[str, Any], origin: str, choices: int | None = None) -> dict[str, Any]:
    """One episode in the flat form's types; lengths and widths checked. ``origin`` names file and episode.

    With ``choices`` the actions are discrete, and become one-hot.
    """
    for key in ("observations", "actions", "rewards"):
        if key not in raw:
            raise ManyoneError(f"{origin}: has no {key} (it has {', '.join(map(str, raw)) or 'nothing'})")
    try:
        given = [np.asarray(raw[key]) for key in ("observations", "actions", "rewards")]
        if choices is not None:
            given[1] = one_hot(given[1], choices, origin)
        observations, actions, rewards = (one.astype(np.float32, copy=False) for one in given)
    except (TypeError, ValueError) as problem:
        raise ManyoneError(f"{origin}: not arrays of numbers ({problem})") from None
    check_numbers(given[0], given[1], origin)
    rewards = rewards[:, 0] if rewards.ndim == 2 and rewards.shape[1] == 1 else rewards
    if observations.ndim != 2 or actions.ndim != 2 or rewards.ndim != 1:
        shapes = f"{observations.shape}, {actions.shape} and {rewards.shape}"
        raise ManyoneError(f"{origin}: observations, actions, rewards are {shapes}; expected [T, S], [T, A] and [T]")
    steps, final = len(rewards), raw.get("final_observation")
    if not steps or len(actions) != steps or len(observations) not in (steps, steps + 1):
        counts = f"{len(observations)} observations, {len(actions)} actions and {steps} rewards"
        raise ManyoneError(f"{origin}: {counts}; expected T (or T+1), T and T with T at least 1")
    if len(observations) == steps + 1:
        observations, final = observations[:-1], observations[-1]
    if final is not None:
        final = np.asarray(final, dtype=np.float32)
        if final.shape != observations.shape[1:]:
            raise ManyoneError(f"{origin}: final observation {final.shape}, expected {observations.shape[1:]}")
    success, goal = raw.get("success"), raw.get("goal")
    return {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "final_observations": final,
        "terminated": bool(raw.get("terminated", False)),
        "successes": None if success is None else bool(success),
        "goals": None if goal is None else int(goal),
    }


def check_arrays(data: Trajectories, origin: str) -> None:
    """Raises :class:`ManyoneError` at the first thing that is wrong with ``data``."""
    offsets, steps = data.offsets, len(data.rewards)
    if offsets.ndim != 1 or len(offsets) < 2 or offsets[0] != 0 or (np.diff(offsets) < 1).any():
        raise ManyoneError(f"{origin}: offsets must rise from 0 by at least one step per episode")
    if offsets[-1] != steps:
        last = int(np.searchsorted(offsets, steps, side="right")) - 1
        raise ManyoneError(
            f"{origin}: episode {min(last, data.episodes - 1)}: {steps} rewards, the episodes need {offsets[-1]}"
        )
    if type(choices := data.meta.get("choices", 0)) is not int:
        raise ManyoneError(f"{origin}: choices {choices!r:.40} in its description: must be a whole number")
    for key, dims in (("observations", 2), ("actions", 2), ("rewards", 1)):
        array = getattr(data, key)
        if array.ndim != dims or len(array) != steps or 0 in array.shape:
            raise ManyoneError(f"{origin}: {key} have shape {array.shape}, expected {steps} rows in {dims} dimensions")
        for start in range(0, steps, CHUNK):
            part = np.isfinite(array[start : start + CHUNK]).reshape(-1, math.prod(array.shape[1:]))
            if not part.all():
                row = start + int(np.argmin(part.all(axis=1)))
                episode = int(np.searchsorted(offsets, row, side="right")) - 1
                where = f"episode {episode}, step {row - offsets[episode]}"
                raise ManyoneError(f"{origin}: {where}: {key} are not finite; remove or mend the episode")
    if data.choices:
        _check_choices(data, origin)
    wanted = {
        "final_observations": (data.episodes, data.state_dim),
        **dict.fromkeys(("terminated", "successes", "goals"), (data.episodes,)),
    }
    for key, shape in wanted.items():
        array = getattr(data, key)
        if array is not None and array.shape != shape:
            raise ManyoneError(f"{origin}: {key} have shape {array.shape}, expected {shape}")
    if data.final_observations is not None and not np.isfinite(data.final_observations).all():
        episode = int(np.argmin(np.isfinite(data.final_observations).all(axis=1)))
        raise ManyoneError(f"{origin}: episode {episode}: the final observation is not finite; remove the episode")


def _check_choices(data: Trajectories, origin: str) -> None:
    """Discrete actions must be one-hot, as wide as ``meta["choices"]`` says."""
    for start in range(0, len(data), CHUNK):
        part = data.actions[start : start + CHUNK]
        if data.choices != data.action_dim or not ((part.max(1) == 1) & (np.count_nonzero(part, 1) == 1)).all():
            raise ManyoneError(
                f"{origin}: its actions are not one-hot in {data.choices} choices, as meta['choices'] says"
            )
