"""Who may open the console.

On loopback everybody at this workstation may, but only under a loopback name: a web page elsewhere that had its own
name pointed at 127.0.0.1 is refused. Opened to the network, a token is asked for, once a browser.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, quote

from fastapi.responses import JSONResponse, RedirectResponse
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_agent.console.rendering import ConsoleRendering

COOKIE_NAME = "ahs_console"
COOKIE_AGE_S = 12 * 3600
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = ("/static/", "/healthz", "/sign-in")
MAX_FORM_BYTES = 4096
WRONG_TOKEN_PAUSE_S = 1.0


def session_value(token: str) -> str:
    """Cookie of a browser that knew the token; changing the token ends every session."""
    return hmac.new(token.encode(), b"edge console session", hashlib.sha256).hexdigest()


def host_name(header: str) -> str:
    """`[::1]:8080` -> `::1`, `localhost:8080` -> `localhost`."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


def inner_path(path: str) -> str:
    """Where to go after signing in: a path of this console and nothing else."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"


class Access:
    """ASGI middleware in front of every page."""

    def __init__(self, app: ASGIApp, *, token: str | None, rendering: ConsoleRendering) -> None:
        self._app = app
        self._token = token
        self._rendering = rendering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets the request through or answers it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        answer = self._refuse_foreign_name(request) if self._token is None else await self._check(request, self._token)
        await (answer or self._app)(scope, receive, send)

    def _refuse_foreign_name(self, request: Request) -> Response | None:
        if host_name(request.headers.get("host", "")) in LOOPBACK_NAMES:
            return None
        return _problem(421, "This console answers under localhost only.", "Open http://127.0.0.1 with its port.")

    async def _check(self, request: Request, token: str) -> Response | None:
        if request.url.path == "/sign-in":
            return await self._sign_in(request, token)
        if request.url.path.startswith(OPEN_PATHS) or knows_token(request.headers, token):
            return None
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/sign-in?next=" + quote(request.url.path, safe="/"), status_code=303)
        return _problem(401, "This console asks for its token.", "Send it as `Authorization: Bearer <token>`.")

    async def _sign_in(self, request: Request, token: str) -> Response:
        if request.method != "POST":
            return self._form(refused=False, after=request.query_params.get("next", "/"))
        body = await _short_body(request)
        fields = parse_qs(body.decode("utf-8", "replace")) if body is not None else {}
        after = fields.get("next", ["/"])[0]
        if not hmac.compare_digest(fields.get("token", [""])[0].strip().encode(), token.encode()):
            await asyncio.sleep(WRONG_TOKEN_PAUSE_S)
            return self._form(refused=True, after=after)
        answer = RedirectResponse(inner_path(after), status_code=303)
        answer.set_cookie(COOKIE_NAME, session_value(token), max_age=COOKIE_AGE_S, httponly=True, samesite="strict")
        return answer

    def _form(self, *, refused: bool, after: str) -> Response:
        status = 403 if refused else 200
        return self._rendering.bare_page("sign_in.html", status_code=status, refused=refused, next=inner_path(after))


def knows_token(headers: Headers, token: str) -> bool:
    """Whether the request carries the token (bearer) or the cookie made of it."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(value.strip().encode(), token.encode()):
        return True
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE_NAME)
    except CookieError:
        return False
    return cookie is not None and hmac.compare_digest(cookie.value.encode(), session_value(token).encode())


async def _short_body(request: Request) -> bytes | None:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    return body


def _problem(status: int, detail: str, hint: str) -> Response:
    body = {"type": "about:blank", "title": detail, "status": status, "detail": detail, "hint": hint}
    return JSONResponse(body, status_code=status, media_type="application/problem+json")
