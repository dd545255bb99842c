"""Brings red cells to the size that the detector knows, whatever the camera and the magnification.

One pass over the whole field is the rule. If the red cells it finds are smaller than the detector was trained for, the
field is read again in overlapping tiles; if they are larger, once more at a smaller scale. A field much larger than the
input, or without measurable red cells, is probed at finer scales before: cells of a few pixels are not found at all, or
several pass for one. A field in which no scale shows measurable red cells is also read at half the scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import CellClass, DetectorSpec
from models.runtime.detector import Candidates, decode, join, without_doubles
from models.runtime.imaging import letterbox, to_tensor
from models.runtime.results import ImageRGB
from models.runtime.session import Network

USUAL_TILES = 36
"""So many tiles are spent to bring red cells to the middle of the detector's range."""
MAX_TILES = 400
"""Bound on the work one field can cause: enough for the largest picture allowed with red cells of 60 pixels."""
OVERLAP_RBC = 2.3
"""Neighbouring tiles share this many red-cell diameters: a white cell is whole in one of them."""
TIGHT_OVERLAP_RBC = 1.6
"""The same where tiles are dear: of a white cell that two tiles cut, the halves share so much that they become one."""
MAX_ENLARGEMENT_RATIO = 4.0
"""Enlarging further adds pixels but no detail."""
CUT_MARGIN_PX = 2.0
"""A box closer than this to a tile's inner edge was cut by it."""
CUT_COVERED_RATIO = 0.6
"""A cut box that a whole one covers to this share is the same cell."""
COVER_CHUNK = 128
"""Cut boxes that are compared at once: bounds the memory of a field with thousands of cells."""
PROBE_ABOVE_RATIO = 2.5
"""A field whose longer side is this many inputs is probed."""
FINEST_PROBE_RATIO = 2.0
"""Input pixels per camera pixel at the finest probe."""
DENSER_RATIO = 1.5
"""A finer scale is believed when it shows this many times as many red cells."""
PLAUSIBLE_DENSER_RATIO = 3.0
"""The same where the coarser scale shows cells of a size that the detector knows: huge cells fall into pieces."""
FRAME_MARGIN_PX = 1.0
"""A box closer than this to the frame's edge is not wholly inside."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What the detector found in one field.

    Attributes:
        found: candidates above the floor, doubles suppressed, strongest first, pixels of the frame.
        passes: how often the network ran.
        stage_ms: `preprocess`, `detect`, `decode`.
    """

    found: Candidates
    passes: int
    stage_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the frame, in pixels; `x2`, `y2` are exclusive."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(slots=True)
class _Meter:
    passes: int = 0
    stage_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("preprocess", "detect", "decode"), 0.0))

    def add(self, stage: str, since_s: float) -> float:
        now_s = perf_counter()
        self.stage_ms[stage] += (now_s - since_s) * 1000.0
        return now_s


def median_rbc_px(
    found: Candidates, spec: DetectorSpec, *, width_px: int, height_px: int, min_count: int
) -> float | None:
    """Median longer side of the counted red cells that lie wholly inside the frame, in its pixels.

    None with fewer than `min_count` of them.
    """
    if CellClass.RBC not in spec.classes:
        return None
    counted = (found.classes == spec.classes.index(CellClass.RBC)) & (found.scores >= spec.thresholds[CellClass.RBC])
    b = found.boxes
    inside = (b[:, 0] > FRAME_MARGIN_PX) & (b[:, 1] > FRAME_MARGIN_PX)
    inside &= (b[:, 2] < width_px - FRAME_MARGIN_PX) & (b[:, 3] < height_px - FRAME_MARGIN_PX)
    chosen = b[counted & inside]
    if len(chosen) < min_count:
        return None
    return float(np.median((chosen[:, 2:] - chosen[:, :2]).max(axis=1)))


def plan_tiles(*, width_px: int, height_px: int, rbc_px: float, spec: DetectorSpec) -> tuple[float, list[Tile]]:
    """Scale (input pixels per frame pixel) and tiles that bring red cells of `rbc_px` into the detector's range.

    The middle of the range is taken if `USUAL_TILES` suffice, else the largest scale at which they do. Where that would
    leave the red cells smaller than the detector knows, the lower end of the range is taken instead, with as many tiles
    as it needs up to `MAX_TILES` and with less overlap. Tiles have equal size, cover the frame and overlap by at least
    `OVERLAP_RBC` (then `TIGHT_OVERLAP_RBC`) red cells unless the input is too small for it.
    """
    low, high = spec.rbc_px
    size_px = (width_px, height_px)
    middle = min(math.sqrt(low * high) / rbc_px, MAX_ENLARGEMENT_RATIO)
    scale, tiles = _largest(middle, size_px, OVERLAP_RBC * rbc_px, spec.input_px, USUAL_TILES)
    # What no enlargement brings into the range is no field of red cells: it gets no more than the usual work.
    if scale * rbc_px < low <= MAX_ENLARGEMENT_RATIO * rbc_px:
        scale, tiles = _largest(low / rbc_px, size_px, TIGHT_OVERLAP_RBC * rbc_px, spec.input_px, MAX_TILES)
    return scale, tiles


