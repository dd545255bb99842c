"""`/v1/datasets`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from cloud.auth.dependencies import ReadSession, require
from cloud.auth.principals import Permission, Principal
from cloud.dataset import queries
from cloud.errors import Unprocessable
from cloud.openapi import problems
from fleet.contract.base import DeviceId
from fleet.contract.codec import encode
from fleet.contract.dataset import DatasetExport, DatasetFilters

router = APIRouter(prefix="/v1/datasets", tags=["data"])

Exporter = Annotated[Principal, Depends(require(Permission.EXPORT_DATASET))]


@router.get(
    "/export",
    response_model=DatasetExport,
    summary="Labelled images as COCO",
    responses=problems(401, 403, 413, 422),
)
async def export_dataset(
    principal: Exporter,
    session: ReadSession,
    since: Annotated[datetime | None, Query(description="labelled at or after, with its zone")] = None,
    device: Annotated[DeviceId | None, Query(description="only of this device")] = None,
    reader: Annotated[str | None, Query(max_length=120, description="only labels of this reader")] = None,
    partial: Annotated[bool, Query(description="also of images that are not read to their end")] = False,
) -> Response:
    """The label that counts for each cell of the asker's site, and the images they lie in (schema `ahs.coco/1`).

    The pictures themselves are at each image's `image_url`; check them against `sha256`. The same labels give the same
    bytes, and `info.manifest_sha256` names them.
    """
    if since is not None and since.tzinfo is None:
        raise Unprocessable("since has no zone", code="invalid_request", hint="write 2026-01-31T12:00:00Z")
    filters = DatasetFilters(since=since, device=device, reader=reader, partial=partial)
    found = await queries.export(session, principal, filters)
    headers = {"etag": f'"{found.info.manifest_sha256}"', "cache-control": "private, no-cache"}
    return Response(encode(found), media_type="application/json", headers=headers)
