"""The drawn kinds of a study's own figures: curves with bands and marks, and bars with whiskers; SVG as in figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from manyone.claims.numbers import minus, plain
from manyone.report.figures import WIDTH, log_ticks, pos, svg, text, tick_label, ticks


class _Axis:
    """Values from ``low`` to ``high`` onto positions from ``start`` to ``end``, linear or logarithmic."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool, zero: bool = False) -> None:
        low, high = min(values, default=0.0), max(values, default=1.0)
        self.log, self.start, self.end = log, start, end
        if log:
            around = 1.0 if high > low else 2.0
            self.low, self.high = low / around, high * around
        else:
            low = 0.0 if zero and 0 < low < 0.6 * high else low
            pad = (high - low) * 0.06 if zero else 0.0
            self.low, self.high = (low if low == 0 else low - pad), high + pad
            if self.high <= self.low:
                room = abs(self.high) * 0.1 or 1.0
                self.low, self.high = self.low - room, self.high + room

    def at(self, value: float) -> float:
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, 4)


def curves(
    series: Mapping[str, Mapping[str, Any]],
    title: str,
    *,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    marks: Sequence[Mapping[str, Any]] = (),
) -> Markup:
    """Lines through (x, y), with a band from low to high where given; a mark is a point or a vertical line."""
    height, left, right, top, bottom = 215.0, 46.0, 10.0, 20.0, 34.0
    xs = [x for c in series.values() for x in c["x"]] + [m["x"] for m in marks]
    ys = [y for c in series.values() for key in ("y", "low", "high") for y in c.get(key, ())]
    across = _Axis(xs, left, WIDTH - right, log=log_x)
    up = _Axis([*ys, *(m["y"] for m in marks if "y" in m)], height - bottom, top, log=log_y, zero=True)
    parts = [text(2, 11, y_label, css="axis")] if y_label else []
    for t in up.ticks():
        parts.append(f'<path class="grid" d="M{pos(left)} {pos(up.at(t))}H{pos(WIDTH - right)}"/>')
        parts.append(text(left - 5, up.at(t) + 4, tick_label(t), "end"))
    for t in across.ticks():
        parts.append(text(across.at(t), height - bottom + 14, tick_label(t), "middle"))
    if x_label:
        parts.append(text((left + WIDTH - right) / 2, height - 5, x_label, "middle", "axis"))

    def path(points: Sequence[tuple[float, float]]) -> str:
        return "L".join(f"{pos(across.at(x))} {pos(up.at(y))}" for x, y in points)

    looks = styles(series)
    for name, c in series.items():
        style = looks[c.get("group", name)]
        if c.get("low") and len(c["x"]) > 1:
            around = [*zip(c["x"], c["high"]), *reversed(list(zip(c["x"], c["low"])))]
            parts.append(f'<path class="band s{style}" d="M{path(around)}Z"/>')
        points = list(zip(c["x"], c["y"]))
        if len(points) > 1:
            parts.append(f'<path class="line s{style}" d="M{path(points)}"><title>{escape(name)}</title></path>')
        elif points:
            x, y = across.at(points[0][0]), up.at(points[0][1])
            parts.append(f'<circle class="dot s{style}" cx="{pos(x)}" cy="{pos(y)}" r="3"/>')
    for mark in marks:
        x = across.at(mark["x"])
        anchor, side = ("end", -5) if x > (left + WIDTH - right) / 2 else ("start", 5)
        if "y" in mark:
            y = up.at(mark["y"])
            parts.append(f'<circle class="hollow" cx="{pos(x)}" cy="{pos(y)}" r="3.5"/>')
            parts.append(text(x + side, y - 5, str(mark["label"]), anchor, "strong"))
        else:
            parts.append(f'<path class="mark" d="M{pos(x)} {pos(top)}V{pos(height - bottom)}"/>')
            parts.append(text(x + side, top + 9, str(mark["label"]), anchor, "strong"))
    return svg(height, title, parts)


def styles(series: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The style (colour and dash) of every group of series, or of a series by itself."""
    groups = dict.fromkeys(str(c.get("group", name)) for name, c in series.items())
    return {name: k % 6 for k, name in enumerate(groups)}


def bars(
    names: Sequence[str],
    values: Sequence[float],
    title: str,
    *,
    low: Sequence[float | None] | None = None,
    high: Sequence[float | None] | None = None,
    before: Sequence[float] | None = None,
    unit: str = "",
) -> Markup:
    """Horizontal bars from zero, each under its name and value; a whisker from low to high where both are given.

    With ``before`` a hollow bar of the earlier value stands above each, and the change is said.
    """
    line, left, right = 27.0, 2.0, 8.0
    ends = [v for side in (low or (), high or ()) for v in side if v is not None]
    axis = _bar_axis([0.0, *values, *ends, *(before or ())], left, WIDTH - right)
    parts = []
    for k, (name, value) in enumerate(zip(names, values)):
        top = k * line
        parts.append(text(left, top + 11, name))
        shown, place, height = plain(unit, value), top + 15, 7
        if before is not None:
            change = f" ({minus(f'{100 * (value / before[k] - 1):+.0f}')} %)" if before[k] else ""
            shown = f"{plain(unit, before[k])} → {shown}{change}"
            parts.append(_column("hollow", axis(0.0), axis(before[k]), top + 14.5, 4))
            place, height = top + 19.5, 5
        parts.append(text(WIDTH - right, top + 11, shown, "end", "strong"))
        parts.append(_column("column", axis(0.0), axis(value), place, height))
        ends_here = (low[k], high[k]) if low is not None and high is not None else (None, None)
        if ends_here[0] is not None and ends_here[1] is not None:
            x0, x1, y = axis(ends_here[0]), axis(ends_here[1]), pos(top + 18.5)
            tips = "".join(f"M{pos(x)} {pos(top + 15.5)}v6" for x in (x0, x1))
            parts.append(f'<path class="whisker" d="M{pos(x0)} {y}H{pos(x1)}{tips}"/>')
    zero = pos(axis(0.0))
    parts.append(f'<path class="grid" d="M{zero} 0V{pos(line * len(names))}"/>')
    return svg(max(line * len(names), 1.0), title, parts)


def _column(css: str, zero: float, end: float, y: float, height: float) -> str:
    left, right = sorted((zero, end))
    width = pos(max(right - left, 1.0))
    return f'<rect class="{css}" x="{pos(left)}" y="{pos(y)}" width="{width}" height="{height}"/>'


def _bar_axis(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return lambda v: start + (v - low) / span * (end - start)


def in_words(name: str, ys: Sequence[float]) -> str:
    """A curve as words, for its description."""
    if not ys:
        return f"{name} without values"
    return f"{name} from {minus(f'{ys[0]:.3g}')} to {minus(f'{ys[-1]:.3g}')}"
