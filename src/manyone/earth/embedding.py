"""Samples through an encoder into the store, once: what every protocol then reads.

The sensor layer's statistics are those of the training samples alone. Of labelled scenes each sample gets the vector of
its pixel, averaged over the windows that cover it (``dense``); of chips the vectors of every pooling that the encoder
has; of places the vector of the place.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyone.data.rasters.scenes import Chips, LabelledScenes, Places, Scene, Window
from manyone.earth.encoders.cnn import AROUND
from manyone.earth.encoders.dense import embed_pixels
from manyone.earth.encoders.loading import fixed_bands, load_encoder
from manyone.earth.encoders.mae import MaeOptions
from manyone.earth.encoders.supervised import train_supervised
from manyone.earth.names import LEARNED, SUPERVISED
from manyone.earth.samples import Samples
from manyone.earth.sensors.layer import Plan, fit, plan
from manyone.earth.sensors.options import LayerOptions
from manyone.earth.spec import Context, Encoder, ModelSpec
from manyone.earth.store import Embeddings, Store
from manyone.engine.files import write_atomic
from manyone.errors import ManyoneError

WINDOW = 32
"""Pixels a side of the windows that slide over a scene where the encoder takes any size."""
_SMALLEST = 16  # pixels a side that an encoder with patches gets at least
_LARGE, _MARGIN = 128, 4  # pixels: windows of encoders that see a neighbourhood, which is 3 to each side at most
_WHOLE, _LOOK = 1 << 22, 512  # pixels of a scene that is read whole, and a side of what is read of a larger one
_PIXELS, _CHIPS, _PLACES = 2048, 64, 4096  # a batch of the store
_LIBRARIES = {"timm": "timm", "torchgeo": "torchgeo", "terratorch": "terratorch", "open_clip": "open_clip_torch",
              "hf": "transformers"}  # fmt: skip
_REVISION = 1
"""Raised when what an encoder or the sensor layer makes of the same input changes: old entries are then not read."""


@dataclass(frozen=True)
class Ready:
    """An encoder with the plan that feeds it from a set."""

    encoder: Encoder
    plan: Plan | None
    """None for places: there are no pixels."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class How:
    """What decides features besides encoder and data."""

    layer: LayerOptions = field(default_factory=LayerOptions)
    window: int = WINDOW
    stride: int | None = None
    """Pixels from window to window; None: half a window."""
    device: str = "cpu"
    seed: int = 0
    """Of encoders that are drawn at random or pre-trained here."""
    mae: MaeOptions | None = None
    dtype: str = "float16"
    """Of the stored features."""
    memory_mb: float = 1024


def ready(id: str, samples: Samples, how: How, weights: str = "default") -> Ready:
    """The encoder ``id`` and how ``samples`` reach it.

    ``ManyoneError`` where they do not fit: a slot that no band fills, places for an encoder of images, a library that
    is missing.
    """
    if isinstance(samples.source, Places):
        encoder = load_encoder(id, weights, device=how.device, seed=how.seed)
        if "lonlat" not in encoder.spec.needs or encoder.spec.slots != ():
            raise ManyoneError(f"{id} reads images, and {samples.name} has places alone")
        return Ready(encoder, None)
    encoder, notes = _encoder(id, samples, how, weights)
    if encoder.spec.slots == ():
        raise ManyoneError(f"{id} encodes places, and {samples.name} has images")
    return Ready(encoder, fit(_plan(encoder.spec, samples, how), _training(samples)), notes)


def embed(
    one: Ready, samples: Samples, how: How, store: Store, progress: Callable[[int], None] | None = None
) -> Embeddings:
    """The features of all samples: ``global_pixel``, or ``global_<pooling>`` of chips and places."""
    spec = one.encoder.spec
    parts = {
        "model": spec.id,
        "weights": one.encoder.digest(),
        "sensor_plan": one.plan.key() if one.plan else "places",
        "input_size": [how.window, how.stride, spec.size],
        "dtype": "float32",
        "data": samples.fingerprint(),
        "versions": {"earth": _REVISION, **_versions(spec.id)},
    }
    columns: dict[str, object] = {"id": list(samples.ids)}
    size = {Chips: _CHIPS, Places: _PLACES}.get(type(samples.source), _PIXELS)
    began = time.process_time()
    made = store.embed(parts, columns, _batches(one, samples, how), batch_size=size, dtype=how.dtype, progress=progress)
    if made.forward_calls == math.ceil(len(samples) / size):  # all of it now: what it costs is known
        cost = {"cpu_s_per_1000": 1000 * (time.process_time() - began) / len(samples)}
        write_atomic(made.folder / "cost.json", json.dumps(cost).encode())
    return made


