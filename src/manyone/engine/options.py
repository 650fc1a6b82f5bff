"""Options dataclasses to plain values (for YAML) and back, exactly."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from manyone.engine.words import suggestion
from manyone.errors import ManyoneError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """``value`` (a dataclass, or what its fields may hold) as dicts, lists, strings, numbers, booleans and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {to_plain(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(to_plain(v) for v in value)
    if isinstance(value, Sequence):
        return [to_plain(v) for v in value]
    raise TypeError(f"an option cannot hold a {type(value).__name__}: {value!r}")


def from_plain(cls: type[T], plain: Mapping[str, Any], where: str = "options") -> T:
    """Rebuilds the dataclass ``cls`` from what ``to_plain`` made of it; absent fields take their defaults.

    Raises as ``values_from_plain`` does, and for a field that is missing.
    """
    values = values_from_plain(cls, plain, where)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.init and field.name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ManyoneError(f"{where}: option '{field.name}' is missing")
    return cls(**values)


def values_from_plain(
    cls: type[Any], plain: Mapping[str, Any], where: str = "options", open_: bool = False
) -> dict[str, Any]:
    """The fields of ``cls`` that ``plain`` gives a value, as ``to_plain`` made them.

    ``open_``: null, where a field takes none, gives no value (run folders of version 0.1 have it where an option was
    left to the preset). Raises ``ManyoneError`` that names ``where`` and the field for an unknown field and a wrong
    type.
    """
    if not isinstance(plain, Mapping):
        raise ManyoneError(f"{where}: expected a mapping of options, got {plain!r}")
    hints = typing.get_type_hints(cls, include_extras=True)
    names = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in plain:
        if name not in names:
            raise ManyoneError(f"{where}: unknown option '{name}'; {suggestion(str(name), names)}")
    given = {n: v for n, v in plain.items() if v is not None or not open_ or _takes_none(hints[n])}
    return {name: _build(hints[name], value, f"{where}.{name}") for name, value in given.items()}


def check_round_trip(options: Any) -> dict[str, Any]:
    """``to_plain(options)``, after making sure that ``from_plain`` gives the same object back.

    A field whose type loses something on the way (say, ``str | Path``) is a mistake in the recipe: ``TypeError``.
    """
    plain = to_plain(options)
    again = from_plain(type(options), plain)
    for field in dataclasses.fields(options):
        before, after = getattr(options, field.name), getattr(again, field.name)
        if type(before) is not type(after) or (before != after and repr(before) != repr(after)):
            raise TypeError(f"option '{field.name}' = {before!r} would be read back from the config as {after!r}")
    return plain


class _Mismatch(Exception):
    """A plain value that a type cannot have made."""


def _build(hint: Any, value: Any, where: str) -> Any:
    try:
        return _convert(hint, value, where)
    except _Mismatch as mismatch:
        raise ManyoneError(f"{where}: {mismatch}") from mismatch


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _convert(arguments[0], value, where)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        for choice in arguments:
            if choice == value and type(choice) is type(value):
                return choice
        raise _Mismatch(f"{value!r} is not one of {', '.join(map(repr, arguments))}")
    if hint is None or hint is type(None):
        if value is None:
            return None
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return from_plain(hint, value, where)  # type: ignore[arg-type]
    elif origin in (tuple, list, set, frozenset) or hint in (tuple, list, set, frozenset):
        if isinstance(value, list):
            return _convert_items(origin or hint, arguments, value, where)
    elif (origin is not None and isinstance(origin, type) and issubclass(origin, Mapping)) or hint is dict:
        if isinstance(value, Mapping):
            key, item = arguments or (Any, Any)
            return {_convert(key, k, where): _convert(item, v, f"{where}.{k}") for k, v in value.items()}
    elif origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        if isinstance(value, list):
            return _convert_items(tuple, (arguments[0], ...), value, where)
    elif isinstance(hint, type):
        return _convert_scalar(hint, value)
    raise _Mismatch(f"{value!r} is not a {_name(hint)}")


def _convert_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in members:
        return None
    # an exact type first, so that `float | int` gives 1 back as an int
    for member in sorted(members, key=lambda m: m is not type(value)):
        try:
            return _convert(member, value, where)
        except (_Mismatch, ManyoneError):
            continue
    raise _Mismatch(f"{value!r} is not a {' or '.join(map(_name, members))}")


def _convert_items(kind: type, arguments: tuple[Any, ...], values: list[Any], where: str) -> Any:
    if not arguments:
        hints: list[Any] = [Any] * len(values)
    elif kind is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(arguments) != len(values):
            raise _Mismatch(f"{values!r} has {len(values)} items, not {len(arguments)}")
        hints = list(arguments)
    else:
        hints = [arguments[0]] * len(values)
    return kind(_convert(hint, v, f"{where}.{i}") for i, (hint, v) in enumerate(zip(hints, values)))


def _convert_scalar(hint: type, value: Any) -> Any:
    if issubclass(hint, enum.Enum):
        if value in hint.__members__:
            return hint[value]
        raise _Mismatch(f"{value!r} is not one of {', '.join(hint.__members__)}")
    if issubclass(hint, PurePath) and isinstance(value, str):
        return Path(value) if hint is Path else hint(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is bool and isinstance(value, bool):
        return value
    if hint in (int, str) and isinstance(value, hint) and not isinstance(value, bool):
        return value
    raise _Mismatch(f"{value!r} is not a {_name(hint)}")


def _takes_none(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _takes_none(get_args(hint)[0])
    return hint in (Any, None, type(None)) or type(None) in get_args(hint)


def _name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint).replace("typing.", "")
