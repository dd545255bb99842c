"""`/v1/second-opinions`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Path, Query, UploadFile
from fastapi.responses import Response

from cloud.auth.dependencies import ReadSession, ServiceParts, require
from cloud.auth.gates import gated
from cloud.auth.principals import Permission, Principal
from cloud.errors import TooLarge, Unprocessable
from cloud.openapi import CONTEXT, OPINION, answer_example, problems
from cloud.opinions import queries
from fleet.contract.base import DeviceId
from fleet.contract.codec import WireError, decode
from fleet.contract.http import MAX_CONTEXT_BYTES, OpinionContext, OpinionPage, SecondOpinion
from fleet.contract.messages import OpinionState

_UploadRoute = gated(Permission.ASK_OPINION, lambda parts, principal: parts.opinions.admission.upload(principal.id))
router = APIRouter(prefix="/v1/second-opinions", tags=["second opinions"], route_class=_UploadRoute)

Asker = Annotated[Principal, Depends(require(Permission.ASK_OPINION))]
Reader = Annotated[Principal, Depends(require(Permission.READ_OPINIONS))]
OpinionId = Annotated[str, Path(max_length=64, description="id of a second opinion")]


@router.post(
    "",
    response_model=SecondOpinion,
    summary="Ask for a second opinion",
    response_description="The larger model's answer; `pending_review` where a person is asked too.",
    responses={200: answer_example(OPINION), **problems(401, 403, 413, 422, 429, 503)},
)
async def ask(
    principal: Asker,
    parts: ServiceParts,
    image: Annotated[UploadFile, File(description="the field, JPEG or PNG")],
    context: Annotated[
        str,
        Form(description="OpinionContext as JSON", examples=[OpinionContext.model_validate(CONTEXT).model_dump_json()]),
    ],
) -> SecondOpinion:
    """Sends one uncertain image with what the device saw.

    The key is (site, device, capture id, image hash): the same key may be sent as often as needed and gets the stored
    answer, marked `duplicate`. A 2xx means that image and answer are stored: the device may delete its copy.
    """
    return await parts.opinions.ask(principal, _context(context), await image.read())


@router.get(
    "", response_model=OpinionPage, summary="List second opinions, newest first", responses=problems(401, 403, 422)
)
async def list_opinions(
    principal: Reader,
    session: ReadSession,
    state: Annotated[OpinionState | None, Query(description="only in this state")] = None,
    device: Annotated[DeviceId | None, Query(description="only of this device; `me` is the asking one")] = None,
    capture_id: Annotated[str | None, Query(max_length=120, description="only of this capture")] = None,
    since: Annotated[datetime | None, Query(description="created at or after, with its zone")] = None,
    cursor: Annotated[str | None, Query(max_length=80, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=queries.MAX_PAGE)] = 50,
) -> OpinionPage:
    """Those of the asker's site; a device gets its own, which is how it fetches what it has missed."""
    if since is not None and since.tzinfo is None:
        raise Unprocessable("since has no zone", code="invalid_request", hint="write 2026-01-31T12:00:00Z")
    if device == "me":
        device = principal.device
        if device is None:
            raise Unprocessable("only a device is `me`", code="invalid_request", hint="name the device")
    return await queries.list_opinions(
        session,
        principal,
        state=state,
        device=device,
        capture_id=capture_id,
        since=since,
        limit=limit,
        cursor=cursor,
    )


@router.get(
    "/{opinion_id}",
    response_model=SecondOpinion,
    summary="One second opinion in full",
    responses={200: answer_example(OPINION), **problems(401, 403, 404)},
)
async def get_opinion(principal: Reader, session: ReadSession, opinion_id: OpinionId) -> SecondOpinion:
    """Both words on each white cell, all detections, and why a person is asked."""
    return await queries.get_opinion(session, principal, opinion_id)


@router.get(
    "/{opinion_id}/image",
    summary="The picture a second opinion is about",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}, "image/png": {}}}, **problems(401, 403, 404, 503)},
)
async def get_image(principal: Reader, session: ReadSession, parts: ServiceParts, opinion_id: OpinionId) -> Response:
    """As it was sent, byte for byte."""
    detail = await queries.get_opinion_detail(session, principal, opinion_id)
    data = await parts.images.get(detail.image_sha256)
    headers = {"cache-control": "private, max-age=3600", "etag": f'"{detail.image_sha256}"'}
    return Response(data, media_type=detail.media_type, headers=headers)


def _context(text: str) -> OpinionContext:
    try:
        return decode(OpinionContext, text.encode(), limit_bytes=MAX_CONTEXT_BYTES)
    except WireError as exc:
        if exc.code == "too_large":
            raise TooLarge(
                f"the context is too large: {exc.detail}", code="context_too_large", hint="send fewer detections"
            ) from exc
        raise Unprocessable(
            f"the context cannot be read: {exc.detail}", code="invalid_context", hint="see OpinionContext in /docs"
        ) from exc
