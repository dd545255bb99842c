"""Which pictures were chosen for the cloud, for the budget of the next run."""

from __future__ import annotations

from datetime import UTC, datetime

from edge_agent.store.database_sqlite import Database
from edge_agent.triage.budget import SentPicture
from edge_agent.triage.sampling import Choice

NEWEST_FIELDS = 200_000
"""As far back as is looked: more fields than any source delivers in a day."""


def sent_pictures(database: Database, limit: int) -> list[SentPicture]:
    """The newest pictures that were chosen to be sent, newest first, whatever the clock says of their times.

    Args:
        database: of the store.
        limit: at most so many.
    """
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT sampled, captured_at, boot IS (SELECT boot FROM fields ORDER BY id DESC LIMIT 1) AS last_run"
            " FROM fields WHERE sampled IN (?, ?)"
            " AND id > (SELECT COALESCE(MAX(id), 0) FROM fields) - ? ORDER BY id DESC LIMIT ?",
            (Choice.SEND.value, Choice.SEND_AUDIT.value, NEWEST_FIELDS, limit),
        ).fetchall()
    return [_sent(row["sampled"], row["captured_at"], last_run=bool(row["last_run"])) for row in rows]


def _sent(sampled: str, captured_at: str, *, last_run: bool) -> SentPicture:
    at = datetime.fromisoformat(captured_at).astimezone(UTC)
    return SentPicture(sampled == Choice.SEND_AUDIT.value, at, last_run)
