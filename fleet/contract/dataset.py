"""Labelled images as they leave the cloud for training: COCO with what a COCO reader need not know beside it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fleet.contract.base import Count, DeviceId, Digest, Finite, Sha256, SiteId, UtcTime, WireModel
from fleet.contract.cells import BBox

DATASET_SCHEMA: Literal["ahs.coco/1"] = "ahs.coco/1"
"""A change that a reader of an older version cannot live with gets the next number."""

MAX_DATASET_BYTES = 128 * 1024 * 1024
"""Largest export that is read."""

_RowId = Annotated[int, Field(ge=1, le=2**53 - 1)]


class DatasetFilters(WireModel):
    """What was asked for."""

    since: UtcTime | None = Field(None, description="labelled at or after")
    device: DeviceId | None = None
    reader: str | None = Field(None, max_length=120)
    partial: bool = Field(False, description="also of images that are not read to their end")


class DatasetInfo(WireModel):
    """`info`: where it comes from. No time of the export, so that the same labels are the same bytes."""

    schema_: Literal["ahs.coco/1"] = Field(DATASET_SCHEMA, alias="schema")
    description: str = "White cells labelled by persons. Research use only."
    site: SiteId
    filters: DatasetFilters
    labels: dict[str, Count] = Field(description="label -> annotations")
    manifest_sha256: Sha256 = Field(
        description="SHA-256 of the whole document as sorted JSON without spaces, this field being 64 zeros"
    )


class DatasetCategory(WireModel):
    """`categories`: what the detector finds."""

    id: Count
    name: str = Field(max_length=40)


class DatasetImage(WireModel):
    """`images`: a field that was sent for a second opinion."""

    id: _RowId
    file_name: str = Field(max_length=80, description="`{opinion}.jpg` or `.png`")
    width: Count
    height: Count
    sha256: Sha256
    image_url: str = Field(description="route of the picture, below the cloud's address")
    opinion: str
    capture_id: str
    device: DeviceId
    captured_at: UtcTime
    complete: bool = Field(description="read to its end: no white cell of the image is without a label")
    um_per_px: float | None = Field(None, gt=0)
    rbc_diameter_px: float | None = Field(
        None,
        gt=0,
        description="median longer side of the larger model's counted red cells inside the frame; null below three",
    )


class DatasetAttributes(WireModel):
    """What is known of a label beside its box."""

    cell_type: str = Field(max_length=40, description="a white-cell type, `not_classed` or `artefact`")
    reader: str
    labelled_at: UtcTime
    missed: bool = Field(description="a person added the cell; neither model saw it")
    suggested: str | None = Field(None, description="what the larger model said")
    suggested_by: Digest | None = None
    edge_label: str | None = None
    edge_model: Digest | None = None
    suggestion_shown: bool


class DatasetAnnotation(WireModel):
    """`annotations`: one labelled cell; `id` is the label's own in the cloud.

    `artefact` is no white cell: its category is WBC because a model took it for one. Whoever trains a detector leaves
    it out or takes it as ground; whoever trains types takes the five types alone.
    """

    id: _RowId
    image_id: _RowId
    category_id: Count
    bbox: BBox
    area: Finite
    iscrowd: Literal[0] = 0
    attributes: DatasetAttributes


class DatasetExport(WireModel):
    """`GET /v1/datasets/export`."""

    info: DatasetInfo
    categories: tuple[DatasetCategory, ...]
    images: tuple[DatasetImage, ...]
    annotations: tuple[DatasetAnnotation, ...]
