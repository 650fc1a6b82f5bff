"""Pre-training the small masked auto-encoder on given imagery, resumable and kept by content.

AdamW (0.9, 0.95), weight decay 0.05, learning rate 1.5e-3 with 50 steps of warm-up and a cosine; random crops with
flips and quarter turns. What was trained once on the same pixels with the same options and seed is read from the cache;
an interrupted training goes on where it stopped. Public names: :class:`MaeLearner`, :func:`pretrain`, :func:`crops`,
:func:`load_pretrained`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyone.assets.cache import cache_folder, locked
from manyone.data.rasters.bands import Band
from manyone.earth.encoders.inputs import padded
from manyone.earth.encoders.mae import MaeOptions, MaskedAutoencoder
from manyone.earth.encoders.vit import PlainViT, VitEncoder, VitSize, seeded_vit
from manyone.earth.spec import ModelSpec
from manyone.engine.artefact import buffers_of, load_weights, read_model, write_model
from manyone.engine.loop import train
from manyone.engine.mergeable import Mergeable
from manyone.engine.options import from_plain, to_plain
from manyone.engine.run import CONFIG, RunFolder
from manyone.errors import ManyoneError
from manyone.nets.memory import keep_freed_memory
from manyone.randomness import generator_for, seed_for

Imagery = Sequence[Tensor]
"""Prepared images float32 [C, H, W] of any sizes and the same bands: scenes, or the rows of [N, C, H, W]."""

_VERSION = 1  # of what training does with the same options: part of the key
_FEWEST = 3  # bands that a batch of the wave variant sees
_EVALUATED = 64  # crops


class MaeLearner:
    """A masked auto-encoder in training (an engine ``Learner``)."""

    def __init__(
        self, imagery: Imagery, options: MaeOptions, *, bands: tuple[Band, ...] | None = None, seed: int = 0
    ) -> None:
        self.imagery, self.options, self.bands, self.seed, self.steps = imagery, options, bands, seed, 0
        count = _check(imagery, options, bands)
        self._wavelengths = _wavelengths(bands) if options.wave else None
        encoder = seeded_vit(None if options.wave else count, options.size, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "mae decoder", count))
            self.network = MaskedAutoencoder(encoder, count, options)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]  # biases, norms, mask token
        self._adam = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=options.lr, betas=(0.9, 0.95), fused=True,
        )  # fmt: skip
        keep_freed_memory()

    def step(self) -> dict[str, float]:
        """One update on a batch of crops."""
        for group in self._adam.param_groups:
            group["lr"] = learning_rate(self.steps, self.options)
        loss = self._loss(self.options.batch_size, generator_for(self.seed, "mae", self.steps))
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        self.steps += 1
        return {"loss": float(loss.detach()), "lr": self._adam.param_groups[0]["lr"]}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The loss on 64 crops, always the same."""
        return {"loss": float(self._loss(_EVALUATED, generator_for(self.seed, "mae evaluation")))}

    def encoder(self) -> VitEncoder:
        """A copy of the encoder as it is now."""
        encoder = PlainViT(self.network.encoder.channels, self.options.size)
        encoder.load_state_dict(self.network.encoder.state_dict())
        return _as_encoder(encoder, self.bands, self.options.wave)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {"steps": self.steps, "network": self.network.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self._adam.load_state_dict(state["adam"])
        self.steps = state["steps"]

    def export(self, folder: Path) -> None:
        """Writes the encoder: what :func:`load_pretrained` reads."""
        encoder = self.network.encoder
        config = {"kind": "earth-vit", "channels": encoder.channels, "size": to_plain(self.options.size)}
        config["bands"] = None if self.bands is None else [band.name for band in self.bands]
        card = (
            "A small vision transformer, pre-trained as a masked auto-encoder on the imagery that it was given"
            f" ({self.steps} steps).\nA test on the same imagery is transductive: say so beside its figures.\n"
        )
        merge = Mergeable(weights=("*",), fixed=buffers_of(encoder))
        write_model(folder, encoder.state_dict(), config, card, merge=merge)

    def _loss(self, count: int, generator: torch.Generator) -> Tensor:
        pixels = padded(crops(self.imagery, self.options.crop, count, generator), self.options.size.patch)
        tokens = (pixels.shape[2] // self.options.size.patch) * (pixels.shape[3] // self.options.size.patch)
        noise = torch.rand(count, tokens, generator=generator)
        shown = None
        if self.options.wave:
            total = pixels.shape[1]
            some = int(torch.randint(min(_FEWEST, total), total + 1, (), generator=generator))
            shown = torch.randperm(total, generator=generator)[:some]
        return self.network(pixels, noise, self._wavelengths, shown)


def pretrain(
    imagery: Imagery,
    options: MaeOptions | None = None,
    *,
    bands: tuple[Band, ...] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> VitEncoder:
    """The encoder of a masked auto-encoder trained on ``imagery``, from the cache where that was done before.

    ``bands`` name the channels; the wave variant needs their wavelengths. ``progress`` as in ``engine.loop.train``.
    """
    options = options or MaeOptions()
    _check(imagery, options, bands)
    key = _key(imagery, options, bands, seed)
    kind = "wave-small" if options.wave else "mae-small"
    folder = cache_folder("earth", "pretrained") / f"{kind}-{key[:24]}"  # progress shows this name
    if not (folder / "model").is_dir():
        with locked(f"pretrain-{key[:16]}"):
            if not (folder / "model").is_dir():
                exists = (folder / CONFIG).is_file()
                run = RunFolder.open(folder) if exists else RunFolder.create(folder, "earth-mae", options)
                learner = MaeLearner(imagery, options, bands=bands, seed=seed)
                train(learner, run, steps=options.steps, checkpoint_every=100, keep=1, progress=progress)
                run.finish()
                shutil.rmtree(run.checkpoints)  # ten times the model, and done with
    return load_pretrained(folder / "model", bands)


def load_pretrained(folder: str | os.PathLike[str], bands: tuple[Band, ...] | None = None) -> VitEncoder:
    """The encoder in a model folder that :meth:`MaeLearner.export` wrote; ``bands`` are its input's."""
    config, tensors = read_model(folder, "an earth encoder", ("kind", "channels", "size"))
    if config["kind"] != "earth-vit":
        raise ManyoneError(f"{folder}: a model of kind {config['kind']!r}, not earth-vit")
    size, count = from_plain(VitSize, config["size"]), config["channels"]
    if count is not None and bands is not None and len(bands) != count:
        raise ManyoneError(f"{folder}: made for {count} bands, got {len(bands)}: name the bands that it was trained on")
    network = PlainViT(count, size)
    load_weights(network, tensors, f"{folder}")
    return _as_encoder(network, bands, wave=count is None)


def learning_rate(step: int, options: MaeOptions) -> float:
    """Of step ``step`` (from 0): linear warm-up, then a cosine to 0 at the last step."""
    warmup = min(options.warmup, options.steps)
    if step < warmup:
        return options.lr * (step + 1) / warmup
    return options.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, options.steps - warmup)))


