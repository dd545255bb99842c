"""The live page.

/       live page                   /live.jpg       newest picture
/events server-sent events          /api/snapshot   state, JSON
                                    /api/live       newest field's cells, JSON
"""

from __future__ import annotations

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from edge_agent.console.frames import FrameShelf
from edge_agent.console.rendering import JPEG_HEADERS, ConsoleRendering
from edge_agent.console.view import ConsoleView
from fleet.webkit import EventStream, Feed


def add_live(app: FastAPI, view: ConsoleView, rendering: ConsoleRendering, shelf: FrameShelf, feed: Feed) -> None:
    """Adds the live page and what it asks for."""

    @app.get("/")
    def live_page() -> Response:
        return rendering.page("live.html", "/", live=view.snapshot())

    @app.get("/events")
    async def events() -> Response:
        return EventStream(feed)

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
