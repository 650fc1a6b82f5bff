"""Which observations and actions policies can take, and how structured ones become vectors.

A policy reads a vector and gives a vector. Arrays of numbers are laid flat; of a dictionary the chosen entries are laid
side by side in the chosen order, in the same way when data are read, when an environment is played and when a policy
acts. Discrete actions, which are only names, are one-hot vectors: as plain numbers they would train to nonsense without
a word. Discrete states, several discrete actions at a time and images are refused.

Public names: ``lay_out``, ``state_width``, ``action_width``, ``action_choices``, ``check_numbers``, ``one_hot``,
``MOST_CHOICES``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manyone.errors import ManyoneError

if TYPE_CHECKING:
    from gymnasium import Space

MOST_CHOICES = 10_000
"""More discrete actions than this are not read: each becomes a column of numbers."""


def lay_out(
    observation: Any, keys: Sequence[str] = (), *, batch: bool = False, origin: str = "the environment"
) -> np.ndarray:
    """``observation`` as a vector [S], or a ``batch`` of T as [T, S].

    ``keys`` are entries of a dictionary, laid side by side in this order; ``a/b`` is entry b of the dictionary at a.
    Arrays of any shape are laid flat. ``origin`` is named in errors.
    """
    if isinstance(observation, Mapping):
        chosen = (_entry(observation, key, origin) for key in _given(observation, keys, origin))
        return np.concatenate([lay_out(one, batch=batch) for one in chosen], axis=-1)
    array = np.asarray(observation)
    return array.reshape(len(array), -1) if batch else array.reshape(-1)


def state_width(space: Space, keys: Sequence[str], origin: str) -> int:
    """S, the width of what :func:`lay_out` makes of observations in ``space``; :class:`ManyoneError` if it cannot."""
    return sum(_numbers_of(one, "observations", origin) for one in _chosen(space, keys, origin))


def action_width(space: Space, origin: str) -> int:
    """A, the width of actions in ``space``: a Box of real numbers, or the choices of a Discrete space."""
    if choices := action_choices(space):
        return choices
    width = _numbers_of(space, "actions", origin)
    if np.dtype(space.dtype).kind != "f":  # type: ignore[arg-type]
        raise ManyoneError(f"{origin}: its actions are {space}; policies act in a Box of floats or a Discrete space")
    return width


def action_choices(space: Space) -> int:
    """C, the choices of a Discrete action space; 0 for any other space."""
    return int(space.n) if type(space).__name__ == "Discrete" else 0  # type: ignore[attr-defined]


def check_numbers(observations: Any, actions: Any, origin: str, choices: int | None = None) -> None:
    """Refuses images, and whole numbers as actions without ``choices``, by the types of arrays or of HDF5 data sets."""
    if actions.dtype.kind in "iub" and choices is None:
        raise ManyoneError(
            f"{origin}: its actions are whole numbers ({actions.dtype}): say how many choices there are if they are "
            "discrete (choices=N, --data-choices N); store real-valued actions as floats"
        )
    if observations.dtype == np.uint8 and observations.ndim > 2:
        raise ManyoneError(f"{origin}: its observations are images ({_shape(observations)}); policies read vectors")


def one_hot(actions: Any, choices: int, origin: str, start: int = 0) -> np.ndarray:
    """Discrete actions [T] or [T, 1], whole numbers from ``start``, as float32 [T, ``choices``].

    What is one-hot already stays what it is. ``origin`` is named in errors.
    """
    given = np.asarray(actions)
    if not 2 <= choices <= MOST_CHOICES:  # a file's own number, and so many columns
        raise ManyoneError(f"{origin}: {choices} discrete actions (--data-choices): must be 2 to {MOST_CHOICES}")
    if given.ndim == 2 and given.shape[1] == choices and given.dtype.kind == "f":
        return given.astype(np.float32, copy=False)
    flat = given[:, 0] if given.ndim == 2 and given.shape[1] == 1 else given
    if flat.ndim != 1 or flat.dtype.kind not in "fiub":
        raise ManyoneError(
            f"{origin}: its actions are {_shape(given)}; discrete ones are [T] numbers of a choice, or [T, {choices}]"
        )
    with np.errstate(invalid="ignore"):  # NaN is none of the choices
        numbers = flat.astype(np.int64) - start
    odd = (numbers < 0) | (numbers >= choices) | (numbers + start != flat)
    if odd.any():
        first = flat[int(np.argmax(odd))]
        raise ManyoneError(
            f"{origin}: its actions have {first:g}; the {choices} choices are {start} to {start + choices - 1}"
        )
    return np.eye(choices, dtype=np.float32)[numbers]


def _chosen(space: Any, keys: Sequence[str], origin: str) -> list[Any]:
    """The spaces of the entries ``keys`` of a Dict; of any other, the space itself."""
    spaces = getattr(space, "spaces", None)
    if not isinstance(spaces, Mapping):
        return [space]
    return [_entry(space, key, origin) for key in _given(spaces, keys, origin)]


def _given(entries: Mapping[str, Any], keys: Sequence[str], origin: str) -> Sequence[str]:
    if not keys:
        names = list(entries)
        raise ManyoneError(
            f"{origin}: its observations are a dictionary with {', '.join(names)}: choose by --keys the entries to lay "
            f"side by side, e.g. --keys {','.join(names[:2])}"
        )
    return keys


def _entry(entries: Any, key: str, origin: str) -> Any:
    """The entry at the path ``key``, of a dictionary of arrays or a Dict of spaces."""
    found = entries
    for name in key.split("/"):
        inside = getattr(found, "spaces", found)
        if not isinstance(inside, Mapping) or name not in inside:
            has = f"it has {', '.join(inside)}" if isinstance(inside, Mapping) else "it is no dictionary there"
            raise ManyoneError(f"{origin}: its observations have no {key} ({has}); choose others by --keys")
        found = inside[name]
    inside = getattr(found, "spaces", found)
    if isinstance(inside, Mapping):
        raise ManyoneError(
            f"{origin}: {key} is a dictionary itself: choose entries of it, e.g. {key}/{next(iter(inside))}"
        )
    return found


def _numbers_of(space: Any, what: str, origin: str) -> int:
    """How many numbers a point of ``space`` has; it must be a Box, and no image."""
    if type(space).__name__ != "Box":
        raise ManyoneError(f"{origin}: its {what} are {space}; policies read and give real numbers (Box spaces)")
    if space.dtype == np.uint8 and len(space.shape) > 1:
        raise ManyoneError(f"{origin}: its {what} are images ({_shape(space)}); policies read vectors")
    return math.prod(space.shape)


def _shape(array: Any) -> str:
    return f"{array.dtype}, {' x '.join(map(str, array.shape))}"
