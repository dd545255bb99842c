"""What a generated slide is: everything that decides its cells, apart from light and sensor."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.synthetic.palette import STAINS, Palette

CELL_TYPES: Final[tuple[str, ...]] = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
REFERENCE_FIELD_UM2: Final = 640 * 480 * 0.083**2
"""Area of the field that `..._per_field_mean` speaks of: 640x480 pixels at 0.083 µm per pixel (53 x 40 µm)."""
USUAL_DIFFERENTIAL: Final[dict[str, float]] = {
    "neutrophil": 0.55,
    "lymphocyte": 0.28,
    "monocyte": 0.09,
    "eosinophil": 0.05,
    "basophil": 0.03,
}

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Transmission = Annotated[float, Field(gt=0.0, le=1.0)]


class SlideSpec(BaseModel):
    """One slide. Two slides with equal specifications hold the same cells in the same places, for ever.

    Counts are means per reference field (`REFERENCE_FIELD_UM2`), whatever the viewport's size. Red cells find no more
    room beyond about 20 a field: 30 asked for give about 24.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=7, ge=0, lt=2**63, description="Decides every cell of the slide")
    stain: str = Field(default="may_gruenwald_giemsa", description="Name of a stain in STAINS")
    stain_intensity_ratio: float = Field(default=1.0, ge=0.3, le=2.0, description="Below 1 pale, above 1 dark")
    stain_tint: tuple[float, float, float] = Field(default=(1.0, 1.0, 1.0), description="Density factor, R G B")
    background: tuple[Transmission, Transmission, Transmission] | None = Field(
        default=None, description="Light of an empty place, R G B, 0..1; None for the stain's own"
    )
    differential: dict[str, Share] = Field(
        default_factory=lambda: dict(USUAL_DIFFERENTIAL), description="Share of each white-cell type; sums to 1"
    )
    rbc_per_field_mean: float = Field(default=21.0, ge=0.0, le=40.0)
    wbc_per_field_mean: float = Field(default=1.5, ge=0.0, le=3.0)
    platelets_per_field_mean: float = Field(default=1.5, ge=0.0, le=20.0)
    rbc_diameter_um: float = Field(default=7.5, ge=5.0, le=10.0, description="Mean diameter of a red cell")
    rbc_size_spread_ratio: float = Field(default=0.06, ge=0.0, le=0.25, description="Anisocytosis")
    rbc_shape_spread_ratio: float = Field(default=0.05, ge=0.0, le=0.25, description="Poikilocytosis")
    rbc_overlap_ratio: Share = Field(default=0.15, description="Share of red cells that may lie over another")
    pallor_ratio: Share = Field(default=0.55, description="How much thinner a red cell is in its middle")
    ambiguous_ratio: Share = Field(default=0.0, description="Share of white cells drawn between two types")
    smudges_per_field_mean: float = Field(default=0.0, ge=0.0, le=3.0, description="Burst cells; no truth box")

    @field_validator("stain")
    @classmethod
    def _known_stain(cls, stain: str) -> str:
        if stain not in STAINS:
            raise ValueError(f"unknown stain {stain!r}: use one of {', '.join(STAINS)}")
        return stain

    @field_validator("stain_tint")
    @classmethod
    def _moderate_tint(cls, tint: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0.3 <= t <= 2.0 for t in tint):
            raise ValueError("stain_tint must lie between 0.3 and 2.0 in each channel")
        return tint

    @model_validator(mode="after")
    def _whole_differential(self) -> Self:
        unknown = sorted(set(self.differential) - set(CELL_TYPES))
        if unknown:
            raise ValueError(f"unknown white-cell types {unknown}: use {', '.join(CELL_TYPES)}")
        total = sum(self.differential.values())
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"differential must sum to 1, not {total:.6f}")
        return self

    def palette(self) -> Palette:
        """Colours of this slide."""
        stain = STAINS[self.stain]
        return stain.adjusted(
            intensity_ratio=self.stain_intensity_ratio, tint=self.stain_tint, background=self.background
        )
