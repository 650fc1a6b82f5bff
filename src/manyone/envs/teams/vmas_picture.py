"""A picture of a VMAS world from above, drawn without a window or a graphics driver.

Public: :func:`picture`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIZE = 400  # pixels of a side


def picture(env: Any, slot: int) -> np.ndarray:
    """Agents and landmarks of one slot as the shapes that they are, uint8 [SIZE, SIZE, 3]."""
    entities = [*env.world.landmarks, *env.world.agents]
    places = np.array([entity.state.pos[slot].tolist() for entity in entities])
    reach = max(1.0, float(np.abs(places).max()) + 0.1)
    image = Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    pen = ImageDraw.Draw(image)

    def pixels(points: np.ndarray) -> list[tuple[float, float]]:
        return [((x / reach + 1) * SIZE / 2, (1 - y / reach) * SIZE / 2) for x, y in points]

    for entity, place in zip(entities, places):
        colour = tuple(int(255 * float(part)) for part in _colour(entity, slot)[:3])
        turned = float(entity.state.rot[slot, 0])
        shape = entity.shape
        if hasattr(shape, "radius"):
            angles = np.linspace(0, 2 * math.pi, 24)
            corners = place + shape.radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            pen.polygon(pixels(corners), fill=colour, outline=(60, 60, 60))
            continue
        along = np.array([math.cos(turned), math.sin(turned)]) * shape.length / 2
        if type(shape).__name__ == "Line":
            pen.line(pixels(np.stack([place - along, place + along])), fill=colour, width=3)
            continue
        across = np.array([-math.sin(turned), math.cos(turned)]) * shape.width / 2
        corners = place + np.stack([along + across, across - along, -along - across, along - across])
        pen.polygon(pixels(corners), fill=colour, outline=(60, 60, 60))
    return np.asarray(image)


def _colour(entity: Any, slot: int) -> Any:
    """Three or four numbers; some scenarios colour each slot on its own."""
    colour = entity.color
    return colour[slot] if getattr(colour, "ndim", 1) == 2 else colour
