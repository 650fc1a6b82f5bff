"""What the bands of a file are: by a sensor, wavelengths in the metadata, descriptions, or the colours of an image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from manyone.data.rasters.bands import Band, Unit
from manyone.data.rasters.geotiff import sound_header
from manyone.data.rasters.sensors import Sensor, sensors
from manyone.errors import ManyoneError

_COLOURS = {"red": 650.0, "green": 560.0, "blue": 470.0}
"""Centres that stand for the colours of an ordinary photograph."""
_RANGES = (
    (400, 455, "coastal"), (455, 525, "blue"), (525, 600, "green"), (600, 630, "yellow"), (630, 690, "red"),
    (690, 722, "rededge1"), (722, 760, "rededge2"), (760, 800, "rededge3"), (800, 915, "nir"),
    (930, 960, "watervapor"), (1360, 1390, "cirrus"), (1550, 1750, "swir1"), (2050, 2400, "swir2"),
    (8000, 14_000, "tir"),
)  # fmt: skip
_COMMON = {b.common for s in sensors() for b in s.bands} | {"hh", "hv", "dem"}
_UNITS: dict[str, Unit] = {
    "reflectance": "refl", "refl": "refl", "db": "db", "decibel": "db", "k": "kelvin", "kelvin": "kelvin",
    "m": "metre", "metre": "metre", "meter": "metre", "metres": "metre", "meters": "metre",
}  # fmt: skip
_FORMS: tuple[Unit, ...] = ("refl_dn", "refl_dn_off", "dn8", "dn16", "linear_power")

Layer = tuple[Path, Any, list[int], int | None]


def describe_bands(layers: Sequence[Layer], sensor: Sensor | None, gsd_m: float | None) -> tuple[list[Band], list[str]]:
    """(the bands of all files in order, notes). ``layers``: file, dataset, numbers of bands, number of the alpha."""
    found: list[Band] = []
    labels: list[str] = []
    for path, dataset, indexes, _ in layers:
        for index in indexes:
            label = dataset.descriptions[index - 1] or ""
            if not label and len(layers) > 1 and len(indexes) == 1:
                label = re.split(r"[_.\-\s]", path.stem)[-1]  # ..._B04.tif
            labels.append(label)
            with sound_header(path):
                found.append(_from_metadata(dataset, index, label, gsd_m, len(found) + 1))
    notes: list[str] = []
    if sensor is not None:
        found = _from_sensor(found, labels, sensor, layers[0][0], gsd_m)
    elif plain := [b.name for b in found if b.common == "unknown"]:
        notes.append(
            f"{layers[0][0].stem}: nothing says what {', '.join(plain[:6])}{' ...' * (len(plain) > 6)} measure: "
            f"name the sensor, or describe it in a YAML file"
        )
    names = [b.name for b in found]
    if len(set(names)) < len(names):
        found = [replace(b, name=f"{b.name}#{i}") if names.count(b.name) > 1 else b for i, b in enumerate(found, 1)]
    return found, notes


def common_name(center_nm: float) -> str:
    """The common name of a band by its centre in nanometres; "unknown" where there is none."""
    return next((name for low, high, name in _RANGES if low <= center_nm < high), "unknown")


def _from_metadata(dataset: Any, index: int, label: str, gsd_m: float | None, number: int) -> Band:
    tags = {k.lower(): v for k, v in dataset.tags(index).items()}
    imagery = {k.upper(): v for k, v in dataset.tags(index, ns="IMAGERY").items()}
    center = _number(imagery.get("CENTRAL_WAVELENGTH_UM"))
    fwhm = _number(imagery.get("FWHM_UM"))
    if center is not None:
        center, fwhm = center * 1000, fwhm and fwhm * 1000
    else:
        center = _number(tags.get("wavelength") or tags.get("wavelength_nm") or tags.get("center_wavelength"))
        fwhm = _number(tags.get("fwhm"))
        said = (tags.get("wavelength_units") or tags.get("wavelength_unit") or "").lower()
        # micrometres where that is said; where nothing is said, no band has a centre below 100 nm
        if center is not None and (said.startswith(("micro", "um", "µm")) or (not said and center < 100)):
            center, fwhm = center * 1000, fwhm and fwhm * 1000
    common = label.lower() if label.lower() in _COMMON else common_name(center) if center else "unknown"
    colour = dataset.colorinterp[index - 1].name
    if common == "unknown" and center is None and colour in _COLOURS:
        common, center = colour, _COLOURS[colour]
    elif center is None and common in _COLOURS:
        center = _COLOURS[common]
    words = (dataset.units[index - 1] or "").strip()
    unit = _UNITS.get(words.lower()) or next((u for u in _FORMS if u == words), None)
    name = label or (common if common != "unknown" else f"band {number}")
    nodata = dataset.nodatavals[index - 1]
    return Band(name, common, center, fwhm, gsd_m, unit=unit, nodata=nodata)


def _from_sensor(found: list[Band], labels: list[str], sensor: Sensor, path: Path, gsd_m: float | None) -> list[Band]:
    """The sensor's bands in the order of the file: by name where the file names them all, else by position."""
    known = {_plain(b.name): b for b in sensor.bands}
    commons = [b.common for b in sensor.bands]
    known |= {b.common: b for b in sensor.bands if commons.count(b.common) == 1 and b.common not in known}
    matched = [known.get(_plain(label)) for label in labels]
    if not all(matched):
        if len(found) != len(sensor.bands):
            names = ", ".join(label or "no name" for label in labels[:8])
            raise ManyoneError(
                f"{path}: has {len(found)} bands ({names}), {sensor.id} has {len(sensor.bands)} "
                f"({', '.join(b.name for b in sensor.bands[:13])}): name the file's bands in their descriptions, or "
                f"list them in order in a sensor file (YAML)"
            )
        matched = list(sensor.bands)
    return [
        replace(band, gsd_m=gsd_m or band.gsd_m, unit=here.unit or band.unit, nodata=here.nodata)
        for band, here in zip(matched, found, strict=True)
        if band is not None
    ]


def _plain(label: str) -> str:
    """ "B02" and "b2" are one name."""
    return re.sub(r"(?<=[a-z])0+(?=\d)", "", label.strip().lower())


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and 0 < value < 1e9 else None
