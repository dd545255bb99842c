"""What a device's good fields say about the limits of the quality gate. Pure.

A limit is put as far beyond the 5th (or 95th) percentile of the fields as that lies from their median: of fields that
spread like a bell curve about one in two thousand is outside. It is never put where the device's own limits of sense
forbid it (a focus that no sharp picture has is not learnt), nor nearer than patients differ or a steady lamp may move,
and is rounded away from the fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_agent.capture.gate import AnalysisSummary, FieldMeasurements
from edge_agent.capture.settings import QualitySettings

LEAST_FIELDS = 10
LEAST_FOCUS = 0.12
"""Of the median, and of the limit. Fields 3 um out of focus have at most 0.11."""
MOST_WITHHELD_RATIO = 0.1
"""A limit that would withhold more of the fields it was learnt from stands where the bounds of sense put it."""
SAME_MAGNIFICATION_RATIO = 1.5
LOW, MIDDLE, HIGH = 0.05, 0.5, 0.95


class CannotCalibrate(ValueError):
    """The fields do not do for learning limits; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class GoodField:
    """A field that a person calls good.

    Attributes:
        picture: what was measured of it.
        cells: what the model found.
        um_per_px: scale, where known.
    """

    picture: FieldMeasurements
    cells: AnalysisSummary
    um_per_px: float | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """One limit.

    Attributes:
        key: of `QualitySettings`.
        before, after: the limit in force and the proposed one.
        low, middle, high: 5th, 50th and 95th percentile of the fields.
        withheld_before, withheld_after: share of these fields that each would withhold.
    """

    key: str
    before: float
    after: float
    low: float
    middle: float
    high: float
    withheld_before: float
    withheld_after: float


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a limit follows from a measurement.

    Attributes:
        key: of `QualitySettings`.
        is_floor: whether it is the smallest allowed value, or the largest.
        digits: it is rounded to so many, away from the fields.
        smallest, largest: bounds of sense.
        apart_ratio: so much of the median it stands away from it at least.
    """

    key: str
    is_floor: bool
    digits: int
    smallest: float
    largest: float
    apart_ratio: float = 0.0


_PATIENTS_DIFFER_RATIO = 0.3
"""The fields are of a few patients: red cells of others are smaller or larger by up to a third, and are no fault."""

_PICTURE = (
    ("focus", _Rule("focus_min", True, 3, LEAST_FOCUS, 1.0, 0.1)),
    ("brightness_level", _Rule("brightness_min_level", True, 0, 20.0, 255.0, 0.05)),
    ("brightness_level", _Rule("brightness_max_level", False, 0, 0.0, 253.0, 0.05)),
    ("saturated_ratio", _Rule("saturated_max_ratio", False, 3, 0.02, 0.9, 0.2)),
    ("cast_level", _Rule("cast_max_level", False, 0, 10.0, 200.0, 0.2)),
)
_DENSITY = _Rule("density_max_ratio", False, 2, 1.0, 2.0)
_SIZE_PX = (
    _Rule("red_cell_min_px", True, 1, 5.0, 2000.0, _PATIENTS_DIFFER_RATIO),
    _Rule("red_cell_max_px", False, 1, 5.0, 2000.0, _PATIENTS_DIFFER_RATIO),
)
_SIZE_UM = (
    _Rule("red_cell_min_um", True, 2, 3.0, 20.0, _PATIENTS_DIFFER_RATIO),
    _Rule("red_cell_max_um", False, 2, 3.0, 20.0, _PATIENTS_DIFFER_RATIO),
)


def propose(fields: Sequence[GoodField], limits: QualitySettings) -> list[Proposal]:
    """A limit for everything that was measured, in the order of the settings.

    Args:
        fields: good ones, of one microscope at one magnification.
        limits: in force.

    Raises:
        CannotCalibrate: too few, out of focus, of several magnifications or a wrong scale, or such that a limit would
            withhold them.
    """
    if len(fields) < LEAST_FIELDS:
        raise CannotCalibrate(f"{len(fields)} good fields are too few: at least {LEAST_FIELDS} are needed")
    focus = float(np.median([field.picture.focus for field in fields]))
    if focus < LEAST_FOCUS:
        raise CannotCalibrate(
            f"the fields are out of focus (median sharpness {focus:.3f}, nothing sharp has less than {LEAST_FOCUS}): "
            "focus the microscope and calibrate again"
        )
    sizes, rules = _red_cells(fields)
    found = [_proposal(rule, _of_pictures(fields, name), limits) for name, rule in _PICTURE]
    densities = [density for field in fields if (density := field.cells.density_ratio) is not None]
    if len(densities) >= LEAST_FIELDS:
        found.append(_proposal(_DENSITY, densities, limits))
    if len(sizes) >= LEAST_FIELDS:
        found += [_proposal(rule, sizes, limits) for rule in rules]
    for proposal in found:
        if proposal.withheld_after > MOST_WITHHELD_RATIO:
            raise CannotCalibrate(
                f"{proposal.key} can be {proposal.after:g} at the outside, which would withhold "
                f"{proposal.withheld_after:.0%} of these fields: put focus and light right and calibrate again"
            )
    return found


def limits_of(proposals: Sequence[Proposal]) -> dict[str, float]:
    """What is kept: key of `QualitySettings` -> limit."""
    return {proposal.key: proposal.after for proposal in proposals}


def calibrated(written: QualitySettings, learnt: Mapping[str, float]) -> QualitySettings:
    """Learnt limits in the place of defaults; what somebody wrote down stays.

    Args:
        written: as loaded; what was set explicitly is known to it.
        learnt: of the calibration in force; a key that this program does not know any more is passed over.

    Raises:
        ValidationError: the two together leave nothing between a smallest and a largest value.
    """
    known = {key: value for key, value in learnt.items() if key in QualitySettings.model_fields}
    given = {key: getattr(written, key) for key in written.model_fields_set}
    return QualitySettings.model_validate({**known, **given})


def _of_pictures(fields: Sequence[GoodField], name: str) -> list[float]:
    return [float(getattr(field.picture, name)) for field in fields]


def _red_cells(fields: Sequence[GoodField]) -> tuple[list[float], tuple[_Rule, _Rule]]:
    """Diameters in micrometres where the scale is known, else in pixels.

    Raises:
        CannotCalibrate: of several magnifications or scales, or of a scale at which they are no red cells.
    """
    scales = {field.um_per_px for field in fields}
    if len(scales) > 1:
        raise CannotCalibrate("the fields have several scales: calibrate with those of one magnification")
    sizes = [field.cells.rbc_diameter_px for field in fields if field.cells.rbc_diameter_px is not None]
    if len(sizes) >= LEAST_FIELDS:
        small, large = (float(v) for v in np.quantile(sizes, [0.1, 0.9]))
        if large > small * SAME_MAGNIFICATION_RATIO:
            raise CannotCalibrate(
                f"the red cells are {small:.0f} to {large:.0f} pixels wide: the fields are of several magnifications; "
                "calibrate with those of one"
            )
    scale = scales.pop()
    if scale is None:
        return sizes, _SIZE_PX
    sizes_um = [size * scale for size in sizes]
    if len(sizes_um) >= LEAST_FIELDS:
        _expect_red_cells(float(np.median(sizes_um)), scale)
    return sizes_um, _SIZE_UM


def _expect_red_cells(median_um: float, um_per_px: float) -> None:
    sense = QualitySettings()
    if not sense.red_cell_min_um <= median_um <= sense.red_cell_max_um:
        raise CannotCalibrate(
            f"with um_per_px {um_per_px:g} the red cells are {median_um:.1f} um wide, and those of people are "
            f"{sense.red_cell_min_um:g} to {sense.red_cell_max_um:g}: um_per_px is wrong; put it right"
        )


def _outwards(limit: float, rule: _Rule) -> float:
    scale = 10.0**rule.digits
    steps = math.floor(limit * scale) if rule.is_floor else math.ceil(limit * scale)
    return round(steps / scale, rule.digits)


def _proposal(rule: _Rule, values: Sequence[float], limits: QualitySettings) -> Proposal:
    low, middle, high = (float(v) for v in np.quantile(values, [LOW, MIDDLE, HIGH]))
    apart = rule.apart_ratio * middle
    floor, ceiling = min(low - (middle - low), middle - apart), max(high + (high - middle), middle + apart)
    beyond = floor if rule.is_floor else ceiling
    after = min(max(_outwards(beyond, rule), rule.smallest), rule.largest)
    before = float(getattr(limits, rule.key))

    def withheld(limit: float) -> float:
        outside = [value < limit if rule.is_floor else value > limit for value in values]
        return sum(outside) / len(values)

    return Proposal(rule.key, before, after, low, middle, high, withheld(before), withheld(after))
