"""Calibrations of a device: the one in force, and the one before it to go back to."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_agent.errors import ConfigurationError
from edge_agent.store.database_sqlite import Database
from edge_agent.store.store_sqlite import FILE_NAME
from fleet.contract.base import utc_now_text

FIRST_VERSION = 2
"""Of the schema that has calibrations; the agent brings an older store up to date at its next start."""
BEFORE = "before"
"""Key among what was measured: the calibration that was in force when this one was made."""

NONE_IN_FORCE = "no calibration is in force: there is nothing to take back"


@dataclass(frozen=True, slots=True)
class StoredCalibration:
    """One calibration.

    Attributes:
        number: of it.
        made_at: UTC.
        made_by: who says that the fields were good; empty where nobody is named.
        limits: key of the quality settings -> limit.
        measured: what they were learnt from, for people.
    """

    number: int
    made_at: datetime
    made_by: str
    limits: dict[str, float]
    measured: dict[str, Any]


class Calibrations:
    """Over the store of a data folder, perhaps beside a running agent.

    Args:
        folder: the agent's data folder.
        create: make the store where there is none: a device may be calibrated before its first run.

    Raises:
        StoreFault, StoreDamaged, StoreFull: by every method as well.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        file = folder / FILE_NAME
        self._database = Database(file, beside=file.is_file() or not create)

    def close(self) -> None:
        """Ends."""
        self._database.close()

    def active(self) -> StoredCalibration | None:
        """The one in force."""
        with self._database.reading() as connection:
            return _active(connection)

    def put(self, limits: dict[str, float], measured: dict[str, Any], *, made_by: str, now: datetime) -> None:
        """Brings a new one into force."""
        with self._database.transaction() as connection:
            before = _active(connection)
            connection.execute("UPDATE calibrations SET active = 0 WHERE active = 1")
            connection.execute(
                "INSERT INTO calibrations (made_at, made_by, limits, measured, active) VALUES (?, ?, ?, ?, 1)",
                (
                    utc_now_text(now),
                    made_by or None,
                    json.dumps(limits),
                    json.dumps({**measured, BEFORE: None if before is None else before.number}),
                ),
            )

    def take_back(self) -> StoredCalibration | None:
        """Brings the one before into force again; None when it was the first, and the defaults hold.

        Raises:
            ConfigurationError: there is none in force.
        """
        with self._database.transaction() as connection:
            now = _active(connection)
            if now is None:
                raise ConfigurationError(NONE_IN_FORCE)
            connection.execute("UPDATE calibrations SET active = 0 WHERE id = ?", (now.number,))
            connection.execute("UPDATE calibrations SET active = 1 WHERE id = ?", (now.measured.get(BEFORE),))
            return _active(connection)


def limits_in_force(folder: Path) -> dict[str, float]:
    """Limits of the calibration in force; none where the agent has never run or nothing was learnt."""
    file = folder / FILE_NAME
    if not file.is_file() or _version(file) < FIRST_VERSION:
        return {}
    with closing(Database(file, beside=True)) as database:
        return limits_in(database)


def limits_in(database: Database) -> dict[str, float]:
    """The same, of a store that is open.

    Raises:
        StoreFault, StoreDamaged: they cannot be read.
    """
    with database.reading() as connection:
        found = _active(connection)
    return {} if found is None else found.limits


def _version(file: Path) -> int:
    """Of the schema; 0 for a file that cannot be read, of which the agent itself will say so."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error:
        return 0


def _active(connection: sqlite3.Connection) -> StoredCalibration | None:
    row = connection.execute("SELECT * FROM calibrations WHERE active = 1").fetchone()
    if row is None:
        return None
    return StoredCalibration(
        row["id"],
        datetime.fromisoformat(row["made_at"]).astimezone(UTC),
        row["made_by"] or "",
        json.loads(row["limits"]),
        json.loads(row["measured"]),
    )
