"""Drawing with Pillow what a MuJoCo body looks like, and over any picture of it what pulls at its joints.

An :class:`Eye` maps points of the world to a square picture just as MuJoCo's free camera does, so the same marks fit a
picture by OpenGL (:mod:`manyone.envs.single.stills`) and one by :func:`sketch`.

Public names: :class:`Eye`, :class:`Shape`, :func:`sketch`, :func:`draw_torque`, :func:`draw_arrow`,
:func:`draw_ground`, :func:`strip`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw, ImageFont

POSITIVE, NEGATIVE = (37, 99, 235), (221, 107, 32)
"""Colours of actions above and below 0: blue and orange, which colour-blind people tell apart."""
_SKY, _FLOOR, _EDGE, _GROUND, _INK = (
    (226, 234, 243), (203, 213, 203), (148, 163, 148), (90, 105, 90), (45, 55, 72),
)  # fmt: skip
_NEAR = 0.05  # metres before the eye: what is closer is not drawn
_TURN = 0.75 * math.pi  # the arc of the largest torque

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Eye:
    """A camera as MuJoCo's free one: degrees, metres; the picture has ``size`` x ``size`` pixels."""

    lookat: np.ndarray
    distance: float
    azimuth: float
    elevation: float
    field: float
    """Vertical field of view, degrees."""
    size: int

    @cached_property
    def axes(self) -> np.ndarray:
        """[3, 3]: rows right, up and forward in the world."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        forward = np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
        right = np.array([math.sin(a), -math.cos(a), 0.0])
        return np.stack([right, np.cross(right, forward), forward])

    @property
    def focal(self) -> float:
        """Pixels of a metre that is a metre away."""
        return self.size / 2 / math.tan(math.radians(self.field) / 2)

    def seen(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] of the world as (metres right, metres up, metres away) of the eye."""
        return (points - self.lookat) @ self.axes.T + np.array([0.0, 0.0, self.distance])

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] of the world as [..., 2] pixels from the upper left corner."""
        seen = self.seen(points)
        scale = self.focal / np.maximum(seen[..., 2:], _NEAR)
        return self.size / 2 + seen[..., :2] * scale * np.array([1.0, -1.0])


@dataclass(frozen=True)
class Shape:
    """One piece of a body: a sphere, capsule, cylinder, box or ellipsoid, ``size`` as MuJoCo counts it."""

    kind: str
    at: np.ndarray
    axes: np.ndarray
    """[3, 3], columns: the piece's own axes in the world."""
    size: np.ndarray
    colour: Colour


