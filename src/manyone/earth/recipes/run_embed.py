"""How ``earth-embed`` runs: tiles of a scene (or chips of a folder) through an encoder into the store, and out again.

The run folder gets, for each image, ``NAME.parquet`` (GeoParquet: a point and a vector a tile), ``NAME.npy`` with
``NAME.ids.txt``, and ``embeddings.json``. A killed run goes on with the batch that it was in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.data.rasters.chips_folder import read_chips
from manyone.data.rasters.scenes import Chips, Scene, Window
from manyone.earth.embedding import How, side_of
from manyone.earth.encoders.dense import window_starts
from manyone.earth.encoders.loading import fixed_bands, load_encoder
from manyone.earth.exports import export_geoparquet, export_npy
from manyone.earth.names import LEARNED, PLACES
from manyone.earth.recipes.common import how_of, store_of
from manyone.earth.recipes.options import EmbedOptions
from manyone.earth.recipes.results import results_of
from manyone.earth.sensors.layer import Plan, fit
from manyone.earth.sensors.layer import plan as plan_bands
from manyone.earth.spec import Encoder, ModelSpec
from manyone.earth.store import Embeddings, Store
from manyone.earth.suites import named, scene_of
from manyone.engine.extras import need
from manyone.engine.files import write_atomic
from manyone.engine.inputs import check_inputs
from manyone.engine.progress import Progress
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.options import Split

RESULT = "embeddings.json"
_LOOKS = 4  # windows a side that statistics and pre-training see of a scene
_LOOK = 256  # pixels a side of one of these
_BATCH = 64


def run(options: EmbedOptions, build: None, folder: RunFolder) -> None:
    """Embeds every image and writes what was asked for."""
    places = _places(options)
    store, found, passes = store_of(options), {}, 0
    for name, place in places.items():
        tiles = Tiles.of_folder(place, options) if Path(place).is_dir() else Tiles.of_scene(place, options)
        folder.ensure()
        check_inputs(folder, {name: tiles.fingerprint})
        how = how_of(options, options.model)
        encoder, made = _ready(options, tiles, how)
        for line in [*tiles.notes, *made.report()]:
            print(f"{name}: {line}")
        entry = _embed(encoder, made, tiles, how, store)
        passes += entry.forward_calls
        found[name] = _export(options, name, entry, encoder.spec, tiles, folder.path)
        print(f"{name}: {len(entry)} vectors of {found[name]['width']}: {', '.join(found[name]['files'])}")
    plain = {"images": found, "encoder_passes": passes}
    write_atomic(folder.path / RESULT, (json.dumps(plain, ensure_ascii=False, indent=1) + "\n").encode())
    print(f"encoder passes in this run: {passes}")
    vectors = sum(one["vectors"] for one in found.values())
    folder.log(0, "final", {"vectors": float(vectors), "encoder_passes": float(passes)})
    folder.finish()


def plan(options: EmbedOptions, build: None, folder: RunFolder) -> list[str]:
    """Encoder and images; nothing is read."""
    return [f"{options.model} on {place}" for place in _places(options).values()]


def _places(options: EmbedOptions) -> dict[str, str]:
    """NAME -> PLACE of the images, once the encoder is one of images."""
    if options.model in PLACES:
        raise ManyoneError(f"--model {options.model}: encodes places, not images: take mae-small, rcf, timm:NAME, ...")
    places = dict(named(word) for word in options.data)
    if len(places) < len(options.data):
        raise ManyoneError("--data: two images have one name: give each a NAME of its own")
    return places


def evaluate(options: EmbedOptions, build: None, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """Counts of vectors."""
    found = results_of(folder, RESULT, split)
    return {f"{name}/{key}": one[key] for name, one in found["images"].items() for key in ("vectors", "width")}


class Tiles:
    """Images to embed, of one size, read when they are asked for."""

    def __init__(self, source: Scene | Chips, windows: list[Window], ids: list[str], fingerprint: str) -> None:
        self.source, self.windows, self.ids, self.fingerprint = source, windows, ids, fingerprint
        self.bands = source.bands
        self.notes: tuple[str, ...] = tuple(getattr(source, "notes", ()))

    @staticmethod
    def of_scene(place: str, options: EmbedOptions) -> Tiles:
        """Tiles of a GeoTIFF, those at the far edges moved inwards so that all are whole."""
        scene = scene_of(place, options.sensor, options.unit)
        side, step = options.tile, options.step or options.tile
        if min(scene.shape) < side:
            raise ManyoneError(
                f"--tile {side}: {place} has {scene.shape[0]} x {scene.shape[1]} pixels: take a smaller tile"
            )
        windows = [Window(r, c, side, side) for r in window_starts(scene.shape[0], side, step)
                   for c in window_starts(scene.shape[1], side, step)]  # fmt: skip
        facts = [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in scene.paths]  # type: ignore[attr-defined]
        return Tiles(scene, windows, [f"{w.row}:{w.column}" for w in windows], json.dumps([facts, side, step]))

    @staticmethod
    def of_folder(place: str, options: EmbedOptions) -> Tiles:
        """The chips of a folder with a folder a class."""
        chips = read_chips(place, options.sensor or None, options.unit)
        digest = hashlib.sha256(np.ascontiguousarray(chips.pixels).view(np.uint8).reshape(-1).data).hexdigest()
        return Tiles(chips, [], list(chips.ids), digest)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(pixels [b, C, h, w], valid) of tiles ``start`` to ``stop``."""
        if isinstance(self.source, Chips):
            pixels = np.asarray(self.source.pixels[start:stop], np.float32)
            valid = np.isfinite(pixels) if self.source.valid is None else self.source.valid[start:stop]
            return pixels, np.broadcast_to(valid, pixels.shape)
        both = [self.source.read(window) for window in self.windows[start:stop]]
        return np.stack([p for p, _ in both]), np.stack([v for _, v in both])

    def looks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Some of the images, spread over all of them: what statistics are made from and small encoders learn from."""
        if isinstance(self.source, Chips):
            for start in range(0, len(self.ids), 512):
                pixels, valid = self.read(start, start + 512)
                yield torch.from_numpy(pixels), torch.from_numpy(valid.copy())
            return
        height, width = self.source.shape
        side = min(_LOOK, height), min(_LOOK, width)
        rows, columns = (sorted({round(x) for x in np.linspace(0, n - s, _LOOKS)}) for n, s in
                         zip((height, width), side, strict=True))  # fmt: skip
        for row in rows:
            for column in columns:
                pixels, valid = self.source.read(Window(row, column, *side))
                yield torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None]

    def lonlat(self) -> np.ndarray | None:
        """float64 [N, 2] of the centres in degrees; None where the image has no place on the Earth."""
        if isinstance(self.source, Chips):
            return self.source.lonlat
        grid = self.source.grid
        if grid is None:
            return None
        a, b, c, d, e, f = grid.transform
        x = np.array([w.column + w.width / 2 for w in self.windows])
        y = np.array([w.row + w.height / 2 for w in self.windows])
        warp = need("rasterio.warp", "the places of tiles", "earth")
        found = warp.transform(grid.crs, "EPSG:4326", a * x + b * y + c, d * x + e * y + f)
        return np.column_stack([np.asarray(found[0]), np.asarray(found[1])])


def _ready(options: EmbedOptions, tiles: Tiles, how: How) -> tuple[Encoder, Plan]:
    """The encoder and its plan; statistics are those of the images themselves, as there is no training part."""
    if options.model in LEARNED and options.weights == "default":
        raw = fit(
            plan_bands(tiles.bands, ModelSpec(options.model, None, 0), replace(how.layer, size=None)),
            tiles.looks(),
        )
        imagery = [one for pixels, valid in tiles.looks() for one in raw.apply(pixels, valid)[0]]
        encoder = load_encoder(options.model, device=how.device, bands=raw.slots, seed=how.seed, imagery=imagery,
                               options=how.mae)  # fmt: skip
    else:
        given = None if fixed_bands(options.model) else tiles.bands
        encoder = load_encoder(options.model, options.weights, device=how.device,
                               bands=given, seed=how.seed)  # fmt: skip
    side = options.tile if tiles.windows else int(tiles.source.pixels.shape[-1])  # type: ignore[union-attr]
    layer = replace(how.layer, size=side_of(encoder.spec, side))
    return encoder, fit(plan_bands(tiles.bands, encoder.spec, layer), tiles.looks())


def _embed(encoder: Encoder, made: Plan, tiles: Tiles, how: How, store: Store) -> Embeddings:
    parts = {"model": encoder.spec.id, "weights": encoder.digest(), "sensor_plan": made.key(),
             "input_size": [encoder.spec.size, made.size], "dtype": "float32", "data": tiles.fingerprint,
             "versions": {"earth-embed": 1}}  # fmt: skip
    gsd = tiles.source.gsd_m

    def batches(start: int, stop: int) -> dict[str, Tensor]:
        pixels, valid = tiles.read(start, stop)
        prepared, context = made.apply(torch.from_numpy(pixels), torch.from_numpy(valid.copy()), gsd_m=gsd)
        with torch.inference_mode():
            found = encoder.vectors(prepared.to(how.device), context)
        return {f"global_{name}": vector for name, vector in found.items()}

    with Progress(f"embedding with {encoder.spec.id}", len(tiles.ids), unit="tiles") as bar:
        return store.embed(parts, tiles.ids, batches, batch_size=_BATCH, progress=bar.update)


def _export(
    options: EmbedOptions, name: str, entry: Embeddings, spec: ModelSpec, tiles: Tiles, folder: Path
) -> dict[str, Any]:
    array = f"global_{spec.pooling}" if f"global_{spec.pooling}" in entry.names else entry.names[0]
    files = []
    if "npy" in options.format:
        export_npy(folder / f"{name}.npy", entry, array)
        files.append(f"{name}.npy")
    lonlat = tiles.lonlat()
    if "geoparquet" in options.format:
        if lonlat is None or not np.isfinite(lonlat).all():
            print(f"{name}: no place on the Earth is known of it, so there is no GeoParquet")
        else:
            export_geoparquet(folder / f"{name}.parquet", entry, array, lonlat)
            files.append(f"{name}.parquet")
    return {"vectors": len(entry), "width": int(entry.array(array).shape[1]), "pooling": array, "files": files,
            "store": str(entry.folder.name)}  # fmt: skip
