"""Nuclei: what tells the white-cell types apart at first sight."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from models.synthetic.shapes import FloatArray, Patch, bar, blob, bounded, carved, disc, ellipse, joined


class ChromatinLook(Protocol):
    """What a nucleus needs of a `Look`."""

    @property
    def chromatin_contrast(self) -> float: ...
    @property
    def chromatin_looseness(self) -> float: ...
    @property
    def grain_um(self) -> float: ...


def draw_nucleus(
    patch: Patch, rng: np.random.Generator, cell_type: str, *, radius_um: float, look: ChromatinLook
) -> tuple[FloatArray, FloatArray]:
    """Nucleus of a type in the middle of a cell of this radius.

    Returns:
        Cover 0..1, and tone 0 (dense chromatin) .. 1 (loose), both (size, size) float32.
    """
    distance = _SHAPES[cell_type](patch, rng, radius_um)
    distance = distance + np.float32(0.12) * patch.noise(rng, grain_um=0.9)
    clumps = patch.noise(rng, grain_um=look.grain_um) * np.float32(look.chromatin_contrast)
    # Chromatin is densest along the membrane.
    membrane = np.exp(-np.square((distance + np.float32(0.2)) * np.float32(1.0 / 0.3))) * np.float32(0.25)
    tone = bounded(np.float32(look.chromatin_looseness) + clumps - membrane)
    return patch.cover(distance, softness_um=0.22), tone


def _lobes(
    patch: Patch, places: list[tuple[float, float]], turns: list[float], radii: list[tuple[float, float]], bridge: float
) -> FloatArray:
    shape = ellipse(patch.x_um, patch.y_um, at=places[0], radii_um=radii[0], turn_rad=turns[0])
    for k in range(1, len(places)):
        lobe = ellipse(patch.x_um, patch.y_um, at=places[k], radii_um=radii[k], turn_rad=turns[k])
        link = bar(patch.x_um, patch.y_um, start=places[k - 1], end=places[k], radius_um=bridge)
        shape = joined(joined(shape, link, blend_um=0.35), lobe, blend_um=0.35)
    return shape


def _segmented(patch: Patch, rng: np.random.Generator, radius_um: float) -> FloatArray:
    """Two to five lobes on a bent string, thin bridges between."""
    count = int(rng.choice(4, p=(0.12, 0.43, 0.33, 0.12))) + 2
    span = {2: 1.9, 3: 3.3, 4: 4.3, 5: 5.0}[count] * float(rng.uniform(0.85, 1.12))
    start, way = float(rng.uniform(0.0, math.tau)), float(rng.uniform(0.42, 0.52)) * radius_um
    lobe = radius_um * {2: 0.36, 3: 0.31, 4: 0.27, 5: 0.24}[count]
    places, turns, radii = [], [], []
    for k in range(count):
        angle = start + span * k / (count - 1) + float(rng.normal(0.0, 0.1))
        out = way * float(rng.uniform(0.82, 1.15))
        places.append((out * math.cos(angle), out * math.sin(angle)))
        turns.append(angle + math.pi / 2 + float(rng.normal(0.0, 0.35)))
        size = lobe * float(rng.uniform(0.88, 1.15))
        radii.append((size * float(rng.uniform(1.1, 1.35)), size * float(rng.uniform(0.8, 0.95))))
    return _lobes(patch, places, turns, radii, float(rng.uniform(0.22, 0.42)))


def _bilobed(patch: Patch, rng: np.random.Generator, radius_um: float) -> FloatArray:
    """Two plump lobes like spectacles, now and then a third."""
    count = 3 if rng.random() < 0.15 else 2
    start, way = float(rng.uniform(0.0, math.tau)), radius_um * float(rng.uniform(0.46, 0.54))
    span = (1.9 if count == 2 else 3.4) * float(rng.uniform(0.9, 1.2))
    size = radius_um * (0.40 if count == 2 else 0.32)
    places, turns, radii = [], [], []
    for k in range(count):
        angle = start + span * k / (count - 1)
        places.append((way * math.cos(angle), way * math.sin(angle)))
        turns.append(angle + math.pi / 2 + float(rng.normal(0.0, 0.3)))
        radii.append((size * float(rng.uniform(1.0, 1.15)), size * float(rng.uniform(0.82, 0.95))))
    return _lobes(patch, places, turns, radii, float(rng.uniform(0.25, 0.5)))


def _round(patch: Patch, rng: np.random.Generator, radius_um: float) -> FloatArray:
    """One dense disc that nearly fills the cell, a little to one side."""
    size = radius_um * float(rng.uniform(0.76, 0.90))
    turn, away = float(rng.uniform(0.0, math.tau)), (radius_um - size) * float(rng.uniform(0.3, 0.85))
    at = (away * math.cos(turn), away * math.sin(turn))
    bumps = tuple(float(b) for b in rng.normal(0.0, 1.0, 3) * (0.05, 0.03, 0.02))
    shape, _ = blob(patch.x_um - np.float32(at[0]), patch.y_um - np.float32(at[1]), rng, radius_um=size, bumps=bumps)
    if rng.random() < 0.25:
        bite = disc(
            patch.x_um, patch.y_um, radius_um=size * 0.3,
            at=(at[0] - size * 1.1 * math.cos(turn), at[1] - size * 1.1 * math.sin(turn)),
        )  # fmt: skip
        shape = carved(shape, bite, blend_um=0.5)
    return shape


def _kidney(patch: Patch, rng: np.random.Generator, radius_um: float) -> FloatArray:
    """A large bean or a horseshoe, sometimes folded."""
    turn = float(rng.uniform(0.0, math.tau))
    cos, sin = math.cos(turn), math.sin(turn)
    back = radius_um * float(rng.uniform(0.05, 0.2))
    at = (-back * cos, -back * sin)
    radii = (radius_um * float(rng.uniform(0.70, 0.80)), radius_um * float(rng.uniform(0.54, 0.66)))
    shape = ellipse(patch.x_um, patch.y_um, at=at, radii_um=radii, turn_rad=turn + math.pi / 2)
    deep = float(rng.uniform(0.45, 0.75)) * radius_um
    notch = bar(
        patch.x_um, patch.y_um, start=(deep * 0.75 * cos, deep * 0.75 * sin),
        end=(radius_um * cos, radius_um * sin), radius_um=radius_um * float(rng.uniform(0.16, 0.30)),
    )  # fmt: skip
    return carved(shape, notch, blend_um=0.8)


def _veiled(patch: Patch, rng: np.random.Generator, radius_um: float) -> FloatArray:
    """Large, blunt and lobed; granules will cover it."""
    turn = float(rng.uniform(0.0, math.tau))
    way = radius_um * 0.32
    places = [(way * math.cos(turn), way * math.sin(turn)), (-way * math.cos(turn), -way * math.sin(turn))]
    size = radius_um * float(rng.uniform(0.44, 0.54))
    return _lobes(patch, places, [turn, turn + 1.0], [(size * 1.1, size), (size, size * 0.9)], size * 0.6)


_SHAPES = {
    "neutrophil": _segmented,
    "lymphocyte": _round,
    "monocyte": _kidney,
    "eosinophil": _bilobed,
    "basophil": _veiled,
}
