"""Bands whose name and wavelength contradict each other: bands that were swapped, or wrong wavelengths."""

from __future__ import annotations

from collections.abc import Sequence

from manyone.data.rasters.bands import Band

_RANGES = {
    "coastal": (400, 460), "blue": (440, 525), "green": (500, 600), "yellow": (575, 630), "red": (600, 700),
    "rededge1": (680, 740), "rededge2": (715, 765), "rededge3": (755, 810), "nir": (730, 920),
    "nir_narrow": (840, 890), "watervapor": (900, 980), "cirrus": (1340, 1420), "swir0": (1200, 1300),
    "swir1": (1500, 1760), "swir2": (2000, 2400),
}  # fmt: skip
"""Where the centre of a band of that common name can lie, in nm: wide enough for all sensors of the catalogue."""


def misnamed(bands: Sequence[Band]) -> list[str]:
    """A line a band whose wavelength is not one of its common name: bands that were swapped, or wrong wavelengths."""
    lines = []
    for band in bands:
        low, high = _RANGES.get(band.common, (0, float("inf")))
        if band.center_nm is None or band.kind != "optical" or low <= band.center_nm <= high:
            continue
        fits = [name for name, (a, b) in _RANGES.items() if a <= band.center_nm <= b]
        lines.append(
            f"band {band.name} is called {band.common} but its centre, {band.center_nm:g} nm, is that of "
            f"{' or '.join(fits) or 'no band known here'}: are bands swapped?"
        )
    return lines