def crops(imagery: Imagery, side: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random squares [count, C, s, s], turned and mirrored; s = ``side`` or the shortest side of an image.

    An image is drawn by the number of places that it has for a crop, so that all of these are equally likely.
    """
    side = min(side, *(min(image.shape[1:]) for image in imagery))
    places = torch.tensor([(i.shape[1] - side + 1) * (i.shape[2] - side + 1) for i in imagery])
    ends = places.cumsum(0)
    at = torch.randint(int(ends[-1]), (count,), generator=generator)
    owners = torch.searchsorted(ends, at, right=True)
    turns = torch.randint(8, (count,), generator=generator).tolist()
    chosen = []
    for index, inside, turn in zip(owners.tolist(), (at - ends[owners] + places[owners]).tolist(), turns, strict=True):
        image = imagery[index]
        row, column = divmod(inside, image.shape[2] - side + 1)
        one = torch.rot90(image[:, row : row + side, column : column + side], turn % 4, (1, 2))
        chosen.append(one.flip(2) if turn >= 4 else one)
    return torch.stack(chosen).float()


def _as_encoder(network: PlainViT, bands: tuple[Band, ...] | None, wave: bool) -> VitEncoder:
    spec = ModelSpec(
        "wave-small" if wave else "mae-small", None if wave else bands, network.size.width, patch=network.size.patch,
        needs=frozenset(["wavelength"]) if wave else frozenset(), licence="that of the imagery",
    )  # fmt: skip
    return VitEncoder(network, spec)


def _check(imagery: Imagery, options: MaeOptions, bands: tuple[Band, ...] | None) -> int:
    """The number of bands, after the imagery was looked at."""
    if len(imagery) == 0:
        raise ManyoneError("imagery is empty: give at least one image [C, H, W]")
    count = imagery[0].shape[0]
    for image in imagery:
        if image.ndim != 3 or image.shape[0] != count:
            raise ManyoneError(f"imagery of shape {list(image.shape)}: must be [C, H, W] with C = {count} for all")
    if bands is not None and len(bands) != count:
        raise ManyoneError(f"{len(bands)} bands named for imagery of {count}")
    side = min(options.crop, *(min(image.shape[1:]) for image in imagery))
    if side <= options.size.patch and options.ratio:
        raise ManyoneError(f"imagery of {side} pixels a side: must be larger than a patch, {options.size.patch}")
    return count


def _wavelengths(bands: tuple[Band, ...] | None) -> Tensor:
    if bands is None or any(band.center_nm is None for band in bands):
        raise ManyoneError("the wave variant needs bands with wavelengths: leave out what has none (radar, height)")
    return torch.tensor([band.center_nm for band in bands], dtype=torch.float64)


def _key(imagery: Imagery, options: MaeOptions, bands: tuple[Band, ...] | None, seed: int) -> str:
    settings = {"version": _VERSION, "options": to_plain(options), "seed": seed}
    settings["wavelengths"] = _wavelengths(bands).tolist() if options.wave else None
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for image in imagery:
        digest.update(str(list(image.shape)).encode() + image.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
