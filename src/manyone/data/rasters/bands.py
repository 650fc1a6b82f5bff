"""A spectral band: what it measures, at which wavelength, in which unit. All above speak of bands, not channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from manyone.errors import ManyoneError

Unit = Literal["refl", "refl_dn", "refl_dn_off", "dn8", "dn16", "db", "linear_power", "kelvin", "metre"]
"""Reflectance 0..1; the same times 10,000; the same plus 1,000 (Sentinel-2 from baseline 04.00 on); plain counts of 8
or 16 bits; radar backscatter in decibels or as power; temperature; height."""
UNITS: tuple[Unit, ...] = get_args(Unit)
REFLECTANCES: tuple[Unit, ...] = ("refl", "refl_dn", "refl_dn_off")
Kind = Literal["optical", "pan", "thermal", "radar", "other"]

_RADAR = ("vv", "vh", "hh", "hv")


@dataclass(frozen=True)
class Band:
    """One band of a sensor, or one input slot of a model.

    ``mean`` and ``std`` are in ``unit``; for a slot they are those of the model's pre-training.
    """

    name: str
    """As the sensor's operator calls it: "B8A"."""
    common: str
    """The common name: blue, green, red, rededge1..3, nir, nir_narrow, swir1, swir2, coastal, pan, tir, vv, dem, ..."""
    center_nm: float | None = None
    """Centre in nanometres; None where there is no wavelength (a height)."""
    fwhm_nm: float | None = None
    """Full width at half maximum in nanometres; None: unknown."""
    gsd_m: float | None = None
    """Ground sampling distance in metres."""
    sensor: str = ""
    unit: Unit | None = None
    """What the values are; None: not declared."""
    mean: float | None = None
    std: float | None = None
    nodata: float | None = None
    orbit: Literal["", "ascending", "descending"] = ""
    """Of radar bands, where it is known."""

    def __post_init__(self) -> None:
        if self.unit is not None and self.unit not in UNITS:
            raise ManyoneError(f"band {self.name}: unit {self.unit!r}: must be one of {', '.join(UNITS)}")

    @property
    def kind(self) -> Kind:
        """What kind of radiation the band sees; bands of two kinds never stand for each other."""
        if self.common.startswith("pan"):
            return "pan"
        if self.common in _RADAR:
            return "radar"
        if self.common.startswith(("tir", "thermal")):
            return "thermal"
        if self.center_nm is None:
            return "other"
        return "optical" if self.center_nm <= 2600 else "thermal" if self.center_nm <= 20_000 else "other"
