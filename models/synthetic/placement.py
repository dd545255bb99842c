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

from models.synthetic.spec import CELL_TYPES, REFERENCE_FIELD_UM2, SlideSpec

TILE_UM: Final = 32.0
"""Side of a tile: more than two of the largest cells reach, so that only direct neighbours can touch."""
MAX_RADIUS_UM: Final = 12.0
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
        entropy: seeds whatever else is random about the cell.
    """

    cell_id: str
    kind: str
    cell_type: str | None
    second_type: str | None
    x_um: float
    y_um: float
    radius_um: float
    entropy: int


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
        self._types = tuple(t for t in CELL_TYPES if spec.differential.get(t, 0.0) > 0.0)
        self._type_limits = np.cumsum([spec.differential[t] for t in self._types])

    def cells_near(self, *, x0_um: float, y0_um: float, x1_um: float, y1_um: float) -> list[PlacedCell]:
        """Every cell whose centre lies in the rectangle or so near that it may reach into it, in drawing order."""
        reach = MAX_RADIUS_UM
        left, right = math.floor((x0_um - reach) / TILE_UM), math.floor((x1_um + reach) / TILE_UM)
        top, bottom = math.floor((y0_um - reach) / TILE_UM), math.floor((y1_um + reach) / TILE_UM)
        found: list[PlacedCell] = []
        for kind in ("smudge", "rbc", "wbc", "platelet"):
            for j in range(top, bottom + 1):
                for i in range(left, right + 1):
                    found.extend(
                        cell
                        for cell in self._tile(kind, i, j)
                        if x0_um - reach <= cell.x_um <= x1_um + reach and y0_um - reach <= cell.y_um <= y1_um + reach
                    )
        return found

    def _tile(self, kind: str, i: int, j: int) -> tuple[PlacedCell, ...]:
        key = (kind, i, j)
        if key not in self._tiles:
            self._tiles[key] = self._fill(kind, i, j)
        return self._tiles[key]

    def _around(self, kind: str, i: int, j: int, *, below_colour: int = 4) -> list[PlacedCell]:
        """Cells of a kind in the tile's neighbours of lower colour (and in the tile itself, if that is one)."""
        return [
            cell
            for dj in (-1, 0, 1)
            for di in (-1, 0, 1)
            if _colour(i + di, j + dj) < below_colour
            for cell in self._tile(kind, i + di, j + dj)
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
        entropy = stable_entropy(self._spec.seed, "look", cell_id)
        return PlacedCell(cell_id, kind, cell_type, second_type, x_um, y_um, radius_um, entropy)

    def _fill_white(self, rng: np.random.Generator, i: int, j: int) -> tuple[PlacedCell, ...]:
        occupied = _Discs(self._around("wbc", i, j, below_colour=_colour(i, j)))
        placed: list[PlacedCell] = []
        for number in range(self._count(rng, self._spec.wbc_per_field_mean)):
            # The type comes before the place, so that large cells that fit badly do not skew the differential.
            cell_type = self._types[int(np.searchsorted(self._type_limits[:-1], rng.random(), side="right"))]
            low_um, high_um = RADIUS_UM[cell_type]
            radius_um = low_um + (high_um - low_um) * float(rng.random() + rng.random()) / 2.0
            ambiguous = rng.random() < self._spec.ambiguous_ratio
            second = _others(cell_type)[int(rng.integers(4))] if ambiguous else None
            for _ in range(_ATTEMPTS):
                x_um, y_um = _somewhere(rng, i, j)
                if occupied.clearance_um(x_um, y_um) >= radius_um + _WHITE_GAP_UM:
                    break
            else:
                continue
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
        white = _Discs(self._around("wbc", i, j))
        red = _Discs(self._around("rbc", i, j, below_colour=_colour(i, j)))
        placed: list[PlacedCell] = []
        for number in range(self._count(rng, spec.rbc_per_field_mean * float(rng.uniform(0.8, 1.2)))):
            radius_um = spec.rbc_diameter_um / 2.0 * float(np.exp(spec.rbc_size_spread_ratio * rng.standard_normal()))
            may_overlap = rng.random() < spec.rbc_overlap_ratio
            depth = float(rng.uniform(0.25, 0.9)) if may_overlap else -0.03
            for _ in range(_ATTEMPTS):
                x_um, y_um = _somewhere(rng, i, j)
                free_um = red.clearance_um(x_um, y_um)
                if free_um >= radius_um * (1.0 - depth) and white.clearance_um(x_um, y_um) >= radius_um * 0.93:
                    red.add(x_um, y_um, radius_um)
                    placed.append(self._place("rbc", i, j, number, x_um=x_um, y_um=y_um, radius_um=radius_um))
                    break
        return tuple(placed)

    def _fill_platelets(self, rng: np.random.Generator, i: int, j: int) -> tuple[PlacedCell, ...]:
        white, red = _Discs(self._around("wbc", i, j)), _Discs(self._around("rbc", i, j))
        placed: list[PlacedCell] = []
        wanted = self._count(rng, self._spec.platelets_per_field_mean)
        while len(placed) < wanted:
            clump = min(int(rng.integers(2, 5)) if rng.random() < 0.1 else 1, wanted - len(placed))
            x_um, y_um = _somewhere(rng, i, j)
            for _ in range(_ATTEMPTS):
                if min(red.clearance_um(x_um, y_um), white.clearance_um(x_um, y_um)) >= 1.3:
                    break
                x_um, y_um = _somewhere(rng, i, j)
            if white.clearance_um(x_um, y_um) < 1.3:
                wanted -= clump
                continue
            for member in range(clump):
                away_um, turn = 2.2 * min(member, 1) * float(rng.uniform(0.9, 1.3)), float(rng.uniform(0.0, math.tau))
                radius_um = float(rng.uniform(1.0, 1.6))
                placed.append(
                    self._place(
                        "platelet", i, j, len(placed), x_um=x_um + away_um * math.cos(turn),
                        y_um=y_um + away_um * math.sin(turn), radius_um=radius_um,
                    )
                )  # fmt: skip
        return tuple(placed)

    def _fill_smudges(self, rng: np.random.Generator, i: int, j: int) -> tuple[PlacedCell, ...]:
        white = _Discs(self._around("wbc", i, j))
        placed: list[PlacedCell] = []
        for number in range(self._count(rng, self._spec.smudges_per_field_mean)):
            x_um, y_um = _somewhere(rng, i, j)
            radius_um = float(rng.uniform(5.0, 8.0))
            if white.clearance_um(x_um, y_um) >= radius_um:
                placed.append(self._place("smudge", i, j, number, x_um=x_um, y_um=y_um, radius_um=radius_um))
        return tuple(placed)


class _Discs:
    """Bodies that are already there, as discs."""

    def __init__(self, cells: list[PlacedCell]) -> None:
        self._discs = [(cell.x_um, cell.y_um, cell.radius_um) for cell in cells]

    def add(self, x_um: float, y_um: float, radius_um: float) -> None:
        self._discs.append((x_um, y_um, radius_um))

    def clearance_um(self, x_um: float, y_um: float) -> float:
        """Distance from a point to the nearest edge; negative inside a disc; large on an empty plane."""
        return min((math.sqrt((x - x_um) ** 2 + (y - y_um) ** 2) - r for x, y, r in self._discs), default=1e9)


def _somewhere(rng: np.random.Generator, i: int, j: int) -> tuple[float, float]:
    return (i + float(rng.random())) * TILE_UM, (j + float(rng.random())) * TILE_UM


def _colour(i: int, j: int) -> int:
    return (i & 1) + 2 * (j & 1)


def _others(cell_type: str) -> list[str]:
    return [t for t in CELL_TYPES if t != cell_type]
