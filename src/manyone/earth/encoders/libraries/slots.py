"""The bands that published models were trained with, in their order: what the sensor layer matches against.

Wavelengths are those of Sentinel-2A, Landsat-8 and HLS; means and deviations those of the models' own configurations,
in the unit of each slot. Public names: :func:`rgb`, :func:`sentinel1`, :func:`sentinel2`, :func:`landsat`,
:func:`prithvi`, :func:`terramind`, :func:`named`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from manyone.data.rasters.bands import Band, Unit
from manyone.errors import ManyoneError

# common name, centre, full width at half maximum (nm), ground sampling distance (m)
_SENTINEL2: dict[str, tuple[str, float, float, float]] = {
    "B1": ("coastal", 442.7, 21, 60),
    "B2": ("blue", 492.4, 66, 10),
    "B3": ("green", 559.8, 36, 10),
    "B4": ("red", 664.6, 31, 10),
    "B5": ("rededge1", 704.1, 15, 20),
    "B6": ("rededge2", 740.5, 15, 20),
    "B7": ("rededge3", 782.8, 20, 20),
    "B8": ("nir", 832.8, 106, 10),
    "B8A": ("nir_narrow", 864.7, 21, 20),
    "B9": ("watervapor", 945.1, 20, 60),
    "B10": ("cirrus", 1373.5, 31, 60),
    "B11": ("swir1", 1613.7, 91, 20),
    "B12": ("swir2", 2202.4, 175, 20),
}
_LANDSAT8: dict[str, tuple[str, float, float, float]] = {
    "B1": ("coastal", 443, 16, 30),
    "B2": ("blue", 482, 60, 30),
    "B3": ("green", 561, 57, 30),
    "B4": ("red", 655, 37, 30),
    "B5": ("nir_narrow", 865, 28, 30),
    "B6": ("swir1", 1609, 85, 30),
    "B7": ("swir2", 2201, 187, 30),
    "B8": ("pan", 590, 172, 15),
    "B9": ("cirrus", 1373, 20, 30),
    "B10": ("tir1", 10895, 590, 100),
    "B11": ("tir2", 12005, 1010, 100),
}
_LANDSAT7: dict[str, tuple[str, float, float, float]] = {
    "B1": ("blue", 483, 65, 30),
    "B2": ("green", 560, 80, 30),
    "B3": ("red", 662, 60, 30),
    "B4": ("nir", 835, 125, 30),
    "B5": ("swir1", 1648, 200, 30),
    "B6": ("tir", 11450, 2100, 60),
    "B6_VCID_1": ("tir", 11450, 2100, 60),
    "B6_VCID_2": ("tir", 11450, 2100, 60),
    "B7": ("swir2", 2206, 260, 30),
    "B8": ("pan", 710, 380, 15),
}
_RGB = {"R": "B4", "G": "B3", "B": "B2"}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PRITHVI = ("B2", "B3", "B4", "B8A", "B11", "B12")
_PRITHVI_STATISTICS = {
    "v1": ((775, 1081, 1229, 2497, 2204, 1611), (1282, 1270, 1399, 1368, 1292, 1155)),
    "v2": ((1087, 1342, 1433, 2734, 1958, 1363), (2248, 2179, 2178, 1850, 1242, 1049)),
}
# TerraMind v1, S2L2A: all but B10
_TERRAMIND = (
    (1390.458, 1503.317, 1718.197, 1853.91, 2199.1, 2779.975, 2987.011, 3083.234, 3132.22, 3162.988, 2424.884,
     1857.648),
    (2106.761, 2141.107, 2038.973, 2134.138, 2085.321, 1889.926, 1820.257, 1871.918, 1753.829, 1797.379, 1434.261,
     1334.311),
)  # fmt: skip


def rgb(mean: Sequence[float] = IMAGENET[0], std: Sequence[float] = IMAGENET[1]) -> tuple[Band, ...]:
    """Red, green, blue in 0..1, as photographs are."""
    plain = sentinel2(["B4", "B3", "B2"], "refl")
    return statistics(
        [replace(b, name=n, sensor="rgb", gsd_m=None) for b, n in zip(plain, "RGB", strict=True)], mean, std
    )


def sentinel1(mean: Sequence[float] = (-12.59, -20.26), std: Sequence[float] = (5.26, 5.91)) -> tuple[Band, ...]:
    """VV and VH in dB."""
    return statistics([Band(n.upper(), n, sensor="sentinel-1", unit="db", gsd_m=10) for n in ("vv", "vh")], mean, std)


def sentinel2(names: Sequence[str] = tuple(_SENTINEL2), unit: Unit = "refl_dn") -> tuple[Band, ...]:
    """Bands of Sentinel-2 by name."""
    return _bands(_SENTINEL2, names, "sentinel-2", unit)


def landsat(sensor: str, names: Sequence[str], unit: Unit) -> tuple[Band, ...]:
    """Bands of "landsat-8", "landsat-7" or "landsat-5" by name."""
    return _bands(_LANDSAT8 if sensor == "landsat-8" else _LANDSAT7, names, sensor, unit)


def prithvi(version: str) -> tuple[Band, ...]:
    """The six bands of HLS that Prithvi reads, with the statistics of "v1" or "v2"."""
    return statistics([replace(b, sensor="hls", gsd_m=30) for b in sentinel2(_PRITHVI)], *_PRITHVI_STATISTICS[version])


def terramind() -> tuple[Band, ...]:
    """The twelve bands of Sentinel-2 L2A that TerraMind reads."""
    return statistics(sentinel2([n for n in _SENTINEL2 if n != "B10"]), *_TERRAMIND)


def statistics(bands: Sequence[Band], mean: Sequence[float], std: Sequence[float]) -> tuple[Band, ...]:
    """``bands`` with pre-training means and deviations, one each or one for all."""
    mean, std = (list(v) * len(bands) if len(v) == 1 else list(v) for v in (mean, std))
    return tuple(replace(b, mean=float(m), std=float(s)) for b, m, s in zip(bands, mean, std, strict=True))


def named(names: Sequence[str], sensor: str, unit: Unit = "refl_dn") -> tuple[Band, ...] | None:
    """The bands that a library calls ``names`` ("B8a", "SR_B4", "R", "B04", "VV"); None where one is not known."""
    if [name.upper() for name in names] in (["VV", "VH"], ["VH", "VV"]):
        pair = sentinel1()
        return pair if names[0].upper() == "VV" else pair[::-1]
    plain = [_RGB.get(n, n.removeprefix("SR_").upper().replace("B0", "B")) for n in names]
    table = {"sentinel-2": _SENTINEL2, "landsat-8": _LANDSAT8}.get(sensor, _LANDSAT7)
    return _bands(table, plain, sensor, unit) if all(n in table for n in plain) else None


def _bands(
    table: dict[str, tuple[str, float, float, float]], names: Sequence[str], sensor: str, unit: Unit
) -> tuple[Band, ...]:
    for name in names:
        if name not in table:
            raise ManyoneError(f"{name!r}: no band of {sensor}; there are {', '.join(table)}")
    found = [(name, *table[name]) for name in names]
    return tuple(Band(name, common, centre, width, gsd, sensor, unit) for name, common, centre, width, gsd in found)
