"""The quality gate: whether a field may be counted. Pure rules over measured numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from edge_agent.capture.settings import QualitySettings
from models.bundle.manifest import CellClass
from models.runtime.results import FieldAnalysis


class GateReason(StrEnum):
    """Why a field is not fit to be counted; stored and sent, so never renamed."""

    OUT_OF_FOCUS = "out_of_focus"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    COLOUR_CAST = "colour_cast"
    TOO_FEW_CELLS = "too_few_cells"
    TOO_DENSE = "too_dense"
    RED_CELL_SIZE = "red_cell_size"


PICTURE_REASONS = frozenset(
    {GateReason.OUT_OF_FOCUS, GateReason.TOO_DARK, GateReason.TOO_BRIGHT, GateReason.COLOUR_CAST}
)
"""What a turn of the focus or the lamp puts right; the others are of the specimen."""


@dataclass(frozen=True, slots=True)
class FieldMeasurements:
    """What a picture says of itself before any model has seen it; `measure.measure` fills it.

    Attributes:
        width_px, height_px: size of the picture.
        focus: sharpness, larger is sharper; free of units, independent of brightness and contrast.
        brightness_level: median grey level, 0..255.
        background_level: 90th percentile of grey (the empty background of a smear), 0..255.
        saturated_ratio: share of pixels whose darkest channel is at 250 or above.
        cast_level: tint of the background: spread of its three channel levels, 0..255.
    """

    width_px: int
    height_px: int
    focus: float
    brightness_level: float
    background_level: float
    saturated_ratio: float
    cast_level: float


@dataclass(frozen=True, slots=True)
class AnalysisSummary:
    """What the gate needs of an analysis.

    Attributes:
        red_cells, white_cells, platelets: counted.
        rbc_diameter_px: median diameter of the red cells, pixels of the frame; None with too few of them.
        area_px: of the frame.
    """

    red_cells: int
    white_cells: int
    platelets: int
    rbc_diameter_px: float | None
    area_px: int

    @classmethod
    def of(cls, analysis: FieldAnalysis) -> Self:
        """Summarise an analysis."""
        return cls(
            red_cells=len(analysis.counted(CellClass.RBC)),
            white_cells=len(analysis.counted(CellClass.WBC)),
            platelets=len(analysis.counted(CellClass.PLATELETS)),
            rbc_diameter_px=analysis.rbc_diameter_px,
            area_px=analysis.width_px * analysis.height_px,
        )

    @property
    def cells(self) -> int:
        """All counted cells."""
        return self.red_cells + self.white_cells + self.platelets

    @property
    def density_ratio(self) -> float | None:
        """Share of the field that red and white cells would cover, each a disc as wide as the median red cell.

        It does not depend on the camera's pixels: a larger field at the same magnification shows more cells and is no
        denser. None where the size of a red cell is not known.
        """
        if self.rbc_diameter_px is None:
            return None
        disc_px = math.pi / 4.0 * self.rbc_diameter_px**2
        return (self.red_cells + self.white_cells) * disc_px / self.area_px


class QualityGate:
    """Judges a field by its measurements and, once there is one, by its analysis."""

    def __init__(self, settings: QualitySettings | None = None) -> None:
        """Args:
        settings: limits; the stated defaults if not given.
        """
        self._limits = settings or QualitySettings()

    def judge(
        self,
        measurements: FieldMeasurements,
        analysis: AnalysisSummary | None = None,
        *,
        um_per_px: float | None = None,
    ) -> list[GateReason]:
        """Every reason to withhold the field, in a fixed order; empty if it is fit.

        Args:
            measurements: of the picture.
            analysis: of the model; the rules on cells are left out without it.
            um_per_px: size of a pixel in the specimen; red cells are judged in micrometres where it is known.
        """
        reasons = self._of_picture(measurements)
        if analysis is not None:
            reasons += self._of_cells(analysis, um_per_px)
        return reasons

    def _of_picture(self, m: FieldMeasurements) -> list[GateReason]:
        limits = self._limits
        rules = (
            (m.focus < limits.focus_min, GateReason.OUT_OF_FOCUS),
            (m.brightness_level < limits.brightness_min_level, GateReason.TOO_DARK),
            (
                m.brightness_level > limits.brightness_max_level or m.saturated_ratio > limits.saturated_max_ratio,
                GateReason.TOO_BRIGHT,
            ),
            (m.cast_level > limits.cast_max_level, GateReason.COLOUR_CAST),
        )
        return [reason for broken, reason in rules if broken]

    def _of_cells(self, a: AnalysisSummary, um_per_px: float | None) -> list[GateReason]:
        limits = self._limits
        reasons = []
        if a.cells < limits.cells_min:
            reasons.append(GateReason.TOO_FEW_CELLS)
        density = a.density_ratio
        if density is not None and density > limits.density_max_ratio:
            reasons.append(GateReason.TOO_DENSE)
        if a.rbc_diameter_px is not None:
            size, low, high = a.rbc_diameter_px, limits.red_cell_min_px, limits.red_cell_max_px
            if um_per_px is not None:
                size, low, high = size * um_per_px, limits.red_cell_min_um, limits.red_cell_max_um
            if not low <= size <= high:
                reasons.append(GateReason.RED_CELL_SIZE)
        return reasons
