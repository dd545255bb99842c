"""Cells as they travel: what a field's result, a second opinion and the file mode all say of a cell."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fleet.contract.base import Count, Digest, Finite, Ratio, TolerantEnum, WireModel

BBox = Annotated[
    tuple[Finite, Finite, Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]],
    Field(description="x, y, width, height in pixels of the original frame"),
]


class CellClassName(TolerantEnum):
    """What the detector finds."""

    RBC = "RBC"
    WBC = "WBC"
    PLATELETS = "Platelets"
    UNKNOWN = "unknown"


class Decision(TolerantEnum):
    """What triage made of a field."""

    ACCEPT = "accept"
    UNCERTAIN = "uncertain"
    WITHHELD = "withheld"
    UNKNOWN = "unknown"


class CellTypeWire(WireModel):
    """A white cell's type as a model sees it."""

    label: str = Field(max_length=40, description="one of the types, or 'unidentified'")
    probabilities: dict[str, Ratio] = Field(max_length=32)
    prediction_set: tuple[str, ...] = Field((), max_length=32)
    in_domain: bool
    ood_score: Finite = Field(description="distance to the nearest known class over its limit; above 1 is foreign")


class DetectionWire(WireModel):
    """One cell."""

    bbox: BBox
    cls: CellClassName = Field(alias="class")
    score: Ratio
    counted: bool
    cell_type: CellTypeWire | None = None


class ModelRef(WireModel):
    """Which model said it."""

    name: str = Field(max_length=63)
    version: str = Field(max_length=32)
    digest: Digest


class FieldCounts(WireModel):
    """Counted cells of one field."""

    rbc: Count
    wbc: Count
    platelets: Count
    white_cells: dict[str, Count] = Field(default_factory=dict, description="type or 'unidentified' -> cells")
