"""`/healthz`, `/readyz`, `/metrics`: of the web side and, alone, of the worker."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import cloud
from cloud.auth.dependencies import parts_of
from cloud.errors import StorageUnavailable
from cloud.parts import Parts
from fleet.contract.http import Health

router = APIRouter(tags=["operation"])


@router.get("/healthz", response_model=Health, summary="Whether the process lives")
async def healthz() -> Health:
    """Asks nothing of others: a database that is away is no reason to kill the process."""
    return Health(status="ok", parts={}, version=cloud.__version__)


@router.get(
    "/readyz",
    response_model=Health,
    summary="Whether it can do its work",
    responses={503: {"model": Health, "description": "The database or the image store does not answer."}},
)
async def readyz(request: Request) -> JSONResponse:
    """200 `ok` or `degraded` (it answers, but a part is away: see `parts`), 503 `down` without its storage."""
    parts = parts_of(request)
    found, down = await _storage(parts)
    if parts.serves_web:
        found["model"] = parts.opinions.model_state
    worker_ok = True
    if parts.worker is not None:
        found |= parts.worker.health.parts
        worker_ok = parts.worker.health.ok
    # A worker alone that cannot reach its broker does no work at all; a web side still answers.
    down = down or (not parts.serves_web and not worker_ok)
    degraded = not worker_ok or found.get("model", "ok") != "ok"
    status = "down" if down else "degraded" if degraded else "ok"
    health = Health(status=status, parts=found, version=cloud.__version__)
    return JSONResponse(health.model_dump(mode="json"), 503 if down else 200)


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """Of this process; the fleet's figures only where the leading worker runs."""
    return Response(generate_latest(parts_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _storage(parts: Parts) -> tuple[dict[str, str], bool]:
    found: dict[str, str] = {}
    down = False
    for name, part in (("database", parts.storage), ("images", parts.images)):
        try:
            await part.ping()
            found[name] = "ok"
        except StorageUnavailable:
            found[name], down = "does not answer; see the log", True
    return found, down


def create_status_app(parts: Parts) -> FastAPI:
    """The worker's own small page: health and metrics, nothing else."""
    app = FastAPI(title="AHS cloud worker", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.parts = parts
    app.include_router(router)
    return app
