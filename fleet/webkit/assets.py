"""Static files, read once and served from memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its bytes, what it is, and its entity tag."""

    content: bytes
    media_type: str
    etag: str


class Assets:
    """Files of one directory by name. A name that is not there is a 404: no path is ever built from a request."""

    def __init__(self, *directories: Path) -> None:
        """Reads the directories' style sheets, modules and pictures; a later directory wins a name."""
        self._by_name: dict[str, Asset] = {}
        for directory in directories:
            for path in sorted(directory.iterdir()):
                if path.suffix in MEDIA_TYPES:
                    content = path.read_bytes()
                    etag = '"' + hashlib.sha256(content).hexdigest()[:16] + '"'
                    self._by_name[path.name] = Asset(content, MEDIA_TYPES[path.suffix], etag)

    @property
    def names(self) -> tuple[str, ...]:
        """Names that are served."""
        return tuple(self._by_name)

    def respond(self, name: str, request: Request) -> Response:
        """The file, 304 when the browser has it already, 404 when there is none.

        Always revalidated: modules import each other by plain names, so a name must never be stale after an update.
        """
        headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        asset = self._by_name.get(name)
        if asset is None:
            return Response("There is no such file.\n", status_code=404, media_type="text/plain", headers=headers)
        headers["ETag"] = asset.etag
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers | {"Content-Type": asset.media_type})
