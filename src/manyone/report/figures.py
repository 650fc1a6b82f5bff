"""Figures as inline SVG: no script, no font, no raster; text takes the page's colour, so both colour schemes work.

Drawn for a width of 360 units, the width of a phone, so that text keeps its size where it matters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from manyone.claims.numbers import minus, significant

WIDTH = 360.0


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover [low, high]'s inside."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1-2-5 numbers inside [low, high]; powers of ten when the range is wide, round numbers when it is narrow."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = math.log10(high / low) > 2.5
    every = [m * 10.0**d for d in decades for m in ((1,) if wide else (1, 2, 5))]
    inside = [t for t in every if low * 0.999 <= t <= high * 1.001]
    return inside if len(inside) > 2 else ticks(low, high)


def pos(x: float) -> str:
    """A position with one decimal at most."""
    return f"{x:.1f}".rstrip("0").rstrip(".")


def tick_label(x: float) -> str:
    """The number at an axis: with k, M or G where it is large."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= size:
            return f"{x / size:g}{unit}"
    return minus(f"{x:g}")


def text(x: float, y: float, words: str, anchor: str = "start", css: str = "") -> str:
    """A text element; ``y`` is its baseline."""
    kind = f' class="{css}"' if css else ""
    return f'<text x="{pos(x)}" y="{pos(y)}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'


def svg(height: float, title: str, parts: Sequence[str]) -> Markup:
    """The drawing with its description."""
    head = f'<svg class="plot" viewBox="0 0 {pos(WIDTH)} {pos(height)}" role="img" aria-label="{escape(title)}">'
    return Markup(head + "".join(parts) + "</svg>")


