"""Stains: what share of the light each part of a cell lets through, per colour channel."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
"""R, G, B transmission, 0..1 of the empty background (absolute light for `background`)."""
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of one stain. All but `background` are relative to the background.

    Attributes:
        background: light of an empty place, 0..1 of full scale.
        red: rim of a red cell of ordinary thickness.
        chromatin_dark, chromatin_light: dense and loose parts of a nucleus.
        neutrophil_cytoplasm ... basophil_cytoplasm: body of each white-cell type.
        neutrophil_granule, eosinophil_granule, basophil_granule: granules of the three granulocytes.
        platelet_rim, platelet_granule: pale outer part and granular middle of a platelet.
    """

    background: Colour
    red: Colour
    chromatin_dark: Colour
    chromatin_light: Colour
    neutrophil_cytoplasm: Colour
    lymphocyte_cytoplasm: Colour
    monocyte_cytoplasm: Colour
    eosinophil_cytoplasm: Colour
    basophil_cytoplasm: Colour
    neutrophil_granule: Colour
    eosinophil_granule: Colour
    basophil_granule: Colour
    platelet_rim: Colour
    platelet_granule: Colour

    def adjusted(self, *, intensity_ratio: float, tint: Colour, background: Colour | None) -> Palette:
        """The same stain, paler or stronger (optical density times `intensity_ratio` and `tint` per channel)."""
        changed = {
            part.name: _denser(getattr(self, part.name), intensity_ratio, tint)
            for part in fields(self)
            if part.name != "background"
        }
        return replace(self, background=background or self.background, **changed)


def _denser(colour: Colour, intensity_ratio: float, tint: Colour) -> Colour:
    r, g, b = (float(c ** (intensity_ratio * t)) for c, t in zip(colour, tint, strict=True))
    return r, g, b


STAINS: Final[dict[str, Palette]] = {
    "may_gruenwald_giemsa": Palette(
        background=(0.992, 0.895, 0.790),
        red=(0.790, 0.715, 0.815),
        chromatin_dark=(0.205, 0.060, 0.600),
        chromatin_light=(0.400, 0.220, 0.740),
        neutrophil_cytoplasm=(0.860, 0.815, 0.925),
        lymphocyte_cytoplasm=(0.480, 0.560, 0.880),
        monocyte_cytoplasm=(0.620, 0.610, 0.860),
        eosinophil_cytoplasm=(0.830, 0.640, 0.740),
        basophil_cytoplasm=(0.620, 0.420, 0.760),
        neutrophil_granule=(0.660, 0.480, 0.740),
        eosinophil_granule=(0.740, 0.470, 0.500),
        basophil_granule=(0.190, 0.050, 0.480),
        platelet_rim=(0.780, 0.680, 0.900),
        platelet_granule=(0.360, 0.160, 0.660),
    ),
    "wright": Palette(
        background=(0.800, 0.805, 0.780),
        red=(0.850, 0.725, 0.790),
        chromatin_dark=(0.520, 0.310, 0.960),
        chromatin_light=(0.690, 0.510, 0.990),
        neutrophil_cytoplasm=(0.930, 0.785, 0.960),
        lymphocyte_cytoplasm=(0.700, 0.680, 0.980),
        monocyte_cytoplasm=(0.780, 0.710, 0.950),
        eosinophil_cytoplasm=(0.920, 0.690, 0.830),
        basophil_cytoplasm=(0.770, 0.560, 0.900),
        neutrophil_granule=(0.830, 0.590, 0.850),
        eosinophil_granule=(0.880, 0.560, 0.670),
        basophil_granule=(0.430, 0.210, 0.780),
        platelet_rim=(0.850, 0.760, 0.970),
        platelet_granule=(0.590, 0.430, 0.950),
    ),
    "leishman": Palette(
        background=(0.850, 0.700, 0.640),
        red=(0.690, 0.575, 0.735),
        chromatin_dark=(0.350, 0.060, 0.520),
        chromatin_light=(0.560, 0.220, 0.700),
        neutrophil_cytoplasm=(0.880, 0.740, 0.850),
        lymphocyte_cytoplasm=(0.600, 0.500, 0.800),
        monocyte_cytoplasm=(0.680, 0.590, 0.810),
        eosinophil_cytoplasm=(0.840, 0.580, 0.670),
        basophil_cytoplasm=(0.640, 0.360, 0.650),
        neutrophil_granule=(0.710, 0.450, 0.680),
        eosinophil_granule=(0.780, 0.440, 0.470),
        basophil_granule=(0.260, 0.040, 0.390),
        platelet_rim=(0.790, 0.620, 0.830),
        platelet_granule=(0.480, 0.190, 0.600),
    ),
}
"""Stains by name. Colours were set beside photographs of such smears: they imitate, they do not measure."""
STAIN_NAMES: Final[tuple[str, ...]] = tuple(STAINS)
