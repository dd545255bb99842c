"""Opens the database: the one place with an engine. SQLite in one file by default, PostgreSQL in production."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from cloud.config import DatabaseSettings
from cloud.errors import ConfigurationError, StorageUnavailable

_WRITES = "ahs_writes"
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}


class Storage:
    """Sessions on one database.

    Args:
        url: `sqlite+aiosqlite:///path` or `postgresql+psycopg://...`.
        settings: time-outs and pool.

    Raises:
        ConfigurationError: an address that no driver here can open.
    """

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        self._url = checked_url(url)
        self._settings = settings
        pool: dict[str, Any] = {} if self.is_sqlite else {"pool_size": settings.pool_size, "pool_timeout": 10}
        self._engine: AsyncEngine = create_async_engine(self._url, pool_pre_ping=not self.is_sqlite, **pool)
        self._writer = self._engine.execution_options(**{_WRITES: True})
        if self.is_sqlite:
            make_folder(self._url)
            prepare_sqlite(self._engine.sync_engine, settings.busy_timeout_ms)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is one file on this machine."""
        return self._url.get_backend_name() == "sqlite"

    async def close(self) -> None:
        """Closes all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that only reads, of one snapshot; StorageUnavailable when the database does not answer."""
        with _Translated():
            async with AsyncSession(self._engine, expire_on_commit=False) as session:
                yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """A session that commits at the end of the block, and rolls back when the block raises.

        On SQLite the write lock is taken at the start (BEGIN IMMEDIATE): a reader that turns into a writer would
        fail at once with a stale snapshot instead of waiting.
        """
        with _Translated():
            async with AsyncSession(self._writer, expire_on_commit=False) as session, session.begin():
                yield session

    async def ping(self) -> None:
        """One question; StorageUnavailable when it is not answered."""
        async with self.reading() as session:
            await session.execute(text("SELECT 1"))


class _Translated:
    """Turns a driver's words for "not there" into ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: object) -> None:
        if isinstance(exc, OperationalError | InterfaceError | PoolTimeoutError):
            raise StorageUnavailable(f"the database does not answer: {_first_line(exc)}") from exc
        if isinstance(exc, DBAPIError) and exc.connection_invalidated:
            raise StorageUnavailable(f"the database went away: {_first_line(exc)}") from exc


def checked_url(text_: str) -> URL:
    """The address with the driver we use; ConfigurationError otherwise."""
    try:
        url = make_url(text_)
    except ArgumentError as exc:
        raise ConfigurationError(f"database.url {text_!r} cannot be read: write sqlite+aiosqlite:///path") from exc
    driver = _DRIVERS.get(url.get_backend_name())
    if driver is None:
        raise ConfigurationError(f"database.url: {url.get_backend_name()} is not supported; use SQLite or PostgreSQL")
    if url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}:
        raise ConfigurationError("database.url: SQLite needs a file, e.g. sqlite+aiosqlite:///./data/cloud.db")
    return url.set(drivername=driver)


def make_folder(url: URL) -> None:
    """Creates the folder of an SQLite file; ConfigurationError when that is not allowed."""
    folder = Path(url.database or "").absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigurationError(f"the database's folder {folder} cannot be made: {exc.strerror}") from exc


def migration_engine(url: str, settings: DatabaseSettings) -> Engine:
    """A blocking engine for the migrations, which hold the write lock from their first statement."""
    checked = checked_url(url)
    if checked.get_backend_name() != "sqlite":
        return create_engine(checked)
    make_folder(checked)
    engine = create_engine(checked.set(drivername="sqlite+pysqlite")).execution_options(**{_WRITES: True})
    prepare_sqlite(engine, settings.busy_timeout_ms)
    return engine


def prepare_sqlite(engine: Engine, busy_timeout_ms: int) -> None:
    """WAL, foreign keys, full fsync (an acknowledged message must survive a power cut), and our own BEGIN."""

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        # Otherwise the driver begins transactions by itself, and never around DDL.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={busy_timeout_ms}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _first_line(exc: BaseException) -> str:
    return str(exc).splitlines()[0][:300] if str(exc) else type(exc).__name__
