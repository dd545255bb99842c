"""Sign-in and sign-out of the console, by access token for now."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse

from cloud.audit import trail
from cloud.auth.dependencies import ServiceParts, refuse_foreign_origin
from cloud.auth.sessions import COOKIE_NAME
from cloud.errors import Forbidden, Unauthenticated

router = APIRouter(include_in_schema=False)


@router.post("/sign-in")
async def sign_in(
    request: Request,
    parts: ServiceParts,
    token: Annotated[str, Form(max_length=200)],
    next: Annotated[str, Form(max_length=500)] = "/",
) -> RedirectResponse:
    """Sets the session's cookie and sends the browser on; a wrong token goes back to the form.

    So does a form of another site, which would sign its visitor in under an account of its own choice.
    """
    try:
        refuse_foreign_origin(request)
        async with parts.storage.writing() as session:
            principal = await parts.tokens.principal_of(session, token.strip())
            if principal.is_device or principal.token_id is None:
                raise Unauthenticated("a device's token does not open the console", code="token_of_device")
            trail.record(session, principal, action="console.signed_in", subject=f"principal/{principal.id}")
    except (Forbidden, Unauthenticated) as exc:
        return RedirectResponse(f"/sign-in?{urlencode({'error': exc.code, 'next': _own(next)})}", status_code=303)
    answer = RedirectResponse(_own(next), status_code=303)
    answer.set_cookie(
        COOKIE_NAME,
        parts.cookies.write(principal.token_id),
        max_age=parts.cookies.lifetime_s,
        httponly=True,
        samesite="strict",
        secure=parts.settings.http.secure_cookie or request.url.scheme == "https",
    )
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> RedirectResponse:
    """Forgets the cookie; 403 when another site's page asks for it."""
    refuse_foreign_origin(request)
    answer = RedirectResponse("/sign-in", status_code=303)
    answer.delete_cookie(COOKIE_NAME, httponly=True, samesite="strict")
    return answer


def _own(path: str) -> str:
    """Only a path of this console; anything else could lead the browser to a stranger."""
    plain = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if plain else "/"
