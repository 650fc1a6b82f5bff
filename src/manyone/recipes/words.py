"""Options as command-line words: ``{"batch_size": 8, "film": False}`` <-> ``--batch-size=8 --no-film``."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from manyone.engine.words import suggestion
from manyone.errors import ManyoneError


def flags(cls: Any, prefix: str = "") -> Iterator[str]:
    """The option names of the dataclass ``cls`` as typed, e.g. ``--learning-rate``, ``--router.layers``."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(hints[field.name]):
            yield from flags(hints[field.name], name + ".")
        else:
            yield f"--{name}"
            if hints[field.name] is bool:
                head, dot, last = name.rpartition(".")
                yield f"--{head}{dot}no-{last}"


def typed(words: Sequence[str], cls: Any) -> set[str]:
    """The fields of ``cls`` that ``words`` give a value to."""
    fields = {f.name for f in dataclasses.fields(cls)}
    named = (word.split("=")[0][2:].replace("-", "_").split(".")[0] for word in words if word.startswith("--"))
    return {name if name in fields else name.removeprefix("no_") for name in named} & fields


def words_of(plain: Mapping[str, Any], cls: Any, where: str) -> list[str]:
    """The plain values (:func:`manyone.engine.options.to_plain`) of options of ``cls`` as words.

    Raises ``ManyoneError`` that begins with ``where`` for a name that is no option.
    """
    return list(_words(plain, set(flags(cls)), "--", where))


def _words(content: Mapping[str, Any], known: set[str], prefix: str, where: str) -> Iterator[str]:
    for key, value in content.items():
        name = prefix + str(key).replace("_", "-")
        if isinstance(value, Mapping) and name not in known:
            if not any(flag.startswith(name + ".") for flag in known):
                raise ManyoneError(f"{where}: unknown option '{key}'; {suggestion(name, known)}")
            yield from _words(value, known, name + ".", where)
        elif name not in known:
            raise ManyoneError(f"{where}: unknown option '{key}'; {suggestion(name, known)}")
        elif isinstance(value, bool):
            head, dot, last = name.removeprefix("--").rpartition(".")
            negative = f"--{head}{dot}no-{last}"
            if negative not in known:
                yield f"{name}={value}"
            else:
                yield name if value else negative
        elif isinstance(value, Mapping):
            yield name
            for pair in value.items():
                yield from map(str, pair)
        elif isinstance(value, list):
            yield name
            yield from map(str, _flat(value))
        else:
            yield f"{name}={value}"


def _flat(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value
