"""Run by alembic, in the connection and transaction that `controlplane.database` has opened and locked."""

from __future__ import annotations

from alembic import context

from controlplane.audit.models import AuditTable

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("migrations run through controlplane.database.open_database, which holds the lock")
context.configure(
    connection=connection,
    target_metadata=AuditTable.metadata,
    render_as_batch=True,
    version_table=context.config.attributes["version_table"],
)
context.run_migrations()
