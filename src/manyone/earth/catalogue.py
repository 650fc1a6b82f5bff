"""The catalogue of remote-sensing foundation models: which there are, what they take, who loads them, on what terms.

The data are ``catalogue.yaml`` beside this file (the taxonomy of arXiv 2410.16602, facts with source and confidence);
:mod:`manyone.earth.catalogue_check` says what is wrong with it, :mod:`manyone.earth.published` holds its figures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from manyone.data.rasters.bands import Band, Unit
from manyone.data.rasters.sensors import find_sensor
from manyone.engine.words import suggestion
from manyone.errors import ManyoneError

PLACE = Path(__file__).with_name("catalogue.yaml")
Commercial = Literal["yes", "no", "terms", "unknown"]
"""Whether a licence allows commercial use; terms: a licence of its own, to be read; unknown: nobody checked."""


@dataclass(frozen=True)
class WeightFile:
    """One weight file that torchgeo knows by name."""

    enum: str
    hub: str
    file: str
    dataset: str = ""
    arch: str = ""
    in_chans: int | None = None
    ssl: str = ""
    bands: tuple[str, ...] = ()
    license: str = ""


@dataclass(frozen=True)
class Loader:
    """A library that builds a model."""

    library: str
    call: str
    """What the library is asked for."""
    enums: tuple[str, ...] = ()
    """Patterns of the weight files that it takes."""
    since: str = ""
    """First version of the library that has it; empty: all in use."""
    gives: Literal["encoder", "location", "embeddings"] = "encoder"
    offline: bool = False
    """The weights come with the package, or there are none."""
    file: str = ""


@dataclass(frozen=True)
class Slots:
    """What a model takes of one modality."""

    modality: str
    bands: tuple[Band, ...] | None
    """In its order, with unit, mean and std of its pre-training where they are published; None: any bands."""
    unit: Unit | None = None
    size: int | None = None
    patch: int = 1
    frames: tuple[int, int] = (1, 1)
    needs: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    source: str = ""
    confidence: str = ""

    @property
    def sensor(self) -> str:
        """The sensor whose bands they are; empty: any."""
        return self.bands[0].sensor if self.bands else ""


@dataclass(frozen=True)
class Model:
    """One entry."""

    id: str
    name: str
    year: int
    venue: str
    category: str
    method: str
    modalities: tuple[str, ...]
    backbone: tuple[str, ...]
    license: str
    commercial: Commercial
    source: tuple[str, ...]
    confidence: str
    in_survey_list: bool
    params_m: tuple[str, ...] = ()
    pretrain_data: str = ""
    pretrain_size: str = ""
    code: str = ""
    weights: tuple[str, ...] = ()
    license_hint: str = ""
    loaders: tuple[Loader, ...] = ()
    slots: tuple[Slots, ...] = ()
    weight_files: tuple[WeightFile, ...] = ()

    @property
    def loadable(self) -> bool:
        """Whether a library builds it as something that encodes (not only precomputed embeddings)."""
        return any(loader.gives != "embeddings" for loader in self.loaders)


@dataclass(frozen=True)
class ListedModel:
    """A model of which only name, title and links are known."""

    name: str
    title: str
    venue: str
    category: str
    source: tuple[str, ...]
    year: int | None = None
    paper: str = ""
    code: str = ""


@dataclass(frozen=True)
class DataSet:
    """One data set for pre-training or evaluation."""

    id: str
    name: str
    year: int
    role: str
    modality: str
    images: str
    labels: str
    location: str
    license: str
    confidence: str
    task: str = ""
    classes: str = ""
    image_size: str = ""
    gsd_m: str = ""
    loader: str = ""


@dataclass(frozen=True)
class Selection:
    """The models that a question found, and what was left out of them."""

    models: tuple[Model, ...]
    notes: tuple[str, ...] = ()


@cache
def raw() -> Mapping[str, Any]:
    """The file as it is written."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(PLACE.read_text(encoding="utf-8"))
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


@cache
def catalogue() -> Mapping[str, Model]:
    """All models that are described, by id."""
    data = raw()
    files = weight_files()
    found = {}
    for row in data["models"]:
        fields: dict[str, Any] = {k: tuple(map(str, v)) if isinstance(v, list) else v for k, v in row.items()}
        loaders = tuple(Loader(**_frozen(entry)) for entry in data["loaders"].get(row["id"], ()))
        patterns = [p for loader in loaders for p in loader.enums]
        found[row["id"]] = Model(
            **fields,
            commercial=data["licences"].get(row["license"], "unknown"),
            loaders=loaders,
            slots=tuple(_slots(entry) for entry in data["slots"].get(row["id"], ())),
            weight_files=tuple(f for f in files if any(fnmatchcase(f.enum, p) for p in patterns)),
        )
    return found


