"""The console's pages of rollouts: the list, one rollout as it moves, and what a person can do with it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse

from cloud.auth.dependencies import PagePrincipal, ReadSession, ServiceParts
from cloud.auth.principals import Permission, Principal
from cloud.errors import NotFound
from cloud.rollouts.queries import get_rollout, list_rollouts
from cloud.rollouts.routes import COMMANDS
from cloud.web.rendering import CloudRendering, Visitor
from cloud.web.rollout_view import page_of

ROLLOUTS_A_PAGE = 50


def add_rollouts(router: APIRouter, rendering: CloudRendering) -> None:
    """Adds the pages to the console's router."""

    async def shown(principal: Principal, session: ReadSession, rollout: str, *, only_body: bool) -> Response:
        principal.require(Permission.READ_ROLLOUTS)
        now = datetime.now(UTC)
        detail = await get_rollout(session, principal, rollout, now=now)
        visitor = Visitor(principal.name, principal.role.value, principal.site_id)
        may_manage = principal.may(Permission.MANAGE_ROLLOUTS)
        return rendering.rollout(visitor, page_of(detail, now), may_manage=may_manage, only_body=only_body)

    async def listed(principal: Principal, session: ReadSession, *, only_rows: bool) -> Response:
        principal.require(Permission.READ_ROLLOUTS)
        page = await list_rollouts(session, principal, limit=ROLLOUTS_A_PAGE)
        visitor = Visitor(principal.name, principal.role.value, principal.site_id)
        return rendering.rollouts(visitor, page, only_rows=only_rows)

    @router.get("/rollouts")
    async def rollouts(principal: PagePrincipal, session: ReadSession) -> Response:
        return await listed(principal, session, only_rows=False)

    @router.get("/rollouts/rows")
    async def rollout_rows(principal: PagePrincipal, session: ReadSession) -> Response:
        return await listed(principal, session, only_rows=True)

    @router.get("/rollouts/{rollout}")
    async def one(rollout: str, principal: PagePrincipal, session: ReadSession) -> Response:
        return await shown(principal, session, rollout, only_body=False)

    @router.get("/rollouts/{rollout}/body")
    async def body(rollout: str, principal: PagePrincipal, session: ReadSession) -> Response:
        return await shown(principal, session, rollout, only_body=True)

    @router.post("/rollouts/{rollout}/{command}")
    async def act(
        rollout: str,
        command: str,
        principal: PagePrincipal,
        parts: ServiceParts,
        reason: Annotated[str, Form(max_length=500)] = "",
    ) -> Response:
        """By cookie, so only from our own page: `page_principal` refuses a foreign origin."""
        if command not in COMMANDS:
            raise NotFound(f"a rollout cannot be told {command!r}", code="no_route")
        async with parts.storage.writing() as session:
            await COMMANDS[command](session, principal, rollout, reason.strip(), now=datetime.now(UTC))
        return RedirectResponse(f"/rollouts/{rollout}", status_code=303)
