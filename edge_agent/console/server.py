"""The console on a port, on its own thread: whatever happens to it, the pipeline goes on."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from edge_agent.console.app import create_console
from edge_agent.console.view import ConsoleView
from edge_agent.errors import ConfigurationError, DeviceFault, PortInUse

MIN_TOKEN_CHARACTERS = 16
MAX_CONNECTIONS = 64
STOP_TIMEOUT_S = 3.0
SEND_BUFFER_BYTES = 128 * 1024


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this workstation alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The console's token out of its file; ConfigurationError when there is none to read."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigurationError(f"the console's token file {path} cannot be read: {exc.strerror}") from exc
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise ConfigurationError(f"the console's token in {path} needs at least {MIN_TOKEN_CHARACTERS} characters")
    return token


class ConsoleServer:
    """`with ConsoleServer(view, host="127.0.0.1", port=8090): ...`; `port` 0 takes a free one, see `url`.

    Raises:
        ConfigurationError: another address than loopback without a token.
        PortInUse: somebody else listens there.
        DeviceFault: this workstation does not have the address.
    """

    def __init__(self, view: ConsoleView, *, host: str, port: int, token: str | None = None) -> None:
        if token is None and not is_loopback(host):
            raise ConfigurationError(
                f"the console is to listen on {host}, which others can reach, without a token: "
                "set console.token_file, or listen on 127.0.0.1"
            )
        self._host = host
        self._port = port
        self.app: FastAPI = create_console(view, token=token)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where to point the browser."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/"

    def __enter__(self) -> ConsoleServer:
        listening = self._listen()
        config = uvicorn.Config(
            self.app,
            log_config=None,
            access_log=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="console", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the open streams, then the server; at most a few seconds."""
        if self._server is None or self._thread is None:
            return
        loop: asyncio.AbstractEventLoop | None = getattr(self.app.state, "loop", None)
        if loop is not None and loop.is_running():
            asyncio.run_coroutine_threadsafe(self.app.state.feed.close(), loop)
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT_S)
        self._server = self._thread = None

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by each connection: who does not read is noticed after kilobytes, not megabytes.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        try:
            listening.bind((self._host, self._port))
            # At once, not when the server's own thread gets to it: who has the address may connect.
            listening.listen(MAX_CONNECTIONS)
        except OSError as exc:
            listening.close()
            if exc.errno in (errno.EADDRINUSE, errno.EACCES):
                raise PortInUse(
                    f"port {self._port} on {self._host} is taken: stop the other program or set console.port"
                ) from exc
            raise DeviceFault(f"cannot listen on {self._host}:{self._port}: {exc.strerror}") from exc
        self._port = listening.getsockname()[1]
        return listening
