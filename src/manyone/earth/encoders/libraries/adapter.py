"""What adapters of other libraries share: one forward pass that gives maps and vectors, seeds, files and messages.

Public names: :class:`LibraryEncoder`, :class:`Features`, :func:`from_tokens`, :func:`tapped`, :func:`quarters`,
:func:`seeded`, :func:`download`, :func:`load_state`, :func:`need_model_library`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from manyone.earth.encoders.inputs import images, pooled, weights_digest
from manyone.earth.spec import Context, ModelSpec, Pooling
from manyone.engine.extras import need
from manyone.errors import ManyoneError
from manyone.randomness import seed_for


class Features(NamedTuple):
    """What one forward pass gives."""

    maps: list[Tensor]
    """[B, D_l, h, w] a layer."""
    vectors: dict[Pooling, Tensor]


Forward = Callable[[Tensor, Context], Features]


class LibraryEncoder:
    """A network of another library as an encoder.

    ``forward`` runs it once on [B, C, H, W] ([B, T, C, H, W] where ``spec.frames`` allows several dates).
    """

    def __init__(self, spec: ModelSpec, network: nn.Module, forward: Forward) -> None:
        self.spec, self.network, self._forward = spec, network.eval().requires_grad_(False), forward

    @torch.inference_mode()
    def features(self, pixels: Tensor, context: Context) -> Features:
        """Maps and vectors from one forward pass."""
        if self.spec.frames[1] == 1:
            pixels = images(pixels, self.spec.id)
        self._check(pixels)
        return self._forward(pixels, context)

    def maps(self, pixels: Tensor, context: Context) -> list[Tensor]:
        """A map for each of ``spec.layers``."""
        return self.features(pixels, context).maps

    def vectors(self, pixels: Tensor, context: Context) -> dict[Pooling, Tensor]:
        """Every pooling that the network has."""
        return self.features(pixels, context).vectors

    def digest(self) -> str:
        """Of the weights and the identity."""
        return self._digest

    def to(self, device: torch.device | str) -> LibraryEncoder:
        """Itself, on ``device``."""
        self.network.to(device)
        return self

    @cached_property
    def _digest(self) -> str:
        settings = {"id": self.spec.id, "layers": self.spec.layers}
        return weights_digest(settings, self.network.state_dict().items())

    def _check(self, pixels: Tensor) -> None:
        slots, size = self.spec.slots, self.spec.size
        if slots is not None and pixels.shape[-3] != len(slots):
            raise ManyoneError(f"{pixels.shape[-3]} bands: {self.spec.id} reads {len(slots)}")
        if size is not None and tuple(pixels.shape[-2:]) != (size, size):
            found = f"{pixels.shape[-2]} x {pixels.shape[-1]}"
            raise ManyoneError(f"images of {found} pixels: {self.spec.id} reads {size} x {size}: resize or cut them")


def from_tokens(layers: Sequence[Tensor], final: Tensor, grid: tuple[int, int], prefix: int) -> Features:
    """Features from token sequences [B, prefix + T h w, D]: the map is the mean over T dates.

    The first of ``prefix`` tokens is the class token; mean and maximum are over the others, of ``final``.
    """
    vectors: dict[Pooling, Tensor] = {"cls": final[:, 0]} if prefix else {}
    vectors |= {"mean": final[:, prefix:].mean(1), "max": final[:, prefix:].amax(1)}
    return Features([_as_map(tokens[:, prefix:], grid) for tokens in layers], vectors)


def from_map(layers: Sequence[Tensor], final: Tensor) -> Features:
    """Features from maps [B, D, h, w]."""
    return Features(list(layers), pooled(final))


def tapped(run: Callable[[], Any], outputs: Sequence[nn.Module] = (), inputs: Sequence[nn.Module] = ()) -> list[Tensor]:
    """What the modules ``outputs`` gave and ``inputs`` got while ``run`` ran, in this order."""
    found: dict[int, Tensor] = {}
    handles = []
    for index, module in enumerate(outputs):
        handles.append(module.register_forward_hook(lambda m, i, o, at=index: found.__setitem__(at, o)))
    for index, module in enumerate(inputs, len(outputs)):
        handles.append(module.register_forward_pre_hook(lambda m, i, at=index: found.__setitem__(at, i[0])))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [found[index] for index in range(len(outputs) + len(inputs))]


def quarters(depth: int) -> tuple[int, ...]:
    """The blocks whose maps are used: the last of each quarter, with one shift that the field agreed on.

    ViT-B (12): 3, 5, 7, 11; ViT-L (24): 7, 11, 15, 23; any other depth: the last of each quarter.
    """
    known = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
    if depth in known:
        return known[depth]
    return tuple(sorted({max(0, round(depth * k / 4) - 1) for k in range(1, 5)}))


@contextlib.contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """First weights drawn inside depend on ``seed`` and ``name`` alone; the caller's random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "earth", name))
        yield


@contextlib.contextmanager
def download(name: str) -> Iterator[None]:
    """Turns what a library raises when its weights cannot be fetched into one line."""
    if os.environ.get("MANYONE_OFFLINE", "0") not in ("", "0"):
        raise ManyoneError(f"the weights of {name} need a network and MANYONE_OFFLINE is set: {_ADVICE}")
    try:
        yield
    except Exception as problem:
        module = type(problem).__module__.split(".")[0]
        if not isinstance(problem, OSError) and module not in ("httpx", "httpcore", "huggingface_hub", "requests"):
            raise
        first = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ManyoneError(f"the weights of {name} could not be fetched ({first:.200}): {_ADVICE}") from problem


_ADVICE = "fetch them where a network is and give their path as weights, or use weights='random'"


def load_state(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Puts a state dict (.safetensors, or .pth / .pt of tensors alone) into ``network``, strictly."""
    path = Path(path)
    if not path.is_file():
        raise ManyoneError(f"weights = {str(path)!r}: must be default, random or a file of weights")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as problem:
        first = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ManyoneError(f"{path}: not a file of plain tensors ({first:.200})") from problem
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ManyoneError(f"{path}: not a mapping of names to tensors: take the state dict out of the checkpoint")
    found = network.load_state_dict(state, strict=False)
    for what, names in (("lacks", found.missing_keys), ("has no place for", found.unexpected_keys)):
        if names:
            raise ManyoneError(f"{path}: {what} {names[0]} and {len(names) - 1} more: weights of another model?")


def need_model_library(module: str, what: str) -> Any:
    """A library of the extra ``earth-models``; says so where it, or a torchvision that fits torch, is missing."""
    try:
        return need(module, what, "earth-models")
    except RuntimeError as problem:
        if "torchvision::" not in str(problem):
            raise
        raise ManyoneError(
            f"{what} needs a torchvision built for this torch ({torch.__version__}): install both from one index, "
            "pip install torch torchvision --index-url ..., then 'manyone[earth-models]'"
        ) from problem


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, T h w, D] -> [B, D, h, w], the mean over T."""
    n, count, width = tokens.shape
    if count % (grid[0] * grid[1]):
        raise ManyoneError(f"{count} tokens do not fill grids of {grid[0]} x {grid[1]}")
    dates = tokens.view(n, -1, *grid, width)
    return dates.mean(1).permute(0, 3, 1, 2)
