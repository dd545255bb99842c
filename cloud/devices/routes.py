"""`/v1/devices`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, status

from cloud.auth.dependencies import ReadSession, ServiceParts, require
from cloud.auth.principals import Permission, Principal
from cloud.devices import queries
from cloud.openapi import DEVICE, DEVICE_TOKEN, answer_example, problems
from fleet.contract.http import DeviceCreate, DevicePage, DeviceSummary, DeviceToken, FieldPage

router = APIRouter(prefix="/v1/devices", tags=["devices"])

Reader = Annotated[Principal, Depends(require(Permission.READ_DEVICES))]
FieldReader = Annotated[Principal, Depends(require(Permission.READ_OPINIONS))]
Operator = Annotated[Principal, Depends(require(Permission.MANAGE_DEVICES))]
DeviceName = Annotated[str, Path(max_length=63, description="a device's id")]
DeviceCreate.model_config["json_schema_extra"] = {"examples": [DEVICE]}


@router.post(
    "",
    response_model=DeviceToken,
    status_code=status.HTTP_201_CREATED,
    summary="Register a device",
    responses={201: answer_example(DEVICE_TOKEN), **problems(401, 403, 409, 422)},
)
async def create_device(principal: Operator, parts: ServiceParts, device: DeviceCreate) -> DeviceToken:
    """Its token is in this answer and never again; only a hash is stored.

    It serves as bearer token here, and as password at the broker (user: the device's id).
    """
    async with parts.storage.writing() as session:
        return await parts.devices.create(session, principal, device)


@router.get("", response_model=DevicePage, summary="List devices", responses=problems(401, 403, 422))
async def list_devices(
    principal: Reader,
    session: ReadSession,
    cursor: Annotated[str | None, Query(max_length=63, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=queries.MAX_PAGE)] = 100,
) -> DevicePage:
    """Registered devices of the asker's site with what each last said of itself."""
    return await queries.list_devices(session, principal, limit=limit, cursor=cursor)


@router.get("/{device}", response_model=DeviceSummary, summary="One device", responses=problems(401, 403, 404))
async def get_device(principal: Reader, session: ReadSession, device: DeviceName) -> DeviceSummary:
    """What it last said of itself."""
    return await queries.get_device(session, principal, device)


@router.get(
    "/{device}/fields",
    response_model=FieldPage,
    summary="Fields of a device as they are committed",
    responses=problems(401, 403, 404, 422),
)
async def list_fields(
    principal: FieldReader,
    session: ReadSession,
    device: DeviceName,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=queries.MAX_PAGE)] = 200,
) -> FieldPage:
    """In the order in which the device stored them."""
    return await queries.list_fields(session, principal, device, limit=limit, cursor=cursor)


@router.post(
    "/{device}/revoke",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="End a device",
    responses=problems(401, 403, 404),
)
async def revoke_device(principal: Operator, parts: ServiceParts, device: DeviceName) -> None:
    """Ends its tokens at once; what it reported stays. Once more is no error."""
    async with parts.storage.writing() as session:
        await parts.devices.revoke(session, principal, device)
