"""Findings as strips: a bar for the interval, a dot for its mean, over a shade of what the claim allows.

A strip lies on an axis. Differences of shares are all in points, so they have one axis; what is measured in other units
has an axis for each claim, because a common one would compare metres with seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from manyone.claims.claims import Claim, Finding, allowed
from manyone.claims.study import Study
from manyone.report.figures import tick_label, ticks

_PAD = 0.04  # of the axis, left and right, so that no dot stands on the edge


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high`` as shares of a strip's width; ``marks`` are the numbers that it shows."""

    low: float
    high: float
    marks: Sequence[float] = ()

    def at(self, value: float) -> str:
        """Where ``value`` is, at the nearer edge when it lies outside."""
        part = (value - self.low) / (self.high - self.low)
        return f"{100 * min(max(part, 0.0), 1.0):.2f}%"


@dataclass(frozen=True)
class Measured:
    """What a finding shows on an axis: in points where its figures are shares, as a ratio, or in its own unit.

    ``none`` is the value of no difference; ``low`` and ``high`` are NaN with one seed.
    """

    mean: float
    low: float
    high: float
    allowed: tuple[float, float]
    none: float = 0.0
    published: Sequence[float] = ()


def in_points(study: Study, claim: Claim) -> bool:
    """Whether the claim compares shares, whose differences are written in points."""
    return claim.comparison != "at_most_ratio" and study.claims.unit_of(claim.metric) == "%"


def measured(study: Study, finding: Finding) -> Measured | None:
    """The finding as numbers, or None where nothing was measured."""
    claim, estimate = finding.claim, finding.estimate
    if estimate is None:
        return None
    times = 100.0 if in_points(study, claim) else 1.0
    low, high, _ = allowed(claim.comparison, claim.margin, claim.ratio)
    none = 1.0 if claim.comparison == "at_most_ratio" else 0.0
    ends = times * estimate.low, times * estimate.high
    return Measured(
        times * estimate.value, *ends, (times * low, times * high), none, published_differences(study, claim)
    )


def published_differences(study: Study, claim: Claim) -> list[float]:
    """Verified published differences, or ratios, of the unit in which the claim is measured here."""
    pairs = [(p.left, p.right, p.unit) for p in claim.published if p.verified]
    known = [(left, right, unit) for left, right, unit in pairs if left is not None and right is not None]
    if claim.comparison == "at_most_ratio":
        return [left / right for left, right, _ in known if right]
    if claim.comparison == "closest_to":
        return []
    return [left - right for left, right, unit in known if unit == study.claims.unit_of(claim.metric)]


def axis_for(shown: Iterable[Measured], *, centred: bool = False) -> Axis:
    """Holds every mean, bound and published figure; intervals up to twice as wide as the widest of these.

    ``centred``: no difference is in the middle, where axes of several scales stand below each other.
    """
    shown = list(shown)
    none = shown[0].none if shown else 0.0
    values = [v - none for m in shown for v in (m.mean, *m.allowed, *m.published) if math.isfinite(v)]
    reach = 2 * max(map(abs, values), default=0.0) or math.inf
    values += [min(max(e - none, -reach), reach) for m in shown for e in (m.low, m.high) if math.isfinite(e)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    low, high = (min(low, -high), max(high, -low)) if centred else (min(low, 0.0), max(high, 0.0))
    if low == high:
        low, high = low - 1.0, high + 1.0
    pad = _PAD * (high - low)
    return Axis(none + low - pad, none + high + pad, [] if centred else ticks(none + low, none + high, 6))


def strip(shown: Measured, axis: Axis, *, marked: bool = False) -> Markup:
    """The finding as a drawing that fills its place; with ``marked`` the axis' numbers have lines."""
    left, right = axis.at(shown.allowed[0]), axis.at(shown.allowed[1])
    wide = f"{float(right[:-1]) - float(left[:-1]):.2f}%"
    parts = [f'<rect class="allowed" x="{left}" y="0" width="{wide}" height="100%"/>']
    parts += [_upright("grid", axis.at(t)) for t in axis.marks if marked and t != shown.none]
    parts.append(_upright("zero", axis.at(shown.none)))
    if math.isfinite(shown.low) and math.isfinite(shown.high):
        parts.append(f'<line class="span" x1="{axis.at(shown.low)}" x2="{axis.at(shown.high)}" y1="50%" y2="50%"/>')
    if shown.low < axis.low:
        parts.append(_placed("0%", '<path class="tip" d="M0 0L6-4.5V4.5Z"/>'))
    if shown.high > axis.high:
        parts.append(_placed("100%", '<path class="tip" d="M0 0L-6-4.5V4.5Z"/>'))
    for value in shown.published:
        parts.append(_placed(axis.at(value), '<path class="diamond" d="M0-4.5L4.5 0L0 4.5L-4.5 0Z"/>'))
    parts.append(f'<circle class="mean" cx="{axis.at(shown.mean)}" cy="50%" r="3.6"/>')
    return Markup(f'<svg class="strip" aria-hidden="true" width="100%" height="100%">{"".join(parts)}</svg>')


def scale(axis: Axis) -> Markup:
    """The axis' numbers, to stand above its strips."""
    texts = [
        f'<text x="{axis.at(t)}" y="12" text-anchor="middle">{"+" if t > 0 else ""}{tick_label(t)}</text>'
        for t in axis.marks
    ]
    return Markup(f'<svg class="scale" aria-hidden="true" width="100%" height="16">{"".join(texts)}</svg>')


def _upright(css: str, x: str) -> str:
    return f'<line class="{css}" x1="{x}" x2="{x}" y1="0" y2="100%"/>'


def _placed(x: str, drawing: str) -> str:
    return f'<svg x="{x}" y="50%" overflow="visible">{drawing}</svg>'
