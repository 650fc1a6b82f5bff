"""Sensors that are known by name, with their bands' wavelengths, and sensors that a user describes in a small file.

The figures are in ``sensors.yaml``. A user's file has the same form for one sensor::

    name: my camera
    unit: refl
    bands:
      - {name: 1, common: green, center_nm: 550, fwhm_nm: 40}
      - {name: 2, common: nir, center_nm: 840, fwhm_nm: 40, gsd_m: 0.1}
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from manyone.data.rasters.bands import UNITS, Band, Unit
from manyone.engine.documents import mapping, number, parse_yaml, read_yaml, sequence, text
from manyone.errors import ManyoneError

_MOST_BANDS = 2048
_SENSOR_KEYS = ("name", "aliases", "processing", "unit", "bands", "linear", "source", "confidence", "note")
_BAND_KEYS = ("name", "common", "center_nm", "fwhm_nm", "gsd_m", "unit", "mean", "std", "nodata", "orbit")
_LONGEST_NM = 1e9  # a metre: beyond any radar
_VALUE = 1e12  # no pixel has a larger one


@dataclass(frozen=True)
class Sensor:
    """An instrument and its bands."""

    id: str
    name: str
    bands: tuple[Band, ...]
    processing: tuple[str, ...] = ()
    """The levels at which its data are sold, and what their values are."""
    source: str = ""
    confidence: str = ""
    """How far the figures were checked: high, medium or low."""
    note: str = ""
    aliases: tuple[str, ...] = ()

    def band(self, name: str) -> Band:
        """The band that its operator calls ``name``, or that alone has this common name."""
        exact = [b for b in self.bands if b.name.lower() == name.lower()]
        fits = exact or [b for b in self.bands if b.common == name.lower()]
        if len(fits) != 1:
            known = ", ".join(f"{b.name} ({b.common})" for b in self.bands[:16])
            what = "no band" if not fits else f"{len(fits)} bands"
            raise ManyoneError(f"{self.id} has {what} {name!r}; known are {known}")
        return fits[0]

    def pick(self, names: Sequence[str], unit: Unit | None = None) -> tuple[Band, ...]:
        """Bands by name, in the order that is asked for, declared to be in ``unit``."""
        return tuple(replace(b, unit=unit) if unit else b for b in map(self.band, names))


@cache
def sensors() -> tuple[Sensor, ...]:
    """All that are known by name."""
    table = parse_yaml(files(__package__).joinpath("sensors.yaml").read_text(encoding="utf-8"), "sensors.yaml")
    return tuple(_sensor(key, value, f"sensors.yaml, {key}") for key, value in table.items())


def find_sensor(name: str) -> Sensor:
    """The sensor with this id or alias, in any case and with spaces or underscores for hyphens."""
    wanted = _plain(name)
    known = {_plain(word): sensor for sensor in sensors() for word in (sensor.id, *sensor.aliases)}
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    ids = list(dict.fromkeys(known[n].id for n in near)) or [s.id for s in sensors()]
    hint = f"did you mean {' or '.join(ids)}?" if near else f"known are {', '.join(ids)}, or a YAML file of your own"
    raise ManyoneError(f"unknown sensor {name!r}: {hint}")


def read_sensor(path: str | os.PathLike[str]) -> Sensor:
    """A user's own sensor from a YAML file (see the top of this file); its id is the file's name."""
    path = Path(path)
    return _sensor(path.stem, read_yaml(path), str(path))


def as_sensor(sensor: Sensor | str | os.PathLike[str]) -> Sensor:
    """A sensor itself, by name, or from a file (a name that ends in .yaml or .yml)."""
    if isinstance(sensor, Sensor):
        return sensor
    place = os.fspath(sensor)
    return read_sensor(place) if place.lower().endswith((".yaml", ".yml")) else find_sensor(place)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def _sensor(key: str, value: object, where: str) -> Sensor:
    given = mapping(value, where, _SENSOR_KEYS)
    unit = _unit(given.get("unit"), where)
    if "linear" in given:
        rows = _linear(given["linear"], where)
    else:
        rows = sequence(given.get("bands"), f"{where}: bands", _MOST_BANDS)
    bands = tuple(_band(row, f"{where}: band {at + 1}", key, unit) for at, row in enumerate(rows))
    names = [b.name for b in bands]
    if twice := [n for n in names if names.count(n) > 1]:
        raise ManyoneError(f"{where}: two bands are called {twice[0]!r}; give each its own name")
    return Sensor(
        id=key,
        name=text(given.get("name"), f"{where}: name", key),
        bands=bands,
        processing=tuple(text(p, f"{where}: processing") for p in given.get("processing") or ()),
        source=text(given.get("source"), f"{where}: source"),
        confidence=text(given.get("confidence"), f"{where}: confidence"),
        note=text(given.get("note"), f"{where}: note"),
        aliases=tuple(text(a, f"{where}: aliases") for a in given.get("aliases") or ()),
    )


def _band(row: object, where: str, sensor: str, unit: Unit | None) -> Band:
    given = mapping(row, where, _BAND_KEYS)
    if given.get("name") is None:
        raise ManyoneError(f"{where}: has no name; add name: ...")
    name = str(given["name"])  # a number is a name too
    where = f"{where} ({name})"
    orbit = text(given.get("orbit"), f"{where}: orbit")
    if orbit not in ("", "ascending", "descending"):
        raise ManyoneError(f"{where}: orbit {orbit!r} must be ascending or descending")
    common = text(given.get("common"), f"{where}: common", "unknown").lower()
    center = number(given.get("center_nm"), f"{where}: center_nm", 0, _LONGEST_NM)
    return Band(
        name=name,
        common=common,
        center_nm=center,
        fwhm_nm=number(given.get("fwhm_nm"), f"{where}: fwhm_nm", 0, _LONGEST_NM),
        gsd_m=number(given.get("gsd_m"), f"{where}: gsd_m", 0, 1e6),
        sensor=sensor,
        unit=_unit(given.get("unit"), where) or unit,
        mean=number(given.get("mean"), f"{where}: mean", -_VALUE, _VALUE),
        std=number(given.get("std"), f"{where}: std", 0, _VALUE),
        nodata=number(given.get("nodata"), f"{where}: nodata", -_VALUE, _VALUE),
        orbit=orbit,  # type: ignore[arg-type]
    )


def _unit(value: object, where: str) -> Unit | None:
    unit = text(value, f"{where}: unit")
    if unit and unit not in UNITS:
        raise ManyoneError(f"{where}: unit {unit!r}: must be one of {', '.join(UNITS)}")
    return unit or None  # type: ignore[return-value]


def _linear(value: object, where: str) -> list[Mapping[str, Any]]:
    """Bands at equal distances; the numbers in ``without`` (from, to; the first band is 1) are left out."""
    where = f"{where}: linear"
    keys = ("prefix", "first_nm", "last_nm", "count", "without", "common", "fwhm_nm", "gsd_m")
    rule = mapping(value, where, keys)
    count = int(number(rule.get("count"), f"{where}: count", 1, _MOST_BANDS) or 0)
    first = number(rule.get("first_nm"), f"{where}: first_nm", 0, _LONGEST_NM)
    last = number(rule.get("last_nm"), f"{where}: last_nm", 0, _LONGEST_NM)
    if not count or first is None or last is None or first >= last:
        raise ManyoneError(f"{where}: needs count, first_nm and last_nm, the first below the last")
    gone = {i for low, high in rule.get("without") or () for i in range(low, high + 1)}
    step = (last - first) / (count - 1)
    shared = {k: rule[k] for k in ("common", "fwhm_nm", "gsd_m") if k in rule}
    return [
        {"name": f"{rule.get('prefix', 'B')}{i}", "center_nm": first + (i - 1) * step, **shared}
        for i in range(1, count + 1)
        if i not in gone
    ]
