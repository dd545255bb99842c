"""What the pipeline says of one field. Plain data, shared by training, edge and cloud."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import CellClass

ImageRGB = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CellType:
    """The embedder's and the head's word on one white cell.

    Attributes:
        label: one of the five types, or `unidentified` when the model would not commit itself.
        probabilities: type -> calibrated probability, sums to 1, in the order of the head.
        prediction_set: types that the class-conditional conformal set holds; may be empty or have several.
        in_domain: whether the cell looks like what the model learned from.
        ood_score: squared Mahalanobis distance to the nearest class mean over the threshold: above 1 is foreign.
        embedding: (D,) float32, kept for refitting the head; None when not asked for.
    """

    label: str
    probabilities: dict[str, float]
    prediction_set: tuple[str, ...]
    in_domain: bool
    ood_score: float
    embedding: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Detection:
    """One cell.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the original frame, inside the frame.
        cls: red cell, white cell or platelet.
        score: 0..1.
        counted: whether the score reaches the bundle's threshold for the class.
        cell_type: for counted white cells, else None.
    """

    box: tuple[float, float, float, float]
    cls: CellClass
    score: float
    counted: bool
    cell_type: CellType | None = None


@dataclass(frozen=True, slots=True)
class FieldAnalysis:
    """Everything the pipeline found in one field.

    Attributes:
        width_px, height_px: size of the original frame.
        detections: strongest first.
        rbc_diameter_px: median longer side of the red cells that lie wholly inside the frame, in pixels of the
            original frame; None with too few of them.
        stage_ms: wall time of each stage (`preprocess`, `detect`, `decode`, `type`), in milliseconds.
        passes: how often the detector ran; 1 unless the scale had to be brought to what it knows.
    """

    width_px: int
    height_px: int
    detections: tuple[Detection, ...]
    rbc_diameter_px: float | None
    stage_ms: dict[str, float] = field(default_factory=dict)
    passes: int = 1

    @property
    def latency_ms(self) -> float:
        """Sum of the stages in milliseconds."""
        return sum(self.stage_ms.values())

    def counted(self, cls: CellClass) -> list[Detection]:
        """Detections of a class that count."""
        return [d for d in self.detections if d.counted and d.cls is cls]
