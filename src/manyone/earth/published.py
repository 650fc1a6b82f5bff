"""Figures that others published, each with its source and protocol: shown beside one's own, never mixed with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from manyone.earth.catalogue import data_sets, find_model, raw
from manyone.errors import ManyoneError


@dataclass(frozen=True)
class Figure:
    """One published number."""

    table: str
    row: str
    """The model as the table calls it."""
    data: str
    """The data set as the table calls it; empty: a mean over several."""
    variant: str
    """Metric, bands or protocol within the table."""
    value: float
    protocol: str
    source: str
    confidence: str


@dataclass(frozen=True)
class Table:
    """One source of figures."""

    id: str
    protocol: str
    source: str
    confidence: str
    figures: tuple[Figure, ...]
    note: str = ""


@cache
def tables() -> Mapping[str, Table]:
    """All tables of published figures, by id."""
    found = {}
    for id, entry in raw()["results"].items():
        about = (entry.get("protocol", "not recorded"), entry["source"], entry["confidence"])
        figures = tuple(Figure(id, *cell, *about) for cell in _cells(id, entry))
        found[id] = Table(id, *about, figures, entry.get("reproduction_note", ""))
    return found


def published(model: str, data_set: str | None = None) -> tuple[Figure, ...]:
    """The figures of ``model`` (an id or another name for it), of one data set where it is named.

    A data set goes by its id, its name or what a table calls it. ``ManyoneError`` for a model that is unknown.
    """
    rows = raw()["figures_of"].get(find_model(model).id, {})
    found = [
        figure
        for id, patterns in rows.items()
        for figure in tables()[id].figures
        if any(fnmatchcase(figure.row, pattern) for pattern in patterns)
    ]
    if data_set is not None:
        names = _names_of(data_set)
        found = [figure for figure in found if _plain(figure.data) in names]
    return tuple(found)


def _cells(id: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, str, str, float]]:
    """(row, data, variant, value) of a table, whatever its layout."""
    rows = entry["rows"]
    if isinstance(rows, Mapping):
        for row, cells in rows.items():
            if isinstance(cells, list):  # a column a data set
                for data, value in zip(entry["columns"], cells, strict=True):
                    if value is not None:
                        yield row, data, "RMSE" if data.endswith("_RMSE") else "mIoU", float(value)
                continue
            for bands, sets in cells.items():
                for data, probes in sets.items():
                    for probe, value in probes.items():
                        yield row, data, f"{probe}, {bands}", float(value)
        return
    for cells in rows:
        row, *middle, value = cells
        data, variant = (*middle, "", "")[:2]
        if len(middle) > 2 or not isinstance(value, int | float):
            raise ManyoneError(f"catalogue: results of {id}: {cells!r} is no row")
        yield row, data or "", variant or "", float(value)


def _names_of(data_set: str) -> set[str]:
    wanted = _plain(data_set)
    for id, entry in data_sets().items():
        names = {_plain(n) for n in (id, entry.name, *raw()["data_names"].get(id, ()))}
        if wanted in (_plain(id), _plain(entry.name)):
            return names
    return {wanted}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
