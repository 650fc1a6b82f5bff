"""``load_encoder``: any encoder by its id.

    raw raw3x3 raw5x5 stats stats5x5     pixels and statistics, without a network
    rcf mosaiks                          random convolutional features
    vit-random mae-small wave-small      the small vision transformer: untrained, or pre-trained on given imagery
    lonlat xyz rff geoclip               places
    cnn-supervised                       a small network trained from the labels alone: the baseline of frozen ones
    efficientnet-lite0                   ImageNet weights that a package carries
    timm:NAME torchgeo:NAME terratorch:NAME open_clip:NAME hf:FOLDER      other libraries' models

Public name: :func:`load_encoder`; the ids are in :mod:`manyone.earth.names`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.location import location_encoder
from manyone.earth.encoders.mae import MaeOptions
from manyone.earth.encoders.pretraining import load_pretrained, pretrain
from manyone.earth.encoders.raw import ImageStatistics, RawWindows, WindowStatistics
from manyone.earth.encoders.rcf import gaussian_features, patch_features
from manyone.earth.encoders.supervised import untrained
from manyone.earth.encoders.vit import random_vit
from manyone.earth.names import LIBRARIES, OWN, PIXELS, PLACES, SUPERVISED
from manyone.earth.spec import Encoder
from manyone.errors import ManyoneError


def load_encoder(
    id: str,
    weights: str | os.PathLike[str] = "default",
    *,
    device: str | torch.device = "cpu",
    bands: Sequence[Band] | None = None,
    seed: int = 0,
    imagery: Sequence[Tensor] | None = None,
    options: MaeOptions | None = None,
    progress: bool | None = None,
) -> Encoder:
    """The encoder ``id`` on ``device``, in evaluation mode.

    ``weights``: "default" (the published ones; those of ``mae-small`` and ``wave-small`` are trained on ``imagery`` and
    kept by content), "random" (never needs a network) or a path. ``bands`` are those of the pixels that it will get;
    needed where the network is made for them. ``imagery``: prepared images float32 [C, H, W] for those in
    :data:`LEARNED`; ``options``: how they are trained.

    Raises ``ManyoneError`` for an unknown id, a missing library (with the command that installs it), and weights that
    need a network where there is none.
    """
    given = None if bands is None else tuple(bands)
    path = os.fspath(weights)
    prefix = id.split(":", 1)[0]
    if prefix in LIBRARIES and (prefix == "efficientnet-lite0") == (":" not in id):
        return _library(prefix)(id, path, given, seed).to(device)
    if id not in OWN:
        close = difflib.get_close_matches(id, [*OWN, *(f"{p}:NAME" for p in LIBRARIES if p in ("timm", "torchgeo"))])
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(OWN)}, timm:NAME, ..."
        raise ManyoneError(f"{id!r}: no such encoder: {hint}")
    if path not in ("default", "random") and id not in ("mae-small", "wave-small"):
        raise ManyoneError(f"weights = {path!r}: {id} has no weights of its own to read: use default or random")
    if id in PLACES:
        return location_encoder(id, weights="random" if path == "random" else "default", seed=seed).to(device)
    if id in PIXELS:
        return _pixel_features(id, given)
    if id == SUPERVISED:
        if path != "random" or not given:
            raise ManyoneError(
                f"{id} learns from labels: earth-bench and earth-map train it; here it takes weights='random' and bands"
            )
        return untrained(given, seed).to(device)
    if id in ("rcf", "mosaiks"):
        return _random_features(id, path, given, seed, imagery).to(device)
    return _small_vit(id, path, given, seed, imagery, options, progress).to(device)


def fixed_bands(id: str) -> bool:
    """Whether the encoder has input slots of its own, so that it is not made for the bands of its input."""
    return id.split(":", 1)[0] in LIBRARIES


def _library(prefix: str) -> Callable[[str, str, tuple[Band, ...] | None, int], Encoder]:
    """The adapter, imported when it is asked for."""
    if prefix == "timm":
        from manyone.earth.encoders.libraries.timm import load_timm as found
    elif prefix == "torchgeo":
        from manyone.earth.encoders.libraries.torchgeo import load_torchgeo as found
    elif prefix == "terratorch":
        from manyone.earth.encoders.libraries.terratorch import load_terratorch as found
    elif prefix == "open_clip":
        from manyone.earth.encoders.libraries.clip import load_clip as found
    elif prefix == "hf":
        from manyone.earth.encoders.libraries.huggingface import load_folder as found
    else:
        from manyone.earth.encoders.libraries.efficientnet import load_efficientnet as found
    return found


def _pixel_features(id: str, bands: tuple[Band, ...] | None) -> Encoder:
    makers: dict[str, Callable[[], Encoder]] = {
        "raw": lambda: RawWindows(1, bands),
        "raw3x3": lambda: RawWindows(3, bands),
        "raw5x5": lambda: RawWindows(5, bands),
        "stats": lambda: ImageStatistics(bands),
        "stats3x3": lambda: WindowStatistics(3, bands),
        "stats5x5": lambda: WindowStatistics(5, bands),
    }
    return makers[id]()


def _random_features(
    id: str, weights: str, bands: tuple[Band, ...] | None, seed: int, imagery: Sequence[Tensor] | None
) -> Encoder:
    if id == "rcf" or weights == "random":
        return gaussian_features(bands, seed=seed)
    return patch_features(_needed(imagery, id), bands, seed=seed)


def _small_vit(
    id: str,
    weights: str,
    bands: tuple[Band, ...] | None,
    seed: int,
    imagery: Sequence[Tensor] | None,
    options: MaeOptions | None,
    progress: bool | None,
) -> Encoder:
    wave = id == "wave-small"
    if weights == "random" or id == "vit-random":
        if not wave and not bands:
            raise ManyoneError(f"bands = {bands!r}: {id} is made for certain bands: name them")
        return random_vit(None if wave else bands, size=options.size if options else None, seed=seed)
    if weights != "default":
        return load_pretrained(Path(weights), bands)
    options = options or MaeOptions(wave=wave)
    if options.wave != wave:
        raise ManyoneError(f"options.wave = {options.wave}: {id} is the {'wave' if wave else 'fixed-band'} variant")
    return pretrain(_needed(imagery, id), options, bands=bands, seed=seed, progress=progress)


def _needed(imagery: Sequence[Tensor] | None, id: str) -> Sequence[Tensor]:
    if imagery is None:
        raise ManyoneError(f"imagery is missing: {id} learns from the images of the training part; or weights='random'")
    return imagery