class Sliding(NamedTuple):
    """Windows over a scene, in pixels."""

    size: int
    stride: int
    margin: int


def sliding(spec: ModelSpec, how: How, shape: tuple[int, int]) -> Sliding:
    """The windows that go over a scene of ``shape``.

    Features of a pixel's neighbourhood (patch 1, no size of their own) are the same whatever the window, as long as its
    edges are left out: large windows then cost least.
    """
    if spec.patch == 1 and spec.size is None:
        side = min(max(_LARGE, 4 * _MARGIN), max(shape))
        return Sliding(side, max(1, side - 2 * _MARGIN), _MARGIN if side > 2 * _MARGIN else 0)
    side = min(how.window, *shape)
    return Sliding(side, min(how.stride or max(1, side // 2), side), 0)


def context_of(made: Plan, gsd_m: float | None) -> Context:
    """What comes with pixels that ``made`` prepares."""
    return made.apply(torch.zeros(1, len(made.source), 1, 1), gsd_m=gsd_m)[1]


def preparing(made: Plan) -> Callable[[np.ndarray, np.ndarray], Tensor]:
    """``made`` as a function of (pixels, valid), as ``embed_pixels`` takes it."""

    def prepare(pixels: np.ndarray, valid: np.ndarray) -> Tensor:
        return made.apply(torch.from_numpy(pixels), torch.from_numpy(valid))[0]

    return prepare


def pooling_of(spec: ModelSpec, found: Embeddings) -> str:
    """The array that stands for a sample: its pixel, or the pooling that the encoder's authors use."""
    return "global_pixel" if "global_pixel" in found.names else f"global_{spec.pooling}"


def side_of(spec: ModelSpec, side: int) -> int | None:
    """Pixels a side that an image of ``side`` is brought to; None: left as it is.

    Small images are enlarged for encoders with patches: a patch must be a small part of them.
    """
    if spec.size is not None:
        return spec.size
    if spec.patch == 1:
        return None
    wanted = max(side, _SMALLEST, 2 * spec.patch)
    wanted = math.ceil(wanted / spec.patch) * spec.patch
    return None if wanted == side else wanted


def _encoder(id: str, samples: Samples, how: How, weights: str) -> tuple[Encoder, tuple[str, ...]]:
    """The encoder; one that is made for the bands of its input, or learns from it, gets them prepared."""
    bands = samples.bands
    if id == SUPERVISED and weights == "default":
        return _supervised(samples, how)
    if id not in LEARNED or weights != "default":
        given = None if fixed_bands(id) else bands
        return load_encoder(id, weights, device=how.device, bands=given, seed=how.seed), ()
    # any bands, normalised: what the encoder will read
    raw = ModelSpec(id, None, 0)
    made = fit(plan(bands, raw, replace(how.layer, size=None)), _training(samples))
    imagery = list(_imagery(samples, made))
    encoder = load_encoder(id, device=how.device, bands=made.slots, seed=how.seed, imagery=imagery, options=how.mae)
    note = "the whole scenes" if isinstance(samples.source, LabelledScenes) else "the training images"
    return encoder, (f"{id} has learned from {note} without labels (transductive)",)


def _supervised(samples: Samples, how: How) -> tuple[Encoder, tuple[str, ...]]:
    """The network of the labels of training and validation, on the pixels around each or on whole chips."""
    made = fit(plan(samples.bands, ModelSpec(SUPERVISED, None, 0), replace(how.layer, size=None)), _training(samples))
    source, splits = samples.source, samples.splits
    learned = np.concatenate([splits.train, splits.val])
    at = np.arange(len(learned))
    own = replace(splits, train=at[: len(splits.train)], val=at[len(splits.train) :], test=at[:0], blocks=None)
    windows = _around(samples, learned) if isinstance(source, LabelledScenes) else _whole(samples, learned)
    pixels = torch.cat([made.apply(values, good)[0] for values, good in windows])
    encoder = train_supervised(pixels, samples.targets[learned], own, whole=isinstance(source, Chips), bands=made.slots,
                               seed=how.seed)  # fmt: skip
    return encoder.to(how.device), (f"{SUPERVISED} has learned from the labels of the training samples",)


def _around(samples: Samples, at: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """([n, C, 7, 7], valid) around the samples ``at``, in order, the scene's border repeated."""
    assert isinstance(samples.source, LabelledScenes)
    assert samples.pixels is not None
    side = 2 * AROUND + 1
    chosen = samples.pixels[at]
    found: np.ndarray | None = None
    for number, scene in enumerate(samples.source.scenes):
        for top in range(0, scene.shape[0], 256):
            some = np.flatnonzero((chosen[:, 0] == number) & (chosen[:, 1] >= top) & (chosen[:, 1] < top + 256))
            if not len(some):
                continue
            first, left = max(0, top - AROUND), max(0, int(chosen[some, 2].min()) - AROUND)
            last = min(scene.shape[0], top + 256 + AROUND)
            right = min(scene.shape[1], int(chosen[some, 2].max()) + 1 + AROUND)
            both = scene.read(Window(first, left, last - first, right - left))
            edges = ((0, 0), (AROUND, AROUND), (AROUND, AROUND))
            rows, columns = chosen[some, 1] - first, chosen[some, 2] - left
            parts = [
                np.lib.stride_tricks.sliding_window_view(np.pad(part, edges, mode="edge"), (side, side), (1, 2))[
                    :, rows, columns
                ].swapaxes(0, 1)
                for part in both
            ]
            if found is None:
                found = np.empty((len(at), *parts[0].shape[1:]), np.float32)
                good = np.empty(found.shape, bool)
            found[some], good[some] = parts
    assert found is not None
    yield torch.from_numpy(found), torch.from_numpy(good)


def _whole(samples: Samples, at: np.ndarray) -> Iterator[tuple[Tensor, Tensor | None]]:
    """([n, C, H, W], valid) of the chips ``at``, some at a time."""
    source = samples.source
    assert isinstance(source, Chips)
    assert samples.chips is not None
    if source.pixels.ndim == 5 and source.pixels.shape[1] > 1:
        raise ManyoneError(f"{samples.name}: {source.pixels.shape[1]} dates; {SUPERVISED} takes images of one")
    for start in range(0, len(at), 512):
        some = samples.chips[at[start : start + 512]]
        shape = (len(some), *source.pixels.shape[-3:])
        valid = None if source.valid is None else torch.from_numpy(np.ascontiguousarray(source.valid[some])).view(shape)
        yield torch.from_numpy(np.asarray(source.pixels[some], np.float32)).view(shape), valid


def _plan(spec: ModelSpec, samples: Samples, how: How) -> Plan:
    source = samples.source
    side = how.window if isinstance(source, LabelledScenes) else int(source.pixels.shape[-1])  # type: ignore[union-attr]
    options = how.layer if how.layer.size else replace(how.layer, size=side_of(spec, side))
    return plan(samples.bands, spec, options)


def _training(samples: Samples) -> Iterator[tuple[Tensor, Tensor | None]]:
    """(pixels, valid) of the training samples, as the sensor layer's statistics are made from."""
    source, train = samples.source, samples.splits.train
    if isinstance(source, Chips):
        assert samples.chips is not None
        at = samples.chips[train]
        for start in range(0, len(at), 512):
            some = at[start : start + 512]
            valid = None if source.valid is None else torch.from_numpy(np.ascontiguousarray(source.valid[some]))
            yield torch.from_numpy(np.asarray(source.pixels[some], np.float32)), valid
        return
    assert isinstance(source, LabelledScenes)
    assert samples.pixels is not None
    for number, scene in enumerate(source.scenes):
        at = samples.pixels[train]
        at = at[at[:, 0] == number, 1:]
        for values, good in _read(scene, at):
            yield torch.from_numpy(values)[None, :, None], torch.from_numpy(good)[None, :, None]


def _read(scene: Scene, at: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """([C, n], valid) of the pixels ``at`` [n, 2], some rows at a time."""
    for top in range(0, scene.shape[0], 256):
        some = at[(at[:, 0] >= top) & (at[:, 0] < top + 256)]
        if len(some):
            left, right = int(some[:, 1].min()), int(some[:, 1].max()) + 1
            pixels, valid = scene.read(Window(top, left, min(256, scene.shape[0] - top), right - left))
            part = np.s_[:, some[:, 0] - top, some[:, 1] - left]
            yield pixels[part], valid[part]


def _imagery(samples: Samples, made: Plan) -> Iterator[Tensor]:
    """What an encoder that is trained here sees: scenes (of large ones some squares), or the training chips."""
    source = samples.source
    if isinstance(source, LabelledScenes):
        for scene in source.scenes:
            for window in looks(scene.shape):
                pixels, valid = scene.read(window)
                yield made.apply(torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None])[0][0]
        return
    for pixels_, valid_ in _training(samples):
        yield from made.apply(pixels_, valid_)[0]


def looks(shape: tuple[int, int]) -> list[Window]:
    """The whole of a scene, or 16 squares of 512 pixels that lie evenly over a large one."""
    if shape[0] * shape[1] <= _WHOLE:
        return [Window(0, 0, *shape)]
    sides = [min(_LOOK, n) for n in shape]
    rows, columns = (
        np.unique(np.linspace(0, n - s, 4).astype(int)).tolist() for n, s in zip(shape, sides, strict=True)
    )
    return [Window(r, c, *sides) for r in rows for c in columns]


def _batches(one: Ready, samples: Samples, how: How) -> Callable[[int, int], dict[str, Tensor]]:
    source, made, encoder = samples.source, one.plan, one.encoder

    def of_pixels(start: int, stop: int) -> dict[str, Tensor]:
        assert isinstance(source, LabelledScenes)
        assert samples.pixels is not None
        assert made is not None
        at = samples.pixels[start:stop]
        parts = []
        for number in np.unique(at[:, 0]).tolist():
            scene = source.scenes[number]
            over = sliding(encoder.spec, how, scene.shape)
            found = embed_pixels(
                encoder, scene, at[at[:, 0] == number, 1:], context_of(made, scene.gsd_m), size=over.size,
                stride=over.stride, margin=over.margin, layer=encoder.spec.dense, prepare=preparing(made),
                memory_mb=how.memory_mb, device=how.device,
            )  # fmt: skip
            parts.append(found)
        return {"global_pixel": torch.from_numpy(np.concatenate(parts))}

    def of_chips(start: int, stop: int) -> dict[str, Tensor]:
        assert isinstance(source, Chips)
        assert samples.chips is not None
        assert made is not None
        at = samples.chips[start:stop]
        valid = None if source.valid is None else torch.from_numpy(np.ascontiguousarray(source.valid[at]))
        lonlat = None if source.lonlat is None else torch.from_numpy(source.lonlat[at])
        time = None if source.time is None else torch.from_numpy(np.asarray(source.time[at], np.float32))
        pixels = torch.from_numpy(np.asarray(source.pixels[at], np.float32))
        prepared, context = made.apply(pixels, valid, gsd_m=source.gsd_m, time=time, lonlat=lonlat)
        with torch.inference_mode():
            found = encoder.vectors(prepared.to(how.device), context)
        return {f"global_{name}": vector for name, vector in found.items()}

    def of_places(start: int, stop: int) -> dict[str, Tensor]:
        assert isinstance(source, Places)
        assert samples.chips is not None
        lonlat = torch.from_numpy(source.lonlat[samples.chips[start:stop]])
        found = encoder.vectors(torch.empty(len(lonlat), 0, 1, 1), Context(lonlat=lonlat.to(how.device)))
        return {f"global_{name}": vector for name, vector in found.items()}

    return of_pixels if isinstance(source, LabelledScenes) else of_chips if isinstance(source, Chips) else of_places


def _versions(id: str) -> dict[str, str]:
    package = _LIBRARIES.get(id.split(":")[0])
    if package is None:
        return {}
    try:
        return {package: version(package)}
    except PackageNotFoundError:
        return {}