@cache
def weight_files() -> tuple[WeightFile, ...]:
    """All weight files that torchgeo names."""
    return tuple(WeightFile(**_frozen(row)) for row in raw()["torchgeo_weights"])


def listed() -> tuple[ListedModel, ...]:
    """Models that are only listed."""
    drop = ("in_survey_list", "confidence")
    rows = ({k: v for k, v in row.items() if k not in drop} for row in raw()["models_listed_only"])
    return tuple(ListedModel(**{**row, "source": tuple(row["source"])}) for row in rows)


def data_sets() -> Mapping[str, DataSet]:
    """All data sets that are described, by id."""
    known = DataSet.__dataclass_fields__
    rows: list[dict[str, Any]] = [
        {k: v if k == "year" else str(v) for k, v in row.items() if k in known} for row in raw()["datasets"]
    ]
    return {row["id"]: DataSet(**row) for row in rows}


def taxonomy() -> Mapping[str, Sequence[str]]:
    """The survey's branches and what belongs to each."""
    return raw()["survey"]["taxonomy"]


def categories() -> list[str]:
    """All categories of the entries, in order."""
    return sorted({model.category for model in catalogue().values()})


def is_model(name: str) -> bool:
    """Whether ``name`` is the id of a model, or another name for one."""
    return _plain_id(name) in catalogue()


def find_model(name: str) -> Model:
    """The model that users call ``name``; ``ManyoneError`` with the nearest names."""
    key = _plain_id(name)
    if key not in catalogue():
        hint = suggestion(name, [*catalogue(), *raw()["aliases"]])
        raise ManyoneError(f"unknown model {name!r}; {hint if 'did you' in hint else 'manyone ls earth-models'}")
    return catalogue()[key]


def models(
    *,
    sensor: str | None = None,
    loadable: bool = False,
    commercial: bool = False,
    category: str | None = None,
    text: str | None = None,
) -> Selection:
    """The models that answer to all that is asked.

    ``sensor``: a sensor (sentinel-2, landsat-7) or kind of image (rgb, sar, hyperspectral) that can feed them.
    ``commercial``: with a licence that allows commercial use; what is unknown is left out and counted. ``category``:
    a category or the branch above it ("vfm"). ``text``: words, all of which occur in an entry.
    """
    found = list(catalogue().values())
    if category is not None:
        found = [m for m in found if m.category == category or m.category.startswith(f"{category}.")]
        if not found:
            branches = {name.partition(".")[0] for name in categories()}
            raise ManyoneError(f"unknown category {category!r}; {suggestion(category, {*categories(), *branches})}")
    if sensor is not None:
        fits = _feeds(sensor)
        found = [m for m in found if fits(m)]
    if loadable:
        found = [m for m in found if m.loadable]
    if text is not None:
        words = text.lower().split()
        found = [m for m in found if all(word in repr(m).lower() for word in words)]
    notes = []
    if commercial:
        unknown = sum(m.commercial == "unknown" for m in found)
        terms = sum(m.commercial == "terms" for m in found)
        found = [m for m in found if m.commercial == "yes"]
        if unknown:
            notes.append(f"{unknown} left out, licence unknown")
        if terms:
            notes.append(f"{terms} left out, a licence of their own: read it")
    return Selection(tuple(found), tuple(notes))


def _feeds(sensor: str) -> Any:
    words = raw()["sensor_words"]
    name = sensor.lower()
    if name not in words:
        name = find_sensor(sensor).id
    key = next((w for w in sorted(words, key=len, reverse=True) if name.startswith(w)), None)
    patterns = [re.compile(p) for p in (words[key] if key else ())]

    def fits(model: Model) -> bool:
        for text in model.modalities:
            if "as targets" in text:  # what a model predicts in pre-training is no input
                continue
            if re.match(r"any\b", text) or any(p.search(text) for p in patterns):
                return True
        return any(s.sensor and (s.sensor == name or s.sensor.startswith(name)) for s in model.slots)

    return fits


def _slots(entry: Mapping[str, Any]) -> Slots:
    more = _frozen(entry)
    for key in ("any", "sensor", "bands", "mean", "std"):
        more.pop(key, None)
    if entry.get("any"):
        return Slots(bands=None, **more)
    known = {band.name: band for band in find_sensor(entry["sensor"]).bands}
    if lacking := [name for name in entry["bands"] if name not in known]:
        raise ManyoneError(f"catalogue: slots of {entry['sensor']}: no band {', '.join(lacking)}")
    none: list[None] = [None] * len(entry["bands"])
    bands = [
        replace(known[name], unit=entry.get("unit"), mean=mean, std=std)
        for name, mean, std in zip(entry["bands"], entry.get("mean", none), entry.get("std", none), strict=True)
    ]
    return Slots(bands=tuple(bands), **more)


def _frozen(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def _plain_id(name: str) -> str:
    key = name.lower()
    return raw()["aliases"].get(key, key)
