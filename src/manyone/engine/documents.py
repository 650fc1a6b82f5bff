"""JSON, TOML and YAML from outside: read with limits, checked key by key; every complaint is one line.

What a file says of itself is never believed before it is compared with the file: how many bytes it has, how deep it is
nested, how much the aliases of a few lines stand for. Public names: :func:`loads_json`, :func:`read_json`,
:func:`parse_toml`, :func:`read_yaml`, :func:`parse_yaml`, :func:`read_text`, :func:`sound`, and the checks of parsed
values (:func:`mapping`, :func:`text`, :func:`number`, :func:`sequence`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from manyone.errors import ManyoneError

LARGEST = 512 * 1024
"""Bytes of a YAML file that is read at all."""
LARGEST_JSON = 256 << 20
"""Bytes of a JSON file that is read at all."""
DEEPEST = 32
"""Brackets within brackets in YAML, and dashes in a line; the parser's time grows with their square."""
MOST_VALUES = 100_000
"""Values that a YAML file may stand for once its aliases are written out."""


@contextlib.contextmanager
def sound(where: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Says that ``where`` is no ``what`` when what is made of its parsed content inside fails: a list where text
    belongs, a missing entry, a number that is none."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as problem:
        reason = f"{problem} is missing" if isinstance(problem, KeyError) else f"{' '.join(str(problem).split()):.200}"
        raise ManyoneError(f"{where}: not {what} ({reason}): correct it or make it again") from problem


def loads_json(data: str | bytes) -> Any:
    """The content of JSON text; ``ValueError`` for whatever is none: bytes that are no UTF-8, nesting without end."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: str | os.PathLike[str], what: str = "the file", *, largest: int = LARGEST_JSON) -> Any:
    """The content of a JSON file, or one line about why ``what`` cannot be read."""
    data = _bytes(Path(path), what, largest)
    try:
        return loads_json(data)
    except ValueError as problem:
        reason = getattr(problem, "msg", None) or "no UTF-8 text" * isinstance(problem, UnicodeDecodeError) or problem
        line = f", line {problem.lineno}" if isinstance(problem, json.JSONDecodeError) else ""
        raise ManyoneError(f"{path}{line}: not JSON ({reason}): {what} cannot be read") from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The content of TOML text; ``where`` opens the complaint."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as problem:
        reason = "nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        raise ManyoneError(f"{where}: not TOML: {reason}") from None


def read_text(path: str | os.PathLike[str], what: str = "the file", *, largest: int = LARGEST) -> str:
    """The text of a UTF-8 file of at most ``largest`` bytes."""
    try:
        return _bytes(Path(path), what, largest).decode("utf-8")
    except UnicodeDecodeError:
        raise ManyoneError(f"{path}: cannot be read (not UTF-8 text): {what} must be text") from None


def read_yaml(path: str | os.PathLike[str], *, aliases: bool = False, largest: int = LARGEST) -> Any:
    """The content of a YAML file (plain data alone); see :func:`parse_yaml`."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > largest:
            raise ManyoneError(f"{path}: {size:,} bytes are more than the {largest:,} that such a file may have")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "not UTF-8 text"
        raise ManyoneError(f"{path}: cannot be read ({reason}); give a YAML file") from None
    return parse_yaml(text, str(path), aliases=aliases)


def parse_yaml(text: str, where: str, *, aliases: bool = False) -> Any:
    """Plain data in YAML text.

    A few lines of aliases may stand for gigabytes: they are refused, or (``aliases``) written out in thought and
    counted first, up to :data:`MOST_VALUES`.
    """
    _check_depth(text, where)
    try:
        if not aliases and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ManyoneError(f"{where}: uses YAML aliases (*name); write the values out")
        if aliases and (count := _written_out(text)) > MOST_VALUES:
            raise ManyoneError(f"{where}: its aliases (*name) stand for {count:,} values; write out what is meant")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError) as problem:
        # TypeError, AttributeError: what PyYAML itself makes of keys that are no keys, and of broken tags
        mark = getattr(problem, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(problem, "problem", None) or "nested too deeply, or values that are none"
        raise ManyoneError(f"{where}{line}: not YAML ({reason}); correct the file") from None


def _written_out(text: str) -> int:
    """Values of YAML text with every alias replaced by what it stands for."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []  # anchor, count when it began
    count = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            count += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = count - before
        if count > MOST_VALUES * 1000:
            break
    return count


def _bytes(path: Path, what: str, largest: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > largest:
            raise ManyoneError(f"{path}: {size:,} bytes are more than the {largest:,} that {what} may have")
        return path.read_bytes()
    except OSError as problem:
        raise ManyoneError(f"{path}: cannot read {what}: {problem.strerror or problem}") from None


def _check_depth(text: str, where: str) -> None:
    depth = 0
    for mark in re.findall(r"[\[{\]}]", text):
        depth += 1 if mark in "[{" else -1
        if depth > DEEPEST:
            break
    if depth > DEEPEST or re.search(rf"(?:[-?:][ \t]+){{{DEEPEST}}}", text):
        raise ManyoneError(f"{where}: not YAML that is read here (nested more than {DEEPEST} deep); correct the file")


def mapping(value: object, where: str, allowed: Collection[str]) -> Mapping[str, Any]:
    """``value``, if it is a mapping with no other keys than ``allowed``."""
    if not isinstance(value, dict):
        raise ManyoneError(f"{where}: is {_kind(value)}; must be a mapping with the keys {', '.join(allowed)}")
    if odd := [str(key) for key in value if key not in allowed]:
        raise ManyoneError(f"{where}: unknown key {odd[0]!r}; known are {', '.join(allowed)}")
    return value


def text(value: object, where: str, default: str = "") -> str:
    """A string; ``default`` where it is missing."""
    if value is None:
        return default
    if not isinstance(value, str):
        raise ManyoneError(f"{where}: {value!r} is {_kind(value)}; must be text")
    return value


def number(value: object, where: str, low: float, high: float) -> float | None:
    """A number from ``low`` (excluded) to ``high``; None where it is missing."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
        raise ManyoneError(f"{where}: {value!r} must be a number above {low:g}, up to {high:g}")
    return float(value)


def sequence(value: object, where: str, most: int) -> list[Any]:
    """A list of 1 to ``most`` entries."""
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        found = f"a list of {len(value)}" if isinstance(value, list) else _kind(value)
        raise ManyoneError(f"{where}: is {found}; must be a list of 1 to {most} entries")
    return value


def _kind(value: object) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "missing", bool: "a truth value"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
