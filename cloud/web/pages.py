"""The cloud's console pages. `POST /sign-in` and `POST /sign-out` belong to `cloud.auth`."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from cloud.auth.dependencies import PagePrincipal, ReadSession
from cloud.auth.principals import Permission, Principal
from cloud.devices.queries import list_devices
from cloud.health import readyz
from cloud.opinions.queries import get_opinion_detail, list_opinions
from cloud.releases.queries import list_releases, trust_expiry
from cloud.review.queries import count_waiting, next_waiting
from cloud.web.api_page import create_api_page
from cloud.web.rendering import TABS, CloudRendering, Visitor, field_boxes
from cloud.web.rollout_pages import add_rollouts
from fleet.contract.http import Health, OpinionPage, Problem
from fleet.contract.messages import OpinionState

DEVICES_A_PAGE = 200
OPINIONS_A_PAGE = 25
_rendering = CloudRendering(Path(__file__).parent)


def create_pages() -> APIRouter:
    """Router with every console page, to be included without a prefix."""
    router = APIRouter(include_in_schema=False)
    _add_entrance(router)
    _add_devices(router)
    _add_review(router)
    add_rollouts(router, _rendering)
    _add_models(router)
    _add_system(router)
    router.include_router(create_api_page(_rendering))
    return router


def render_problem(request: Request, problem: Problem) -> Response:
    """A refusal as a page, for a browser."""
    return _rendering.problem(problem)


def inner_path(path: str) -> str:
    """Where to go after signing in: a path of this console and nothing else."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/devices"


def visitor_of(principal: Principal) -> Visitor:
    """What of a principal is shown."""
    return Visitor(principal.name, principal.role.value, principal.site_id)


def _add_entrance(router: APIRouter) -> None:
    @router.get("/")
    async def home() -> Response:
        return RedirectResponse("/devices", status_code=303)

    @router.get("/sign-in")
    async def sign_in(request: Request) -> Response:
        query = request.query_params
        after = inner_path(query.get("next", "/devices"))
        return _rendering.sign_in(after=after, error=query.get("error"), reason=query.get("reason"))

    @router.get("/static/{name}")
    async def static(name: str, request: Request) -> Response:
        return _rendering.asset(name, request)


def _add_devices(router: APIRouter) -> None:
    @router.get("/devices")
    async def devices(principal: PagePrincipal, session: ReadSession) -> Response:
        principal.require(Permission.READ_DEVICES)
        page = await list_devices(session, principal, limit=DEVICES_A_PAGE)
        return _rendering.devices(visitor_of(principal), page)

    @router.get("/devices/rows")
    async def device_rows(principal: PagePrincipal, session: ReadSession) -> Response:
        principal.require(Permission.READ_DEVICES)
        page = await list_devices(session, principal, limit=DEVICES_A_PAGE)
        return _rendering.devices(visitor_of(principal), page, only_rows=True)


def _add_review(router: APIRouter) -> None:
    async def read(
        principal: Principal, session: ReadSession, shown: str, device: str | None, cursor: str | None
    ) -> OpinionPage:
        principal.require(Permission.READ_OPINIONS)
        state = None if shown == "all" else OpinionState(shown)
        return await list_opinions(session, principal, state=state, device=device, cursor=cursor, limit=OPINIONS_A_PAGE)

    @router.get("/review")
    async def review(
        principal: PagePrincipal,
        session: ReadSession,
        state: str = TABS[0][0],
        device: str | None = None,
        cursor: str | None = None,
    ) -> Response:
        shown = known_state(state)
        page = await read(principal, session, shown, device, cursor)
        may_label = principal.may(Permission.LABEL)
        return _rendering.review(visitor_of(principal), page, shown=shown, device=device, may_label=may_label)

    @router.get("/review/queue")
    async def queue(
        principal: PagePrincipal, session: ReadSession, state: str = TABS[0][0], device: str | None = None
    ) -> Response:
        shown = known_state(state)
        page = await read(principal, session, shown, device, None)
        return _rendering.review(visitor_of(principal), page, shown=shown, device=device, only_rows=True)

    @router.get("/review/next")
    async def next_image(
        principal: PagePrincipal, session: ReadSession, after: str | None = None, blind: bool = False
    ) -> Response:
        principal.require(Permission.READ_OPINIONS)
        found = await next_waiting(session, principal, after=after)
        place = "/review" if found is None else f"/review/{found}{'?blind=1' if blind else ''}"
        return RedirectResponse(place, status_code=303, headers={"Cache-Control": "no-store"})

    @router.get("/review/{opinion_id}")
    async def opinion(opinion_id: str, principal: PagePrincipal, session: ReadSession, blind: bool = False) -> Response:
        principal.require(Permission.READ_OPINIONS)
        detail = await get_opinion_detail(session, principal, opinion_id)
        return _rendering.opinion(
            visitor_of(principal),
            detail.opinion,
            detail.context,
            may_label=principal.may(Permission.LABEL),
            blind=blind,
            waiting=await count_waiting(session, principal),
        )

    @router.get("/review/{opinion_id}/boxes")
    async def boxes(opinion_id: str, principal: PagePrincipal, session: ReadSession, blind: bool = False) -> Response:
        principal.require(Permission.READ_OPINIONS)
        detail = await get_opinion_detail(session, principal, opinion_id)
        plain = field_boxes(
            detail.opinion, detail.context, width_px=detail.width_px, height_px=detail.height_px, blind=blind
        )
        return JSONResponse(plain, headers={"Cache-Control": "no-store"})


def _add_models(router: APIRouter) -> None:
    @router.get("/models")
    async def models(principal: PagePrincipal, session: ReadSession) -> Response:
        principal.require(Permission.READ_ROLLOUTS)
        page = await list_releases(session, principal)
        return _rendering.models(visitor_of(principal), page, await trust_expiry(session))


def _add_system(router: APIRouter) -> None:
    @router.get("/system")
    async def system(request: Request, principal: PagePrincipal) -> Response:
        answer = await readyz(request)
        return _rendering.system(visitor_of(principal), Health.model_validate_json(bytes(answer.body)))


def known_state(state: str) -> str:
    """A tab's key; the first tab's for anything else, so that an old link shows something."""
    return state if state in dict(TABS) else TABS[0][0]
