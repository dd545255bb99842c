"""The slide page.

/slide  gallery of white cells      /fragments/gallery  the gallery alone
                                    /cells/{id}.jpg     one cell's picture
"""

from __future__ import annotations

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from edge_agent.console.rendering import JPEG_HEADERS, ConsoleRendering
from edge_agent.console.view import ConsoleView

GALLERY_CELLS = 600


def add_slide(app: FastAPI, view: ConsoleView, rendering: ConsoleRendering) -> None:
    """Adds the slide page and what it asks for."""

    @app.get("/slide")
    def slide_page(slide: str | None = None) -> Response:
        groups = rendering.groups(view.cells(slide, GALLERY_CELLS))
        return rendering.page("slide.html", "/slide", live=view.snapshot(), groups=groups)

    @app.get("/fragments/gallery")
    def gallery(slide: str | None = None) -> Response:
        return rendering.piece("gallery.html", groups=rendering.groups(view.cells(slide, GALLERY_CELLS)))

    @app.get("/cells/{cell_id}.jpg")
    def cell_picture(cell_id: int) -> Response:
        jpeg = view.cell_jpeg(cell_id)
        if jpeg is None:
            return PlainTextResponse("The picture of this cell is gone.\n", status_code=404)
        headers = JPEG_HEADERS | {"Cache-Control": "private, max-age=86400"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)
