"""Bands of the sensors that the tests pair, written out so that they do not change with the catalogue."""

from manyone.data.rasters.bands import Band


def _bands(sensor, rows, unit="refl_dn"):
    return tuple(
        Band(name, common, center, width, 30, sensor, None if common == "pan" and unit is None else unit)
        for name, common, center, width in rows
    )


S2 = _bands("sentinel-2", [
    ("B1", "coastal", 442.7, 21), ("B2", "blue", 492.4, 66), ("B3", "green", 559.8, 36), ("B4", "red", 664.6, 31),
    ("B5", "rededge1", 704.1, 15), ("B6", "rededge2", 740.5, 15), ("B7", "rededge3", 782.8, 20),
    ("B8", "nir", 832.8, 106), ("B8A", "nir_narrow", 864.7, 21), ("B9", "watervapor", 945.1, 20),
    ("B10", "cirrus", 1373.5, 31), ("B11", "swir1", 1613.7, 91), ("B12", "swir2", 2202.4, 175),
])  # fmt: skip
S2_12 = tuple(b for b in S2 if b.name != "B10")
L8 = _bands("landsat-8", [
    ("B1", "coastal", 443, 16), ("B2", "blue", 482, 60), ("B3", "green", 561, 57), ("B4", "red", 655, 37),
    ("B5", "nir_narrow", 865, 28), ("B6", "swir1", 1609, 85), ("B7", "swir2", 2201, 187), ("B8", "pan", 590, 172),
    ("B9", "cirrus", 1373, 20), ("B10", "tir1", 10895, 590), ("B11", "tir2", 12005, 1010),
])  # fmt: skip
L7 = _bands("landsat-7", [
    ("B1", "blue", 483, 65), ("B2", "green", 560, 80), ("B3", "red", 662, 60), ("B4", "nir", 835, 125),
    ("B5", "swir1", 1648, 200), ("B6", "tir", 11450, 2100), ("B7", "swir2", 2206, 260), ("B8", "pan", 710, 380),
])  # fmt: skip
PRITHVI = _bands("hls", [
    ("B02", "blue", 490, None), ("B03", "green", 560, None), ("B04", "red", 660, None),
    ("B8A/B05", "nir_narrow", 865, None), ("B11/B06", "swir1", 1610, None), ("B12/B07", "swir2", 2200, None),
])  # fmt: skip
