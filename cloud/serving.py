"""Runs the web side, the worker or both until SIGTERM or SIGINT, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Iterator

import structlog
import uvicorn
from fastapi import FastAPI

from cloud.app import create_app
from cloud.assembly import assembled
from cloud.config import HttpSettings, Settings
from cloud.errors import CloudError, ConfigurationError
from cloud.health import create_status_app

log = structlog.get_logger()

MAX_CONNECTIONS = 500


class PortInUse(CloudError):
    """Another program listens there already."""


class _Server(uvicorn.Server):
    """Leaves the signals to us: uvicorn would raise them again at the end, and the exit code would be a crash's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, *, web: bool, worker: bool) -> None:
    """Serves until a signal comes; the port is taken before anything is opened.

    Raises:
        PortInUse: told before a table is touched.
        ConfigurationError, StorageUnavailable: it cannot start.
    """
    if web:
        _check_certificate(settings.http)
    with _listening(settings, web=web) as listener:
        async with assembled(settings, web=web, worker=worker) as parts:
            app = create_app(settings, parts=parts) if web else create_status_app(parts)
            await _run(app, listener, settings, web=web)
    log.info("stopped")


async def _run(app: FastAPI, listener: socket.socket | None, settings: Settings, *, web: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if listener is None:
        await stop.wait()
        return
    # A worker's own page stays plain: it is for the health check and Prometheus beside it.
    https = settings.http.uses_tls and web
    config = uvicorn.Config(
        app,
        ssl_certfile=settings.http.tls_certificate_file if https else None,
        ssl_keyfile=settings.http.tls_key_file if https else None,
        log_config=None,
        access_log=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=settings.http.shutdown_grace_s,
        lifespan="on",
        server_header=False,
    )
    server = _Server(config)
    host, port = listener.getsockname()[:2]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    log.info("listening", url=f"http{'s' if https else ''}://{host}:{port}")
    await asyncio.wait({serving, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving


def _check_certificate(settings: HttpSettings) -> None:
    """Reads certificate and key as they will be used: before a table is touched, and with the setting's name."""
    if settings.tls_certificate_file is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate_file, settings.tls_key_file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigurationError(
            f"http.tls_certificate_file {settings.tls_certificate_file} and http.tls_key_file {settings.tls_key_file}: "
            f"they cannot be read, or do not belong together ({exc})"
        ) from exc


@contextlib.contextmanager
def _listening(settings: Settings, *, web: bool) -> Iterator[socket.socket | None]:
    host = settings.http.host if web else settings.worker.status_host
    port = settings.http.port if web else settings.worker.status_port
    if port is None:
        yield None
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as exc:
            setting = "http.port" if web else "worker.status_port"
            raise PortInUse(
                f"{host}:{port} cannot be listened on ({exc.strerror}): stop what runs there, or set {setting}"
            ) from exc
        yield listener
