"""What a report says of a set that a package carries."""

from __future__ import annotations

from manyone.assets.registry import find_asset
from manyone.data.rasters.scenes import About


def about(asset: str, *notes: str) -> About:
    """Source and licence from the asset's record, with ``notes``."""
    record = find_asset(asset)
    return About(record.origin, record.licence, notes)