def sketch(eye: Eye, shapes: Sequence[Shape], floor: float | None) -> Image.Image:
    """The shapes, far ones first, over a floor at the height ``floor``."""
    picture = Image.new("RGB", (eye.size, eye.size), _SKY)
    draw = ImageDraw.Draw(picture)
    if floor is not None:
        _draw_floor(draw, eye, floor)
    for shape in sorted(shapes, key=lambda s: -float(eye.seen(s.at)[2])):
        outline = _outline(eye, shape)
        if outline is None:
            continue
        edge = tuple(int(0.55 * c) for c in shape.colour)
        draw.polygon(outline, fill=shape.colour)
        draw.line([*outline, outline[0]], fill=edge, width=max(1, eye.size // 160), joint="curve")
    return picture


def _draw_floor(draw: ImageDraw.ImageDraw, eye: Eye, height: float) -> None:
    """The floor with a grid of metres around the body, if the eye is above it."""
    if eye.lookat[2] - eye.distance * eye.axes[2, 2] < height + 1e-6:
        return
    reach = 6.0 * eye.distance
    centre = np.array([eye.lookat[0], eye.lookat[1], height])
    corners = centre + reach * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    ground = _clipped(eye, corners)
    if len(ground) > 2:
        draw.polygon([tuple(p) for p in ground], fill=_FLOOR)
    reach = 2.0 * eye.distance
    grid = np.arange(-math.floor(reach), math.floor(reach) + 1)
    for k, way in itertools.product(grid, ((1, 0), (0, 1))):
        along, across = np.array([*way, 0.0]), np.array([way[1], way[0], 0.0])
        at = np.array([round(eye.lookat[0]), round(eye.lookat[1]), height])
        ends = _clipped(eye, np.stack([at + k * across - reach * along, at + k * across + reach * along]))
        if len(ends) == 2:
            draw.line([tuple(p) for p in ends], fill=_EDGE, width=max(1, eye.size // 400))


def _clipped(eye: Eye, points: np.ndarray) -> list[np.ndarray]:
    """The polygon (or line) of the points as pixels, cut off where it comes closer to the eye than it sees."""
    seen = eye.seen(points)
    kept: list[np.ndarray] = []
    for k in range(len(seen)):
        a, b = seen[k], seen[(k + 1) % len(seen)]
        if a[2] >= _NEAR:
            kept.append(a)
        if (a[2] < _NEAR) != (b[2] < _NEAR) and not (len(seen) == 2 and k == 1):
            kept.append(a + (b - a) * (_NEAR - a[2]) / (b[2] - a[2]))
    return [eye.size / 2 + p[:2] * eye.focal / p[2] * np.array([1.0, -1.0]) for p in kept]


def _outline(eye: Eye, shape: Shape) -> list[tuple[float, float]] | None:
    """The convex outline of a shape in pixels; None where it is too close to the eye."""
    circle = [2 * math.pi * k / 24 for k in range(24)]
    ring = np.array([[math.cos(t), math.sin(t), 0.0] for t in circle])
    if shape.kind == "box":
        points = np.array(list(itertools.product((-1, 1), repeat=3))) * shape.size
    elif shape.kind == "cylinder":
        points = np.concatenate([ring * shape.size[0] + [0, 0, z] for z in (-shape.size[1], shape.size[1])])
    elif shape.kind == "ellipsoid":
        points = _ball() * shape.size
    else:  # spheres, and a sphere at either end of a capsule
        ends = (0.0,) if shape.kind == "sphere" else (-shape.size[1], shape.size[1])
        points = np.concatenate([_ball() * shape.size[0] + [0, 0, z] for z in ends])
    world = shape.at + points @ shape.axes.T
    if bool((eye.seen(world)[:, 2] < _NEAR).any()):
        return None
    return _hull(eye.pixels(world))


def _ball() -> np.ndarray:
    """[k, 3]: points all over the unit sphere."""
    heights = [math.pi * (k + 0.5) / 12 - math.pi / 2 for k in range(12)]
    turns = [2 * math.pi * k / 24 for k in range(24)]
    return np.array(
        [[math.cos(h) * math.cos(t), math.cos(h) * math.sin(t), math.sin(h)] for h in heights for t in turns]
        + [[0, 0, -1], [0, 0, 1]]
    )


def _hull(points: np.ndarray) -> list[tuple[float, float]]:
    """The convex hull of points [k, 2] (Andrew's monotone chain)."""
    order = sorted({(float(x), float(y)) for x, y in points})
    halves: list[list[tuple[float, float]]] = []
    for run in (order, order[::-1]):
        half: list[tuple[float, float]] = []
        for p in run:
            while len(half) > 1 and _turn(half[-2], half[-1], p) <= 0:
                half.pop()
            half.append(p)
        halves.append(half[:-1])
    return halves[0] + halves[1]


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


# --- marks over a picture ---------------------------------------------------------------------------------------------


def draw_torque(
    draw: ImageDraw.ImageDraw, eye: Eye, anchor: np.ndarray, axis: np.ndarray, limb: np.ndarray, radius: float,
    share: float, turn: float,
) -> None:  # fmt: skip
    """An arc around a joint at ``anchor``, from where the ``limb`` points, the way a torque turns it.

    ``share`` of the largest torque, from -1 to 1, sets the arc's length, and its sign the colour; ``turn``, 1 or -1,
    is the way around ``axis`` that a positive one has.
    """
    if abs(share) < 0.02:
        return
    first = limb - axis * float(axis @ limb)
    if float(np.linalg.norm(first)) < 1e-6:  # a joint about the limb's own direction
        first = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    first = first / np.linalg.norm(first)
    second = np.cross(axis, first)
    angles = turn * share * _TURN * np.linspace(0, 1, 24)[:, None]
    points = eye.pixels(anchor + radius * (np.cos(angles) * first + np.sin(angles) * second))
    _arrow(draw, points, POSITIVE if share > 0 else NEGATIVE, eye.size)


def draw_arrow(
    draw: ImageDraw.ImageDraw, eye: Eye, start: np.ndarray, vector: np.ndarray, colour: Colour = _INK
) -> None:
    """A straight arrow of the world, in metres."""
    if float(np.linalg.norm(vector)) > 1e-3 * eye.distance:
        _arrow(draw, eye.pixels(start + np.linspace(0, 1, 8)[:, None] * vector), colour, eye.size)


def draw_ground(draw: ImageDraw.ImageDraw, eye: Eye, height: float) -> None:
    """A line where the floor at ``height`` is below the body, for a view from the side: what touches it stands."""
    at = np.array([eye.lookat[0], eye.lookat[1], height])
    ends = eye.pixels(at + np.array([[-1.0], [1.0]]) * 2 * eye.distance * eye.axes[0])
    draw.line([tuple(p) for p in ends], fill=_GROUND, width=max(1, eye.size // 200))


def _arrow(draw: ImageDraw.ImageDraw, points: np.ndarray, colour: Colour, size: int) -> None:
    wide, head = max(2, size // 80), size / 26
    end, before = points[-1], points[-2]
    way = end - before
    length = float(np.linalg.norm(way))
    if length < 1e-6:
        return
    way = way / length
    side = np.array([-way[1], way[0]])
    base = end - 0.4 * head * way
    line, tip = [tuple(p) for p in [*points[:-1], base]], [tuple(p) for p in
            (end + 0.6 * head * way, base + 0.5 * head * side, base - 0.5 * head * side)]  # fmt: skip
    draw.line(line, fill=(255, 255, 255), width=wide + max(2, size // 160), joint="curve")  # a halo over dark limbs
    draw.line(line, fill=colour, width=wide, joint="curve")
    draw.polygon(tip, fill=colour, outline=(255, 255, 255))


def strip(names: Sequence[str], shares: Sequence[float], width: int, scale: int) -> Image.Image:
    """Actions as bars, ``shares`` of the largest from -1 to 1; beyond them a bar ends in a white notch.

    Up to eight are named, a line each; more stand side by side without names. ``scale``: pixels of a point.
    """
    if len(names) > 8:
        return _columns(shares, width, scale)
    line, edge = 11 * scale, 3 * scale
    picture = Image.new("RGB", (width, line * len(names) + 2 * edge), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(8.5 * scale)
    left = min(max((draw.textlength(name, font) for name in names), default=0) + 8 * scale, width // 2)
    middle, half = (left + width) / 2, (width - left) / 2 - 4 * scale
    draw.line([(middle, edge), (middle, picture.height - edge)], fill=(160, 174, 192), width=scale)
    for k, (name, share) in enumerate(zip(names, shares)):
        top = edge + k * line
        draw.text((4 * scale, top + line / 2), name, fill=_INK, font=font, anchor="lm")
        end = middle + half * min(max(share, -1.0), 1.0)
        box = (min(middle, end), top + 2 * scale, max(middle, end), top + line - 2 * scale)
        if share:
            draw.rectangle(box, fill=POSITIVE if share > 0 else NEGATIVE)
        if abs(share) > 1 + 1e-6:
            at = end - math.copysign(5 * scale, share)
            draw.line([(at, box[1]), (at, box[3])], fill=(255, 255, 255), width=2 * scale)
    return picture


def _columns(shares: Sequence[float], width: int, scale: int) -> Image.Image:
    height, edge = 40 * scale, 4 * scale
    picture = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    middle, half, each = height / 2, height / 2 - 3 * scale, (width - 2 * edge) / len(shares)
    draw.line([(edge, middle), (width - edge, middle)], fill=(160, 174, 192), width=scale)
    for k, share in enumerate(shares):
        end, left = middle - half * min(max(share, -1.0), 1.0), edge + k * each + 0.15 * each
        box = (left, min(middle, end), left + 0.7 * each, max(middle, end))
        if share:
            draw.rectangle(box, fill=POSITIVE if share > 0 else NEGATIVE)
        if abs(share) > 1 + 1e-6:
            at = end + math.copysign(3 * scale, share)
            draw.line([(box[0], at), (box[2], at)], fill=(255, 255, 255), width=scale)
    return picture
