"""The parameters of a recipe's method for every tensor: filters, gradients over the layers, precedence.

The nearest setting wins: the model's own, the slice's, the module's, the recipe's, the default. A list is a gradient,
interpolated at t = k / (n - 1) for the k-th of a slice's n layers (1 where it has one layer); what lies outside the
layers takes the first value. Words and truth values are not interpolated: the list's floor(t (length - 1))-th is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manyone.errors import ManyoneError
from manyone.merging.static.mergekit.schema import Complaints, Scope, short

REQUIRED = object()
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WRITE = {
    float: "a number, a list of numbers (a gradient over the layers) or a list of filter: and value:",
    int: "a whole number",
    bool: "true or false",
}


@dataclass(frozen=True)
class Parameter:
    """``kind`` of the values; ``per`` "all", "model" (every one), "expert" (every one but the base)."""

    kind: type
    per: str
    default: Any = REQUIRED


@dataclass(frozen=True)
class Place:
    """What decides a tensor's settings: the gradients' ``t`` and its name in each source."""

    t: float
    names: Sequence[str]


class Settings:
    """Values of the parameters for the tensors of one slice, all of them evaluated once: a mistake stops the merge
    before anything is read."""

    def __init__(
        self,
        no: Complaints,
        method: str,
        known: Mapping[str, Parameter],
        own: Sequence[Scope],
        is_base: Sequence[bool],
        common: Sequence[Scope],
        places: Mapping[str, Place],
    ) -> None:
        self._no, self._known, self._own, self._common, self._places = no, known, own, common, places
        self._is_base = is_base
        for scope in [*own, *common]:
            for name in scope.values:
                if name not in known:
                    raise ManyoneError(
                        f"{no.path}: {scope.where}.{name:.60} {short(scope.values[name])}: {method} has no such "
                        f"parameter; remove it, known are {', '.join(known) or 'none'}"
                    )
        self._values = {
            (parameter, name, i): self._resolve(parameter, name, i)
            for name in places
            for parameter, what in known.items()
            for i in ([None] if what.per == "all" else range(len(own)))
            if i is None or what.per == "model" or not is_base[i]
        }

    def common(self, parameter: str, name: str) -> Any:
        """The value for all sources."""
        return self._values[parameter, name, None]

    def each(self, parameter: str, name: str) -> list[Any]:
        """The values of the sources that have one: all, or all but the base."""
        keys = [(parameter, name, i) for i in range(len(self._own))]
        return [self._values[key] for key in keys if key in self._values]

    def _resolve(self, parameter: str, name: str, source: int | None) -> Any:
        place, what = self._places[name], self._known[parameter]
        scopes = list(self._common) if source is None else [self._own[source], *self._common]
        seen = name if source is None else place.names[source]
        for scope in scopes:
            if parameter in scope.values:
                where = f"{scope.where}.{parameter}"
                value = self._value(where, what, scope.values[parameter], seen, place.t)
                if value is not None:
                    return value
        if what.default is REQUIRED:
            at = scopes[0].where if source is None else self._own[source].where
            raise ManyoneError(
                f"{self._no.path}: parameter {parameter!r} is missing for {seen}; write it under {at} or parameters"
            )
        return what.default

    def _value(self, where: str, what: Parameter, setting: Any, name: str, t: float) -> Any:
        if isinstance(setting, dict):
            setting = [setting]
        if not isinstance(setting, list):
            return self._scalar(where, what.kind, setting)
        if not setting:
            return None
        if not any(isinstance(entry, dict | list) for entry in setting):
            values = [self._scalar(where, what.kind, entry) for entry in setting]
            place = t * (len(values) - 1)
            left = int(place)
            if what.kind is bool:
                return values[left]
            right = min(left + 1, len(values) - 1)
            mixed = (1 - place + left) * values[left] + (place - left) * values[right]
            return self._scalar(where, what.kind, mixed)
        for k, condition in enumerate(setting):
            at = f"{where}[{k}]"
            condition = self._no.keys(at, condition, ("filter", "value"))
            wanted = condition.get("filter")
            if wanted is not None and not isinstance(wanted, str):
                raise self._no.refuse(f"{at}.filter", wanted, "must be part of a tensor's name, such as self_attn")
            inner = condition.get("value")
            nested = isinstance(inner, list) and any(isinstance(entry, dict | list) for entry in inner)
            if inner is None or nested or isinstance(inner, dict):
                raise self._no.refuse(f"{at}.value", inner, f"must be {_WRITE[what.kind]}")
            if wanted in (None, "*") or wanted in name:
                return self._value(f"{at}.value", what, inner, name, t)
        return None

    def _scalar(self, where: str, kind: type, raw: Any) -> Any:
        """One value; also as text, since YAML reads 1e-1 as a word."""
        try:
            if kind is bool:
                text = raw.strip().lower() if isinstance(raw, str) else raw
                if text in (0, 1, "0", "1"):
                    return bool(int(text))
                return _WORDS[text]
            value = float(raw) if isinstance(raw, str | bool | int | float) else math.nan
            if not math.isfinite(value) or (kind is int and value != int(value)):
                raise ValueError
            return kind(value)
        except (ValueError, TypeError, KeyError, OverflowError):
            raise self._no.refuse(where, raw, f"has a value that is not supported: write {_WRITE[kind]}") from None
