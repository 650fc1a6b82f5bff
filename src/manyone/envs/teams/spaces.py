"""Gymnasium's spaces as rows of numbers: what an agent sees, what it may do, and what it does.

Public: :class:`Encoder`, :class:`Decoder`, :func:`acting`. Actions are one number, *digits* (a number each, where an
action has parts: ``MultiDiscrete``, ``MultiBinary``, whole-numbered ``Box``, ``Tuple`` and ``Dict`` of them), or
continuous entries (``Box`` of floats, ``Tuple`` and ``Dict`` of them). Few combinations of digits are one number after
all: a categorical over all of them can prefer two digits together, which independent digits cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np

from manyone.engine.extras import need
from manyone.errors import ManyoneError

JOINT = 64  # combinations of digits up to which an action is one number
CHOICES = 1 << 16  # of a digit
MASKS = ("action_mask", "avail_actions", "available_actions")  # PettingZoo's name, RLlib's and PyMARL's, MAPPO's


class Decoder:
    """Turns entries of a row of actions into what an agent's action space takes.

    ``digits``: choices of each whole number (one for a plain ``Discrete``), () where actions are continuous with bounds
    ``low`` and ``high``. ``joint``: combinations up to which several digits become one.
    """

    def __init__(self, space: Any, whose: str, joint: int = JOINT) -> None:
        self.spaces, self.space, self.whose = need("gymnasium.spaces", whose, "teams"), space, whose
        leaves = list(self._leaves(space))
        discrete = [leaf for leaf in leaves if leaf[0]]
        if discrete and len(discrete) < len(leaves):
            raise self._refusal("whole numbers and continuous entries together")
        self.parts = tuple(choices for digits, _, _ in leaves for choices in digits)
        self.low = tuple(bound for _, low, _ in leaves for bound in low)
        self.high = tuple(bound for _, _, high in leaves for bound in high)
        if not self.parts and not self.low:
            raise self._refusal("nothing to choose")
        combinations = float(np.prod(self.parts, dtype=float))
        self.joint = len(self.parts) > 1 and combinations <= joint
        self.digits = (int(combinations),) if self.joint else self.parts
        sizes = [len(digits) or len(low) for digits, low, _ in leaves]
        self._cuts = list(pairwise([0, *np.cumsum(sizes).tolist()]))

    def decode(self, action: np.ndarray) -> Any:
        """What the environment's ``step`` takes, for ``action`` int64 [k] or more, or float32 [a] or more."""
        if self.joint:  # mixed-radix digits, the last one changing fastest
            action = np.array(np.unravel_index(int(action[0]), self.parts))
        return self._build(self.space, (action[start:end] for start, end in self._cuts))

    def idle(self) -> np.ndarray:
        """The action of an agent that does not act: the first choice of every digit, or what is nearest to zero."""
        if self.digits:
            return np.zeros(len(self.digits), np.int64)
        return np.clip(np.zeros(len(self.low)), self.low, self.high)

    def allowed(self, mask: Any) -> np.ndarray:
        """bool [sum of digits] of an environment's ``mask``: one entry an action or a combination, a mask for every
        digit, or these side by side. ``ManyoneError`` for another shape, and where nothing is allowed."""
        parts = [np.asarray(part) for part in _entries(mask)] if isinstance(mask, (Mapping, tuple, list)) else []
        apart = bool(parts) and all(part.ndim for part in parts)
        found = np.concatenate([part.reshape(-1) for part in parts]) if parts else np.asarray(mask).reshape(-1)
        found = found.astype(bool)
        if self.joint and len(found) == sum(self.parts):
            if len(found) == self.digits[0] and not apart:
                raise ManyoneError(
                    f"{self.whose} has a mask of {len(found)} entries, which may be of combinations or of digits: give "
                    "a tuple with a mask for each digit"
                )
            found = reduce(np.logical_and.outer, np.split(found, np.cumsum(self.parts)[:-1])).reshape(-1)
        if len(found) != sum(self.digits):
            raise ManyoneError(f"{self.whose} has a mask of {len(found)} entries for {self._count()}")
        if not np.logical_or.reduceat(found, np.cumsum([0, *self.digits[:-1]])).all():
            raise ManyoneError(f"{self.whose} has no available action; leave it one or end it")
        return found

    def _count(self) -> str:
        if len(self.digits) == 1:
            return f"{self.digits[0]} actions"
        return f"digits of {', '.join(map(str, self.digits))} choices; give one entry for each choice of each digit"

    def _leaves(self, space: Any) -> Iterator[tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]]:
        """(choices, low, high) of every space that holds no others, in their order."""
        kinds = self.spaces
        if isinstance(space, kinds.Discrete):
            yield (int(space.n),), (), ()
        elif isinstance(space, kinds.MultiDiscrete):
            yield tuple(map(int, space.nvec.reshape(-1))), (), ()
        elif isinstance(space, kinds.MultiBinary):
            yield (2,) * int(np.prod(space.shape)), (), ()
        elif isinstance(space, kinds.Box) and np.issubdtype(space.dtype, np.floating):
            low, high = (tuple(map(float, bound.reshape(-1))) for bound in (space.low, space.high))
            yield (), low, high
        elif isinstance(space, kinds.Box):
            choices = [int(b) - int(a) + 1 for a, b in zip(space.low.reshape(-1), space.high.reshape(-1))]
            if max(choices, default=0) > CHOICES:
                raise self._refusal(f"numbers of more than {CHOICES} choices")
            yield tuple(choices), (), ()
        elif isinstance(space, (kinds.Tuple, kinds.Dict)):
            for part in _entries(space.spaces):
                yield from self._leaves(part)
        else:
            raise self._refusal(f"a {type(space).__name__} space")

    def _build(self, space: Any, values: Iterator[np.ndarray]) -> Any:
        """An element of ``space`` from the entries of its leaves."""
        kinds = self.spaces
        if isinstance(space, kinds.Tuple):
            return tuple(self._build(part, values) for part in space.spaces)
        if isinstance(space, kinds.Dict):
            return {key: self._build(part, values) for key, part in space.spaces.items()}
        entries = next(values)
        if isinstance(space, kinds.Discrete):
            return int(entries[0]) + int(space.start)
        offset = 0
        if isinstance(space, kinds.MultiDiscrete):
            offset = getattr(space, "start", 0)
        elif isinstance(space, kinds.Box) and self.parts:
            offset = space.low
        return np.asarray(entries.reshape(space.shape) + offset, space.dtype)

    def _refusal(self, what: str) -> ManyoneError:
        return ManyoneError(
            f"{self.whose} acts in {self.space}: {what} cannot be learnt; Discrete, MultiDiscrete, MultiBinary, Box, "
            "and Tuple and Dict of either whole numbers or floats, are supported: wrap the environment"
        )


