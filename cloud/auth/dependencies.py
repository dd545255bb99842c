"""What a route or a page declares to know who asks and to read the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.principals import Permission, Principal
from cloud.auth.sessions import COOKIE_NAME, SignInNeeded
from cloud.errors import Forbidden, Unauthenticated
from cloud.parts import Parts

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def parts_of(request: Request) -> Parts:
    """Everything the running service is made of."""
    parts: Parts = request.app.state.parts
    return parts


async def reading(request: Request) -> AsyncIterator[AsyncSession]:
    """A session that only reads; closed after the answer."""
    async with parts_of(request).storage.reading() as session:
        yield session


async def current_principal(request: Request) -> Principal:
    """Who asks, by bearer token or, for the console, by signed cookie; Unauthenticated (401) when neither is good.

    The token behind the cookie is looked up for each request, so that revoking it ends the session at once; once a
    request, though a route may ask before its body is read and again as a dependency.
    """
    known: Principal | None = getattr(request.state, "principal", None)
    if known is None:
        known = request.state.principal = await _principal_of(request)
    return known


async def _principal_of(request: Request) -> Principal:
    parts = parts_of(request)
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated(
                "the Authorization header is not a bearer token",
                code="token_malformed",
                hint="send `Authorization: Bearer <token>`",
            )
        async with parts.storage.reading() as session:
            return await parts.tokens.principal_of(session, token.strip())
    cookie = request.cookies.get(COOKIE_NAME)
    if cookie is None:
        raise Unauthenticated(
            "no access token was sent",
            code="token_missing",
            hint="send `Authorization: Bearer <token>`; an operator issues tokens with `ahs-cloud token create`",
        )
    refuse_foreign_origin(request)
    token_id = parts.cookies.read(cookie)
    async with parts.storage.reading() as session:
        return await parts.tokens.principal_of_id(session, token_id)


async def page_principal(request: Request) -> Principal:
    """Who looks at a console page; without a session the browser is sent to the sign-in page and back."""
    try:
        principal = await current_principal(request)
    except Unauthenticated as exc:
        raise SignInNeeded(request.url.path, reason=exc.code) from exc
    if principal.is_device:
        raise Forbidden("a device's token does not open the console", code="role_not_allowed", hint="sign in yourself")
    return principal


def require(permission: Permission) -> Callable[[Principal], Awaitable[Principal]]:
    """A dependency for `/v1`: the principal, if its role holds the permission; else 403."""

    async def allowed(principal: Annotated[Principal, Depends(current_principal)]) -> Principal:
        principal.require(permission)
        return principal

    return allowed


def refuse_foreign_origin(request: Request) -> None:
    """Forbidden (403) for a change by cookie that comes not from our own page (beside SameSite=Strict, which old
    browsers lack), and for signing in and out.
    """
    if request.method in _SAFE_METHODS:
        return
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    if origin is None or origin.partition("://")[2] != host:
        raise Forbidden("the request comes from another site's page", code="foreign_origin", hint="use the console")


CurrentPrincipal = Annotated[Principal, Depends(current_principal)]
PagePrincipal = Annotated[Principal, Depends(page_principal)]
ReadSession = Annotated[AsyncSession, Depends(reading)]
ServiceParts = Annotated[Parts, Depends(parts_of)]
