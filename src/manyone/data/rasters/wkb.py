"""Geometries as GDAL hands them over (well-known binary, two dimensions), as GeoJSON-like mappings."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from manyone.errors import ManyoneError

_KINDS = {1: "Point", 3: "Polygon", 4: "MultiPoint", 6: "MultiPolygon"}
_OTHERS = {2: "LineString", 5: "MultiLineString", 7: "GeometryCollection", 10: "CurvePolygon"}


def parse_wkb(raw: bytes, where: str) -> dict[str, Any]:
    """The point or polygon (or several) in ``raw``; anything else, and bytes that end early, raise."""
    try:
        kind, coordinates, end = _geometry(raw, 0, where)
    except (struct.error, ValueError, IndexError):
        raise ManyoneError(f"{where}: a geometry is cut short; the file is damaged") from None
    if end != len(raw):
        raise ManyoneError(f"{where}: a geometry is followed by {len(raw) - end} odd bytes; the file is damaged")
    return {"type": kind, "coordinates": coordinates}


def _geometry(raw: bytes, at: int, where: str) -> tuple[str, Any, int]:
    order = "<" if raw[at] == 1 else ">"
    (code,) = struct.unpack_from(f"{order}I", raw, at + 1)
    at += 5
    if code not in _KINDS:
        name = _OTHERS.get(code % 1000, f"geometry of kind {code}")
        raise ManyoneError(f"{where}: holds a {name}; only points and polygons in two dimensions label pixels")
    if code == 1:
        return "Point", struct.unpack_from(f"{order}2d", raw, at), at + 16
    (count,) = struct.unpack_from(f"{order}I", raw, at)
    at += 4
    parts: list[Any] = []
    for _ in range(count):  # a false count runs into the end of the bytes, and allocates nothing before
        if code == 3:
            (points,) = struct.unpack_from(f"{order}I", raw, at)
            ring = np.frombuffer(raw, f"{order}f8", 2 * points, at + 4).reshape(-1, 2)
            parts.append(ring.tolist())
            at += 4 + 16 * points
        else:
            kind, coordinates, at = _geometry(raw, at, where)
            if kind != _KINDS[code - 3]:
                raise ManyoneError(f"{where}: a {_KINDS[code]} holds a {kind}; the file is damaged")
            parts.append(coordinates)
    return _KINDS[code], parts, at