def acting(decoders: Sequence[Decoder], whose: Sequence[str]) -> dict[str, Any]:
    """Fields of a ``Layout`` that say how a team acts. ``ManyoneError`` where some agents choose and others steer."""
    steering = [not decoder.digits for decoder in decoders]
    if any(steering) and not all(steering):
        raise ManyoneError(
            f"{whose[steering.index(True)]} has continuous actions and others discrete ones; all must be of one kind"
        )
    if all(steering):
        low, high = (tuple(getattr(decoder, side) for decoder in decoders) for side in ("low", "high"))
        return {"counts": (0,) * len(decoders), "low": low, "high": high}
    choices = tuple(decoder.digits for decoder in decoders)
    return {"counts": tuple(map(sum, choices)), "digits": choices if max(map(len, choices)) > 1 else ()}


class Encoder:
    """Writes an agent's observation, of any flat-able space, into a row; takes an action mask out, wherever it is.

    ``masked``: whether the space declares a mask. What the agent sees, ``space``, is what is left without it.
    """

    def __init__(self, space: Any, whose: str) -> None:
        self.spaces = spaces = need("gymnasium.spaces", whose, "teams")
        self.whose, self.nested = whose, isinstance(space, (spaces.Dict, spaces.Tuple))
        self.masked = self._mask(space.spaces if self.nested else None, "observes") is not None
        self.path: list[str] = []
        space = self._unmasked(space)
        while isinstance(space, spaces.Dict) and len(space.spaces) == 1:
            self.path += list(space.spaces)
            space = space[self.path[-1]]
        self.space, self.box = space, isinstance(space, spaces.Box)
        if not space.is_np_flattenable:
            raise ManyoneError(f"{whose} observes {space}, which has no fixed width: wrap the environment")
        self.width = int(spaces.flatdim(space))
        if not self.width:
            raise ManyoneError(f"{whose} observes nothing but action masks: wrap the environment to show it something")

    def write(self, seen: Any, out: np.ndarray) -> Any | None:
        """Fills ``out`` [d] and returns the mask, if the observation holds one."""
        mask = None
        if self.nested:
            mask = self._mask(seen, "observed")
            for key in self.path:
                seen = seen[key]
        if self.box:
            values = np.asarray(seen)
            if values.shape != self.space.shape:
                what = (
                    f"a dict of {', '.join(map(str, seen))}"
                    if isinstance(seen, Mapping)
                    else f"something of shape {list(values.shape)}"
                )
                raise ManyoneError(
                    f"{self.whose} observed {what}; its observation space has shape {list(self.space.shape)}"
                )
        else:
            values = np.asarray(self.spaces.flatten(self.space, seen))
        out[: self.width] = values.reshape(-1)
        return mask

    def _mask(self, held: Any, verb: str) -> Any | None:
        masks = list(_masks_in(held))
        if len(masks) > 1:
            raise ManyoneError(f"{self.whose} {verb} {len(masks)} action masks; one is needed: wrap the environment")
        return masks[0] if masks else None

    def _unmasked(self, space: Any) -> Any:
        """``space`` without its masks."""
        if isinstance(space, self.spaces.Dict):
            kept = {key: self._unmasked(part) for key, part in space.spaces.items() if key not in MASKS}
            return self.spaces.Dict(kept)
        if isinstance(space, self.spaces.Tuple):
            return self.spaces.Tuple([self._unmasked(part) for part in space.spaces])
        return space


def mask_of(info: Any) -> Any | None:
    """The mask in an agent's ``info``, under any of its names; None where there is none."""
    return next(_masks_in(info, deep=False), None)


def _masks_in(held: Any, deep: bool = True) -> Iterator[Any]:
    """What stands under a mask's name in a mapping, and (``deep``) in those that it holds."""
    for key, part in held.items() if isinstance(held, Mapping) else ((None, part) for part in _entries(held)):
        if key in MASKS and part is not None:
            yield part
        elif deep and (isinstance(part, (Mapping, tuple)) or hasattr(part, "spaces")):
            yield from _masks_in(getattr(part, "spaces", part))


def _entries(held: Any) -> Sequence[Any]:
    """Values of a mapping or a sequence, in their order; nothing of anything else."""
    if isinstance(held, Mapping):
        return list(held.values())
    return held if isinstance(held, (tuple, list)) else ()
