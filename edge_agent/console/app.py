"""The console's pages and addresses.

/               live page            /healthz        200 alive, 503 not; JSON
/slide          gallery              /metrics        Prometheus
/health         one line a part      /api/snapshot   state, JSON
/model          what runs here       /api/live       newest field's cells, JSON
/live.jpg       newest picture       /events         server-sent events
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from edge_agent.console.access import Access
from edge_agent.console.frames import FrameShelf
from edge_agent.console.rendering import ConsoleRendering
from edge_agent.console.ticker import Ticker
from edge_agent.console.view import ConsoleView
from fleet.webkit import EventStream, Feed

GALLERY_CELLS = 600
MAX_BROWSERS = 16
JPEG_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


def create_console(view: ConsoleView, *, token: str | None = None, max_browsers: int = MAX_BROWSERS) -> FastAPI:
    """Builds the console.

    Args:
        view: the agent. Its methods are called from worker threads, never from the pipeline.
        token: who opens the console must know it; None only when bound to loopback (see `ConsoleServer`).
        max_browsers: pages that may follow the live state at once; the next gets a 503 and tries again.
    """
    feed = Feed(max_clients=max_browsers)
    rendering = ConsoleRendering(Path(__file__).parent)
    shelf = FrameShelf(view)
    ticker = Ticker(view, feed, rendering, shelf)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.loop = asyncio.get_running_loop()
        task = asyncio.create_task(ticker.run())
        yield
        await feed.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    app = FastAPI(title="Edge console", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.feed = feed
    app.add_middleware(Access, token=token, rendering=rendering)
    _add_pages(app, view, rendering)
    _add_data(app, view, shelf)
    _add_events(app, feed)
    app.add_exception_handler(StarletteHTTPException, rendering.http_error)
    return app


def _add_events(app: FastAPI, feed: Feed) -> None:
    @app.get("/events")
    async def events() -> Response:
        return EventStream(feed)


def _add_pages(app: FastAPI, view: ConsoleView, rendering: ConsoleRendering) -> None:
    @app.get("/")
    def live_page() -> Response:
        return rendering.page("live.html", "/", live=view.snapshot())

    @app.get("/slide")
    def slide_page(slide: str | None = None) -> Response:
        groups = rendering.groups(view.cells(slide, GALLERY_CELLS))
        return rendering.page("slide.html", "/slide", live=view.snapshot(), groups=groups)

    @app.get("/fragments/gallery")
    def gallery(slide: str | None = None) -> Response:
        return rendering.piece("gallery.html", groups=rendering.groups(view.cells(slide, GALLERY_CELLS)))

    @app.get("/health")
    def health_page() -> Response:
        return rendering.page("health.html", "/health", live=view.snapshot(), health=view.health())

    @app.get("/fragments/parts")
    def parts() -> Response:
        return rendering.piece("parts.html", health=view.health())

    @app.get("/model")
    def model_page() -> Response:
        return rendering.page("model.html", "/model", live=view.snapshot(), card=view.model())

    @app.get("/fragments/model")
    def model_parts() -> Response:
        return rendering.piece("model_parts.html", live=view.snapshot(), card=view.model())

    @app.get("/static/{name}")
    def static(name: str, request: Request) -> Response:
        return rendering.asset(name, request)


def _add_data(app: FastAPI, view: ConsoleView, shelf: FrameShelf) -> None:
    @app.get("/api/snapshot", response_model=None)
    def snapshot() -> Response:
        return JSONResponse(ConsoleRendering.plain(view.snapshot()))

    @app.get("/api/live", response_model=None)
    def live() -> Response:
        field = shelf.newest()
        if field is None:
            return Response(status_code=204)
        plain = {name: getattr(field, name) for name in ("capture_id", "width_px", "height_px", "um_per_px")}
        return JSONResponse(plain | {"boxes": ConsoleRendering.plain(field.boxes)})

    @app.get("/live.jpg")
    def live_picture(capture: str | None = None) -> Response:
        field = shelf.find(capture) if capture else shelf.newest()
        if field is None:
            return PlainTextResponse("No field has been read yet.\n", status_code=404)
        headers = JPEG_HEADERS | {"X-Capture-Id": field.capture_id}
        return Response(field.jpeg, media_type="image/jpeg", headers=headers)

    @app.get("/cells/{cell_id}.jpg")
    def cell_picture(cell_id: int) -> Response:
        jpeg = view.cell_jpeg(cell_id)
        if jpeg is None:
            return PlainTextResponse("The picture of this cell is gone.\n", status_code=404)
        headers = JPEG_HEADERS | {"Cache-Control": "private, max-age=86400"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    @app.get("/healthz", response_model=None)
    def healthz() -> Response:
        health = view.health()
        return JSONResponse(ConsoleRendering.plain(health), status_code=200 if health.alive else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(view.metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")
