"""The tables forward and back with data in them, on both databases."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from cloud.auth.principals import Principal, Role
from cloud.auth.tokens import SYSTEM, Tokens
from cloud.config import DatabaseSettings
from cloud.errors import ConfigurationError
from cloud.rollouts import service
from cloud.storage.engine_sqlalchemy import Storage, migration_engine
from cloud.storage.migrating import downgrade, migrate, require_current
from cloud.storage.tables import Base
from fleet.contract.http import RolloutCreate
from tests.fakes.fleet_reports import SITE, ReportedFleet, add_release

pytestmark = pytest.mark.anyio

SETTINGS = DatabaseSettings()


def ask(url: str, question: str) -> Any:
    engine = migration_engine(url, SETTINGS)
    try:
        with engine.begin() as connection:
            return connection.execute(text(question)).scalar()
    finally:
        engine.dispose()


async def add_token(url: str) -> None:
    storage = Storage(url, SETTINGS)
    async with storage.writing() as session:
        await Tokens().issue(
            session, by=SYSTEM, role=Role.VIEWER, site_id="lab-a", name="v", lifetime=timedelta(days=1)
        )
    await storage.close()


async def add_rollout(url: str) -> None:
    """A release, its rollout with a member, and a decision."""
    storage = Storage(url, SETTINGS)
    at = datetime.now(UTC)
    await ReportedFleet(storage, lambda: at).add("bench-1")
    await add_release(storage, 1)
    by = Principal(id=SYSTEM.id, role=Role.OPERATOR, site_id=SITE, name="an operator")
    async with storage.writing() as session:
        await service.create(session, by, RolloutCreate(counter=1, devices=("bench-1",)), now=at)
    await storage.close()


def rows(url: str) -> dict[str, int]:
    tables = ("releases", "rollouts", "rollout_members", "rollout_decisions", "devices", "audit", "tokens")
    return {table: ask(url, f"SELECT count(*) FROM {table}") for table in tables}


async def test_the_migrations_make_exactly_the_tables_of_the_program(empty_database_url: str) -> None:
    migrate(empty_database_url, SETTINGS)
    engine = migration_engine(empty_database_url, SETTINGS)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


async def test_back_and_forward_keeps_the_rows_and_the_guard(empty_database_url: str) -> None:
    assert migrate(empty_database_url, SETTINGS) == (None, "0005")
    await add_token(empty_database_url)
    await add_rollout(empty_database_url)
    before = rows(empty_database_url)
    assert min(before.values()) > 0

    assert downgrade(empty_database_url, SETTINGS, target="0003") == ("0005", "0003")
    assert rows(empty_database_url) == before
    migrate(empty_database_url, SETTINGS)
    assert rows(empty_database_url) == before
    with pytest.raises(DBAPIError, match="append-only"):
        ask(empty_database_url, "DELETE FROM rollout_decisions")

    assert downgrade(empty_database_url, SETTINGS, target="0001") == ("0005", "0001")
    assert ask(empty_database_url, "SELECT count(*) FROM audit") == before["audit"]
    with pytest.raises(ConfigurationError, match="run `ahs-cloud migrate`"):
        require_current(empty_database_url, SETTINGS)
    migrate(empty_database_url, SETTINGS)

    assert ask(empty_database_url, "SELECT count(*) FROM tokens") == before["tokens"]
    with pytest.raises(DBAPIError, match="append-only"):
        ask(empty_database_url, "DELETE FROM audit")


async def test_all_the_way_back_leaves_nothing(empty_database_url: str) -> None:
    migrate(empty_database_url, SETTINGS)
    await add_token(empty_database_url)
    await add_rollout(empty_database_url)
    downgrade(empty_database_url, SETTINGS, target="base")
    engine = migration_engine(empty_database_url, SETTINGS)
    with engine.begin() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
    engine.dispose()


async def test_two_programs_that_start_together_migrate_once(empty_database_url: str) -> None:
    code = (
        "import sys; from cloud.config import DatabaseSettings as D; from cloud.storage.migrating import migrate; "
        "print(migrate(sys.argv[1], D()))"
    )
    command = [sys.executable, "-c", code, empty_database_url]
    programs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(program.communicate(timeout=60)[0].strip() for program in programs)
    assert said == ["('0005', '0005')", "(None, '0005')"]


async def test_tables_of_a_newer_program_are_left_alone(empty_database_url: str) -> None:
    migrate(empty_database_url, SETTINGS)
    ask_change = "UPDATE alembic_version SET version_num = '9999' RETURNING version_num"
    assert ask(empty_database_url, ask_change) == "9999"
    with pytest.raises(ConfigurationError, match="newer"):
        migrate(empty_database_url, SETTINGS)


@pytest.mark.parametrize("change", ["UPDATE audit SET action = 'x'", "DELETE FROM audit"])
async def test_nobody_changes_the_audit_trail(database_url: str, change: str) -> None:
    await add_token(database_url)
    with pytest.raises(DBAPIError, match="append-only"):
        ask(database_url, change)
    assert ask(database_url, "SELECT action FROM audit") == "token.issued"


@pytest.mark.parametrize("table", ["labels", "rollout_decisions"])
async def test_what_was_said_and_decided_is_guarded_too(database_url: str, table: str) -> None:
    if database_url.startswith("sqlite"):
        wanted = f"SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = '{table}'"
        assert ask(database_url, wanted) == 2
    else:
        assert ask(database_url, f"SELECT count(*) FROM pg_trigger WHERE tgname = '{table}_no_change'") == 1


async def test_every_table_has_a_site() -> None:
    without = [name for name, table in Base.metadata.tables.items() if "site_id" not in table.columns]
    assert without == []
    nullable = [name for name, table in Base.metadata.tables.items() if table.columns["site_id"].nullable]
    assert nullable == []
