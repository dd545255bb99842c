"""Every error as a problem document, or as a page for who asked for one."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse

from cloud.auth.sessions import SignInNeeded
from cloud.errors import Busy, ModelMissing, Refused, StorageUnavailable
from cloud.web.pages import render_problem
from fleet.contract.http import PROBLEM_TYPE, Problem

log = structlog.get_logger()

STORAGE_RETRY_S = 5
MODEL_RETRY_S = 60

_TITLES = {404: "Not found", 405: "Method not allowed", 413: "Too large", 422: "Cannot be processed"}


def answer(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """A problem as JSON; outside `/v1`, for a browser, as a page."""
    if not request.url.path.startswith("/v1") and "text/html" in request.headers.get("accept", ""):
        page = render_problem(request, problem)
        page.headers.update(headers or {})
        return page
    content = problem.model_dump(mode="json")
    return JSONResponse(content, problem.status, headers=dict(headers or {}), media_type=PROBLEM_TYPE)


def install(app: FastAPI) -> None:
    """Registers the handlers."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(Busy, _busy)
    app.add_exception_handler(ModelMissing, _model_missing)
    app.add_exception_handler(StorageUnavailable, _storage)
    app.add_exception_handler(IntegrityError, _conflict)
    app.add_exception_handler(SignInNeeded, _sign_in)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def _refused(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, Refused)
    problem = Problem(title=exc.title, status=exc.status, detail=exc.detail, code=exc.code, hint=exc.hint)
    headers = {"www-authenticate": "Bearer"} if exc.status == 401 else {}
    return answer(request, problem, headers)


def _busy(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, Busy)
    hint = f"send the same again in {exc.retry_after_s} s"
    problem = Problem(title="Busy", status=exc.status, detail=exc.detail, code="busy", hint=hint)
    return answer(request, problem, {"retry-after": str(exc.retry_after_s)})


def _model_missing(request: Request, exc: Exception) -> Response:
    hint = "keep the image and send it again later; the operator installs a bundle (see /readyz)"
    problem = Problem(title="No model", status=503, detail=str(exc), code="no_model", hint=hint)
    return answer(request, problem, {"retry-after": str(MODEL_RETRY_S)})


def _storage(request: Request, exc: Exception) -> Response:
    log.error("storage_unavailable", path=request.url.path, error=str(exc))
    # The driver's words may name hosts and accounts: they are for the log.
    problem = Problem(
        title="Storage does not answer", status=503, code="storage_unavailable", hint="nothing was kept: send it again"
    )
    return answer(request, problem, {"retry-after": str(STORAGE_RETRY_S)})


def _conflict(request: Request, exc: Exception) -> Response:
    log.warning("write_conflicted", path=request.url.path, error=str(exc).splitlines()[0])
    problem = Problem(
        title="Conflict", status=409, code="conflict", detail="another change came first", hint="read it again"
    )
    return answer(request, problem)


def _sign_in(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, SignInNeeded)
    query = urlencode({"next": exc.path, "reason": exc.reason})
    return RedirectResponse(f"/sign-in?{query}", status_code=303)


def _invalid(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    first = exc.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    hint = "see /docs for what is expected"
    problem = Problem(
        title=_TITLES[422], status=422, code="invalid_request", detail=f"{place}: {first['msg']}", hint=hint
    )
    return answer(request, problem)


def _http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    title = _TITLES.get(exc.status_code, "Request failed")
    detail = "" if exc.detail == title else str(exc.detail)
    code = {404: "no_route", 405: "method_not_allowed", 413: "body_too_large"}.get(exc.status_code, "bad_request")
    return answer(request, Problem(title=title, status=exc.status_code, detail=detail, code=code), exc.headers)


def _unexpected(request: Request, exc: Exception) -> Response:
    # Starlette logs the trace and raises on; the asker learns only that it was our fault.
    problem = Problem(title="Internal error", status=500, code="internal", hint="send it again; tell the operator")
    return answer(request, problem)
