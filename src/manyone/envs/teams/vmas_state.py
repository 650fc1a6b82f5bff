"""The state of a VMAS world, found by walking through its objects, since VMAS cannot save itself.

Public: :class:`WorldState`, :func:`same_numbers`. A *path* names a place: ``world._agents.0._state._pos``. Tensors are
replaced rather than written into, as VMAS does it itself; one that hangs at several places stays one tensor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manyone.errors import ManyoneError

Place = tuple[Any, Any]  # a container and the key or attribute within
NUMBERS = (bool, int, float, str)


class WorldState:
    """Every tensor, plain number and reference in ``env.world``, ``env.scenario`` and ``env.steps`` now.

    ``tensors``: by the first path that leads to it; ``numbers``: plain values; ``links``: for every place that holds an
    object, the first path of that object.
    """

    def __init__(self, env: Any) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.numbers: dict[str, Any] = {}
        self.links: dict[str, str] = {}
        self._places: dict[str, list[Place]] = {}
        self._holders: dict[str, Place] = {}
        self._objects: dict[str, Any] = {}
        self._known: dict[int, str] = {}
        self._own = type(env.scenario).__module__
        self._walk("world", env.world, (env, "world"))
        self._walk("scenario", env.scenario, (env, "scenario"))
        self._walk("steps", env.steps, (env, "steps"))

    def _walk(self, path: str, value: Any, place: Place) -> None:
        todo = [(path, value, place)]
        while todo:
            path, value, place = todo.pop()
            if isinstance(value, NUMBERS) or value is None:
                self.numbers[path] = value
                self._holders[path] = place
                continue
            if not self._inside(value):
                continue
            first = self._known.setdefault(id(value), path)
            if isinstance(value, Tensor):
                self.tensors.setdefault(first, value)
                self._places.setdefault(first, []).append(place)
                continue
            self.links[path] = first
            self._holders[path] = place
            if first != path:
                continue
            self._objects[path] = value
            todo.extend(reversed([(f"{path}.{name}", part, (value, key)) for name, key, part in _parts(value)]))

    def _inside(self, value: Any) -> bool:
        """Whether ``value`` can be part of a world's state: containers, tensors, VMAS's objects and the scenario's."""
        if isinstance(value, (Tensor, dict, list, tuple)):
            return True
        module = type(value).__module__
        return hasattr(value, "__dict__") and (module.startswith("vmas.") or module == self._own)

    def put(self, path: str, value: Tensor) -> None:
        """Puts a tensor at every place that holds the one of ``path``."""
        for place in self._places[path]:
            _put(place, value)
        self.tensors[path] = value

    def rows(self, batch: int) -> dict[str, Tensor]:
        """The tensors with one row per slot."""
        return {path: tensor for path, tensor in self.tensors.items() if tensor.ndim and tensor.shape[0] == batch}

    def put_rows(self, slots: Tensor, rows: Tensor, source: dict[str, Tensor]) -> None:
        """Rows ``rows`` of ``source``'s tensors into rows ``slots`` of the tensors with the same paths."""
        for path, values in source.items():
            now = self.tensors.get(path)
            if now is not None and now.shape[1:] == values.shape[1:]:
                self.put(path, now.index_copy(0, slots, values[rows].to(now.dtype)))

    def freeze(self) -> WorldState:
        """Keeps copies of the tensors, for :meth:`restore`, which VMAS cannot write into."""
        self._frozen = {path: tensor.clone() for path, tensor in self.tensors.items()}
        return self

    def restore(self) -> None:
        """Puts tensors, numbers and references back to what they were at :meth:`freeze`."""
        for path, tensor in self._frozen.items():
            self.put(path, tensor.clone())
        for path, value in self.numbers.items():
            _put(self._holders[path], value)
        for path, first in self.links.items():
            if first in self._objects and path != first:
                _put(self._holders[path], self._objects[first])

    def saved(self) -> dict[str, Any]:
        """Tensors and numbers, to be stored."""
        return {"tensors": {path: t.clone() for path, t in self.tensors.items()}, "numbers": dict(self.numbers)}

    def load(self, saved: dict[str, Any], name: str) -> None:
        """Puts stored tensors and numbers in place."""
        for path, tensor in saved["tensors"].items():
            if path not in self._places:
                raise ManyoneError(f"{name}: the saved state holds {path}, which this scenario does not have")
            self.put(path, tensor.clone().to(self.tensors[path].device))
        for path, value in saved["numbers"].items():
            if path in self._holders and self.numbers.get(path) != value:
                _put(self._holders[path], value)


def same_numbers(one: WorldState, other: WorldState, batch: int) -> bool:
    """Whether two states of a world differ in rows of ``batch`` slots at most."""
    if one.numbers != other.numbers or one.links != other.links or one.tensors.keys() != other.tensors.keys():
        return False
    rows = one.rows(batch)
    return all(torch.equal(t, other.tensors[path]) for path, t in one.tensors.items() if path not in rows)


def _parts(value: Any) -> list[tuple[str, Any, Any]]:
    """(name, key, part) of a container or an object."""
    if isinstance(value, dict):
        return [(str(i) if not isinstance(k, str) else k, k, v) for i, (k, v) in enumerate(value.items())]
    if isinstance(value, (list, tuple)):
        return [(str(i), i, part) for i, part in enumerate(value)]
    return [(key, key, part) for key, part in vars(value).items()]


def _put(place: Place, value: Any) -> None:
    holder, key = place
    if isinstance(holder, tuple):
        if holder[key] is not value and isinstance(value, Tensor):
            holder[key].copy_(value)
    elif isinstance(holder, (dict, list)):
        holder[key] = value
    else:
        holder.__dict__[key] = value
