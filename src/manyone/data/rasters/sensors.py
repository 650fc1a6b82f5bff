"""Sensors by name, with their bands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from manyone.data.rasters.bands import Band
from manyone.engine.words import suggestion
from manyone.errors import ManyoneError


@dataclass(frozen=True)
class Sensor:
    """One instrument."""

    id: str
    name: str
    bands: tuple[Band, ...]
    processing: tuple[str, ...] = ()
    source: str = ""
    confidence: str = ""
    note: str = ""


@cache
def sensors() -> dict[str, Sensor]:
    """All that are known, by id."""
    rows = yaml.safe_load(Path(__file__).with_name("sensors.yaml").read_text(encoding="utf-8"))
    return {
        id: Sensor(
            id=id,
            name=id,
            bands=tuple(Band(sensor=id, **band) for band in row["bands"]),
            processing=tuple(row.get("processing", ())),
            source=row.get("source", ""),
            confidence=row.get("confidence", ""),
            note=row.get("note", ""),
        )
        for id, row in rows.items()
    }


def find_sensor(name: str) -> Sensor:
    """The sensor of that id, or whose id begins so; ``ManyoneError`` with the nearest."""
    known = sensors()
    aliases = {"landsat-8": "landsat-8/9-oli-tirs", "landsat-9": "landsat-8/9-oli-tirs", "s2": "sentinel-2"}
    key = aliases.get(name.lower(), name.lower())
    near = [id for id in known if id == key] or [id for id in known if id.startswith(key)]
    if len(near) != 1:
        raise ManyoneError(f"unknown sensor {name!r}; {suggestion(key, known)}")
    return known[near[0]]
