"""Plain formulations of what the encoders of Earth observation compute: loops over pixels, patches and windows."""

from __future__ import annotations

import math

import numpy as np


def window(image: np.ndarray, row: int, column: int, side: int) -> np.ndarray:
    """[C, side, side] around a pixel of [C, H, W], mirrored at the borders without repeating them."""
    around = side // 2

    def inside(at: int, length: int) -> int:
        if at < 0:
            at = -at
        return 2 * (length - 1) - at if at >= length else at

    rows = [inside(row + d, image.shape[1]) for d in range(-around, around + 1)]
    columns = [inside(column + d, image.shape[2]) for d in range(-around, around + 1)]
    return np.stack([[image[:, r, c] for c in columns] for r in rows]).transpose(2, 0, 1)


def wave_tokens(
    image: np.ndarray, lam: np.ndarray, first: tuple, second: tuple, bias: np.ndarray, patch: int
) -> np.ndarray:
    """Tokens [h w, D] of one image [C, H, W]: the mean over bands of each band's patch times its own kernel."""
    periods = np.geomspace(20, 4000, 32)
    (w1, b1), (w2, b2) = first, second
    tokens = []
    for r in range(0, image.shape[1], patch):
        for c in range(0, image.shape[2], patch):
            total = np.zeros(len(bias))
            for band, nm in enumerate(lam):
                e = np.concatenate([np.sin(2 * np.pi * nm / periods), np.cos(2 * np.pi * nm / periods)])
                hidden = w1 @ e + b1
                hidden = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in hidden])
                kernel = (w2 @ hidden + b2).reshape(patch * patch, -1)
                total += image[band, r : r + patch, c : c + patch].reshape(-1) @ kernel
            tokens.append(total / len(lam) + bias)
    return np.array(tokens)


def dense(encode, image: np.ndarray, pixels: np.ndarray, size: int, stride: int, patch: int) -> np.ndarray:
    """Features [N, D] of pixels: for each, every window that holds it is encoded and its cell's vector averaged."""

    def starts(length: int) -> list[int]:
        found = list(range(0, max(1, length - size + 1), stride))
        if found[-1] + size < length:
            found.append(length - size)
        return found

    features = []
    for row, column in pixels:
        vectors = []
        for top in starts(image.shape[1]):
            for left in starts(image.shape[2]):
                if top <= row < top + size and left <= column < left + size:
                    found = encode(image[:, top : top + size, left : left + size])
                    vectors.append(found[:, (row - top) // patch, (column - left) // patch])
        features.append(np.mean(vectors, 0))
    return np.array(features)


def equal_earth(lon: float, lat: float) -> tuple[float, float]:
    """The Equal Earth projection of degrees, as GeoCLIP writes and scales it."""
    a1, a2, a3, a4, scale = 1.340264, -0.081106, 0.000893, 0.003796, 66.50336
    theta = math.asin(math.sqrt(3) / 2 * math.sin(math.radians(lat)))
    below = 3 * (9 * a4 * theta**8 + 7 * a3 * theta**6 + 3 * a2 * theta**2 + a1)
    x = 2 * math.sqrt(3) * math.radians(lon) * math.cos(theta) / below
    y = a4 * theta**9 + a3 * theta**7 + a2 * theta**3 + a1 * theta
    return x * scale / 180, y * scale / 180
