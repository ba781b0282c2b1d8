"""Tables of usage, in the database of the record: how far it is counted and what was counted are one transaction.

Who called stands in `usage_caller` and nowhere else, so that a person can be forgotten without touching a number.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Table
from sqlmodel import Field

from controlplane.audit.models import AuditTable


def _number() -> Column[int]:
    return Column(BigInteger, nullable=False)


def _key() -> Column[int]:
    return Column(BigInteger, primary_key=True, autoincrement=False)


class UsageCallerRow(AuditTable, table=True):
    """Who called: names that the report shows, and keyed digests by which they are found to be forgotten."""

    __tablename__ = "usage_caller"
    id: int | None = Field(
        default=None, sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True)
    )
    digest: str = Field(unique=True)  # keyed, of all that follows
    user_id: str
    agent_id: str
    client: str
    labels: str  # JSON, names sorted
    user_ref: str  # `AuditStore.principal_ref`
    agent_ref: str


class UsageCallRow(AuditTable, table=True):
    """A call whose end nobody has seen yet, as it is counted in `usage_hour` now."""

    __tablename__ = "usage_call"
    __table_args__ = (Index("usage_call_hour", "hour_unix"),)
    decision_id: str = Field(primary_key=True)
    hour_unix: int = Field(sa_column=_number())
    namespace: str
    mcp_server: str
    virtual_server: str
    tool: str
    caller_id: int = Field(sa_column=_number())
    outcome: str
    currency: str
    duration_us: int = Field(sa_column=_number())
    request_bytes: int = Field(sa_column=_number())
    response_bytes: int = Field(sa_column=_number())
    tokens: int = Field(sa_column=_number())
    cost: str  # decimal text


class UsageHourRow(AuditTable, table=True):
    """Sums of an hour (UTC). `namespace` and `mcp_server` are empty, and `tool` too, where the registry knew none of that name."""

    __tablename__ = "usage_hour"
    hour_unix: int = Field(sa_column=_key())
    namespace: str = Field(primary_key=True)
    mcp_server: str = Field(primary_key=True)  # "namespace/name"
    virtual_server: str = Field(primary_key=True)
    tool: str = Field(primary_key=True)
    caller_id: int = Field(sa_column=_key())
    outcome: str = Field(primary_key=True)
    currency: str = Field(primary_key=True)
    calls: int = Field(sa_column=_number())
    duration_us: int = Field(sa_column=_number())
    request_bytes: int = Field(sa_column=_number())
    response_bytes: int = Field(sa_column=_number())
    tokens: int = Field(sa_column=_number())
    cost: str  # decimal text: no binary fraction ever holds money


USAGE_CALLER: Table = UsageCallerRow.__table__  # type: ignore[attr-defined]
USAGE_CALL: Table = UsageCallRow.__table__  # type: ignore[attr-defined]
USAGE_HOUR: Table = UsageHourRow.__table__  # type: ignore[attr-defined]
