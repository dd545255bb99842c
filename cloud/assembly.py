"""Puts the service together, and takes it apart again in the other order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from cloud.auth.sessions import MIN_SECRET_BYTES, CookieSigner
from cloud.auth.tokens import Tokens
from cloud.config import Settings
from cloud.devices.registry import DeviceRegistry
from cloud.errors import ConfigurationError
from cloud.metrics import Metrics
from cloud.opinions.analyser import Analyser
from cloud.opinions.analyser_pipeline import PipelineAnalyser, bundle_path
from cloud.opinions.service import OpinionService
from cloud.parts import Parts
from cloud.releases.service import ReleaseService
from cloud.releases.signing import OnlineKey, load_online_key
from cloud.storage.engine_sqlalchemy import Storage
from cloud.storage.images_fsspec import ImageStore
from cloud.storage.migrating import migrate, require_current
from cloud.worker import Worker

log = structlog.get_logger()


@asynccontextmanager
async def assembled(
    settings: Settings, *, web: bool, worker: bool, analyser: Analyser | None = None, metrics: Metrics | None = None
) -> AsyncIterator[Parts]:
    """Everything the web side or the worker needs, open for the length of the block.

    Args:
        web: whether second opinions are answered here.
        worker: whether ingest and the leader's duties run here.
        analyser: the larger model; by default the configured or shipped bundle, loaded here.

    Raises:
        ConfigurationError: the settings cannot work.
        StorageUnavailable: the database does not answer.
    """
    metrics = metrics or Metrics()
    await asyncio.to_thread(_prepare_tables, settings)
    images = ImageStore(settings.images_url)
    key = load_online_key(settings.releases)
    if web and analyser is None:
        analyser = await asyncio.to_thread(_load_analyser, settings)
    async with contextlib.AsyncExitStack() as stack:
        # The stack closes each one even when another one's end fails.
        storage = Storage(settings.database_url, settings.database)
        stack.push_async_callback(storage.close)
        tokens = Tokens()
        opinions = OpinionService(
            storage=storage, images=images, settings=settings.opinions, metrics=metrics, analyser=analyser
        )
        stack.push_async_callback(opinions.close)
        parts = Parts(
            settings=settings,
            storage=storage,
            images=images,
            tokens=tokens,
            cookies=CookieSigner(_session_secret(settings), lifetime_s=settings.http.session_lifetime_s),
            devices=DeviceRegistry(tokens, token_lifetime=timedelta(days=settings.device_token_days)),
            opinions=opinions,
            releases=ReleaseService(storage=storage, images=images, key=key),
            metrics=metrics,
            worker=Worker(settings=settings, storage=storage, metrics=metrics, images=images, key=key)
            if worker
            else None,
            serves_web=web,
        )
        stack.push_async_callback(_ended, _started(parts))
        yield parts


def _worker(
    settings: Settings, storage: Storage, images: ImageStore, key: OnlineKey | None, metrics: Metrics
) -> Worker:
    return Worker(settings=settings, storage=storage, metrics=metrics, images=images, key=key)


def _started(parts: Parts) -> list[asyncio.Task[None]]:
    """What runs beside the requests; a task that fails says so in the log and in /readyz at once, not at the end."""
    tasks = []

    def start(name: str, work: Coroutine[Any, Any, None], failed: Callable[[], None]) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda done: _tell_failure(done, failed))
        tasks.append(task)

    def no_model() -> None:
        parts.opinions.model_state = "the bundle could not be tested; see the log"

    if parts.serves_web:
        start("prove", parts.opinions.prove(), no_model)
    if (worker := parts.worker) is not None:
        start("worker", worker.run(), lambda: worker.health.parts.update(worker="down: it ended; see the log"))
    return tasks


def _tell_failure(task: asyncio.Task[None], failed: Callable[[], None]) -> None:
    if task.cancelled() or (exc := task.exception()) is None:
        return
    log.error("background_task_failed", task=task.get_name(), exc_info=exc)
    failed()


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    # What they failed with has been told when it happened, and must not keep the rest from being closed.
    await asyncio.gather(*tasks, return_exceptions=True)


def _prepare_tables(settings: Settings) -> None:
    if not settings.database.migrate_on_start:
        require_current(settings.database_url, settings.database)
        return
    before, after = migrate(settings.database_url, settings.database)
    if before != after:
        log.info("tables_migrated", before=before, after=after)


def _load_analyser(settings: Settings) -> Analyser | None:
    path = bundle_path(settings.opinions.bundle)
    if path is None:
        log.warning("second_opinion_bundle_missing", hint="train one with ahs-train, or set opinions.bundle")
        return None
    analyser = PipelineAnalyser(path, threads=settings.opinions.threads)
    log.info("second_opinion_bundle_loaded", name=analyser.model.name, version=analyser.model.version)
    return analyser


def _session_secret(settings: Settings) -> bytes:
    """The configured key, else one that is made once in data_dir, readable by its owner alone."""
    if settings.http.session_secret is not None:
        secret = settings.http.session_secret.get_secret_value().encode()
        if len(secret) < MIN_SECRET_BYTES:
            raise ConfigurationError(f"http.session_secret is too short: give at least {MIN_SECRET_BYTES} characters")
        return secret
    path = settings.data_dir / "session.key"
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            _write_new(path, secrets.token_bytes(MIN_SECRET_BYTES))
        return path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"the session key {path} cannot be kept: {exc.strerror}") from exc


def _write_new(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    try:
        # A link, unlike a rename, never replaces the key that another process has just made.
        os.link(part, path)
    finally:
        part.unlink()
