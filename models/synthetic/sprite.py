"""A drawn cell, ready to be laid on a field, and the cells that are simple to draw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from models.synthetic.palette import Colour, Palette
from models.synthetic.placement import PlacedCell
from models.synthetic.shapes import FloatArray, MaskArray, Patch, bar, blob, bounded, joined, patch_around
from models.synthetic.spec import SlideSpec

BODY_COVER = 0.5
"""A pixel belongs to a cell's body from this cover on."""


@dataclass(frozen=True, slots=True, eq=False)
class Sprite:
    """One cell's pixels.

    Attributes:
        left_px, top_px: upper left corner on the slide's pixel grid.
        colour: (3, H, W) float32, transmission relative to the background, RGB; planes, because they compute faster.
        alpha: (H, W) float32 for a cell that hides what lies below; None for one that light passes through.
        body: (H, W) bool, the drawn body.
        box_px: x1, y1, x2, y2 of the body on the slide's pixel grid; None when no pixel belongs to it.
    """

    left_px: int
    top_px: int
    colour: FloatArray
    alpha: FloatArray | None
    body: MaskArray
    box_px: tuple[int, int, int, int] | None


def make_sprite(patch: Patch, *, colour: FloatArray, alpha: FloatArray | None, cover: FloatArray) -> Sprite:
    """Sprite of a patch; the box is the tight one round the body."""
    body = cover >= BODY_COVER
    columns, rows = np.flatnonzero(body.any(axis=0)), np.flatnonzero(body.any(axis=1))
    box: tuple[int, int, int, int] | None = None
    if columns.size:
        box = (
            patch.left_px + int(columns[0]), patch.top_px + int(rows[0]),
            patch.left_px + int(columns[-1]) + 1, patch.top_px + int(rows[-1]) + 1,
        )  # fmt: skip
    return Sprite(patch.left_px, patch.top_px, colour, alpha, body, box)


def dyed(density: FloatArray, colour: Colour) -> FloatArray:
    """(3, H, W) transmission of a dye of this colour at relative density 0 (clear) .. 1 .. more."""
    strength = np.log(np.asarray(colour, np.float32))[:, None, None]
    return np.exp(strength * density)


def filled(cover: FloatArray, colour: Colour) -> FloatArray:
    """(3, H, W) of one colour, of the size of `cover`."""
    return np.repeat(np.asarray(colour, np.float32), cover.size).reshape(3, *cover.shape)


def mixed(base: FloatArray, colour: Colour | FloatArray, share: FloatArray) -> FloatArray:
    """`base` painted over with a colour, by share; (3, H, W)."""
    paint = np.asarray(colour, np.float32)
    if paint.ndim == 1:
        paint = paint[:, None, None]
    return base + (paint - base) * share


def draw_red(cell: PlacedCell, *, spec: SlideSpec, palette: Palette, um_per_px: float) -> Sprite:
    """Biconcave disc: thick rim, pallor in the middle; light passes, so overlaps darken."""
    rng = cell.generator()
    spread = spec.rbc_shape_spread_ratio
    turn, stretch = float(rng.uniform(0.0, math.tau)), math.exp(abs(float(rng.normal(0.0, 1.1 * spread))))
    stretch = min(stretch, 1.35)
    bumps = tuple(float(b) for b in np.clip(rng.normal(0.0, 1.0, 4), -2.0, 2.0) * spread * (0.3, 0.35, 0.2, 0.12))
    reach_um = cell.radius_um * math.sqrt(stretch) * (1.0 + sum(abs(b) for b in bumps)) + 0.6
    patch = patch_around(x_um=cell.x_um, y_um=cell.y_um, reach_um=reach_um, um_per_px=um_per_px)
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    x = (patch.x_um * cos + patch.y_um * sin) * np.float32(1.0 / math.sqrt(stretch))
    y = (patch.y_um * cos - patch.x_um * sin) * np.float32(math.sqrt(stretch))
    distance, rho = blob(x, y, rng, radius_um=cell.radius_um, bumps=bumps)
    cover = patch.cover(distance, softness_um=0.28)
    pallor = float(np.clip(rng.normal(spec.pallor_ratio, 0.14), 0.0, 0.9))
    width = float(rng.uniform(0.42, 0.64))
    dip = np.exp(-np.square(np.square(rho * np.float32(1.0 / width)))) * np.float32(pallor)
    rim = np.exp(-np.square((rho - np.float32(0.9)) * np.float32(1.0 / 0.09))) * np.float32(rng.uniform(0.1, 0.3))
    thickness = np.float32(rng.normal(1.0, 0.08)) * (np.float32(1.0) - dip + rim)
    # Out of the very edge light is bent aside: a faint bright line round the cell, as on a photograph.
    glow = np.exp(-np.square((distance - np.float32(0.3)) * np.float32(1.0 / 0.16))) * np.float32(0.12)
    return make_sprite(patch, colour=dyed(thickness * cover - glow, palette.red), alpha=None, cover=cover)


def draw_platelet(cell: PlacedCell, *, palette: Palette, um_per_px: float) -> Sprite:
    """Small pale body with a purple granular middle."""
    rng = cell.generator()
    patch = patch_around(x_um=cell.x_um, y_um=cell.y_um, reach_um=cell.radius_um * 1.5 + 0.3, um_per_px=um_per_px)
    bumps = tuple(float(b) for b in rng.normal(0.0, 1.0, 5) * (0.1, 0.08, 0.06, 0.05, 0.04))
    distance, rho = blob(patch.x_um, patch.y_um, rng, radius_um=cell.radius_um, bumps=bumps)
    cover = patch.cover(distance, softness_um=0.2)
    grain = patch.noise(rng, grain_um=0.4)
    middle = bounded(np.float32(1.3) - np.float32(1.3) * rho + np.float32(0.3) * grain)
    colour = mixed(filled(cover, palette.platelet_rim), palette.platelet_granule, middle)
    return make_sprite(patch, colour=colour, alpha=cover * np.float32(rng.uniform(0.85, 1.0)), cover=cover)


def draw_smudge(cell: PlacedCell, *, palette: Palette, um_per_px: float) -> Sprite:
    """Burst nucleus: a frayed violet stain without a body. It has no truth box."""
    rng = cell.generator()
    patch = patch_around(x_um=cell.x_um, y_um=cell.y_um, reach_um=MAX_SMUDGE * cell.radius_um, um_per_px=um_per_px)
    distance, rho = blob(patch.x_um, patch.y_um, rng, radius_um=cell.radius_um, bumps=(0.12, 0.1, 0.08))
    turn = float(rng.uniform(0.0, math.tau))
    away = (math.cos(turn) * cell.radius_um * 1.3, math.sin(turn) * cell.radius_um * 1.3)
    tail = bar(patch.x_um, patch.y_um, start=(0.0, 0.0), end=away, radius_um=cell.radius_um * 0.4)
    frayed = joined(distance, tail, blend_um=1.5) + patch.noise(rng, grain_um=1.6)
    grain = np.float32(1.0) + np.float32(0.15) * patch.noise(rng, grain_um=0.5)
    density = bounded(np.float32(0.4) - frayed * np.float32(0.25)) * grain
    clear = np.zeros_like(rho)
    return make_sprite(patch, colour=dyed(density, palette.chromatin_light), alpha=None, cover=clear)


MAX_SMUDGE = 1.8
"""How far a smudge reaches, as a multiple of its radius."""
