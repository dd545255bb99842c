"""What a bundle is made of: the YAML that `export`, `calibrate` and `pack` share."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from models.bundle.manifest import Role
from training.config import Part
from training.settings import load_settings


class DetectorPart(Part):
    """The detector of a bundle."""

    checkpoint: Path
    int8: bool = True
    flips: tuple[Literal["h", "v", "hv"], ...] = Field((), description="average over these mirror images in the graph")
    keep_float: tuple[str, ...] = Field((), description="parts of node names that stay fp32 in the int8 model")
    rbc_px: tuple[float, float] = Field(
        (36.0, 84.0), description="red-cell diameters at the input at which it was measured to read well"
    )


class EmbedderPart(Part):
    """The embedder of a bundle; several checkpoints are concatenated."""

    checkpoints: tuple[Path, ...] = Field(min_length=1)
    int8: bool = True
    keep_float: tuple[str, ...] = ("normalise",)


class CalibrationPart(Part):
    """How thresholds, head and int8 ranges are found."""

    fields: int = Field(100, ge=4, description="training fields for the int8 ranges")
    cells: int = Field(200, ge=4, description="training cells for the int8 ranges")
    dataset: str | None = Field("det_txl", description="fields for thresholds and int8 ranges; null: generated ones")
    generated_fields: int = Field(150, ge=0, description="generated fields whose white cells the head learns from")
    generated_first_seed: int = Field(100_000, ge=0)
    held_out_fields: int = Field(120, ge=0, description="generated fields for thresholds and the held-out cells")
    held_out_first_seed: int = Field(910_000, ge=0)
    ridge: float = Field(0.02, gt=0)
    coverage: float = Field(0.95, gt=0.5, lt=1)
    domain_quantile: float = Field(0.975, gt=0.5, lt=1)
    allowed_error: float = Field(0.01, gt=0, lt=0.5)


class BundleRecipe(Part):
    """A bundle's parts and its name."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    role: Role
    created: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    title: str
    detector: DetectorPart
    embedder: EmbedderPart
    calibration: CalibrationPart = CalibrationPart()
    golden_seeds: tuple[int, ...] = Field(min_length=1)
    other_laboratory: str | None = Field(None, description="folder below AHS_DATA_DIR with typed fields, measured only")
    evaluation_seed: int = Field(920_000, ge=0)
    evaluation_fields: int = Field(60, ge=1)
    frozen_seed: int = Field(940_000, ge=0, description="generated fields of the frozen set; used for nothing else")
    frozen_fields: int = Field(60, ge=1)
    cells: str | None = Field("wbc_pbc", description="typed single cells of the base set; null: generated ones only")
    outsiders: str | None = Field("wbc_ood_dev", description="cells that are none of the types; null: none")


def load_recipe(path: Path) -> BundleRecipe:
    """Read and check a bundle recipe.

    Raises:
        ConfigError: absent, no YAML, an unknown key or a value out of bounds.
    """
    return load_settings(path, BundleRecipe)
