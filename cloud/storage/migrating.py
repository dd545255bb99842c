"""Brings the tables to a version, with the data in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from cloud.config import DatabaseSettings
from cloud.errors import ConfigurationError, StorageUnavailable
from cloud.storage.engine_sqlalchemy import migration_engine

log = structlog.get_logger()

_LOCK_KEY = 0x4148_5301
"""PostgreSQL's advisory lock: two replicas that start together migrate one after the other."""


def migrate(url: str, settings: DatabaseSettings, *, target: str = "head") -> tuple[str | None, str | None]:
    """Brings the tables forward to `target`; blocking, for a thread or the command line.

    Returns:
        (revision before, revision after).

    Raises:
        StorageUnavailable: the database does not answer.
        ConfigurationError: the tables are of a newer program than this one.
    """
    with _connected(url, settings) as (connection, config):
        before = _revision(connection)
        _refuse_newer(before, config)
        command.upgrade(config, target)
        return before, _revision(connection)


def downgrade(url: str, settings: DatabaseSettings, *, target: str) -> tuple[str | None, str | None]:
    """Brings the tables back to an older version; errors as `migrate`."""
    with _connected(url, settings) as (connection, config):
        before = _revision(connection)
        command.downgrade(config, target)
        return before, _revision(connection)


def require_current(url: str, settings: DatabaseSettings) -> None:
    """ConfigurationError unless the tables are exactly those of this program."""
    with _connected(url, settings) as (connection, config):
        found, wanted = _revision(connection), ScriptDirectory.from_config(config).get_current_head()
    if found != wanted:
        raise ConfigurationError(f"the tables are at {found}, this program needs {wanted}: run `ahs-cloud migrate`")


@contextmanager
def _connected(url: str, settings: DatabaseSettings) -> Iterator[tuple[Connection, Config]]:
    engine = migration_engine(url, settings)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            yield connection, config
    except DBAPIError as exc:
        raise StorageUnavailable(f"the database cannot be migrated: {str(exc).splitlines()[0][:300]}") from exc
    except CommandError as exc:
        raise ConfigurationError(f"the tables cannot be brought there: {exc}") from exc
    finally:
        engine.dispose()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(found: str | None, config: Config) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise ConfigurationError(f"the tables are of a newer version ({found}): start a newer ahs-cloud")
