"""A small HTTP server on a real socket that serves one file well or badly, as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """What is served, and how.

    Attributes:
        files: path -> content.
        ranges: whether ranges are honoured.
        tag: entity tag, "" for none.
        cut_at: for each of the next answers, bytes after which the connection is cut.
        refuse: for each of the next answers, (status, Retry-After).
        asked: headers `Range` and `If-Range` of each request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    tag: str = '"v1"'
    cut_at: list[int] = field(default_factory=list)
    refuse: list[tuple[int, str]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        wanted, condition = request.headers.get("Range", ""), request.headers.get("If-Range", "")
        self.asked.append((wanted, condition))
        if self.refuse:
            status, after = self.refuse.pop(0)
            _head(request, status, {"Retry-After": after, "Content-Length": "0"})
            return
        content = self.files.get(request.path.lstrip("/"))
        if content is None:
            _head(request, 404, {"Content-Length": "0"})
            return
        start, headers = 0, {"ETag": self.tag}
        if self.ranges and wanted and condition in ("", self.tag):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                _head(request, 416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        _head(request, 206 if "Content-Range" in headers else 200, {**headers, "Content-Length": str(len(body))})
        request.wfile.write(body[: self.cut_at.pop(0)] if self.cut_at else body)
        request.close_connection = True


def _head(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        if value:
            request.send_header(name, value)
    request.end_headers()


@contextmanager
def serving(server: FileServer) -> Iterator[FileServer]:
    """The server, listening on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,), name="file-server", daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{listening.server_address[1]}"
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
