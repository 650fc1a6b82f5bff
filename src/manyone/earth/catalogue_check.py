"""What is wrong with the catalogue: every problem with the entry and the key (rsfm.md section 9, property 17).

Ids are unique; every entry has a source and a confidence; reflective bands lie in 300 to 2,600 nm; what one part names
is in the other; each weight file resolves in the torchgeo that is installed, or is marked as newer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from manyone.data.rasters.bands import UNITS
from manyone.data.rasters.sensors import find_sensor, sensors
from manyone.earth.catalogue import raw
from manyone.engine.extras import need
from manyone.errors import ManyoneError

_WORDS, _FLAG, _NUMBER, _MANY = str, bool, int, list
_KEYS: dict[str, tuple[dict[str, type], dict[str, type]]] = {
    "models": (
        {"id": _WORDS, "name": _WORDS, "year": _NUMBER, "venue": _WORDS, "category": _WORDS, "method": _WORDS,
         "modalities": _MANY, "backbone": _MANY, "license": _WORDS, "in_survey_list": _FLAG, "source": _MANY,
         "confidence": _WORDS},
        {"params_m": _MANY, "pretrain_data": _WORDS, "pretrain_size": _WORDS, "code": _WORDS, "weights": _MANY,
         "license_hint": _WORDS},
    ),
    "models_listed_only": (
        {"name": _WORDS, "title": _WORDS, "venue": _WORDS, "category": _WORDS, "in_survey_list": _FLAG,
         "source": _MANY, "confidence": _WORDS},
        {"year": _NUMBER, "paper": _WORDS, "code": _WORDS},
    ),
    "torchgeo_weights": (
        {"enum": _WORDS, "hub": _WORDS, "file": _WORDS},
        {"dataset": _WORDS, "arch": _WORDS, "in_chans": _NUMBER, "ssl": _WORDS, "license": _WORDS, "bands": _MANY},
    ),
    "datasets": (
        {"id": _WORDS, "name": _WORDS, "year": _NUMBER, "role": _WORDS, "modality": _WORDS, "labels": _WORDS,
         "location": _WORDS, "license": _WORDS, "in_survey_list": _FLAG, "source": _MANY, "confidence": _WORDS},
        {"task": _WORDS, "loader": _WORDS, "license_hint": _WORDS},
    ),
    "loaders": (
        {"library": _WORDS, "call": _WORDS},
        {"enums": _MANY, "since": _WORDS, "gives": _WORDS, "offline": _FLAG, "file": _WORDS},
    ),
    "slots": (
        {"modality": _WORDS, "source": _WORDS, "confidence": _WORDS},
        {"any": _FLAG, "sensor": _WORDS, "bands": _MANY, "unit": _WORDS, "mean": _MANY, "std": _MANY, "size": _NUMBER,
         "patch": _NUMBER, "frames": _MANY, "needs": _MANY, "groups": _MANY},
    ),
}  # fmt: skip
"""Section -> keys that an entry must have, and those that it may have."""
_LOOSE = {"datasets": ("classes", "images", "image_size", "gsd_m")}
"""Keys of a number or of words."""
_CONFIDENCE = ("high", "medium", "low", "listed-only")
_NEEDS = ("gsd", "time", "lonlat", "wavelength", "bandwidth")
_REFLECTIVE_NM = (300, 2600)


def check(data: Mapping[str, Any] | None = None) -> list[str]:
    """One line a problem; none: the catalogue is sound. ``data``: another catalogue than the one that is shipped."""
    data = raw() if data is None else data
    problems = [f"{name}: the section is missing" for name in (*_KEYS, "results", "licences") if name not in data]
    if problems:
        return problems
    for section in ("models", "models_listed_only", "torchgeo_weights", "datasets"):
        for at, entry in enumerate(data[section]):
            problems += _entry(section, entry, str(entry.get("id") or entry.get("enum") or entry.get("name") or at))
    for section in ("loaders", "slots"):
        for id, entries in data[section].items():
            for entry in entries:
                problems += _entry(section, entry, id)
    for section, key in (("models", "id"), ("datasets", "id"), ("torchgeo_weights", "enum")):
        problems += _twice(section, key, [entry.get(key) for entry in data[section]])
    problems += _links(data)
    problems += [p for id, entries in data["slots"].items() for entry in entries for p in _slots(id, entry)]
    problems += _wavelengths()
    return problems + list(_torchgeo(data))


def _entry(section: str, entry: Mapping[str, Any], name: str) -> Iterator[str]:
    must, may = _KEYS[section]
    loose = _LOOSE.get(section, ())
    for key in (k for k in must if k not in entry):
        yield f"{section} {name}: {key} is missing"
    for key, value in entry.items():
        kind = must.get(key) or may.get(key)
        if kind is None and key not in loose:
            yield f"{section} {name}: {key} is no key of this section"
        elif kind is not None and not _is(value, kind):
            yield f"{section} {name}: {key} is {value!r}, must be {kind.__name__}"
    if "source" in must and not entry.get("source"):
        yield f"{section} {name}: source is empty"
    # a grade may be followed by a reason: "medium-high", "medium (protocols differ)"
    if "confidence" in must and not str(entry.get("confidence")).startswith(_CONFIDENCE):
        yield f"{section} {name}: confidence is {entry.get('confidence')!r}, must be one of {', '.join(_CONFIDENCE)}"


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _twice(section: str, key: str, values: Sequence[Any]) -> Iterator[str]:
    for value in sorted({str(v) for v in values if v is not None and values.count(v) > 1}):
        yield f"{section} {value}: {key} is there twice"


def _links(data: Mapping[str, Any]) -> Iterator[str]:
    ids = {entry.get("id") for entry in data["models"]}
    enums = [entry.get("enum", "") for entry in data["torchgeo_weights"]]
    for section in ("loaders", "slots", "figures_of"):
        for id in data.get(section, ()):
            if id not in ids:
                yield f"{section} {id}: no model has this id"
    for alias, id in data.get("aliases", {}).items():
        if id not in ids:
            yield f"aliases {alias}: no model {id}"
        if alias in ids:
            yield f"aliases {alias}: a model has this id itself"
    for id, entries in data["loaders"].items():
        for pattern in (p for entry in entries for p in entry.get("enums", ())):
            if not any(fnmatchcase(enum, pattern) for enum in enums):
                yield f"loaders {id}: enums {pattern!r} names no weight file"
    for licence in sorted({entry.get("license") for entry in data["models"]} - set(data["licences"]), key=str):
        yield f"licences {licence!r}: what it allows is not said"
    for id, entry in data["results"].items():
        for key in ("source", "confidence", "rows"):
            if not entry.get(key):
                yield f"results {id}: {key} is missing"
    for id, parts in data.get("figures_of", {}).items():
        for table, patterns in parts.items():
            rows = data["results"].get(table, {}).get("rows", ())
            names = list(rows) if isinstance(rows, Mapping) else [row[0] for row in rows]
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in names):
                    yield f"figures_of {id}: {table} has no row {pattern!r}"


def _slots(id: str, entry: Mapping[str, Any]) -> Iterator[str]:
    where = f"slots {id}/{entry.get('modality')}"
    if entry.get("unit") is not None and entry["unit"] not in UNITS:
        yield f"{where}: unit is {entry['unit']!r}, must be one of {', '.join(UNITS)}"
    for word in entry.get("needs", ()):
        if word not in _NEEDS:
            yield f"{where}: needs names {word!r}, must be of {', '.join(_NEEDS)}"
    if entry.get("any"):
        return
    bands = entry.get("bands") or []
    try:
        known = {band.name for band in find_sensor(entry.get("sensor", "")).bands}
    except ManyoneError as problem:
        yield f"{where}: sensor: {problem}"
        return
    if not bands:
        yield f"{where}: bands is missing"
    for name in bands:
        if name not in known:
            yield f"{where}: bands names {name}, which {entry['sensor']} has not"
    for key in ("mean", "std"):
        if key in entry and len(entry[key]) != len(bands):
            yield f"{where}: {key} has {len(entry[key])} numbers for {len(bands)} bands"
    if ("mean" in entry) != ("std" in entry):
        yield f"{where}: mean and std go together"
    if "mean" in entry and "unit" not in entry:
        yield f"{where}: unit is missing beside mean and std"
    if any(not isinstance(v, int | float) or v <= 0 for v in entry.get("std", ())):
        yield f"{where}: std must be above 0"
    if entry.get("groups") and sum(entry["groups"]) != len(bands):
        yield f"{where}: groups have {sum(entry['groups'])} bands of {len(bands)}"


def _wavelengths() -> Iterator[str]:
    for sensor in sensors():
        for band in sensor.bands:
            if band.kind in ("optical", "pan") and band.center_nm is not None:
                low, high = _REFLECTIVE_NM
                if not low <= band.center_nm <= high:
                    yield f"sensors {sensor.id}/{band.name}: center_nm is {band.center_nm}, must be {low} to {high}"


def _torchgeo(data: Mapping[str, Any]) -> Iterator[str]:
    """Weight files that the installed torchgeo does not know and that no loader marks as newer than it."""
    if importlib.util.find_spec("torchgeo") is None:
        return
    installed = need("torchgeo.models", "checking weight files", "earth-models")
    for entry in data["torchgeo_weights"]:
        group, _, member = entry["enum"].partition(".")
        marked = any(
            loader.get("since")
            for loaders in data["loaders"].values()
            for loader in loaders
            if any(fnmatchcase(entry["enum"], pattern) for pattern in loader.get("enums", ()))
        )
        if not marked and member not in getattr(getattr(installed, group, None), "__members__", {}):
            yield f"torchgeo_weights {entry['enum']}: the installed torchgeo has none of this name"
