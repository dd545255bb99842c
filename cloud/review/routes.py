"""`/v1/reviews`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path

from cloud.auth.dependencies import ReadSession, ServiceParts, require
from cloud.auth.principals import Permission, Principal
from cloud.openapi import LABELS, REVIEW, answer_example, problems
from cloud.review import queries, service
from fleet.contract.http import LabelsCreate, ReviewLabels

router = APIRouter(prefix="/v1/reviews", tags=["review"])

Labeller = Annotated[Principal, Depends(require(Permission.LABEL))]
Reader = Annotated[Principal, Depends(require(Permission.READ_OPINIONS))]
OpinionId = Annotated[str, Path(max_length=64, description="id of a second opinion")]
LabelsCreate.model_config["json_schema_extra"] = {"examples": [LABELS]}


@router.post(
    "/{opinion_id}/labels",
    response_model=ReviewLabels,
    summary="Label white cells, and end the reading of an image",
    response_description="The label that counts for each cell, these among them.",
    responses={200: answer_example(REVIEW), **problems(401, 403, 404, 409, 422, 503)},
)
async def add_labels(
    principal: Labeller, parts: ServiceParts, opinion_id: OpinionId, asked: LabelsCreate
) -> ReviewLabels:
    """Labels are `neutrophil`, `lymphocyte`, `monocyte`, `eosinophil`, `basophil`, `not_classed` and `artefact`.

    Each is stored with its reader, the time, what both models said and whether that was shown. A cell read again gets a
    further label and the newest counts; `withdrawn` takes the reader's own last word back. The same again adds nothing.
    `done` ends the reading and tells the device; while a cell has no label it is refused (409 `cells_missing`), and
    then nothing of the request is stored.
    """
    async with parts.storage.writing() as session:
        return await service.add_labels(session, principal, opinion_id, asked, now=datetime.now(UTC))


@router.get(
    "/{opinion_id}/labels",
    response_model=ReviewLabels,
    summary="Labels of an image",
    responses={200: answer_example(REVIEW), **problems(401, 403, 404)},
)
async def get_labels(principal: Reader, session: ReadSession, opinion_id: OpinionId) -> ReviewLabels:
    """The label that counts for each cell, whether or not the reading has ended."""
    return await queries.get_labels(session, principal, opinion_id)
