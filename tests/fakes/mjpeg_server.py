"""A camera on the network: MJPEG over HTTP (multipart/x-mixed-replace), with the faults that real ones have.

    server = MjpegServer(pictures)          # JPEG bytes in a circle
    with server:                            # server.url
        server.mode = "freeze"              # repeats one and the same JPEG
        server.stop(); server.start()       # restart on the same port

Modes: run, freeze (same bytes again and again), silent (connection stands, nothing comes), trickle (one byte at a
time), hang_up (closes each connection), refuse (answers 503).
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

Mode = Literal["run", "freeze", "silent", "trickle", "hang_up", "refuse"]
BOUNDARY = "ahsframe"


class MjpegServer:
    """Serves `pictures` (JPEG bytes) in a circle at `fps` to whoever connects. `pictures` may be replaced any time."""

    def __init__(self, pictures: Iterable[bytes], *, fps: float = 20.0, port: int = 0) -> None:
        self._pictures = list(pictures)
        self._circle: Iterator[bytes] = itertools.cycle(self._pictures)
        self._current = self._pictures[0]
        self._lock = threading.Lock()
        self.fps = fps
        self.mode: Mode = "run"
        self.connections = 0
        self.sent = 0
        self._port = port
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._open: set[socket.socket] = set()
        self._closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/video.mjpg"

    def show(self, pictures: Iterable[bytes]) -> None:
        """Send these from now on."""
        with self._lock:
            self._pictures = list(pictures)
            self._circle = itertools.cycle(self._pictures)
            self._current = self._pictures[0]

    def start(self) -> None:
        self._closing.clear()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner._serve(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Go away at once, as a camera that loses its power."""
        self._closing.set()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(timeout=5)
            self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    def _next_picture(self) -> bytes:
        with self._lock:
            if self.mode != "freeze":
                self._current = next(self._circle)
            return self._current

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.connections += 1
            self._open.add(handler.connection)
        try:
            if self.mode == "refuse":
                handler.send_error(503)
                return
            handler.send_response(200)
            handler.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
            handler.end_headers()
            self._stream(handler)
        except OSError:
            handler.close_connection = True
        finally:
            with self._lock:
                self._open.discard(handler.connection)

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        while not self._closing.is_set() and self.mode != "hang_up":
            if self.mode == "silent":
                time.sleep(0.02)
                continue
            jpeg = self._next_picture()
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
            self._send(handler, head + jpeg + b"\r\n")
            self.sent += 1
            time.sleep(1.0 / self.fps)
        handler.close_connection = True

    def _send(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        for position, byte in enumerate(data):
            if self.mode != "trickle":
                handler.wfile.write(data[position:])
                return
            handler.wfile.write(bytes([byte]))
            if self._closing.wait(0.05):
                return
