"""YAML files from outside: read with limits, checked key by key; every complaint is one line that names the place."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from manyone.errors import ManyoneError

LARGEST = 512 * 1024
"""Bytes of a file that is read at all."""
DEEPEST = 32
"""Brackets within brackets, and dashes in a line; the parser's time grows with their square."""


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The content of a YAML file (plain data alone), no larger than :data:`LARGEST`."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ManyoneError(f"{path}: {size:,} bytes are more than the {LARGEST:,} that such a file may have")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "not UTF-8 text"
        raise ManyoneError(f"{path}: cannot be read ({reason}); give a YAML file") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Plain data in YAML text; anchors are refused, because a few lines of them may stand for gigabytes."""
    _check_depth(text, where)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ManyoneError(f"{where}: uses YAML aliases (*name); write the values out")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(problem, "problem", None) or "nested too deeply"
        raise ManyoneError(f"{where}{line}: not YAML ({reason}); correct the file") from None


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
