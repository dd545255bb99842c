"""The devices, and their lacking observations, that a waiver was given for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Forward. A waiver from before names no device: it holds for none, and has to be given again."""
    op.add_column("rollouts", sa.Column("waived_for", _JSON, nullable=True))


def downgrade() -> None:
    """Back."""
    op.drop_column("rollouts", "waived_for")
