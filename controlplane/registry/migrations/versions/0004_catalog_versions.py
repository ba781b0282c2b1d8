"""What else is found of a server than its definitions, the versions of its catalog, and what reviews say of changed definitions."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "reading",
        sa.Column("server_uid", sa.String(), primary_key=True),
        sa.Column("eras", sa.JSON(), nullable=False),
        sa.Column("instructions", sa.JSON(), nullable=False),
        sa.Column("capabilities", sa.JSON(), nullable=False),
        sa.Column("server_info", sa.JSON(), nullable=False),
        sa.Column("fault", sa.String(), nullable=False),
        sa.Column("read_at", _AT, nullable=True),
    )
    versions = op.create_table(
        "catalog_version",
        sa.Column("server_uid", sa.String(), primary_key=True),
        sa.Column("digest", sa.String(), primary_key=True),
        sa.Column("read_at", _AT, nullable=False),
        sa.Column("items", sa.JSON(), nullable=False),
    )
    op.create_index("catalog_version_age", "catalog_version", ["server_uid", "read_at"])
    for name in ("change_class", "rejected_digest", "rejected_by", "rejected_reason"):
        op.add_column("definition", sa.Column(name, sa.String(), nullable=False, server_default=""))
    op.add_column("definition", sa.Column("findings", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("definition", sa.Column("rejected_at", _AT, nullable=True))
    _keep_present_catalogs(versions)


def _keep_present_catalogs(versions: sa.Table) -> None:
    """What every server presents now is the first version of its catalog that is known."""
    definition = sa.table("definition", *map(sa.column, ("server_uid", "kind", "name", "digest", "present")))
    statement = sa.select(definition.c.server_uid, definition.c.kind, definition.c.name, definition.c.digest)
    found: defaultdict[str, list[list[str]]] = defaultdict(list)
    for server_uid, kind, name, digest in op.get_bind().execute(statement.where(definition.c.present.is_(sa.true()))):
        found[server_uid].append([kind, name, digest])
    at = datetime.now(UTC)
    for server_uid, items in found.items():
        lines = "".join(sorted(f"{kind}\t{name}\t{digest}\n" for kind, name, digest in items))
        digest = f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
        op.execute(versions.insert().values(server_uid=server_uid, digest=digest, read_at=at, items=sorted(items)))


def downgrade() -> None:
    raise NotImplementedError("restore a backup of before the upgrade")
