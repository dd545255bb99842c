"""The slide under the objective: any viewport of an unbounded plane, with the truth about its cells."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.synthetic.errors import BadRequestError
from models.synthetic.placement import TILE_UM, PlacedCell, Plane
from models.synthetic.spec import SlideSpec
from models.synthetic.sprite import Sprite, draw_platelet, draw_red, draw_smudge
from models.synthetic.white import draw_white

ImageRGB = NDArray[np.uint8]
FloatArray = NDArray[np.float32]

CLASS_OF_KIND: Final[dict[str, str]] = {"rbc": "RBC", "wbc": "WBC", "platelet": "Platelets"}
MIN_UM_PER_PX: Final = 0.03
MAX_UM_PER_PX: Final = 0.5
_KEPT_SPRITES: Final = 400
_TINT_RATIO: Final = 0.012


@dataclass(frozen=True, slots=True)
class TruthCell:
    """One cell that is really there.

    Attributes:
        cell_id: the same in every viewport that shows the cell.
        cls: RBC, WBC or Platelets.
        cell_type: type of a white cell, else None.
        box: x1, y1, x2, y2 in pixels of the view: tight round the drawn body, clipped to the frame.
        visible_ratio: share of the body inside the frame and not under a white cell, 0..1.
        ambiguous: a white cell drawn between its type and another one.
    """

    cell_id: str
    cls: str
    cell_type: str | None
    box: tuple[float, float, float, float]
    visible_ratio: float
    ambiguous: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FieldTruth:
    """A view and what it shows.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        cells: every cell with a pixel in the frame, slivers too: look at `visible_ratio`.
        um_per_px: scale.
    """

    image: ImageRGB
    cells: list[TruthCell]
    um_per_px: float


class VirtualSlide:
    """An unbounded smear, drawn on demand, decided by its specification and the place alone.

    A view starts on a whole pixel of the slide's grid (`x_um` and `y_um` are rounded to it), so that two views of
    one scale that overlap show the same bytes there. Not safe for use by several threads at once.
    """

    def __init__(self, spec: SlideSpec | None = None) -> None:
        self.spec = spec or SlideSpec()
        self._palette = self.spec.palette()
        self._plane = Plane(self.spec)
        self._sprites: OrderedDict[tuple[str, float], Sprite] = OrderedDict()

    def render(
        self, *, x_um: float, y_um: float, width_px: int = 640, height_px: int = 480, um_per_px: float = 0.083
    ) -> FieldTruth:
        """Draw a viewport.

        Args:
            x_um, y_um: upper left corner on the slide.
            width_px, height_px: size of the image.
            um_per_px: scale; 0.083 shows a red cell of 7.5 µm as 90 pixels.

        Raises:
            BadRequestError: when the viewport is empty, huge, or of a scale that is not drawn.
        """
        left, top = _checked_origin(x_um, y_um, width_px, height_px, um_per_px)
        shown = self._shown(left, top, width_px, height_px, um_per_px)
        canvas = self._empty(left, top, width_px, height_px, um_per_px)
        for _, sprite in shown:
            _lay(canvas, sprite, left, top)
        canvas *= (np.asarray(self._palette.background, np.float32) * np.float32(255.0))[:, None, None]
        counts = np.clip(canvas + np.float32(0.5), 0.0, 255.0).astype(np.uint8)
        image = np.ascontiguousarray(counts.transpose(1, 2, 0))
        return FieldTruth(image, _truth(shown, left, top, width_px, height_px), um_per_px)

    def cells_in(
        self, *, x_um: float, y_um: float, width_px: int = 640, height_px: int = 480, um_per_px: float = 0.083
    ) -> list[TruthCell]:
        """The truth that `render` gives for the same viewport, without the image."""
        left, top = _checked_origin(x_um, y_um, width_px, height_px, um_per_px)
        return _truth(self._shown(left, top, width_px, height_px, um_per_px), left, top, width_px, height_px)

    def cell_mask(self, cell: TruthCell, *, um_per_px: float) -> tuple[NDArray[np.bool_], tuple[int, int]]:
        """Body of a cell, and the corner of that mask on the slide's pixel grid (x, y)."""
        kind, i, j, _ = cell.cell_id.split(":")
        for placed in self._plane.tile(kind, int(i), int(j)):
            if placed.cell_id == cell.cell_id:
                sprite = self._sprite(placed, um_per_px)
                return sprite.body, (sprite.left_px, sprite.top_px)
        raise BadRequestError(f"the slide has no cell {cell.cell_id!r}: take a cell of its own truth")

    def _shown(
        self, left: int, top: int, width_px: int, height_px: int, um_per_px: float
    ) -> list[tuple[PlacedCell, Sprite]]:
        cells = self._plane.cells_near(
            x0_um=left * um_per_px, y0_um=top * um_per_px,
            x1_um=(left + width_px) * um_per_px, y1_um=(top + height_px) * um_per_px,
        )  # fmt: skip
        drawn = ((cell, self._sprite(cell, um_per_px)) for cell in cells)
        return [(cell, sprite) for cell, sprite in drawn if _overlap(sprite, left, top, width_px, height_px)]

    def _sprite(self, cell: PlacedCell, um_per_px: float) -> Sprite:
        key = (cell.cell_id, um_per_px)
        kept = self._sprites.get(key)
        if kept is None:
            kept = self._draw(cell, um_per_px)
            self._sprites[key] = kept
            if len(self._sprites) > _KEPT_SPRITES:
                self._sprites.popitem(last=False)
        else:
            self._sprites.move_to_end(key)
        return kept

    def _draw(self, cell: PlacedCell, um_per_px: float) -> Sprite:
        if cell.kind == "rbc":
            return draw_red(cell, spec=self.spec, palette=self._palette, um_per_px=um_per_px)
        if cell.kind == "wbc":
            return draw_white(cell, palette=self._palette, um_per_px=um_per_px)
        if cell.kind == "platelet":
            return draw_platelet(cell, palette=self._palette, um_per_px=um_per_px)
        return draw_smudge(cell, palette=self._palette, um_per_px=um_per_px)

    def _empty(self, left: int, top: int, width_px: int, height_px: int, um_per_px: float) -> FloatArray:
        """(3, H, W) float32: slow drifts of stain that belong to the place, not to the view; about 1."""
        xs = (np.arange(left, left + width_px) + 0.5) * (um_per_px / TILE_UM)
        ys = (np.arange(top, top + height_px) + 0.5) * (um_per_px / TILE_UM)
        ix, iy = np.floor(xs).astype(int), np.floor(ys).astype(int)
        fx, fy = _eased(xs - ix), _eased(ys - iy)
        nodes = np.array(
            [[self._plane.tint(i, j) for i in range(ix[0], ix[-1] + 2)] for j in range(iy[0], iy[-1] + 2)],
            np.float32,
        )
        nodes = (nodes - np.float32(0.5)) * np.float32(2.0 * _TINT_RATIO) + np.float32(1.0)
        ix, iy = ix - ix[0], iy - iy[0]
        lines = nodes[:, ix] * (1.0 - fx) + nodes[:, ix + 1] * fx
        tint = lines[iy] * (1.0 - fy[:, None]) + lines[iy + 1] * fy[:, None]
        return np.repeat(tint[None].astype(np.float32), 3, axis=0)


