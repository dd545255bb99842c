"""`/v1/trust` and `/v1/releases`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Path, UploadFile, status

from cloud.auth.dependencies import CurrentPrincipal, ReadSession, ServiceParts, require
from cloud.auth.gates import gated
from cloud.auth.principals import Permission, Principal
from cloud.errors import TooLarge
from cloud.openapi import RELEASE, TRUST, answer_example, problems
from cloud.releases import queries
from cloud.releases.needed import needed_counters
from fleet.contract.http import ReleaseDetail, ReleasePage, ReleasesNeeded, ReleasesPrune
from fleet.contract.release import MAX_RELEASE_BYTES, Trust
from fleet.release.evidence import MAX_EVIDENCE_BYTES

router = APIRouter(
    prefix="/v1",
    tags=["releases"],
    route_class=gated(Permission.MANAGE_RELEASES, lambda parts, principal: parts.releases.upload(principal)),
)

Reader = Annotated[Principal, Depends(require(Permission.READ_ROLLOUTS))]
Releaser = Annotated[Principal, Depends(require(Permission.MANAGE_RELEASES))]
Counter = Annotated[int, Path(ge=1, le=2**53 - 1, description="of the release")]
Trust.model_config["json_schema_extra"] = {"examples": [TRUST]}


@router.get(
    "/trust",
    response_model=Trust,
    summary="The signed trust documents",
    responses={200: answer_example(TRUST), **problems(401, 404)},
)
async def get_trust(principal: CurrentPrincipal, session: ReadSession) -> Trust:
    """All TUF metadata of the fleet, as devices get it over MQTT. Public to whoever has a token."""
    return await queries.get_trust(session)


@router.post(
    "/trust",
    response_model=Trust,
    summary="Give the first trust documents",
    response_description="The trust as it is kept, signed on with the online key.",
    responses={200: answer_example(TRUST), **problems(401, 403, 409, 413, 422, 503)},
)
async def set_trust(principal: Releaser, parts: ServiceParts, trust: Trust) -> Trust:
    """Once, with the `trust.json` of `ahs-fleet factory`. With the same root once more nothing is changed.

    The releases that it names are listed from then on; their archives are taken by `POST /v1/releases` with the same
    targets.
    """
    return await parts.releases.set_trust(principal, trust)


@router.post(
    "/releases",
    response_model=ReleaseDetail,
    status_code=status.HTTP_201_CREATED,
    summary="Release a bundle",
    responses={201: answer_example(RELEASE), **problems(401, 403, 404, 409, 413, 422, 503)},
)
async def create_release(
    principal: Releaser,
    parts: ServiceParts,
    targets: Annotated[str, Form(description="TUF targets with one release more, signed with the release key")],
    archive: Annotated[UploadFile, File(description="the bundle as one zip")],
    evidence: Annotated[UploadFile | None, File(description="the evaluation that the release names, JSON")] = None,
) -> ReleaseDetail:
    """What `ahs-fleet release create` sends. Devices are told nothing yet: that is a rollout.

    Each check has a code of its own. The same again is answered with the stored release.
    """
    return await parts.releases.create(
        principal,
        targets=targets,
        archive=await _bytes(archive, MAX_RELEASE_BYTES),
        evidence=await _bytes(evidence, MAX_EVIDENCE_BYTES) if evidence is not None else None,
    )


@router.get(
    "/releases", response_model=ReleasePage, summary="List releases, newest first", responses=problems(401, 403)
)
async def list_releases(principal: Reader, session: ReadSession) -> ReleasePage:
    """Releases are one list for the fleet; `devices_running` counts in the asker's site."""
    return await queries.list_releases(session, principal)


@router.get(
    "/releases/needed",
    response_model=ReleasesNeeded,
    summary="Releases that must stay",
    responses=problems(401, 403),
)
async def needed_releases(principal: Releaser, session: ReadSession) -> ReleasesNeeded:
    """What devices of any site run, keep, or are told of; what rollouts bring or go back to; the first, the newest."""
    return ReleasesNeeded(counters=tuple(sorted(await needed_counters(session))))


@router.post(
    "/releases/prune",
    response_model=ReleasePage,
    summary="Leave old releases out",
    responses=problems(401, 403, 404, 409, 413, 422, 503),
)
async def prune_releases(principal: Releaser, parts: ServiceParts, wanted: ReleasesPrune) -> ReleasePage:
    """What `ahs-fleet release prune` sends: the signed list with fewer releases, so that there is room for new ones.

    Refused (409) when one of them is needed. What was left out stays listed, as withdrawn, with its evaluation.
    """
    return await parts.releases.prune(principal, wanted.targets)


@router.get(
    "/releases/{counter}",
    response_model=ReleaseDetail,
    summary="One release with its signed description",
    responses={200: answer_example(RELEASE), **problems(401, 403, 404, 422)},
)
async def get_release(principal: Reader, session: ReadSession, counter: Counter) -> ReleaseDetail:
    """What was signed, and the evaluation it rests on."""
    return await queries.get_release(session, principal, counter)


async def _bytes(part: UploadFile, limit: int) -> bytes:
    if part.size is not None and part.size > limit:
        raise TooLarge(
            f"{part.filename or 'a part'} has {part.size} bytes, more than {limit}",
            code="release_too_large",
            hint="make the bundle smaller",
        )
    return await part.read()
