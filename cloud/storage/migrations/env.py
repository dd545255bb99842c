"""Runs the steps on the connection that `cloud.storage.migrating` hands over."""

from __future__ import annotations

from alembic import context

from cloud.storage.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True, render_as_batch=False)
with context.begin_transaction():
    context.run_migrations()
