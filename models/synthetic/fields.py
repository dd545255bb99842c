"""Single fields of many slides, stains and microscopes: training data and golden inputs."""

from __future__ import annotations

import math

import numpy as np

from models.synthetic.optics import Optics
from models.synthetic.palette import STAIN_NAMES
from models.synthetic.placement import stable_generator
from models.synthetic.slide import FieldTruth, VirtualSlide
from models.synthetic.spec import CELL_TYPES, SlideSpec

UM_PER_PX_RANGE = (0.055, 0.125)
"""Scales that `generate_field` draws: red cells of 136 down to 60 pixels."""


def generate_field(
    seed: int,
    *,
    width_px: int = 640,
    height_px: int = 480,
    um_per_px: float | None = None,
    spec: SlideSpec | None = None,
    optics: Optics | None = None,
) -> FieldTruth:
    """One field of a slide that the seed decides: stain, density, size, light and sensor all vary.

    White-cell types are about equally frequent, unlike in blood, so that each is seen often.

    Args:
        seed: decides everything that is not given.
        width_px, height_px: size of the image.
        um_per_px: scale; None draws one.
        spec: slide; None draws one.
        optics: light and sensor; None draws them.
    """
    rng = stable_generator("field", seed)
    spec_drawn, optics_drawn = _random_spec(rng), _random_optics(rng)
    low, high = (math.log(v) for v in UM_PER_PX_RANGE)
    scale_drawn = math.exp(float(rng.uniform(low, high)))
    x_um, y_um = (float(v) for v in rng.uniform(-5e4, 5e4, 2))
    scale = um_per_px or scale_drawn
    view = VirtualSlide(spec or spec_drawn).render(
        x_um=x_um, y_um=y_um, width_px=width_px, height_px=height_px, um_per_px=scale
    )
    image = (optics or optics_drawn).apply(view.image, rng, um_per_px=scale)
    return FieldTruth(image, view.cells, scale)


def _random_spec(rng: np.random.Generator) -> SlideSpec:
    tint = np.clip(rng.normal(1.0, 0.08, 3), 0.7, 1.3)
    stain = STAIN_NAMES[int(rng.integers(len(STAIN_NAMES)))]
    background = None
    if rng.random() < 0.4:
        light, colour = float(rng.uniform(0.6, 0.98)), rng.uniform(0.84, 1.0, 3)
        r, g, b = (float(v) for v in light * colour / colour.max())
        background = (r, g, b)
    return SlideSpec(
        seed=int(rng.integers(2**62)),
        stain=stain,
        stain_intensity_ratio=float(np.clip(rng.normal(1.0, 0.15), 0.6, 1.5)),
        stain_tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        background=background,
        differential=dict.fromkeys(CELL_TYPES, 1.0 / len(CELL_TYPES)),
        rbc_per_field_mean=float(rng.uniform(11.0, 30.0)),
        wbc_per_field_mean=float(rng.uniform(0.9, 2.2)),
        platelets_per_field_mean=float(rng.uniform(0.5, 4.0)),
        rbc_diameter_um=float(rng.uniform(6.9, 8.1)),
        rbc_size_spread_ratio=float(rng.uniform(0.04, 0.12)),
        rbc_shape_spread_ratio=float(rng.uniform(0.03, 0.14)),
        rbc_overlap_ratio=float(rng.uniform(0.05, 0.4)),
        pallor_ratio=float(rng.uniform(0.2, 0.85)),
    )


def _random_optics(rng: np.random.Generator) -> Optics:
    cast = np.clip(rng.normal(1.0, 0.035, 3), 0.88, 1.12)
    return Optics(
        defocus_um=float(abs(rng.normal(0.0, 0.7))),
        gain=float(rng.uniform(0.85, 1.06)),
        vignetting_ratio=float(rng.uniform(0.0, 0.25)),
        slope_ratio=float(rng.uniform(0.0, 0.12)),
        slope_rad=float(rng.uniform(0.0, math.tau)),
        cast=(float(cast[0]), float(cast[1]), float(cast[2])),
        haze_ratio=float(rng.uniform(0.0, 0.15)),
        noise_sigma=float(rng.uniform(0.5, 4.0)),
    )
