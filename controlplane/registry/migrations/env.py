"""Run by alembic, in the connection and transaction that `controlplane.database` has opened and locked."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

from controlplane.registry import models

assert models.EntryRow.metadata is SQLModel.metadata  # noqa: S101 - the import above fills it

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("migrations run through controlplane.database.open_database, which holds the lock")
context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
context.run_migrations()
