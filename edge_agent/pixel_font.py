"""A 5x7 pixel font: capitals, digits, '-' and '.'. Enough to name a cell without a drawing library."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.runtime.results import ImageRGB

GLYPH_WIDTH_PX, GLYPH_HEIGHT_PX = 5, 7
ADVANCE_PX = GLYPH_WIDTH_PX + 1

_ROWS = {
    "A": "0E11111F111111",
    "B": "1E11111E11111E",
    "C": "0E11101010110E",
    "D": "1E11111111111E",
    "E": "1F10101E10101F",
    "F": "1F10101E101010",
    "G": "0E11101711110F",
    "H": "1111111F111111",
    "I": "0E04040404040E",
    "J": "0702020202120C",
    "K": "11121418141211",
    "L": "1010101010101F",
    "M": "111B1515111111",
    "N": "11191513111111",
    "O": "0E11111111110E",
    "P": "1E11111E101010",
    "Q": "0E11111115120D",
    "R": "1E11111E141211",
    "S": "0F10100E01011E",
    "T": "1F040404040404",
    "U": "1111111111110E",
    "V": "11111111110A04",
    "W": "11111115151B11",
    "X": "11110A040A1111",
    "Y": "11110A04040404",
    "Z": "1F01020408101F",
    "0": "0E11131519110E",
    "1": "040C040404040E",
    "2": "0E11010608101F",
    "3": "1F02040201110E",
    "4": "02060A121F0202",
    "5": "1F101E0101110E",
    "6": "0608101E11110E",
    "7": "1F010204080808",
    "8": "0E11110E11110E",
    "9": "0E11110F01020C",
    "-": "0000001F000000",
    ".": "00000000000C0C",
}


def _glyph(rows: str) -> NDArray[np.bool_]:
    lines = [int(rows[at : at + 2], 16) for at in range(0, len(rows), 2)]
    return np.array([[bool(line >> (4 - column) & 1) for column in range(GLYPH_WIDTH_PX)] for line in lines])


_GLYPHS = {letter: _glyph(rows) for letter, rows in _ROWS.items()}


def text_width_px(text: str) -> int:
    """Width of a text in pixels."""
    return len(text) * ADVANCE_PX


def draw_text(image: ImageRGB, text: str, *, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Draws into (H, W, 3) uint8 RGB with (x, y) as the upper left corner; what lies outside is cut off."""
    height, width = image.shape[:2]
    for place, letter in enumerate(text.upper()):
        glyph, left = _GLYPHS.get(letter), x + place * ADVANCE_PX
        if glyph is None or left < 0 or y < 0 or left + GLYPH_WIDTH_PX > width or y + GLYPH_HEIGHT_PX > height:
            continue
        image[y : y + GLYPH_HEIGHT_PX, left : left + GLYPH_WIDTH_PX][glyph] = colour
