"""Where the cells of an unbounded slide are, decided by (seed, place) alone.

The plane is cut into square tiles of four colours, like a map. A tile of colour 0 is filled on its own; a tile of
colour k looks at those neighbours that have a lower colour and keeps clear of their cells. So what a tile holds
depends on its surroundings only, never on the order in which viewports were visited.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.synthetic.spec import CELL_TYPES, REFERENCE_FIELD_UM2, SlideSpec

TILE_UM: Final = 32.0
"""Side of a tile: more than two of the largest cells reach, so that only direct neighbours can touch."""
REACH: Final[dict[str, float]] = {"smudge": 1.85, "rbc": 1.75, "wbc": 1.36, "platelet": 1.5}
"""How far the drawn cell reaches from its centre at most, as a multiple of its mean radius; 0.7 µm come on top."""
_SIZE_LIMIT: Final = 2.2
"""Red cells differ from their mean size by no more deviations than this."""
RADIUS_UM: Final[dict[str, tuple[float, float]]] = {
    "neutrophil": (6.0, 7.4),
    "lymphocyte": (4.4, 5.9),
    "monocyte": (7.0, 8.9),
    "eosinophil": (6.2, 7.6),
    "basophil": (5.4, 6.8),
}
"""Least and largest radius of a white cell, in µm."""
_ATTEMPTS: Final = 24
_WHITE_GAP_UM: Final = 1.0
_CROWDED_DEPTH: Final = 0.35
_PLATELET_ROOM_UM: Final = 1.3

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PlacedCell:
    """One cell of the plane.

    Attributes:
        cell_id: stable name, unique within the slide.
        kind: `rbc`, `wbc`, `platelet` or `smudge`.
        cell_type: type of a white cell, else None.
        second_type: what an ambiguous white cell also looks like, else None.
        x_um, y_um: centre.
        radius_um: mean radius of the body.
        slide_seed: seed of its slide.
    """

    cell_id: str
    kind: str
    cell_type: str | None
    second_type: str | None
    x_um: float
    y_um: float
    radius_um: float
    slide_seed: int

    @property
    def reach_um(self) -> float:
        """No pixel of the drawn cell lies further from its centre."""
        return self.radius_um * REACH[self.kind] + 0.7

    def generator(self) -> np.random.Generator:
        """Decides whatever else is random about the cell: shape, texture, strength of stain."""
        return stable_generator(self.slide_seed, "look", self.cell_id)


def stable_entropy(*parts: object) -> int:
    """A 128-bit number that depends on the text of the parts only, the same in each process and on each machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def stable_generator(*parts: object) -> np.random.Generator:
    """A random generator seeded by `stable_entropy`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(stable_entropy(*parts))))


class Plane:
    """Cells of one slide, tile by tile, computed when asked for and kept."""

    def __init__(self, spec: SlideSpec) -> None:
        self._spec = spec
        self._tiles: dict[tuple[str, int, int], tuple[PlacedCell, ...]] = {}
        self._tints: dict[tuple[int, int], float] = {}
        self._types = tuple(t for t in CELL_TYPES if spec.differential.get(t, 0.0) > 0.0)
        # Members of a clump lie up to 3 µm outside the tile that they were placed in.
        self._largest_um = {
            "smudge": 8.0,
            "rbc": spec.rbc_diameter_um / 2.0 * math.exp(_SIZE_LIMIT * spec.rbc_size_spread_ratio),
            "wbc": max(high_um for _, high_um in RADIUS_UM.values()),
            "platelet": 1.6 + 3.0 / REACH["platelet"],
        }
        self._type_limits = np.cumsum([spec.differential[t] for t in self._types])

    def cells_near(self, *, x0_um: float, y0_um: float, x1_um: float, y1_um: float) -> list[PlacedCell]:
        """Every cell whose centre lies in the rectangle or so near that it may reach into it, in drawing order."""
        found: list[PlacedCell] = []
        for kind in ("smudge", "rbc", "wbc", "platelet"):
            reach_um = self._largest_um[kind] * REACH[kind] + 0.7
            left, right = math.floor((x0_um - reach_um) / TILE_UM), math.floor((x1_um + reach_um) / TILE_UM)
            top, bottom = math.floor((y0_um - reach_um) / TILE_UM), math.floor((y1_um + reach_um) / TILE_UM)
            found.extend(
                cell
                for j in range(top, bottom + 1)
                for i in range(left, right + 1)
                for cell in self.tile(kind, i, j)
                if x0_um - cell.reach_um <= cell.x_um <= x1_um + cell.reach_um
                and y0_um - cell.reach_um <= cell.y_um <= y1_um + cell.reach_um
            )
        return found

    def tile(self, kind: str, i: int, j: int) -> tuple[PlacedCell, ...]:
        """Cells of a kind whose places were drawn in one tile."""
        key = (kind, i, j)
        if key not in self._tiles:
            self._tiles[key] = self._fill(kind, i, j)
        return self._tiles[key]

    def tint(self, i: int, j: int) -> float:
        """0..1, how strongly the ground is stained at a corner of the tiles."""
        if (i, j) not in self._tints:
            self._tints[i, j] = stable_entropy(self._spec.seed, "tint", i, j) / 2.0**128
        return self._tints[i, j]

    def _around(self, kind: str, i: int, j: int, *, below_colour: int = 4) -> list[PlacedCell]:
        """Cells of a kind in the tile's neighbours of lower colour (and in the tile itself, if that is one)."""
        return [
            cell
            for dj in (-1, 0, 1)
            for di in (-1, 0, 1)
            if _colour(i + di, j + dj) < below_colour
            for cell in self.tile(kind, i + di, j + dj)
        ]

    def _fill(self, kind: str, i: int, j: int) -> tuple[PlacedCell, ...]:
        rng = stable_generator(self._spec.seed, kind, i, j)
        if kind == "wbc":
            return self._fill_white(rng, i, j)
        if kind == "rbc":
            return self._fill_red(rng, i, j)
        if kind == "platelet":
            return self._fill_platelets(rng, i, j)
        return self._fill_smudges(rng, i, j)

    def _count(self, rng: np.random.Generator, per_field_mean: float) -> int:
        return int(rng.poisson(per_field_mean * TILE_UM * TILE_UM / REFERENCE_FIELD_UM2))

    def _place(
        self, kind: str, i: int, j: int, number: int, *, x_um: float, y_um: float, radius_um: float,
        cell_type: str | None = None, second_type: str | None = None,
    ) -> PlacedCell:  # fmt: skip
        cell_id = f"{kind}:{i}:{j}:{number}"
        return PlacedCell(cell_id, kind, cell_type, second_type, x_um, y_um, radius_um, self._spec.seed)

    def _fill_white(self, rng: np.random.Generator, i: int, j: int) -> tuple[PlacedCell, ...]:
        count = self._count(rng, self._spec.wbc_per_field_mean)
        occupied = _Discs(self._around("wbc", i, j, below_colour=_colour(i, j)), room=count)
        placed: list[PlacedCell] = []
        for number in range(count):
            # The type comes before the place, so that large cells that fit badly do not skew the differential.
            cell_type = self._types[int(np.searchsorted(self._type_limits[:-1], rng.random(), side="right"))]
            low_um, high_um = RADIUS_UM[cell_type]
            radius_um = low_um + (high_um - low_um) * float(rng.random() + rng.random()) / 2.0
            ambiguous = rng.random() < self._spec.ambiguous_ratio
            second = _others(cell_type)[int(rng.integers(4))] if ambiguous else None
            tried_um = _somewhere(rng, i, j, count=_ATTEMPTS)
            fits = np.flatnonzero(occupied.clearances_um(tried_um) >= radius_um + _WHITE_GAP_UM)
            if not fits.size:
                continue
            x_um, y_um = (float(v) for v in tried_um[fits[0]])
            occupied.add(x_um, y_um, radius_um)
            placed.append(
                self._place(
                    "wbc", i, j, number, x_um=x_um, y_um=y_um, radius_um=radius_um,
                    cell_type=cell_type, second_type=second,
                )
            )  # fmt: skip
        return tuple(placed)

    def _fill_red(self, rng: np.random.Generator, i: int, j: int) -> tuple[PlacedCell, ...]:
        spec = self._spec
        count = self._count(rng, spec.rbc_per_field_mean * float(rng.uniform(0.8, 1.2)))
        white = _Discs(self._around("wbc", i, j))
        before = _Discs(self._around("rbc", i, j, below_colour=_colour(i, j)))
        here = _Discs([], room=count)
        radii_um = (
            spec.rbc_diameter_um
            / 2.0
            * np.exp(spec.rbc_size_spread_ratio * np.clip(rng.standard_normal(count), -_SIZE_LIMIT, _SIZE_LIMIT))
        )
        depths = np.where(rng.random(count) < spec.rbc_overlap_ratio, rng.uniform(0.25, 0.9, count), -0.03)
        # All places to try are compared with the neighbours at once: one by one this took most of the time.
        tried_um = _somewhere(rng, i, j, count=count * _ATTEMPTS)
        free_um = before.clearances_um(tried_um)
        allowed = white.clearances_um(tried_um) >= np.repeat(radii_um * 0.93, _ATTEMPTS)
        placed: list[PlacedCell] = []
        for number in range(count):
            own = number * _ATTEMPTS + np.flatnonzero(allowed[number * _ATTEMPTS : (number + 1) * _ATTEMPTS])
            room_um = np.minimum(free_um[own], here.clearances_um(tried_um[own]))
            radius_um = float(radii_um[number])
            fits = own[room_um >= radius_um * (1.0 - depths[number])]
            if not fits.size:  # Crowded: cells then lie a little over each other, as they do in a thick smear.
                fits = own[room_um >= radius_um * (1.0 - _CROWDED_DEPTH)]
            if not fits.size:
                continue
            x_um, y_um = (float(v) for v in tried_um[fits[0]])
            here.add(x_um, y_um, radius_um)
            placed.append(self._place("rbc", i, j, number, x_um=x_um, y_um=y_um, radius_um=radius_um))
        return tuple(placed)

    def _fill_platelets(self, rng: np.random.Generator, i: int, j: int) -> tuple[PlacedCell, ...]:
        white, red = _Discs(self._around("wbc", i, j)), _Discs(self._around("rbc", i, j))
        placed: list[PlacedCell] = []
        wanted = self._count(rng, self._spec.platelets_per_field_mean)
        while len(placed) < wanted:
            clump = min(int(rng.integers(2, 5)) if rng.random() < 0.1 else 1, wanted - len(placed))
            tried_um = _somewhere(rng, i, j, count=_ATTEMPTS)
            off_white = white.clearances_um(tried_um) >= _PLATELET_ROOM_UM
            off_both = off_white & (red.clearances_um(tried_um) >= _PLATELET_ROOM_UM)
            # Best on empty ground; over a red cell where there is none; never on a white cell.
            fits = np.flatnonzero(off_both) if off_both.any() else np.flatnonzero(off_white)
            if not fits.size:
                wanted -= clump
                continue
            x_um, y_um = (float(v) for v in tried_um[fits[0]])
            start = float(rng.uniform(0.0, math.tau))
            for member in range(clump):
                away_um, turn = 2.4 * min(member, 1) * float(rng.uniform(0.9, 1.2)), start + member * 2.0
                placed.append(
                    self._place(
                        "platelet", i, j, len(placed), x_um=x_um + away_um * math.cos(turn),
                        y_um=y_um + away_um * math.sin(turn), radius_um=float(rng.uniform(1.0, 1.6)),
                    )
                )  # fmt: skip
        return tuple(placed)

    def _fill_smudges(self, rng: np.random.Generator, i: int, j: int) -> tuple[PlacedCell, ...]:
        white = _Discs(self._around("wbc", i, j))
        placed: list[PlacedCell] = []
        for number in range(self._count(rng, self._spec.smudges_per_field_mean)):
            at_um = _somewhere(rng, i, j, count=1)
            radius_um = float(rng.uniform(5.0, 8.0))
            if white.clearances_um(at_um)[0] >= radius_um:
                x_um, y_um = (float(v) for v in at_um[0])
                placed.append(self._place("smudge", i, j, number, x_um=x_um, y_um=y_um, radius_um=radius_um))
        return tuple(placed)


