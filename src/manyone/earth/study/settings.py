"""How much of everything the study of encoders gives to a suite, at each scale; its arms, as commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manyone.errors import ManyoneError
from manyone.recipes.arm import Arm

PARTS = ("bench", "splits", "sensors", "sweep", "zero-shot", "places")
"""A seed's work, the longest first."""
_FEW = ("raw", "raw5x5", "stats5x5", "rcf", "vit-random")


@dataclass(frozen=True)
class Setting:
    """One suite; all counts are per seed."""

    sets: tuple[str, ...]
    """Sets of images that all models read."""
    models: tuple[str, ...]
    parts: tuple[str, ...] = PARTS
    pixels: str = "nc-landsat"
    """The set whose split is varied."""
    sweep: tuple[str, ...] = ("stats5x5",)
    """Encoders of the sweep of protocols."""
    draws: int = 200
    """Random text encoders a seed."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def arm(self) -> Arm:
        """The comparison as a user would run it."""
        given = {
            "models": self.models,
            "suite": "earth",
            "device": "cpu",
            "protocols": ("knn5-l2", "linear"),
            **self.options,
        }
        return Arm("earth-bench", "earth-bench", given)


SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {
        "earth-small": Setting(
            ("nc-landsat", "statlog"), _FEW, ("splits", "sensors", "sweep", "zero-shot"), draws=50,
            options={"train": 2000, "test": 2000, "resamples": 200},
        ),
    },
    "laptop": {
        "earth": Setting(
            ("nc-landsat", "statlog", "indian-pines-s2", "deepforest", "sn-atlanta"),
            ("raw", "raw3x3", "raw5x5", "stats5x5", "rcf", "vit-random", "mae-small", "cnn-supervised"),
            options={"train": 4000, "test": 4000},
        ),
    },
    "paper": {
        "earth-published": Setting(
            ("nc-landsat", "indian-pines-s2"),
            (*_FEW, "cnn-supervised", "timm:vit_small_patch16_224", "torchgeo:dofa_base_patch16_224",
             "terratorch:prithvi_eo_v2_300"),
            options={"train": 4000, "test": 4000, "missing": "nearest"},
        ),
    },
}  # fmt: skip
"""By scale, then by the suite's name in the claims. The paper scale needs the extra earth-models and a data hub."""


def setting_of(scale: str, suite: str) -> Setting:
    """What ``scale`` gives to ``suite``."""
    try:
        return SETTINGS[scale][suite]
    except KeyError:
        raise ManyoneError(f"the study of encoders has no suite {suite!r} at scale {scale!r}") from None
