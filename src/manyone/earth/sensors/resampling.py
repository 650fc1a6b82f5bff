"""Many narrow bands to few broad slots: Gaussian spectral resampling (rsfm.md 2.2, step 4).

w_ts ∝ exp(-4 ln2 (λs - λt)² / fwhm_t²), rows normalised;  a slot is missing where Σ_s w_ts < 0.5 before that
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manyone.data.rasters.bands import Band
from manyone.earth.sensors.matching import FWHM_NM

HYPERSPECTRAL = 30
"""From this many optical bands on, a sensor is resampled rather than matched."""
_LEAST_WEIGHT = 0.5


def is_hyperspectral(source: Sequence[Band]) -> bool:
    """Whether ``source`` has enough optical bands to be resampled."""
    return sum(band.kind == "optical" for band in source) >= HYPERSPECTRAL


def gaussian_weights(source: Sequence[Band], slots: Sequence[Band]) -> np.ndarray:
    """float64 [slots, source]: the share of each band in each slot; a row of zeros for a slot that is missing."""
    weights = np.zeros((len(slots), len(source)))
    optical = [i for i, band in enumerate(source) if band.kind == "optical"]
    centers = np.array([source[i].center_nm for i in optical], dtype=float)
    if not optical:
        return weights
    halves = np.array([source[i].fwhm_nm or 0.0 for i in optical]) / 2
    low, high = float((centers - halves).min()), float((centers + halves).max())
    for t, slot in enumerate(slots):
        if slot.kind != "optical" or slot.center_nm is None or not low <= slot.center_nm <= high:
            continue
        width = FWHM_NM if slot.fwhm_nm is None else slot.fwhm_nm
        apart = centers - slot.center_nm
        # a width of nothing picks the band at the very centre
        row = np.exp(-4 * np.log(2) * (apart / width) ** 2) if width > 0 else (apart == 0).astype(float)
        if row.sum() >= _LEAST_WEIGHT:
            weights[t, optical] = row / row.sum()
    return weights
