"""Pictures of small grid worlds: cells, tints and numbered discs, drawn with Pillow.

Public: ``Board``, ``COLOURS``.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = {
    "ground": (247, 247, 244),
    "line": (205, 205, 200),
    "road": (214, 216, 220),
    "seen": (222, 235, 247),
    "agent": (31, 119, 180),
    "other": (230, 126, 34),
    "done": (44, 140, 72),
    "goal": (200, 40, 50),
    "wrong": (200, 40, 50),
    "dark": (60, 60, 66),
}
Colour = tuple[int, int, int]


class Board:
    """A picture of ``rows`` x ``columns`` cells, 200 to 400 pixels on its longer side."""

    def __init__(self, rows: int, columns: int) -> None:
        self.side = max(8, 360 // max(rows, columns))
        self.columns = columns
        self.image = Image.new("RGB", (columns * self.side + 1, rows * self.side + 1), COLOURS["ground"])
        self.draw = ImageDraw.Draw(self.image)
        for row in range(rows + 1):
            self.draw.line((0, row * self.side, columns * self.side, row * self.side), COLOURS["line"])
        for column in range(columns + 1):
            self.draw.line((column * self.side, 0, column * self.side, rows * self.side), COLOURS["line"])

    def fill(self, cell: int, colour: str) -> None:
        """Colours a whole cell (row * columns + column)."""
        x, y = self._corner(cell)
        self.draw.rectangle((x + 1, y + 1, x + self.side - 1, y + self.side - 1), COLOURS[colour])

    def discs(self, cell: int, marks: list[tuple[str, str]]) -> None:
        """Discs with a label each, side by side in one cell: (label, colour)."""
        if not marks:
            return
        x, y = self._corner(cell)
        across = math.ceil(math.sqrt(len(marks)))
        width = self.side / across
        for place, (label, colour) in enumerate(marks):
            left, top = x + (place % across) * width, y + (place // across) * width
            edge = 0.12 * width
            box = (left + edge, top + edge, left + width - edge, top + width - edge)
            self.draw.ellipse(box, COLOURS[colour], COLOURS["dark"])
            if width >= 12:
                font = ImageFont.load_default(size=max(8, int(0.5 * width)))
                self.draw.text((left + width / 2, top + width / 2), label, (255, 255, 255), font, anchor="mm")

    def array(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        return np.asarray(self.image).copy()

    def _corner(self, cell: int) -> tuple[int, int]:
        row, column = divmod(int(cell), self.columns)
        return column * self.side, row * self.side
