"""White cells: body, nucleus, granules and vacuoles of the five types, and cells between two types."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.synthetic.nucleus import draw_nucleus
from models.synthetic.palette import Palette
from models.synthetic.placement import PlacedCell
from models.synthetic.shapes import FloatArray, Patch, blob, bounded, patch_around
from models.synthetic.sprite import Sprite, dyed, filled, make_sprite, mixed


@dataclass(frozen=True, slots=True)
class Look:
    """How a type looks apart from the shape of its nucleus; two looks can be blended.

    Attributes:
        edge: height of the waves of the outline, as a share of the radius.
        chromatin_contrast: clumping of the nucleus.
        chromatin_looseness: 0 dense and dark .. 1 loose and light.
        grain_um: size of the chromatin's clumps.
        mottle: unevenness of the cytoplasm.
        specks: strength of fine granules (neutrophil).
        granules: share of the body that large granules fill; 0 for none.
        granule_radius_um: radius of a large granule.
        over_nucleus: share of the large granules over the nucleus that are drawn.
        vacuoles: mean number of clear holes.
    """

    edge: float
    chromatin_contrast: float
    chromatin_looseness: float
    grain_um: float
    mottle: float
    specks: float
    granules: float
    granule_radius_um: float
    over_nucleus: float
    vacuoles: float


LOOKS: Final[dict[str, Look]] = {
    "neutrophil": Look(0.035, 0.30, 0.22, 0.55, 0.05, 0.55, 0.0, 0.30, 0.0, 0.3),
    "lymphocyte": Look(0.035, 0.16, 0.16, 0.70, 0.10, 0.0, 0.0, 0.30, 0.0, 0.1),
    "monocyte": Look(0.060, 0.32, 0.42, 0.60, 0.14, 0.12, 0.0, 0.30, 0.0, 4.0),
    "eosinophil": Look(0.035, 0.24, 0.26, 0.60, 0.06, 0.0, 1.05, 0.42, 0.05, 0.2),
    "basophil": Look(0.045, 0.16, 0.45, 0.60, 0.10, 0.0, 0.95, 0.46, 0.8, 0.2),
}


def blended(first: Look, second: Look, share: float) -> Look:
    """A look between two; `share` 0 is the first."""
    return Look(
        *(
            getattr(first, name) * (1.0 - share) + getattr(second, name) * share
            for name in Look.__dataclass_fields__
        )
    )  # fmt: skip


def draw_white(cell: PlacedCell, *, palette: Palette, um_per_px: float) -> Sprite:
    """Draw a white cell of the type that it was placed with."""
    rng = cell.generator()
    own = cell.cell_type or "neutrophil"
    other, share = cell.second_type or own, float(rng.uniform(0.35, 0.55))
    share = share if cell.second_type else 0.0
    look = blended(LOOKS[own], LOOKS[other], share)
    waves = np.clip(rng.standard_normal(5), -1.8, 1.8) * look.edge
    bumps = tuple(float(b) for b in waves * (1.0, 0.8, 0.6, 0.4, 0.3))
    reach_um = cell.radius_um * (1.0 + sum(abs(b) for b in bumps)) + 0.3
    patch = patch_around(x_um=cell.x_um, y_um=cell.y_um, reach_um=reach_um, um_per_px=um_per_px)
    distance, rho = blob(patch.x_um, patch.y_um, rng, radius_um=cell.radius_um, bumps=bumps)
    cover = patch.cover(distance, softness_um=0.2)
    shape = other if cell.second_type and rng.random() < 0.5 else own
    colour = _cytoplasm(
        patch, rng, rho, look=look, palette=palette, types=(own, other), share=share, radius_um=cell.radius_um
    )
    nucleus, tone = draw_nucleus(patch, rng, shape, radius_um=cell.radius_um, look=look)
    chromatin = mixed(filled(tone, palette.chromatin_dark), palette.chromatin_light, tone)
    colour = mixed(colour, chromatin, nucleus)
    colour = _granules(patch, rng, colour, nucleus, look=look, palette=palette, cell=cell, share=share)
    return make_sprite(patch, colour=colour, alpha=cover, cover=cover)


def _cytoplasm(
    patch: Patch, rng: np.random.Generator, rho: FloatArray, *, look: Look, palette: Palette,
    types: tuple[str, str], share: float, radius_um: float,
) -> FloatArray:  # fmt: skip
    first = np.asarray(getattr(palette, f"{types[0]}_cytoplasm"), np.float32)
    second = np.asarray(getattr(palette, f"{types[1]}_cytoplasm"), np.float32)
    base = first * np.float32(1.0 - share) + second * np.float32(share)
    mottle = np.float32(look.mottle) * patch.noise(rng, grain_um=0.9)
    density = np.float32(1.0) + mottle + np.float32(0.25) * bounded((rho - np.float32(0.75)) * np.float32(4.0))
    colour = dyed(density, (float(base[0]), float(base[1]), float(base[2])))
    fine = _anywhere(rng, round(2.6 * radius_um * radius_um * math.pi * look.specks), radius_um=radius_um * 0.96)
    specks = patch.dots(fine, rng.uniform(0.06, 0.17, len(fine))) * np.float32(0.6)
    colour = mixed(colour, palette.neutrophil_granule, specks)
    count = int(rng.poisson(look.vacuoles))
    turn, out = rng.uniform(0.0, math.tau, count), rng.uniform(0.5, 0.9, count) * radius_um
    places = np.stack([np.cos(turn) * out, np.sin(turn) * out], axis=1)
    holes = patch.dots(places, rng.uniform(0.25, 0.65, count))
    return mixed(colour, (0.93, 0.92, 0.97), holes * np.float32(0.8))


def _anywhere(rng: np.random.Generator, count: int, *, radius_um: float) -> NDArray[np.float64]:
    """(count, 2) places spread evenly over a disc round the centre, µm."""
    turn, out = rng.uniform(0.0, math.tau, count), np.sqrt(rng.random(count)) * radius_um
    return np.stack([np.cos(turn) * out, np.sin(turn) * out], axis=1)


def _granules(
    patch: Patch, rng: np.random.Generator, colour: FloatArray, nucleus: FloatArray, *, look: Look, palette: Palette,
    cell: PlacedCell, share: float,
) -> FloatArray:  # fmt: skip
    """Large granules: spread evenly but not on a grid, lighter in the middle, some of them over the nucleus."""
    if look.granules <= 0.05:
        return colour
    radius_um = look.granule_radius_um
    pitch_um = radius_um * 1.75
    steps = np.arange(-cell.radius_um * 1.05, cell.radius_um * 1.05, pitch_um)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    places = grid + rng.uniform(-0.45, 0.45, grid.shape) * pitch_um
    kept = (np.hypot(places[:, 0], places[:, 1]) < cell.radius_um * 0.97) & (
        rng.random(len(places)) < look.granules * 0.92
    )
    radii = radius_um * rng.uniform(0.75, 1.2, len(places))
    strong = "basophil" if cell.cell_type == "basophil" or cell.second_type == "basophil" else "eosinophil"
    paint = getattr(palette, f"{strong}_granule")
    discs = patch.dots(places[kept], radii[kept])
    shine = patch.dots(places[kept] - 0.25 * radius_um, radii[kept] * 0.45)
    seen = (np.float32(1.0) - nucleus * np.float32(1.0 - look.over_nucleus)) * np.float32(1.0 - 0.4 * share)
    light = 0.16 if strong == "basophil" else 0.4
    pale = np.asarray(paint, np.float32) + (1.0 - np.asarray(paint, np.float32)) * np.float32(light)
    colour = mixed(colour, paint, discs * seen * np.float32(0.9))
    return mixed(colour, pale, shine * seen * np.float32(0.55))
