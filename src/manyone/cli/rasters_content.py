"""What ``manyone data info`` shows of images of the Earth: the real sets, and a GeoTIFF of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from manyone.cli.facts import facts
from manyone.data.rasters.bands import Band
from manyone.data.rasters.chips_folder import chip_files, is_chips_folder, read_chips
from manyone.data.rasters.names import RASTER_SETS
from manyone.data.rasters.own import open_scene, sample_scene
from manyone.data.rasters.scenes import IGNORE, Chips, LabelledScenes, Places, RasterSet, Scenes
from manyone.data.rasters.sources import load_scenes, load_set

_SHOWN_BANDS = 24
_LOOKED_AT = 256  # chips of a folder whose pixels are read


def content(name: str) -> dict[str, str]:
    """What a set that is here holds: bands, units, classes with counts."""
    return _content(load_set(name) if name in RASTER_SETS else load_scenes(name))


def describe_place(place: str) -> Table:
    """What a GeoTIFF holds: bands, wavelengths, units (or the guess), reference system, share of nodata."""
    if is_chips_folder(place):
        return _describe_chips(place)
    with open_scene(place, strict=False) as scene:
        sample = sample_scene(scene)
        low = np.where(sample.valid, sample.pixels, np.inf).min(axis=1)
        rows = {
            "pixels": f"{scene.shape[0]:,} x {scene.shape[1]:,}, {len(scene.bands)} bands, blocks of "
            f"{scene.block[0]} x {scene.block[1]}",
            "reference system": scene.grid.crs if scene.grid else "none",
            "ground sampling distance": f"{scene.gsd_m:.4g} m" if scene.gsd_m else "unknown",
        }
        for band, least, most in zip(scene.bands, low, sample.maxima, strict=True):
            values = "no valid pixel" if np.isnan(most) else f"{least:.5g} to {most:.5g}"
            rows[f"band {band.name}"] = f"{_band(band)}; values {values}"
        share = 1 - sample.valid.mean()
        rows["nodata"] = f"{share:.1%} of {'all' if sample.complete else f'{sample.valid.shape[1]:,} sampled'} pixels"
        for at, note in enumerate(scene.notes):
            rows["notes" if at == 0 else " " * at] = note
    return facts(place, rows)


def _describe_chips(place: str) -> Table:
    """What a folder of chips holds; pixels are those of a part of a large one."""
    _, classes, files = chip_files(place)
    some = read_chips(place, most=_LOOKED_AT)
    rows = {
        "chips": f"{len(files):,} of {some.pixels.shape[-2]} x {some.pixels.shape[-1]} pixels",
        "classes": _counts(classes, np.array([number for _, number in files])),
        "places": "one a chip: splits by blocks of ground" if some.lonlat is not None else "none: random splits alone",
    }
    for at, band in enumerate(some.bands):
        values = some.pixels[:, at] if some.valid is None else some.pixels[:, at][some.valid[:, at]]
        seen = f"{values.min():.5g} to {values.max():.5g}" if values.size else "no valid pixel"
        rows[f"band {band.name}"] = f"{_band(band)}; values {seen}"
    if len(some) < len(files):
        rows["looked at"] = f"{len(some):,} chips"
    for at, note in enumerate(some.about.notes):
        rows["notes" if at == 0 else " " * at] = note
    return facts(place, rows)


def _content(data: RasterSet | Scenes) -> dict[str, str]:
    if isinstance(data, Scenes):
        rows = {f"scene {s.name}": f"{s.shape[0]} x {s.shape[1]} pixels: {_bands(s.bands)}" for s in data.scenes}
    elif isinstance(data, Places):
        rows = {"places": f"{len(data):,}", "classes": _counts(data.classes, data.targets)}
    elif isinstance(data, Chips):
        given = ", ".join(f"{k} {len(v):,}" for k, v in data.given.items())
        rows = {
            "chips": f"{len(data):,} of {data.pixels.shape[-2]} x {data.pixels.shape[-1]} pixels",
            "bands": _bands(data.bands),
            "classes": _counts(data.classes, data.targets),
            "official split": given or "none",
        }
    else:
        rows = _labelled(data)
    for at, note in enumerate(data.about.notes):
        rows["notes" if at == 0 else " " * at] = note
    return rows


def _labelled(data: LabelledScenes) -> dict[str, str]:
    targets = []
    for scene, labels in zip(data.scenes, data.labels, strict=True):
        _, valid = scene.read()
        targets.append(labels[valid.all(axis=0) & (labels != IGNORE)])
    sizes = ", ".join(f"{s.shape[0]} x {s.shape[1]}" for s in data.scenes)
    found = np.concatenate(targets)
    return {
        "scenes": f"{len(data.scenes)} of {sizes} pixels",
        "bands": _bands(data.bands),
        "classes": _counts(data.classes, found),
        "samples": f"{len(found):,} pixels that have a class and are valid in all bands",
    }


def _counts(classes: Sequence[str], targets: np.ndarray) -> str:
    counts = np.bincount(targets, minlength=len(classes)).tolist()
    return ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts, strict=True))


def _bands(bands: Sequence[Band]) -> str:
    more = f"; ... {len(bands)} in all" if len(bands) > _SHOWN_BANDS else ""
    return "; ".join(f"{b.name} {_band(b)}" for b in bands[:_SHOWN_BANDS]) + more


def _band(band: Band) -> str:
    center = f", {band.center_nm:.5g} nm" if band.center_nm else ""
    width = f", {band.fwhm_nm:.4g} wide" if band.fwhm_nm else ""
    return f"{band.common}{center}{width}, {band.unit or 'unit not known'}"
