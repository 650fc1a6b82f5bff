"""Runs in the environment of the extra earth-models: images through one network of timm, by two programs.

    python _earth_extractor.py ours|loader FOLDER COUNT

``ours`` embeds into a store; ``loader`` is what torchgeo-bench's extractor does, written again here (its package needs
Python 3.12): a DataLoader, bilinear resizing to 224, the pre-training's mean and deviation, the network's pooled
features in half precision, kept in memory. Both have the same random weights: the first vector tells.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from manyone.data.rasters.bands import Band
from manyone.data.rasters.scenes import Chips
from manyone.earth.embedding import How, embed, ready
from manyone.earth.encoders.loading import load_encoder
from manyone.earth.samples import Sampling, draw
from manyone.earth.sensors.options import LayerOptions
from manyone.earth.store import Store

NAME = "vit_small_patch16_224"
RGB = tuple(Band(n, n, lam, unit="refl") for n, lam in (("red", 665.0), ("green", 560.0), ("blue", 490.0)))


def main() -> None:
    if not torch.version.cuda:
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    program, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    pixels = np.random.default_rng(0).random((count, 3, 64, 64), np.float32)
    found = {"ours": ours, "loader": loader, "again": ours}[program](pixels, folder)
    print(json.dumps({"program": program, **found}))


def ours(pixels: np.ndarray, folder: Path) -> dict[str, float]:
    """Through the sensor layer into the store."""
    source = Chips("made", RGB, pixels, "class", np.arange(len(pixels)) % 2, ("a", "b"))
    samples = draw(source, Sampling(split="random", train=len(pixels), test=len(pixels)))
    how = How(layer=LayerOptions(normalise="model", size=224))
    one = ready(f"timm:{NAME}", samples, how, "random")
    began, cpu = time.perf_counter(), time.process_time()
    made = embed(one, samples, how, Store(folder))
    spent = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    return {**spent, "images": len(samples), "passes": made.forward_calls,
            "first": float(np.abs(np.asarray(made.array("global_cls")[0], np.float32)).sum())}  # fmt: skip


def loader(pixels: np.ndarray, folder: Path) -> dict[str, float]:
    """Through a DataLoader into memory."""
    network = load_encoder(f"timm:{NAME}", "random").network.eval()
    about = network.pretrained_cfg
    mean, std = (torch.tensor(about[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(pixels)), batch_size=64)
    began, cpu = time.perf_counter(), time.process_time()
    kept = []
    with torch.inference_mode():
        for (x,) in data:
            x = functional.interpolate((x - mean) / std, size=224, mode="bilinear", align_corners=False)
            kept.append(network(x).half())
    found = torch.cat(kept)
    spent = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    return {**spent, "images": len(found), "passes": len(data), "first": float(found[0].float().abs().sum())}


if __name__ == "__main__":
    main()
