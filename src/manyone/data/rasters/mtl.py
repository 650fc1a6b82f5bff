"""Landsat's metadata file (MTL.txt): calibration of counts to reflectance at the top of the atmosphere, and kelvin.

    reflectance   (M Q + A) / sin(sun elevation)            REFLECTANCE_MULT_BAND_n, REFLECTANCE_ADD_BAND_n
    kelvin        K2 / ln(K1 / (M Q + A) + 1)               RADIANCE_MULT_..., RADIANCE_ADD_..., K1_..., K2_...
(USGS, Landsat 8 Data Users Handbook, section 5.)
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping

import numpy as np

from manyone.errors import ManyoneError

_LARGEST = 256 * 1024
_LINE = re.compile(r"^\s*([A-Z0-9_]+)\s*=\s*\"?([^\"\n]*?)\"?\s*$")


def parse_mtl(text: str, name: str = "MTL.txt") -> dict[str, str]:
    """Key -> value of all groups."""
    if len(text) > _LARGEST:
        raise ManyoneError(f"{name}: {len(text):,} characters are more than such a file has")
    found = {m[1]: m[2] for m in map(_LINE.match, text.splitlines()) if m}
    if "SPACECRAFT_ID" not in found:
        raise ManyoneError(f"{name}: names no SPACECRAFT_ID, so it is not Landsat's metadata")
    return found


def reflectance(counts: np.ndarray, mtl: Mapping[str, str], band: str) -> np.ndarray:
    """float32 reflectance at the top of the atmosphere of ``band`` ("4")."""
    sun = math.sin(math.radians(_value(mtl, "SUN_ELEVATION")))
    gain, offset = _value(mtl, f"REFLECTANCE_MULT_BAND_{band}"), _value(mtl, f"REFLECTANCE_ADD_BAND_{band}")
    return ((gain * counts.astype(np.float64) + offset) / sun).astype(np.float32)


def brightness(counts: np.ndarray, mtl: Mapping[str, str], band: str) -> np.ndarray:
    """float32 brightness temperature in kelvin of ``band`` ("6_VCID_1"); NaN where the radiance is not positive."""
    gain, offset = _value(mtl, f"RADIANCE_MULT_BAND_{band}"), _value(mtl, f"RADIANCE_ADD_BAND_{band}")
    k1, k2 = _value(mtl, f"K1_CONSTANT_BAND_{band}"), _value(mtl, f"K2_CONSTANT_BAND_{band}")
    radiance = gain * counts.astype(np.float64) + offset
    radiance[radiance <= 0] = np.nan
    return (k2 / np.log(k1 / radiance + 1)).astype(np.float32)


def acquired(mtl: Mapping[str, str]) -> float:
    """The day of the image, in days since 1970-01-01."""
    try:
        day = datetime.date.fromisoformat(mtl["DATE_ACQUIRED"])
    except (KeyError, ValueError):
        raise ManyoneError("MTL.txt: DATE_ACQUIRED is missing or no date") from None
    return float((day - datetime.date(1970, 1, 1)).days)


def _value(mtl: Mapping[str, str], key: str) -> float:
    try:
        return float(mtl[key])
    except (KeyError, ValueError):
        raise ManyoneError(f"MTL.txt: {key} is missing or no number") from None
