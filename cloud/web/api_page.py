"""The API's documentation at `/docs`, with every script served from here: a laboratory may have no internet.

Swagger UI's files come with the `fastapi-offline` wheel. The page keeps the console's content security policy; pictures
inside Swagger UI's style sheet need `data:` beside it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from cloud.errors import NotFound
from cloud.web.rendering import CloudRendering
from fleet.webkit import SECURITY_HEADERS

ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_FOLDER = Path(str(files("fastapi_offline") / "static"))
_POLICY = SECURITY_HEADERS["Content-Security-Policy"].replace("img-src 'self'", "img-src 'self' data:")


def create_api_page(rendering: CloudRendering) -> APIRouter:
    """Router of `/docs` and of the two files behind it."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs() -> Response:
        page = rendering.api_page()
        page.headers["Content-Security-Policy"] = _POLICY
        return page

    @router.get("/docs/{name}")
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            raise NotFound(f"there is no file {name} here", code="no_file")
        return FileResponse(_FOLDER / name, media_type=ASSETS[name], headers={"Cache-Control": "max-age=86400"})

    return router
