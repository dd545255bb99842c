"""The wave of a rollout whose lacking observations a person has waived."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("rollouts", sa.Column("waived_wave", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Back."""
    op.drop_column("rollouts", "waived_wave")
