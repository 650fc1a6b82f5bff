"""The model of a map: an encoder by its id, how a sensor's bands reach it, and the classifier on its features.

    config.json          kind "earth-map", encoder, bands, options and statistics of the sensor layer, classes
    model.safetensors    the classifier's tensors and, of an encoder that was trained here, its weights ("encoder.*")

An encoder of another library is named, not copied: it must have the weights that it had (their SHA-256 is kept).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from manyone.data.rasters.bands import Band
from manyone.earth.embedding import How
from manyone.earth.encoders.cnn import CnnEncoder, CnnSize, cnn_from
from manyone.earth.encoders.loading import fixed_bands, load_encoder
from manyone.earth.encoders.vit import VitEncoder, VitSize, vit_from
from manyone.earth.mapping import PixelClassifier
from manyone.earth.names import LEARNED, SUPERVISED
from manyone.earth.sensors.layer import Plan, plan
from manyone.earth.sensors.normalise import Statistics
from manyone.earth.sensors.options import LayerOptions
from manyone.earth.spec import Encoder
from manyone.engine.artefact import buffers_of, made_of, read_model, write_model
from manyone.engine.mergeable import Mergeable
from manyone.engine.options import from_plain, to_plain
from manyone.errors import ManyoneError

KIND = "earth-map"


@dataclass(frozen=True)
class MapModel:
    """Everything that turns a scene of the same sensor into a map."""

    encoder: Encoder
    plan: Plan
    classifier: PixelClassifier
    how: How
    encoder_id: str
    weights: str


def save(model: MapModel, folder: str | os.PathLike[str], card: str) -> None:
    """Writes the model folder."""
    config: dict[str, Any] = {
        "kind": KIND,
        "encoder": {"id": model.encoder_id, "weights": model.weights, "seed": model.how.seed,
                    "digest": model.encoder.digest()},
        "bands": [asdict(band) for band in model.plan.source],
        "layer": asdict(model.plan.options),
        "statistics": None if model.plan.statistics is None else asdict(model.plan.statistics),
        "classes": list(model.classifier.classes),
        "classifier": model.classifier.kind,
        "window": model.how.window,
        "stride": model.how.stride,
    }  # fmt: skip
    tensors = dict(model.classifier.tensors)
    if isinstance(model.encoder, VitEncoder | CnnEncoder):
        config["encoder"] |= {"size": to_plain(model.encoder.network.size), "channels": model.encoder.network.channels}
        tensors |= {f"encoder.{k}": v for k, v in model.encoder.network.state_dict().items()}
    elif model.encoder_id in LEARNED:
        tensors["encoder.filters"] = model.encoder.filters  # type: ignore[attr-defined]
        config["encoder"]["bias"] = float(model.encoder.bias)  # type: ignore[attr-defined]
    write_model(folder, tensors, config, card, merge=_mergeable(model))


def _mergeable(model: MapModel) -> Mergeable:
    """Weights are the linear probe's and those of an encoder that was trained here.

    What standardises features, a bank of labelled ones and running statistics of an encoder must be equal.
    """
    probe = ("weight", "bias", "temperature") if model.classifier.kind == "linear" else ()
    if not isinstance(model.encoder, VitEncoder | CnnEncoder):
        return Mergeable(weights=probe)
    fixed = buffers_of(model.encoder.network, "encoder.")
    return Mergeable(weights=(*probe, "encoder.*"), fixed=fixed, renewed=("encoder.digest",))


def load(folder: str | os.PathLike[str], device: str = "cpu") -> MapModel:
    """The model that :func:`save` wrote. ``ManyoneError`` where it is damaged or its encoder is not what it was."""
    needs = ("encoder", "bands", "layer", "statistics", "classes", "classifier", "window")
    config, tensors = read_model(folder, "a model of maps", needs)
    if config.get("kind") != KIND:
        raise ManyoneError(f"{folder}: a model of kind {config.get('kind')!r}, not {KIND}")
    # an encoder that is named alone is another library's, as large as that has it
    own_weights = any(name.startswith("encoder.") for name in tensors)
    with made_of(folder, tensors if own_weights else None):
        bands = tuple(from_plain(Band, band) for band in config["bands"])
        layer = from_plain(LayerOptions, config["layer"])
        statistics = None if config["statistics"] is None else _statistics(config["statistics"])
        about = config["encoder"]
        own = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
        rest = {k: v for k, v in tensors.items() if not k.startswith("encoder.")}
        encoder = _encoder(about, own, bands, device)
        made = replace(plan(bands, encoder.spec, layer), statistics=statistics)
        classifier = PixelClassifier(tuple(config["classes"]), config["classifier"], rest)
        if classifier.width < 1 or len(classifier.classes) < 2:
            raise ValueError("a classifier of nothing")
        how = How(layer=layer, window=int(config["window"]), stride=config.get("stride"), device=device)
        model = MapModel(encoder, made, classifier, how, str(about["id"]), str(about["weights"]))
        wanted = about["digest"]
    merged = wanted is None and "size" in about  # the checksum of all tensors is enough
    if not merged and encoder.digest() != wanted:
        raise ManyoneError(f"{folder}: {about['id']} has other weights now than when the model was made: install the "
                           "version of then, or make the map anew")  # fmt: skip
    return model


def _encoder(about: Mapping[str, Any], own: dict[str, torch.Tensor], bands: tuple[Band, ...], device: str) -> Encoder:
    if "size" in about and about["id"] == SUPERVISED:
        return cnn_from(from_plain(CnnSize, about["size"]), int(about["channels"]), own, bands).to(device)
    if "size" in about:
        return vit_from(from_plain(VitSize, about["size"]), about["channels"], own, about["id"], bands).to(device)
    if own:
        from manyone.earth.encoders.rcf import RandomFeatures

        return RandomFeatures(about["id"], own["filters"], float(about["bias"]), bands).to(device)
    given = None if fixed_bands(about["id"]) else bands
    return load_encoder(about["id"], about["weights"], device=device, bands=given, seed=int(about["seed"]))


def _statistics(plain: Mapping[str, Any]) -> Statistics:
    return Statistics(**{k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()})
