"""What numbers a user may give in Python: each wrong one is named in a line, before anything is computed.

Public names: :func:`check_whole`, :func:`check_number`.
"""

from __future__ import annotations

import math

from manyone.errors import ManyoneError


def check_whole(name: str, value: object, least: int = 1) -> None:
    """``ManyoneError`` unless ``value`` is a whole number from ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ManyoneError(f"{name} {value!r:.40}: must be a whole number from {least}")


def check_number(name: str, value: object, most: float = math.inf) -> None:
    """``ManyoneError`` unless ``value`` is a finite number above 0 and at most ``most``."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most or value == math.inf:
        limit = "" if most == math.inf else f", at most {most:g}"
        raise ManyoneError(f"{name} {value!r:.40}: must be a number above 0{limit}")
