"""From a specification (plain JSON data, stored beside the weights) to an encoder, and one way to call any encoder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.nets.huggingface import auto_encoder, clip_vision, sentence_encoder
from manyone.nets.resmlp import ResMLP
from manyone.nets.vit import ViT
from manyone.randomness import seed_for

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "resmlp": ResMLP,
    "vit": ViT,
    "sentence": sentence_encoder,
    "clip-vision": clip_vision,
    "hf": auto_encoder,
}


def build_encoder(spec: Mapping[str, Any], *, seed: int = 0) -> nn.Module:
    """The encoder that ``spec`` describes, in evaluation mode, with random weights that depend on ``seed`` alone.

    ``spec["kind"]`` names the network (a key of :data:`ENCODERS`); the other entries are its arguments.
    """
    arguments = dict(spec)
    kind = arguments.pop("kind", None)
    if kind not in ENCODERS:
        raise ManyoneError(f"unknown encoder kind {kind!r}: use {', '.join(ENCODERS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("encoder", kind, seed))
        try:
            return ENCODERS[kind](**arguments).eval()
        except TypeError as error:
            raise ManyoneError(f"encoder specification of kind {kind!r} does not fit: {error}") from error


def call(module: nn.Module, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
    """``module(inputs)`` for a tensor, ``module(**inputs)`` for named tensors; features [n, d].

    A module whose ``forward`` has a parameter called ``inputs`` (a model around an encoder) gets the mapping whole.
    """
    if isinstance(inputs, Tensor) or "inputs" in inspect.signature(module.forward).parameters:
        return module(inputs)
    return module(**inputs)
