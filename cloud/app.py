"""The web side: `/v1`, the console, health and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI

import cloud
from cloud import health, problems
from cloud.assembly import assembled
from cloud.auth import routes as auth_routes
from cloud.config import Settings
from cloud.dataset import routes as dataset_routes
from cloud.devices import routes as device_routes
from cloud.metrics import Metrics
from cloud.opinions import routes as opinion_routes
from cloud.opinions.analyser import Analyser
from cloud.parts import Parts
from cloud.releases import routes as release_routes
from cloud.request_limits import RequestLimits
from cloud.review import routes as review_routes
from cloud.rollouts import routes as rollout_routes
from cloud.web.pages import create_pages
from fleet.contract.http import Problem

_ABOUT = """\
Second opinions for blood smear microscopy, and the devices that ask for them. **Research use only.**

Every request carries `Authorization: Bearer <token>`. Errors are problem documents (RFC 9457) whose `code` is stable
and whose `hint` says what to do. Nobody sees another site's rows: they are answered as if they were not there.
"""


def create_app(
    settings: Settings, *, parts: Parts | None = None, worker: bool = False, analyser: Analyser | None = None
) -> FastAPI:
    """The application.

    Args:
        parts: what it is made of, when the caller has put it together (and takes it apart); else that is done from
            `settings` at the start and undone at the end.
        worker: whether the worker runs inside, too (only without `parts`).
        analyser: the larger model, instead of the configured bundle (only without `parts`).
    """
    metrics = parts.metrics if parts else Metrics()

    def life(app: FastAPI) -> AbstractAsyncContextManager[None]:
        if parts is not None:
            return _given()
        return _own(app, settings, worker=worker, analyser=analyser, metrics=metrics)

    app = FastAPI(
        title="Automated Hematology System: cloud",
        version=cloud.__version__,
        description=_ABOUT,
        lifespan=life,
        license_info={"name": "MIT", "identifier": "MIT"},
        docs_url=None,  # cloud.web.api_page serves it without the internet
        redoc_url=None,
    )
    if parts is not None:
        app.state.parts = parts
    problems.install(app)
    app.add_middleware(RequestLimits, metrics=metrics)
    for module in (
        opinion_routes,
        device_routes,
        review_routes,
        dataset_routes,
        release_routes,
        rollout_routes,
        health,
        auth_routes,
    ):
        app.include_router(module.router)
    app.include_router(create_pages())
    _describe(app)
    return app


@asynccontextmanager
async def _given() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _own(
    app: FastAPI, settings: Settings, *, worker: bool, analyser: Analyser | None, metrics: Metrics
) -> AsyncIterator[None]:
    async with assembled(settings, web=True, worker=worker, analyser=analyser, metrics=metrics) as parts:
        app.state.parts = parts
        yield


def _describe(app: FastAPI) -> None:
    """Adds to the description what FastAPI cannot see: the bearer token and the problem document."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
            for unused in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(unused, None)
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            for path, item in schema["paths"].items():
                for operation in item.values():
                    if path.startswith("/v1"):
                        operation["security"] = [{"bearer": []}]
                    _drop_default_422(operation)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _drop_default_422(operation: dict[str, Any]) -> None:
    content = operation["responses"].get("422", {}).get("content", {})
    if "application/json" in content:
        del content["application/json"]
        content["application/problem+json"] = {"schema": {"$ref": "#/components/schemas/Problem"}}
