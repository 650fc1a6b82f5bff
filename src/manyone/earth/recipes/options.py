"""Earth's options, as data: fields, ranges, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Places, Range, With, check

Split = Literal["block", "strip", "random", "given"]
Missing = Literal["error", "mean", "nearest", "interp", "slice", "drop"]
Normalise = Literal["dataset", "model", "minmax", "none"]
Unit = Literal["refl", "refl_dn", "refl_dn_off", "dn8", "dn16", "db", "linear_power", "kelvin", "metre"]
MODELS = ("raw", "raw3x3", "raw5x5", "stats5x5", "rcf", "vit-random", "mae-small", "cnn-supervised",
          "efficientnet-lite0", "lonlat", "xyz", "rff", "geoclip")  # fmt: skip
"""What a bench compares where nobody says what: all that runs without a hub."""


@dataclass(kw_only=True)
class ImageOptions(CommonOptions):
    """How images reach an encoder."""

    data: Annotated[tuple[str, ...], Places()] = ()
    """Images of one's own, as NAME=PLACE."""
    sensor: Annotated[str, Places(names=True)] = ""
    """What took them: a sensor's name (manyone ls earth-sensors) or a YAML file with its bands. Default: what the file
    itself says."""
    unit: Unit | None = None
    """What their values are: refl (0 to 1), refl_dn (times 10,000), refl_dn_off (Sentinel-2 from baseline 04.00 on),
    dn8, dn16, db, ... Default: what the file says, else a guess from the largest values, which is printed."""
    missing: Missing = "error"
    """What fills an input slot that no band of the sensor fits: an error, the slot's mean, the nearest band, a linear
    interpolation, weights cut out (slice), or nothing (drop, for models of any bands)."""
    normalise: Normalise = "dataset"
    """Bands are normalised by the statistics of the training samples, by those of the model's pre-training, to the
    training range, or not."""
    window: Annotated[int, Range(1)] = 32
    """Pixels a side of the windows that slide over a scene."""
    stride: Annotated[int | None, Range(1)] = None
    """Pixels from window to window; default: half a window. Vectors of windows that overlap are averaged."""
    weights: Annotated[str, Places(names=True)] = "default"
    """Weights of the encoder: default (published), random, or a file."""
    mae_steps: Annotated[int, Range(1)] = 100
    """Updates of mae-small and wave-small, which learn here from the images without labels."""
    store: Annotated[str, Places(new=True)] = ""
    """Folder where features are kept, so that nothing is encoded twice. Default: manyone's cache."""
    memory: Annotated[int, Range(64)] = 1024
    """MiB for pixels and features of a scene at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("precision", self.precision, self.precision == "32-true", "32-true: features are stored as float16")


@dataclass(kw_only=True)
class BenchOptions(ImageOptions):
    """Encoders on data sets by the same protocols: a table with intervals and ranks, maps, published figures."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--out runs/bench",
        "--models rcf mae-small --data area=scene.tif --labels points.geojson",
    )

    models: tuple[str, ...] = MODELS
    """Encoders: raw, rcf, mae-small, timm:NAME, torchgeo:NAME, hf:FOLDER, ...; also separated by commas. Images and
    places each go to the encoders that read them."""
    suite: Literal["earth", "earth-small", ""] = "earth"
    """Ready-made sets: earth (five of images, one of places) or earth-small (two); "" for one's own alone."""
    labels: Annotated[str, Places()] = ""
    """Points, polygons (GeoJSON, GeoPackage, shapefile) or a GeoTIFF of classes for the scenes of --data."""
    column: Annotated[str, With("labels")] = ""
    """Column of --labels that holds the class; default: the only one, or one called class or label."""
    protocols: tuple[str, ...] = ("knn5-l2", "linear", "few-shot10")
    """Ways to measure frozen features: knn5-l2, knn200-cos, linear, few-shotN (N labels a class, three draws); also
    separated by commas. Of sets of numbers: knn5-l2 and ridge."""
    split: Split = "block"
    """How pixels are split: by blocks of ground, strips, at random (which leaks), or as given. Sets with an official
    split keep it, except with random."""
    block: Annotated[float | None, Range(1)] = None
    """Side of a block in pixels; default: 32, or a twelfth of the scene's shorter side where that is less."""
    buffer: Annotated[float, Range(0)] = 0.0
    """Pixels beside a block of another part that are left out."""
    train: Annotated[int, Range(1)] = 4000
    """Most training samples of a set; validation gets a quarter of that."""
    test: Annotated[int, Range(1)] = 4000
    """Most test samples."""
    resamples: Annotated[int, Range(10, 100_000)] = 1000
    """Bootstrap samples of an interval, over blocks where there are any."""
    maps: bool = True
    """Draw a map of each scene beside truth and image."""
    workers: Annotated[int | None, Range(1)] = None
    """Processes side by side, each with an encoder; default: one a processor for a ready-made suite, else 1."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.models, self.protocols = _parts(self.models), _parts(self.protocols)
        for name in ("models", "protocols"):
            if not getattr(self, name):
                raise ManyoneError(f"--{name}: give at least one")
        if not self.suite and not self.data:
            raise ManyoneError('give --data NAME=PLACE, or leave out --suite ""')
        if self.labels and not self.data:
            raise ManyoneError("--labels: are for scenes of one's own: give --data NAME=FILE.tif too")


@dataclass(kw_only=True)
class EmbedOptions(ImageOptions):
    """Vectors of images, tile by tile: GeoParquet and npy, resumable."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--data area=scene.tif --out runs/embeddings",
        "--data area=scene.tif --model timm:resnet18 --dry-run",
    )

    model: str = "mae-small"
    """The encoder (as in earth-bench)."""
    tile: Annotated[int, Range(1)] = 32
    """Pixels a side of a tile of a scene; a tile is one vector."""
    step: Annotated[int | None, Range(1)] = None
    """Pixels from tile to tile; default: the tile's side."""
    format: tuple[Literal["geoparquet", "npy"], ...] = ("geoparquet", "npy")
    """What is written beside the store."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ManyoneError("give --data NAME=FILE.tif with the image")


@dataclass(kw_only=True)
class MapOptions(ImageOptions):
    """A class map of a scene from a few labels: a GeoTIFF in the scene's grid, with its confidence."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--data area=scene.tif --labels points.geojson --out runs/map",
        "--data area=scene.tif --labels points.geojson --model mae-small",
    )

    model: str = "raw5x5"
    """The encoder (as in earth-bench)."""
    labels: Annotated[str, Places()] = ""
    """Points, polygons (GeoJSON, GeoPackage, shapefile) or a GeoTIFF of classes."""
    column: str = ""
    """Column of --labels that holds the class; default: the only one, or one called class or label."""
    protocol: Literal["linear", "knn5-l2"] = "linear"
    """What classifies the pixels' features."""
    split: Literal["block", "random"] = "block"
    """How labelled pixels are split to say how good the map is; it is then made from all of them."""
    block: Annotated[float | None, Range(1)] = None
    """Side of a block in pixels; default: 32, or a twelfth of the scene's shorter side where that is less."""
    train: Annotated[int, Range(1)] = 8000
    """Most training samples."""
    test: Annotated[int, Range(1)] = 8000
    """Most test samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.data) != 1:
            raise ManyoneError(f"--data: {len(self.data)} images; a map is made of one: NAME=FILE.tif")
        if not self.labels:
            raise ManyoneError("give --labels FILE with points or polygons and their class")


@dataclass(kw_only=True)
class MatchOptions(CommonOptions):
    """Which band of a sensor feeds which input slot of a model."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("--from landsat-7 --to prithvi2", "--from sentinel-2 --to dofa")

    sensor: Annotated[str, Places(names=True)] = ""
    """The sensor: a name, or a YAML file with its bands."""
    model: str = ""
    """The model: an id of the catalogue."""
    limit: Annotated[float, Range(0, closed="neither")] = 1.0
    """Largest distance of two centres, in mean widths of the two bands."""

    ALIASES: ClassVar[Mapping[str, str]] = {"from": "sensor", "to": "model"}

    def __post_init__(self) -> None:
        super().__post_init__()
        check("precision", self.precision, self.precision == "32-true", "32-true: nothing is computed")
        for name, word in (("sensor", "from SENSOR"), ("model", "to MODEL")):
            if not getattr(self, name):
                raise ManyoneError(f"give --{word}")


def _parts(values: tuple[str, ...]) -> tuple[str, ...]:
    """``values``, those with commas taken apart, each once."""
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))
