"""The supervised baseline: a small convolutional network trained from the labels of the training part alone.

What frozen encoders are compared with: a network of the same task's own labels, without any pre-training. Its last map
is what the bench then reads like any other encoder's. AdamW with half a cosine; windows are turned and mirrored; the
state that is best on val is kept, in the cache, by content. Public names: :func:`train_supervised`,
:class:`SupervisedOptions`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from manyone.assets.cache import cache_folder, locked
from manyone.data.rasters.bands import Band
from manyone.earth.encoders.cnn import ID, CnnEncoder, CnnSize, SmallCnn, as_encoder, cnn_from
from manyone.earth.heads.train import Training, train
from manyone.earth.metrics import mean_average_precision
from manyone.earth.protocols.scores import Labels, kind_of
from manyone.earth.splits import Splits
from manyone.engine.artefact import CONFIG, buffers_of, read_model, write_model
from manyone.engine.mergeable import Mergeable
from manyone.engine.options import to_plain
from manyone.errors import ManyoneError
from manyone.randomness import generator_for, seed_for

_VERSION = 1  # of what training does with the same options: part of the key


@dataclass(frozen=True)
class SupervisedOptions:
    """What is trained, and how; the defaults take about ten seconds of one processor core on windows."""

    size: CnnSize = field(default_factory=CnnSize)
    updates: int = 500
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size"):
            if getattr(self, name) < 1:
                raise ManyoneError(f"{name} = {getattr(self, name)}: must be at least 1")


class _Classified(nn.Module):
    """The network with a linear layer on the mean of its map (of a window: its only vector)."""

    def __init__(self, network: SmallCnn, outputs: int, whole: bool) -> None:
        super().__init__()
        self.network, self.whole = network, whole
        self.head = nn.Linear(network.size.widths[-1], outputs)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, outputs]."""
        found = self.network.of_images(pixels) if self.whole else self.network(pixels).mean((2, 3))
        return self.head(found)


def train_supervised(
    pixels: Tensor,
    targets: np.ndarray,
    splits: Splits,
    options: SupervisedOptions | None = None,
    *,
    whole: bool,
    bands: tuple[Band, ...] | None = None,
    seed: int = 0,
) -> CnnEncoder:
    """The encoder trained on the training part of ``splits``, chosen on val; from the cache where that was done before.

    ``pixels`` float32 [N, C, H, W], prepared: windows of 7 x 7 around the labelled pixel, or images (``whole``).
    ``targets`` as :func:`manyone.earth.protocols.probe.probe` takes them; what is of the test part is not looked at.
    """
    options = options or SupervisedOptions()
    targets = np.asarray(targets)
    if len(pixels) != len(targets):
        raise ManyoneError(f"pixels: {len(pixels)} images for {len(targets)} targets; give one for each")
    key = _key(pixels, targets, splits, options, whole, seed)
    folder = cache_folder("earth", "pretrained") / f"{ID}-{key[:24]}"
    if not (folder / CONFIG).is_file():
        with locked(f"pretrain-{key[:16]}"):
            if not (folder / CONFIG).is_file():
                network = _trained(pixels, targets, splits, options, whole, seed)
                config = {"kind": "earth-cnn", "channels": network.channels, "size": to_plain(options.size)}
                card = "A small convolutional network, trained from labels alone: a baseline for frozen encoders.\n"
                merge = Mergeable(weights=("*",), fixed=buffers_of(network))
                write_model(folder, network.state_dict(), config, card, merge=merge)
    _, tensors = read_model(folder, "an earth encoder", ("kind", "channels", "size"))
    return cnn_from(options.size, int(pixels.shape[1]), tensors, bands)


def untrained(bands: tuple[Band, ...], seed: int = 0) -> CnnEncoder:
    """The network with its first weights: a control."""
    return as_encoder(_seeded(len(bands), CnnSize(), seed), bands, trained=False)


def _trained(
    pixels: Tensor, targets: np.ndarray, splits: Splits, options: SupervisedOptions, whole: bool, seed: int
) -> SmallCnn:
    kind = kind_of(targets)
    labels = Labels.from_targets(targets) if kind == "class" else None
    goal = torch.from_numpy(labels.numbers if labels else targets.astype(np.float32))
    outputs = len(labels.classes) if labels else targets.shape[1] if kind == "labels" else 1
    if kind == "value":
        at = torch.from_numpy(splits.train)
        goal = (goal - goal[at].mean()) / goal[at].std().clamp_min(1e-12)
    network = _seeded(int(pixels.shape[1]), options.size, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "supervised head", outputs))
        module = _Classified(network, outputs, whole)
    drawn = generator_for(seed, "supervised turns")

    def loss(at: np.ndarray) -> Tensor:
        x = _turned(pixels[at], int(torch.randint(8, (), generator=drawn)))
        out, y = module(x), goal[at]
        if kind == "class":
            return functional.cross_entropy(out, y)
        if kind == "labels":
            return functional.binary_cross_entropy_with_logits(out, y)
        return functional.mse_loss(out[:, 0], y)

    def quality() -> float:
        parts = np.array_split(splits.val, max(1, -(-len(splits.val) // 512)))
        out, y = torch.cat([module(pixels[part]) for part in parts]), goal[splits.val]
        if kind == "class":
            return float((out.argmax(1) == y).double().mean())
        if kind == "labels":
            return mean_average_precision(y.numpy(), out.numpy())["micro_map"]
        return -float((out[:, 0] - y).square().mean())

    per_epoch = max(1, math.ceil(len(splits.train) / options.batch_size))
    settings = Training(
        epochs=max(1, math.ceil(options.updates / per_epoch)), batch_size=options.batch_size, lr=options.lr,
        weight_decay=options.weight_decay, warm_up=0.05, look_every=1, seed=seed,
    )  # fmt: skip
    train(module, loss, splits.train, quality, settings, name="supervised network")
    return network


def _turned(pixels: Tensor, turn: int) -> Tensor:
    """One of the eight quarter turns and mirrors, the same for a batch; of images that are not square, the four."""
    if pixels.shape[2] != pixels.shape[3]:
        turn = turn // 4 * 4 + turn % 2 * 2
    turned = torch.rot90(pixels, turn % 4, (2, 3))
    return turned.flip(3) if turn >= 4 else turned


def _seeded(channels: int, size: CnnSize, seed: int) -> SmallCnn:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "earth cnn", channels))
        return SmallCnn(channels, size)


def _key(
    pixels: Tensor, targets: np.ndarray, splits: Splits, options: SupervisedOptions, whole: bool, seed: int
) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, asdict(options), whole, seed, list(pixels.shape)]).encode())
    for at in (splits.train, splits.val):
        digest.update(np.ascontiguousarray(at).tobytes())
        digest.update(np.ascontiguousarray(targets[at]).tobytes())
        digest.update(np.ascontiguousarray(pixels[at].numpy()).tobytes())
    return digest.hexdigest()
