"""What ``manyone data`` knows of images of the Earth by name: which sets there are, and what a place may be.

What they hold is told by :mod:`manyone.cli.rasters_content`, which reads them.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from rich.table import Table

from manyone.assets.fetch import in_cache
from manyone.assets.registry import find_asset
from manyone.cli.facts import facts
from manyone.data.rasters.chips_folder import is_chips_folder
from manyone.data.rasters.names import RASTER_SETS, SCENES

SETS = RASTER_SETS | SCENES
ASSETS = {name: source.asset for name, source in SETS.items()}
"""The asset that carries each set."""


def is_raster(name: str) -> bool:
    """Whether ``name`` is a set or scenes that a package carries."""
    return name in SETS


def is_place(name: str) -> bool:
    """Whether ``name`` is a GeoTIFF, or several of them with commas in between, or a folder of chips."""
    if is_chips_folder(name):
        return True
    parts = [name] if Path(name).is_file() else name.split(",")
    return all(Path(p).suffix.lower() in (".tif", ".tiff") and Path(p).is_file() for p in parts)


def is_cached(name: str) -> bool:
    """Whether the package that carries the set is in the cache."""
    return in_cache(find_asset(ASSETS[name])) is not None


def overview() -> Table:
    """One row a set."""
    table = Table(title="images of the Earth", title_justify="left")
    for heading in ("name", "what it is", "labels", "asset", "cached"):
        table.add_column(heading, no_wrap=heading == "name")
    for name, source in SETS.items():
        labels, cached = ("yes" if known else "no" for known in (name in RASTER_SETS, is_cached(name)))
        table.add_row(name, source.summary, labels, source.asset, cached)
    table.add_row("a file", "FILE.tif, or FILE.tif,FILE.tif with one band each (manyone data info)", "", "none", "")
    return table


def describe(name: str) -> Table:
    """Bands, units, classes with counts, licence; of a set that is not here yet only what is known without it."""
    asset = find_asset(ASSETS[name])
    rows = {"what it is": SETS[name].summary}
    if is_cached(name):
        rows |= _contents().content(name)
    rows |= {
        "package": asset.origin,
        "file": f"{asset.filename} ({asset.size:,} bytes)",
        "sha256": asset.sha256,
        "licence": asset.licence,
        "redistributable": "yes" if asset.redistributable else "no: fetched for use here, not to be passed on",
        "cached": "yes" if is_cached(name) else f"no: manyone data get {name} fetches it; then this shows the content",
    }
    return facts(name, rows)


def describe_place(place: str) -> Table:
    """What a GeoTIFF or a folder of chips holds."""
    return _contents().describe_place(place)


def _contents() -> ModuleType:
    """What reads them, with PyTorch."""
    from manyone.cli import rasters_content

    return rasters_content
