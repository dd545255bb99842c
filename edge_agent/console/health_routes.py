"""The health page.

/health one line a part             /fragments/parts    the lines alone
                                    /healthz            200 alive, 503 not; JSON
                                    /metrics            Prometheus
"""

from __future__ import annotations

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from edge_agent.console.rendering import ConsoleRendering
from edge_agent.console.view import ConsoleView


def add_health(app: FastAPI, view: ConsoleView, rendering: ConsoleRendering) -> None:
    """Adds the health page, and what other programs ask for."""

    @app.get("/health")
    def health_page() -> Response:
        return rendering.page("health.html", "/health", live=view.snapshot(), health=view.health())

    @app.get("/fragments/parts")
    def parts() -> Response:
        return rendering.piece("parts.html", health=view.health())

    @app.get("/healthz", response_model=None)
    def healthz() -> Response:
        health = view.health()
        return JSONResponse(ConsoleRendering.plain(health), status_code=200 if health.alive else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(view.metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")
