"""What may be chosen about the sensor layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from manyone.data.rasters.bands import UNITS, Unit
from manyone.errors import ManyoneError

MissingPolicy = Literal["error", "mean", "nearest", "interp", "slice", "drop"]
Normalisation = Literal["dataset", "model", "minmax", "none"]
Fit = Literal["resize", "crop", "none"]


@dataclass(frozen=True)
class LayerOptions:
    """One configuration of the eight steps; part of a cache's key."""

    missing: MissingPolicy = "error"
    """What stands in a slot that no band fills."""
    limit: float = 1.0
    """Highest cost of a pair: |Δλ| over the mean width of the two bands."""
    normalise: Normalisation = "dataset"
    """By the train split's statistics, the model's pre-training, the train split's range, or not."""
    fit: Fit = "resize"
    """How pixels come to the model's input size: bilinear with antialiasing, cut from the centre, or left."""
    size: int | None = None
    """Side of the input in pixels; None: the model's own."""
    frames: int | None = None
    """Dates; None: as many as the data have, within what the model takes."""
    unit: Unit | None = None
    """What the pixels are where the data do not say so."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("missing", self.missing, get_args(MissingPolicy)),
            ("normalise", self.normalise, get_args(Normalisation)),
            ("fit", self.fit, get_args(Fit)),
            ("unit", self.unit, (None, *UNITS)),
        ):
            if value not in allowed:
                raise ManyoneError(f"{name} {value!r}: must be one of {', '.join(filter(None, allowed))}")
        for name, number in (("size", self.size), ("frames", self.frames)):
            if number is not None and number < 1:
                raise ManyoneError(f"{name} {number}: must be at least 1")
        if not self.limit > 0:
            raise ManyoneError(f"limit {self.limit}: must be above 0")
