"""What a bundle says of itself: the manifest, the one document that is hashed and later signed.

A bundle is `detector.onnx` + `embedder.onnx` + `head.npz` + `golden/` + `card.md`, and `manifest.json` that names
each file with its size and SHA-256. The bundle's digest is the SHA-256 of the manifest's bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MANIFEST_NAME = "manifest.json"
DETECTOR_NAME = "detector.onnx"
EMBEDDER_NAME = "embedder.onnx"
HEAD_NAME = "head.npz"
CARD_NAME = "card.md"
GOLDEN_NAME = "golden/expected.json"

SCHEMA: Literal["ahs.bundle/1"] = "ahs.bundle/1"

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]


class CellClass(StrEnum):
    """What the detector finds; the order is the order of the detector's output channels."""

    RBC = "RBC"
    WBC = "WBC"
    PLATELETS = "Platelets"


class WhiteCellType(StrEnum):
    """The five types of the differential; the order is the order of the head's rows."""

    NEUTROPHIL = "neutrophil"
    LYMPHOCYTE = "lymphocyte"
    MONOCYTE = "monocyte"
    EOSINOPHIL = "eosinophil"
    BASOPHIL = "basophil"


UNIDENTIFIED = "unidentified"
"""The label of a white cell that the model would not commit itself on."""


class Role(StrEnum):
    """Where a bundle is meant to run."""

    EDGE = "edge"
    SECOND_OPINION = "second-opinion"


class Strict(BaseModel):
    """Frozen and closed: a key nobody knows is a mistake, not a feature."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Strict):
    """One file of the bundle."""

    path: str = Field(description="relative POSIX path below the bundle's root", pattern=r"^[A-Za-z0-9._/-]+$")
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class DetectorSpec(Strict):
    """Input and output of `detector.onnx`.

    Input: (1, 3, S, S) float32 RGB in 0..1, letterboxed, padded with `pad_value`. Outputs: for each stride one map
    (1, 4 * reg_bins + classes, S / stride, S / stride) float32 of raw logits: first the four sides' distributions
    (left, top, right, bottom; distances in units of the stride), then the class logits.
    """

    input_px: int = Field(ge=64, le=2048, description="side of the square input in pixels")
    strides: tuple[int, ...] = (8, 16)
    reg_bins: int = Field(16, ge=2, le=64)
    classes: tuple[CellClass, ...] = tuple(CellClass)
    pad_value: int = Field(114, ge=0, le=255)
    nms_iou: Ratio = 0.6
    max_candidates: int = Field(1500, ge=10, description="candidates kept before non-maximum suppression")
    floor_score: Ratio = Field(0.05, description="weaker boxes are never produced")
    thresholds: dict[CellClass, Ratio] = Field(description="a detection at or above its class's threshold counts")
    rbc_px: tuple[float, float] = Field(
        (24.0, 110.0), description="red-cell diameters at the detector's input that it was trained for, in pixels"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.strides or any(s < 1 or self.input_px % s for s in self.strides):
            raise ValueError("each stride must divide input_px")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must be named once each")
        if set(self.thresholds) != set(self.classes):
            raise ValueError("thresholds must name each class once")
        if not 0 < self.floor_score < 1 or any(t < self.floor_score for t in self.thresholds.values()):
            raise ValueError("floor_score must lie above 0 and no threshold below it")
        if not 0 < self.rbc_px[0] < self.rbc_px[1]:
            raise ValueError("rbc_px must be a range, smaller first")
        return self


class EmbedderSpec(Strict):
    """Input and output of `embedder.onnx`.

    Input: (N, 3, C, C) float32 RGB in 0..1, N >= 1. Output: (N, dimensions) float32. Normalisation is in the graph.
    The crop's window is `window_rbc` red-cell diameters wide, so that a cell keeps its size; without enough red cells
    in the field it is `window_box` times the longer side of the white cell's box.
    """

    input_px: int = Field(ge=16, le=512)
    dimensions: int = Field(ge=1, le=4096)
    window_rbc: float = Field(gt=0, description="crop window in red-cell diameters")
    window_box: float = Field(gt=0, description="crop window in longer sides of the box, the fall-back")
    min_red_cells: int = Field(3, ge=1, description="red cells needed to trust their median diameter")


class HeadSpec(Strict):
    """How `head.npz` is read.

    Arrays: `weights` (K, D) float32, `bias` (K,) float32, `temperature` () float32, `conformal_quantiles` (K,)
    float32 (largest nonconformity 1 - p that still puts the class into the set), `domain_means` (M, D) float32 with
    M >= 1 (a class that looks different in different places has several means), `domain_precision` (D, D) float32,
    `domain_threshold` () float32 (largest squared Mahalanobis distance to the nearest mean that is still at home).
    """

    classes: tuple[WhiteCellType, ...] = tuple(WhiteCellType)
    accept_probability: Ratio = Field(description="top probability needed to name a type")
    coverage: Ratio = Field(0.95, description="nominal coverage of the prediction sets")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must be named once each")
        return self


class DataSource(Strict):
    """One set that the weights learned from; shown on the card."""

    name: str
    citation: str
    licence: str
    images: int = Field(ge=0)


class Provenance(Strict):
    """Where the weights come from."""

    trained_on: tuple[DataSource, ...]
    recipe: str = Field(description="name of the training configuration")
    seed: int
    metrics: dict[str, float] = Field(default_factory=dict, description="measured through models/runtime")
    base_digest: str | None = Field(None, description="bundle this one was refitted from")


class BundleManifest(Strict):
    """The document that is hashed."""

    schema_: Literal["ahs.bundle/1"] = Field(SCHEMA, alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    role: Role
    created: str = Field(description="date, ISO 8601", pattern=r"^\d{4}-\d{2}-\d{2}$")
    licence: str
    intended_use: Literal["research use only"] = "research use only"
    detector: DetectorSpec
    embedder: EmbedderSpec
    head: HeadSpec
    provenance: Provenance
    files: tuple[FileEntry, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