def _eased(share: NDArray[np.float64]) -> FloatArray:
    return np.asarray(share * share * (3.0 - 2.0 * share), np.float32)


def _checked_origin(x_um: float, y_um: float, width_px: int, height_px: int, um_per_px: float) -> tuple[int, int]:
    if not (16 <= width_px <= 8192 and 16 <= height_px <= 8192):
        raise BadRequestError(f"a view of {width_px}x{height_px} px cannot be drawn: use 16 to 8192 px a side")
    if not MIN_UM_PER_PX <= um_per_px <= MAX_UM_PER_PX:
        raise BadRequestError(f"{um_per_px} µm per pixel is outside {MIN_UM_PER_PX}..{MAX_UM_PER_PX}")
    if not (math.isfinite(x_um) and math.isfinite(y_um) and abs(x_um) < 1e9 and abs(y_um) < 1e9):
        raise BadRequestError(f"place ({x_um}, {y_um}) µm is not on the slide: stay within a kilometre")
    return round(x_um / um_per_px), round(y_um / um_per_px)


def _overlap(sprite: Sprite, left: int, top: int, width_px: int, height_px: int) -> bool:
    height, width = sprite.body.shape
    return (
        sprite.left_px < left + width_px and sprite.left_px + width > left
        and sprite.top_px < top + height_px and sprite.top_px + height > top
    )  # fmt: skip


def _windows(
    sprite: Sprite, left: int, top: int, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the frame that the sprite lies on, and that part of the sprite."""
    height, width = sprite.body.shape
    x0, y0 = sprite.left_px - left, sprite.top_px - top
    fx0, fy0, fx1, fy1 = max(x0, 0), max(y0, 0), min(x0 + width, shape[1]), min(y0 + height, shape[0])
    return (slice(fy0, fy1), slice(fx0, fx1)), (slice(fy0 - y0, fy1 - y0), slice(fx0 - x0, fx1 - x0))


def _lay(canvas: FloatArray, sprite: Sprite, left: int, top: int) -> None:
    """Draw a sprite; transmissions in it are relative to what an empty place would show."""
    there, here = _windows(sprite, left, top, (canvas.shape[1], canvas.shape[2]))
    below, colour = canvas[:, there[0], there[1]], sprite.colour[:, here[0], here[1]]
    if sprite.alpha is None:
        below *= colour
    else:
        below += (colour - below) * sprite.alpha[here]


def _truth(
    shown: list[tuple[PlacedCell, Sprite]], left: int, top: int, width_px: int, height_px: int
) -> list[TruthCell]:
    hidden = np.zeros((height_px, width_px), np.bool_)
    for cell, sprite in shown:
        if cell.kind == "wbc":
            there, here = _windows(sprite, left, top, hidden.shape)
            hidden[there] |= sprite.body[here]
    found: list[TruthCell] = []
    for cell, sprite in shown:
        cls = CLASS_OF_KIND.get(cell.kind)
        if cls is None or sprite.box_px is None:
            continue
        there, here = _windows(sprite, left, top, hidden.shape)
        inside = sprite.body[here]
        seen = int(np.count_nonzero(inside))
        if cell.kind == "rbc":
            seen -= int(np.count_nonzero(inside & hidden[there]))
        x1, y1 = max(sprite.box_px[0] - left, 0), max(sprite.box_px[1] - top, 0)
        x2, y2 = min(sprite.box_px[2] - left, width_px), min(sprite.box_px[3] - top, height_px)
        if seen <= 0 or x2 <= x1 or y2 <= y1:
            continue
        ratio = seen / int(np.count_nonzero(sprite.body))
        box = (float(x1), float(y1), float(x2), float(y2))
        found.append(TruthCell(cell.cell_id, cls, cell.cell_type, box, ratio, cell.second_type is not None))
    return found