def _largest(
    scale: float, size_px: tuple[int, int], overlap_px: float, input_px: int, limit: int
) -> tuple[float, list[Tile]]:
    """The largest scale up to a given one at which so many tiles suffice, and the tiles."""
    width_px, height_px = size_px
    while True:
        side = min(int(input_px / scale), max(width_px, height_px))
        overlap = min(math.ceil(overlap_px), side // 2)
        columns = _starts(width_px, side, overlap)
        rows = _starts(height_px, side, overlap)
        # Ends at the latest when one tile holds the whole frame.
        if len(columns) * len(rows) <= limit:
            break
        scale /= 1.05
    return scale, [Tile(x, y, min(x + side, width_px), min(y + side, height_px)) for y in rows for x in columns]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Where tiles of a side begin along an axis: evenly spread, the last one flush with the end."""
    if length <= side:
        return [0]
    count = 1 + math.ceil((length - side) / (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


class FieldReader:
    """Runs the detector over fields of any size. As safe to share between threads as its network.

    Args:
        network: the detector.
        spec: its input and output.
        min_red_cells: red cells needed to trust their median diameter.
    """

    def __init__(self, network: Network, spec: DetectorSpec, min_red_cells: int) -> None:
        self._network = network
        self._spec = spec
        self._min_red_cells = min_red_cells

    def read(self, rgb: ImageRGB) -> Reading:
        """Find the cells of one field.

        Args:
            rgb: (H, W, 3) uint8 RGB.

        Raises:
            InferenceError: the network failed or gave no usable answer.
        """
        meter = _Meter()
        height, width = rgb.shape[:2]
        found = self._merged([self._pass(rgb, None, meter)], meter)
        fit = self._spec.input_px / max(height, width)
        low, high = self._spec.rbc_px
        rbc_px = self._rbc_px(found, rgb)
        if rbc_px is None or max(height, width) >= PROBE_ABOVE_RATIO * self._spec.input_px:
            rbc_px = self._probe(rgb, found, meter)
        if rbc_px is None:
            found = self._or_coarser(rgb, found, meter)
        elif rbc_px * fit > high:
            found = self._merged([self._pass(rgb, math.sqrt(low * high) / rbc_px, meter)], meter)
        elif rbc_px * fit < low:
            found = self._tiled(rgb, rbc_px, meter)
        return Reading(found, meter.passes, meter.stage_ms)

    def _rbc_px(self, found: Candidates, rgb: ImageRGB) -> float | None:
        height, width = rgb.shape[:2]
        return median_rbc_px(found, self._spec, width_px=width, height_px=height, min_count=self._min_red_cells)

    def _probe(self, rgb: ImageRGB, found: Candidates, meter: _Meter) -> float | None:
        """Red-cell diameter at the scale that shows most red cells in the field's middle.

        Where cells are only a few pixels wide, the detector takes crowds for cells: they have a plausible size, but
        there are far fewer of them than cells. Goes on to twice the camera's own pixels, as a low magnification needs
        it, or until finer only shows less.
        """
        height, width = rgb.shape[:2]
        best, best_px = found, self._rbc_px(found, rgb)
        low, high = self._spec.rbc_px
        best_scale = self._spec.input_px / max(height, width)
        for scale in _finer(best_scale):
            side = round(self._spec.input_px / scale)
            x, y = max(0, (width - side) // 2), max(0, (height - side) // 2)
            tile = Tile(x, y, min(x + side, width), min(y + side, height))
            part = rgb[tile.y1 : tile.y2, tile.x1 : tile.x2]
            seen = self._merged([self._pass(part, None, meter)], meter)
            rbc_px = self._rbc_px(seen, part)
            seen = seen.shifted(x, y)
            # Both are counted in the same part of the field, or a denser middle would pass for a better scale.
            before, now = self._red_weight(best, tile), self._red_weight(seen, tile)
            plausible = best_px is not None and low <= best_px * best_scale <= high
            needed = before * (PLAUSIBLE_DENSER_RATIO if plausible else DENSER_RATIO)
            if rbc_px is not None and low <= rbc_px * scale <= high and now > needed:
                best, best_px, best_scale = seen, rbc_px, scale
            elif now < before / 2:
                break
        return best_px

    def _red_weight(self, found: Candidates, tile: Tile) -> float:
        """Sum of the counted red cells' scores whose centres lie in a part of the frame."""
        if CellClass.RBC not in self._spec.classes:
            return 0.0
        red = found.classes == self._spec.classes.index(CellClass.RBC)
        red &= found.scores >= self._spec.thresholds[CellClass.RBC]
        x, y = (found.boxes[:, :2] + found.boxes[:, 2:]).T / 2
        red &= (x >= tile.x1) & (x < tile.x2) & (y >= tile.y1) & (y < tile.y2)
        return float(found.scores[red].sum())

    def _or_coarser(self, rgb: ImageRGB, found: Candidates, meter: _Meter) -> Candidates:
        """Without red cells to measure, look once more at half the scale: a few huge cells may fill the field."""
        half = self._spec.input_px / max(rgb.shape[:2]) / 2
        coarser = self._merged([self._pass(rgb, half, meter)], meter)
        return coarser if self._weight(coarser) > self._weight(found) else found

    def _weight(self, found: Candidates) -> float:
        """Sum of the scores that count."""
        thresholds = np.array([self._spec.thresholds[cls] for cls in self._spec.classes], np.float32)
        return float(found.scores[found.scores >= thresholds[found.classes]].sum())

    def _tiled(self, rgb: ImageRGB, rbc_px: float, meter: _Meter) -> Candidates:
        height, width = rgb.shape[:2]
        scale, tiles = plan_tiles(width_px=width, height_px=height, rbc_px=rbc_px, spec=self._spec)
        whole: list[Candidates] = []
        cut: list[Candidates] = []
        for tile in tiles:
            seen = self._pass(rgb[tile.y1 : tile.y2, tile.x1 : tile.x2], scale, meter).shifted(tile.x1, tile.y1)
            severed = _severed(seen, tile, width_px=width, height_px=height)
            parts = seen.take(~severed), seen.take(severed)
            if len(tiles) > USUAL_TILES:
                # Suppression takes time by the square of what it is given.
                parts = self._merged([parts[0]], meter), self._merged([parts[1]], meter)
            whole.append(parts[0])
            cut.append(parts[1])
        complete, fragments = self._merged(whole, meter), self._merged(cut, meter)
        return self._merged([complete, fragments.take(~covered(fragments, complete))], meter)

    def _pass(self, rgb: ImageRGB, scale: float | None, meter: _Meter) -> Candidates:
        height, width = rgb.shape[:2]
        start_s = perf_counter()
        fit = self._spec.input_px / max(height, width)
        view = letterbox(
            rgb, self._spec.input_px, self._spec.pad_value, scale=None if scale is None else min(scale, fit)
        )
        tensor = to_tensor(view.canvas)
        start_s = meter.add("preprocess", start_s)
        maps = self._network.run(tensor)
        start_s = meter.add("detect", start_s)
        found = decode(maps, view, width_px=width, height_px=height, spec=self._spec)
        meter.add("decode", start_s)
        meter.passes += 1
        return found

    def _merged(self, parts: list[Candidates], meter: _Meter) -> Candidates:
        start_s = perf_counter()
        merged = without_doubles(join(parts), self._spec.nms_iou)
        meter.add("decode", start_s)
        return merged


def _finer(fit: float) -> Iterator[float]:
    """Scales twice as fine each, up to the camera's own pixels, then the largest that is worth a look."""
    scale = fit
    while scale < 1.0:
        scale = min(1.0, scale * 2.0)
        yield scale
    if scale < FINEST_PROBE_RATIO:
        yield FINEST_PROBE_RATIO


def _severed(found: Candidates, tile: Tile, *, width_px: int, height_px: int) -> NDArray[np.bool_]:
    """Which boxes touch an edge of the tile that is not the frame's edge."""
    b = found.boxes
    severed = np.zeros(len(b), bool)
    if tile.x1 > 0:
        severed |= b[:, 0] < tile.x1 + CUT_MARGIN_PX
    if tile.y1 > 0:
        severed |= b[:, 1] < tile.y1 + CUT_MARGIN_PX
    if tile.x2 < width_px:
        severed |= b[:, 2] > tile.x2 - CUT_MARGIN_PX
    if tile.y2 < height_px:
        severed |= b[:, 3] > tile.y2 - CUT_MARGIN_PX
    return severed


def covered(fragments: Candidates, complete: Candidates) -> NDArray[np.bool_]:
    """Which fragments lie mostly inside a whole box of their class."""
    inside = np.zeros(len(fragments), bool)
    order = np.argsort(fragments.boxes[:, 1], kind="stable")
    for first in range(0, len(order), COVER_CHUNK):
        chunk = order[first : first + COVER_CHUNK]
        some = fragments.take(chunk)
        near = complete.boxes[:, 3] > some.boxes[:, 1].min()
        near &= complete.boxes[:, 1] < some.boxes[:, 3].max()
        inside[chunk] = _covered_by_any(some, complete.take(near))
    return inside


def _covered_by_any(fragments: Candidates, complete: Candidates) -> NDArray[np.bool_]:
    a, b = fragments.boxes[:, None], complete.boxes[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(0).prod(axis=2)
    own = (fragments.boxes[:, 2:] - fragments.boxes[:, :2]).prod(axis=1)
    same = fragments.classes[:, None] == complete.classes[None]
    return np.asarray(((shared / own[:, None] >= CUT_COVERED_RATIO) & same).any(axis=1), np.bool_)