class _Discs:
    """Bodies that are already there, as discs."""

    def __init__(self, cells: list[PlacedCell], *, room: int = 0) -> None:
        self._count = len(cells)
        self._discs = np.zeros((self._count + room, 3), np.float64)
        for row, cell in enumerate(cells):
            self._discs[row] = cell.x_um, cell.y_um, cell.radius_um

    def add(self, x_um: float, y_um: float, radius_um: float) -> None:
        self._discs[self._count] = x_um, y_um, radius_um
        self._count += 1

    def clearances_um(self, places_um: FloatArray) -> FloatArray:
        """Distance from each of (N, 2) places to the nearest edge; negative in a disc; large on an empty plane."""
        if not self._count:
            return np.full(len(places_um), 1e9)
        discs = self._discs[: self._count]
        dx, dy = places_um[:, :1] - discs[:, 0], places_um[:, 1:] - discs[:, 1]
        nearest: FloatArray = (np.sqrt(dx * dx + dy * dy) - discs[:, 2]).min(axis=1)
        return nearest


def _somewhere(rng: np.random.Generator, i: int, j: int, *, count: int) -> FloatArray:
    """(count, 2) places in a tile, µm."""
    return (rng.random((count, 2)) + np.array([i, j], np.float64)) * TILE_UM


def _colour(i: int, j: int) -> int:
    return (i & 1) + 2 * (j & 1)


def _others(cell_type: str) -> list[str]:
    return [t for t in CELL_TYPES if t != cell_type]
