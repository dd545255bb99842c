"""`/v1/rollouts`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, status
from pydantic import ConfigDict, Field

from cloud.auth.dependencies import ReadSession, ServiceParts, require
from cloud.auth.principals import Permission, Principal
from cloud.openapi import problems
from cloud.rollouts import queries, service
from fleet.contract.http import RolloutCommand, RolloutCreate, RolloutDetail, RolloutPage
from fleet.contract.release import Thresholds, WavePlan

router = APIRouter(prefix="/v1/rollouts", tags=["rollouts"])

Reader = Annotated[Principal, Depends(require(Permission.READ_ROLLOUTS))]
Operator = Annotated[Principal, Depends(require(Permission.MANAGE_ROLLOUTS))]
RolloutId = Annotated[str, Path(max_length=64, description="a rollout's id")]

COMMANDS: dict[str, Callable[..., Awaitable[None]]] = {
    "pause": service.pause,
    "resume": service.resume,
    "waive": service.waive,
    "abort": service.abort,
    "rollback": service.roll_back,
}
"""Last part of the path -> what it does."""


class ThresholdsRead(Thresholds):
    """Closed and strict: a misspelt or half-read threshold must not become a default."""

    model_config = ConfigDict(extra="forbid", strict=True, title="Thresholds")


class WavePlanRead(WavePlan):
    """Closed, for the same reason."""

    model_config = ConfigDict(extra="forbid", title="WavePlan")


class RolloutRead(RolloutCreate):
    """What `POST /v1/rollouts` takes."""

    model_config = ConfigDict(
        extra="forbid",
        title="RolloutCreate",
        json_schema_extra={
            "examples": [
                {
                    "counter": 5,
                    "waves": [{"devices": ["bench-1"]}, {"percent": 100}],
                    "thresholds": {"p_error": 0.1, "soak_s": 600},
                }
            ]
        },
    )
    waves: tuple[WavePlanRead, ...] = Field((), max_length=32)
    thresholds: ThresholdsRead = ThresholdsRead()


@router.post(
    "",
    response_model=RolloutDetail,
    status_code=status.HTTP_201_CREATED,
    summary="Start a rollout",
    responses=problems(401, 403, 404, 409, 422),
)
async def create_rollout(principal: Operator, parts: ServiceParts, wanted: RolloutRead) -> RolloutDetail:
    """Brings a release to devices wave by wave; the first wave opens within seconds.

    A release without accepted evidence starts with one device and never leaves the first wave. Thresholds that cannot
    be read, unknown ones among them, are refused. A device that another open rollout has is a conflict, unless
    `supersede` is set: then the other ends as superseded, and its devices follow this one.
    """
    _ = parts.releases.key  # without it nothing could be told to a device
    now = datetime.now(UTC)
    async with parts.storage.writing() as session:
        rollout_id = await service.create(session, principal, wanted, now=now)
        await session.flush()
        return await queries.get_rollout(session, principal, rollout_id, now=now)


@router.get("", response_model=RolloutPage, summary="List rollouts", responses=problems(401, 403, 422))
async def list_rollouts(
    principal: Reader,
    session: ReadSession,
    open: Annotated[bool, Query(description="only those that have not ended")] = False,
    limit: Annotated[int, Query(ge=1, le=queries.MAX_PAGE)] = 50,
) -> RolloutPage:
    """Rollouts of the asker's site, newest first."""
    return await queries.list_rollouts(session, principal, limit=limit, open_only=open)


@router.get("/{rollout}", response_model=RolloutDetail, summary="One rollout", responses=problems(401, 403, 404))
async def get_rollout(principal: Reader, session: ReadSession, rollout: RolloutId) -> RolloutDetail:
    """Its devices, the gates of the open wave as of now, and every decision."""
    return await queries.get_rollout(session, principal, rollout, now=datetime.now(UTC))


def _add(name: str, summary: str, about: str) -> None:
    async def command(
        principal: Operator, parts: ServiceParts, rollout: RolloutId, words: RolloutCommand | None = None
    ) -> Any:
        now = datetime.now(UTC)
        async with parts.storage.writing() as session:
            await COMMANDS[name](session, principal, rollout, words.reason if words else "", now=now)
            await session.flush()
            return await queries.get_rollout(session, principal, rollout, now=now)

    router.add_api_route(
        f"/{{rollout}}/{name}",
        command,
        methods=["POST"],
        name=f"{name}_rollout",
        operation_id=f"{name}_rollout",
        summary=summary,
        description=about,
        response_model=RolloutDetail,
        responses=problems(401, 403, 404, 409, 422),
    )


_add("pause", "Hold a rollout", "Nothing further is offered; devices that are at it already go on by themselves.")
_add("resume", "Go on with a rollout", "The open wave gets its deadlines anew.")
_add(
    "waive",
    "Waive missing observations",
    "Needs a reason. The open wave passes without fields or figures that its confirmed devices lack; a rollout that "
    "paused for it goes on. Never waived: a gate that has failed, an undecided device, a missing evaluation.",
)
_add("abort", "Abort a rollout", "Every device that was told of the release goes back to its old model.")
_add("rollback", "Roll a rollout back", "Like an abort, and also after the rollout has completed.")
