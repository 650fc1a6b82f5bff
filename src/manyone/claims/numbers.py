"""How numbers are written: sensible digits, real minus signs, units."""

from __future__ import annotations

import math

from manyone.evaluation.intervals import Interval

LABELS = {
    "bias.before": "bias before",
    "bias.after": "bias after",
    "trainable_parameters": "trained parameters",
    "stored_parameters": "stored parameters",
    "stored_expert_parameters": "stored expert parameters",
    "ms_per_sample": "inference, ms per sample",
    "cpu_s": "making the model, CPU s",
}
COSTS = ("trainable_parameters", "stored_parameters", "ms_per_sample", "cpu_s")
"""Metrics that the cost table shows, in order."""


COUNT = "count"
"""The unit of whole numbers that may be large: written with k, M, G."""


def unit_of(metric: str) -> str:
    """The usual unit of a metric by its name: "%" (fractions, shown times 100), ``COUNT``, or none."""
    if metric.partition(".")[0] in ("accuracy", "success"):
        return "%"
    return COUNT if metric.endswith("parameters") else ""


def after(unit: str) -> str:
    """``unit`` as it stands behind a number: with its space, or nothing."""
    return "" if unit in ("", COUNT) else f" {unit}"


def minus(text: str) -> str:
    """Hyphen-minus becomes a minus sign; a negative zero loses its sign."""
    if text.startswith("-"):
        return text[1:] if not text.strip("-+0. ") else "−" + text[1:]
    return text


def significant(x: float, digits: int = 3) -> str:
    """``digits`` significant digits without an exponent for everyday sizes: 0.0123, 4.57, 1230."""
    if x == 0 or not math.isfinite(x):
        return "0" if x == 0 else minus(str(x))
    size = math.floor(math.log10(abs(float(f"{x:.{digits - 1}e}"))))  # of the rounded number: 9.999 is 10.0
    if size < -5 or size > 14:
        return minus(f"{x:.{digits - 1}e}")
    return minus(f"{round(x, digits - 1 - size):,.{max(digits - 1 - size, 0)}f}").replace(",", " ")


def quantity(x: float) -> str:
    """A count with k, M, G: 596 744 -> 597 k; small counts in full."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= 0.9995 * size:
            return f"{significant(x / size)} {unit}"
    return significant(x) if x != int(x) else minus(str(int(x)))


def percent(x: float) -> str:
    """A fraction as percent with one decimal, without the sign."""
    return minus(f"{100 * x:.1f}")


def points(x: float) -> str:
    """A difference of fractions in percentage points, signed."""
    text = minus(f"{100 * x:+.1f}")
    return "0.0" if text in ("+0.0", "0.0") else text


def plain(unit: str, x: float) -> str:
    """A value in ``unit`` ("%": a fraction), without the unit."""
    if unit == "%":
        return percent(x)
    return quantity(x) if unit == COUNT else significant(x)


def with_interval(unit: str, interval: Interval) -> str:
    """``83.7 ± 0.6``; without the second part for sizes, for one seed and where the seeds agree."""
    text = plain(unit, interval.value)
    if unit == COUNT:
        return text
    if not interval.half_width > 1e-12 * max(abs(interval.value), 1.0):  # also for NaN: one seed
        return text
    return f"{text} ± {_like(unit, interval.half_width, interval.value)}"


def _like(unit: str, x: float, size: float) -> str:
    """``x`` with as many decimals as ``plain`` gives ``size``, so that a mean and its spread line up."""
    if unit in ("%", COUNT) or size == 0:
        return plain(unit, x)
    decimals = max(2 - math.floor(math.log10(abs(size))), 0)
    return minus(f"{x:.{decimals}f}")


def difference(unit: str, interval: Interval) -> str:
    """``+2.8 points (1.9 to 3.7)`` for "%"; other units in their own size."""
    size = max(abs(interval.value), *(abs(e) for e in (interval.low, interval.high) if math.isfinite(e)), 0.0)
    show = points if unit == "%" else (lambda x: ("+" if x > 0 else "") + _like(unit, x, size))
    words = " points" if unit == "%" else after(unit)
    if not math.isfinite(interval.low):
        return f"{show(interval.value)}{words} (one seed: no interval)"
    return f"{show(interval.value)}{words} ({show(interval.low)} to {show(interval.high)})"


def duration(seconds: float) -> str:
    """A time in its two largest units: ``45 s``, ``2 min 31 s``, ``3 h 12 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
