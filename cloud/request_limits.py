"""What a request may weigh, counted while it comes in, and the figures and headers of each answer."""

from __future__ import annotations

import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud.metrics import Metrics
from fleet.contract.http import MAX_CONTEXT_BYTES, MAX_IMAGE_BYTES, PROBLEM_TYPE, Problem
from fleet.contract.release import MAX_RELEASE_BYTES, MAX_TRUST_BYTES
from fleet.release.evidence import MAX_EVIDENCE_BYTES

MAX_UPLOAD_BYTES = MAX_IMAGE_BYTES + MAX_CONTEXT_BYTES + 64 * 1024
MAX_BODY_BYTES = 64 * 1024
"""Of everything but an upload."""

MAX_ROLLOUT_BYTES = 2 * 1024 * 1024
"""Of a rollout that names every device of a large fleet, twice."""

LIMITS = {
    "/v1/second-opinions": MAX_UPLOAD_BYTES,
    "/v1/releases": MAX_RELEASE_BYTES + MAX_TRUST_BYTES + MAX_EVIDENCE_BYTES + 64 * 1024,
    "/v1/releases/prune": 2 * MAX_TRUST_BYTES,
    "/v1/trust": 2 * MAX_TRUST_BYTES,
    "/v1/rollouts": MAX_ROLLOUT_BYTES,
}
"""Path of an upload -> how large it may be."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}


class RequestLimits:
    """ASGI middleware: 413 for a body that is too large, before it is read whole; counts and times each request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on; anything but HTTP untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = LIMITS.get(scope["path"], MAX_BODY_BYTES)
        started_s = time.perf_counter()
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            if _declared(scope) > limit:
                await _refuse(limit)(scope, receive, sending)
            else:
                await self._app(scope, _counted(receive, limit), sending)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - started_s)


def _declared(scope: Scope) -> int:
    text = Headers(scope=scope).get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _counted(receive: Receive, limit: int) -> Receive:
    size_bytes = 0

    async def receiving() -> Message:
        nonlocal size_bytes
        message = await receive()
        size_bytes += len(message.get("body", b""))
        if size_bytes > limit:
            # Handled inside, where it becomes a problem document like every other.
            raise HTTPException(413, f"the request is larger than {limit} bytes")
        return message

    return receiving


def _refuse(limit: int) -> JSONResponse:
    problem = Problem(
        title="Too large",
        status=413,
        code="body_too_large",
        detail=f"the request is larger than {limit} bytes",
        hint="send less at once, e.g. a smaller image",
    )
    # The rest of the body is not read: the connection cannot be used again.
    return JSONResponse(problem.model_dump(mode="json"), 413, headers={"connection": "close"}, media_type=PROBLEM_TYPE)
