"""A figure as data: what a study draws besides the sections that every study has.

Five kinds, each with its own keys (all JSON data)::

    matrix   rows, columns: names; values: rows x columns numbers (null leaves a cell empty); unit?; outlined?: a
             column; reach?: the size with the full shade, where several figures share one scale
    lines    series: {name: {x: [...], y: [...], low?: [...], high?: [...], group?}} (a group shares its look and its
             entry in the key); x_label?, y_label?, log_x?, log_y?, marks?: [{x, y?, label}] (a point, or without y a
             vertical line)
    bars     names, values; low?, high?: ends of intervals; before?: earlier values, drawn hollow; unit?
    image    data: base64 of a PNG, GIF, JPEG or WebP file; width?: in pixels at most
    table    columns: names; rows: lists of texts and numbers

and for every kind ``title``, ``caption`` and ``section`` (the heading under which it stands). A unit of "%" means
fractions, shown times 100.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from manyone.engine.documents import read_json, sound
from manyone.errors import ManyoneError

Kind = Literal["matrix", "lines", "bars", "image", "table"]
SECTION = "Figures"
_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "matrix": (("rows", "columns", "values"), ("unit", "outlined", "reach")),
    "lines": (("series",), ("x_label", "y_label", "log_x", "log_y", "marks")),
    "bars": (("names", "values"), ("low", "high", "before", "unit")),
    "image": (("data",), ("width",)),
    "table": (("columns", "rows"), ()),
}
_TEXTS = ("title", "caption", "section")
_MIME = {b"\x89PNG": "image/png", b"GIF8": "image/gif", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Figure:
    """One figure; ``data`` holds the keys of its kind (see the module's description)."""

    kind: Kind
    title: str
    data: Mapping[str, Any] = field(default_factory=dict)
    caption: str = ""
    section: str = SECTION

    def __post_init__(self) -> None:
        where = f"figure {self.title!r}"
        if self.kind not in _KEYS:
            raise ManyoneError(f"{where}: unknown kind {self.kind!r}: use {', '.join(get_args(Kind))}")
        needed, optional = _KEYS[self.kind]
        for name in needed:
            if name not in self.data:
                raise ManyoneError(f"{where}: a figure of kind {self.kind!r} needs {name!r}")
        if unknown := sorted(set(self.data) - {*needed, *optional}):
            known = ", ".join([*needed, *optional])
            raise ManyoneError(f"{where}: unknown key {unknown[0]!r} for kind {self.kind!r} (known: {known})")
        with sound(where, "of its kind"):
            _CHECKS[self.kind](self.data, where)

    def to_json(self) -> dict[str, Any]:
        """The figure as one flat JSON object."""
        return {"kind": self.kind, "title": self.title, "caption": self.caption, "section": self.section, **self.data}

    @staticmethod
    def from_json(data: Any, where: str) -> Figure:
        """Checks and reads one figure; ``where`` (the file) opens every error message."""
        if not isinstance(data, dict) or not {"kind", "title"} <= set(data):
            raise ManyoneError(f"{where}: a figure must be a JSON object with 'kind' and 'title'")
        for name in ("kind", *_TEXTS):
            if not isinstance(data.get(name, ""), str):
                raise ManyoneError(f"{where}: {name!r} of a figure must be text, got {data[name]!r}")
        rest = {k: v for k, v in data.items() if k not in ("kind", *_TEXTS)}
        try:
            return Figure(data["kind"], data["title"], rest, data.get("caption", ""), data.get("section") or SECTION)
        except ManyoneError as error:
            raise ManyoneError(f"{where}: {error}") from None


def image_of(path: Path) -> str:
    """The base64 text of an image file, for a figure of kind "image"."""
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise ManyoneError(f"{path}: cannot read the image: {error.strerror or error}") from error


def mime(data: str) -> str:
    """The media type of a base64 image by its first bytes; empty when it is none of the known ones."""
    try:
        head = base64.b64decode(data[:16], validate=True)
    except (binascii.Error, ValueError):
        return ""
    return next((kind for start, kind in _MIME.items() if head.startswith(start)), "")


def save_figures(path: Path, figures: Iterable[Figure]) -> None:
    """Writes a list of figures as JSON."""
    text = json.dumps([f.to_json() for f in figures], ensure_ascii=False, allow_nan=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ManyoneError(f"{path}: cannot write figures: {error.strerror or error}") from error


def load_figures(path: Path) -> list[Figure]:
    """Reads a list of figures that :func:`save_figures` wrote."""
    data = read_json(path, "figures")
    if not isinstance(data, list):
        raise ManyoneError(f"{path}: must hold a list of figures")
    return [Figure.from_json(entry, str(path)) for entry in data]


# --- checks -----------------------------------------------------------------------------------------------------------


def _numbers(values: Any, count: int | None, where: str, *, gaps: bool = False) -> None:
    if not isinstance(values, Sequence) or isinstance(values, str) or (count is not None and len(values) != count):
        wanted = "a list of numbers" if count is None else f"a list of {count} numbers"
        raise ManyoneError(f"{where}: must be {wanted}")
    for v in values:
        number = isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
        if not (number or (gaps and v is None)):
            raise ManyoneError(f"{where}: must be finite numbers, got {v!r}")


def _names(values: Any, where: str) -> None:
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(isinstance(v, str) for v in values):
        raise ManyoneError(f"{where}: must be a list of texts, got {values!r}")


def _matrix(data: Mapping[str, Any], where: str) -> None:
    _names(data["rows"], f"{where}: rows")
    _names(data["columns"], f"{where}: columns")
    if not isinstance(data["values"], Sequence) or len(data["values"]) != len(data["rows"]):
        raise ManyoneError(f"{where}: values: must have a line for each of the {len(data['rows'])} rows")
    for name, line in zip(data["rows"], data["values"]):
        _numbers(line, len(data["columns"]), f"{where}: values of {name!r}", gaps=True)
    if data.get("outlined", None) not in (None, *data["columns"]):
        raise ManyoneError(f"{where}: outlined: {data['outlined']!r} is no column")
    _numbers([data.get("reach", 1)], 1, f"{where}: reach")


def _lines(data: Mapping[str, Any], where: str) -> None:
    if not isinstance(data["series"], Mapping):
        raise ManyoneError(f"{where}: series: must be an object of name: {{x, y}}")
    for name, curve in data["series"].items():
        here = f"{where}: series {name!r}"
        known = {"x", "y", "low", "high", "group"}
        if not isinstance(curve, Mapping) or not {"x", "y"} <= set(curve) or set(curve) - known:
            raise ManyoneError(f"{here}: must have x and y, and at most low, high and group besides")
        if ("low" in curve) != ("high" in curve):
            raise ManyoneError(f"{here}: low and high must be given together")
        _numbers(curve["x"], None, f"{here}: x")
        for key in set(curve) - {"x", "group"}:
            _numbers(curve[key], len(curve["x"]), f"{here}: {key}")
        for key, log in (("x", "log_x"), ("y", "log_y")):
            if data.get(log) and any(v <= 0 for v in curve[key]):
                raise ManyoneError(f"{here}: {key} must be positive on a log axis")
    for mark in data.get("marks", ()):
        if not isinstance(mark, Mapping) or not {"x", "label"} <= set(mark) <= {"x", "y", "label"}:
            raise ManyoneError(f"{where}: marks: each must be {{x, y, label}} or {{x, label}}, got {mark!r}")
        _numbers([v for k, v in mark.items() if k != "label"], None, f"{where}: mark {mark['label']!r}")
        for key, log in (("x", "log_x"), ("y", "log_y")):
            if data.get(log) and mark.get(key, 1) <= 0:
                raise ManyoneError(f"{where}: mark {mark['label']!r}: {key} must be positive on a log axis")


def _bars(data: Mapping[str, Any], where: str) -> None:
    _names(data["names"], f"{where}: names")
    if ("low" in data) != ("high" in data):
        raise ManyoneError(f"{where}: low and high must be given together")
    for key in {"values", "low", "high", "before"} & set(data):
        _numbers(data[key], len(data["names"]), f"{where}: {key}", gaps=key in ("low", "high"))


def _image(data: Mapping[str, Any], where: str) -> None:
    if not isinstance(data["data"], str) or not mime(data["data"]):
        raise ManyoneError(f"{where}: data: must be the base64 text of a PNG, GIF, JPEG or WebP file")


def _table(data: Mapping[str, Any], where: str) -> None:
    _names(data["columns"], f"{where}: columns")
    for line in data["rows"]:
        if not isinstance(line, Sequence) or isinstance(line, str) or len(line) != len(data["columns"]):
            raise ManyoneError(f"{where}: rows: each must be a list of {len(data['columns'])} cells, got {line!r}")


_CHECKS = {"matrix": _matrix, "lines": _lines, "bars": _bars, "image": _image, "table": _table}