@dataclass(frozen=True)
class Point:
    """One numbered mark of a scatter plot."""

    number: int
    x: float
    y: float
    bound: bool = False


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Sorted positions moved apart to at least ``gap``, in least squares, then shifted into [low, high].

    Positions that would overlap are pooled around their common centre (isotonic regression on p_k - k * gap).
    """
    pools: list[tuple[float, int]] = []  # (mean of p_k - k * gap, number of positions)
    for k, p in enumerate(positions):
        mean, size = p - k * gap, 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    placed = [mean for mean, size in pools for _ in range(size)]
    result = [p + k * gap for k, p in enumerate(placed)]
    last = len(result) - 1
    return [min(max(p, low + k * gap), max(high - (last - k) * gap, low + k * gap)) for k, p in enumerate(result)]


def scatter(
    points: Sequence[Point], x_label: str, title: str, *, log: bool = True, y_label: str = "accuracy", unit: str = "%"
) -> Markup:
    """A score (in "%": 0..1, shown times 100) against a cost; marks are dots with numbers that a table explains."""
    height, left, right, top, bottom = 270.0, 34.0, 16.0, 20.0, 38.0
    times = 100 if unit == "%" else 1
    xs, ys = [p.x for p in points], [times * p.y for p in points]
    pad = max((max(ys) - min(ys)) * 0.08, 0.005 * times)
    y0, y1 = max(min(ys) - pad, 0.0), min(max(ys) + pad, float(times))
    if log:
        around = max(max(xs) / min(xs), 1.5) ** 0.08
        x0, x1 = min(xs) / around, max(xs) * around
    else:
        x0, x1 = 0.0, max(xs) * 1.08 or 1.0
    room = 24.0  # on the right, for the numbers of the marks

    def at_x(x: float) -> float:
        part = math.log(x / x0) / math.log(x1 / x0) if log else (x - x0) / (x1 - x0)
        return left + part * (WIDTH - left - right - room)

    def at_y(y: float) -> float:
        return top + (y1 - y) / (y1 - y0) * (height - top - bottom)

    parts = [text(2, 11, f"{y_label}, {unit}" if unit else y_label, css="axis")]
    for t in ticks(y0, y1):
        parts.append(f'<path class="grid" d="M{pos(left)} {pos(at_y(t))}H{pos(WIDTH - right)}"/>')
        parts.append(text(left - 5, at_y(t) + 4, f"{t:g}", "end"))
    for t in log_ticks(x0, x1) if log else ticks(x0, x1):
        parts.append(f'<path class="grid" d="M{pos(at_x(t))} {pos(top)}V{pos(height - bottom)}"/>')
        parts.append(text(at_x(t), height - bottom + 14, tick_label(t), "middle"))
    parts.append(text((left + WIDTH - right) / 2, height - 6, x_label, "middle", "axis"))
    columns: list[list[Point]] = []
    for p in sorted(points, key=lambda p: at_x(p.x)):
        if columns and at_x(p.x) - at_x(columns[-1][-1].x) < 30:  # else its mark would stand on the column's numbers
            columns[-1].append(p)
        else:
            columns.append([p])
    for column in columns:
        column.sort(key=lambda p: (-p.y, p.number))
        places = spread([at_y(times * p.y) for p in column], 11.0, top, height - bottom)
        edge = max(at_x(p.x) for p in column)
        for p, y in zip(column, places):
            px, py, label = at_x(p.x), at_y(times * p.y), edge + 12
            parts.append(f'<path class="leader" d="M{pos(px)} {pos(py)}L{pos(label - 1)} {pos(y)}"/>')
            parts.append(f'<circle class="{"hollow" if p.bound else "dot"}" cx="{pos(px)}" cy="{pos(py)}" r="3.5"/>')
            parts.append(text(label, y + 4, str(p.number), css="strong"))
    return svg(height, title, parts)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    *,
    x_label: str = "step",
    y_label: str = "",
    styles: Mapping[str, int] | None = None,
    zero: bool = True,
    faint: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Markup:
    """Curves (x, y); ``styles`` gives each name its style 0..5 (colour and dash), by default its position. ``faint``:
    what lies behind a curve, by its name: the points that it was smoothed from."""
    height, right, top, bottom = 190.0, 10.0, 20.0, 34.0
    behind = faint or {}
    drawn = [*series.values(), *behind.values()]
    xs = [x for curve in drawn for x, _ in curve]
    ys = [y for curve in drawn for _, y in curve]
    x0, x1 = min(xs), max(xs)
    y0, y1 = min(ys), max(ys)
    if zero and y0 > 0 and y0 < 0.6 * y1:
        y0 = 0.0
    pad = (y1 - y0) * 0.06 or abs(y1) * 0.1 or 1.0
    y0, y1 = (y0 if y0 == 0 else y0 - pad), y1 + pad
    x1 = x1 if x1 > x0 else x0 + 1
    left = max(40.0, 6.2 * max((len(f"{t:g}") for t in ticks(y0, y1, 4)), default=0) + 8)

    def place(x: float, y: float) -> str:
        return (
            f"{pos(left + (x - x0) / (x1 - x0) * (WIDTH - left - right))} "
            f"{pos(top + (y1 - y) / (y1 - y0) * (height - top - bottom))}"
        )

    parts = [text(2, 11, y_label, css="axis")] if y_label else []
    for t in ticks(y0, y1, 4):
        y = place(x0, t).split()[1]
        parts.append(f'<path class="grid" d="M{pos(left)} {y}H{pos(WIDTH - right)}"/>')
        parts.append(text(left - 5, float(y) + 4, minus(f"{t:g}"), "end"))
    for t in ticks(x0, x1, 4):
        parts.append(text(float(place(t, y0).split()[0]), height - bottom + 14, tick_label(t), "middle"))
    parts.append(text((left + WIDTH - right) / 2, height - 5, x_label, "middle", "axis"))
    for position, name in enumerate(series):
        if name in behind:
            style, path = (styles or {}).get(name, position) % 6, "L".join(place(x, y) for x, y in behind[name])
            parts.append(f'<path class="line faint s{style}" d="M{path}"/>')
    for position, (name, curve) in enumerate(series.items()):
        style = (styles or {}).get(name, position) % 6
        path = "L".join(place(x, y) for x, y in curve)
        parts.append(f'<path class="line s{style}" d="M{path}"><title>{escape(name)}</title></path>')
        if len(curve) == 1:
            x, y = place(*curve[0]).split()
            parts.append(f'<circle class="dot s{style}" cx="{x}" cy="{y}" r="3"/>')
    return svg(height, title, parts)


def place_strip(value: float, points: Sequence[tuple[str, float, bool]], low: float, high: float, title: str) -> Markup:
    """A strip from ``low`` to ``high``: the ``points`` (name, value, whether it is an end of the way) as diamonds, the
    way between its ends as a bar, ``value`` as a dot."""

    def at(x: float) -> str:
        return f"{4 + 92 * ((x - low) / (high - low) if high > low else 0.5):.1f}%"

    parts = [f'<svg class="strip" role="img" aria-label="{escape(title)}" width="100%" height="16">']
    parts.append('<line class="grid" x1="2%" x2="98%" y1="8" y2="8"/>')
    ends = [x for _, x, end in points if end]
    if len(ends) == 2:
        parts.append(f'<line class="span" x1="{at(min(ends))}" x2="{at(max(ends))}" y1="8" y2="8"/>')
    for name, x, _ in points:
        mark = f'<path class="hollow" d="M0-5L5 0L0 5L-5 0Z"><title>{escape(name)}</title></path>'
        parts.append(f'<svg x="{at(x)}" y="8" overflow="visible">{mark}</svg>')
    parts.append(f'<circle class="dot" cx="{at(value)}" cy="8" r="4"/></svg>')
    return Markup("".join(parts))


def describe(values: Sequence[float]) -> str:
    """First, last: for a curve's description in words."""
    return f"from {significant(values[0])} to {significant(values[-1])}" if values else "without values"
