"""Tables of baselines, in the database of the record: how far it was observed and what that gave are one transaction.

Callers stand here as keyed digests only (`AuditStore.principal_ref`).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, Table
from sqlmodel import Field

from controlplane.audit.models import AuditTable


class BaselineProfileRow(AuditTable, table=True):
    """What is known of one caller (`Profile.to_json`)."""

    __tablename__ = "baseline_profile"
    principal_ref: str = Field(primary_key=True)
    profile: str
    hour: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))  # of its last call


class AnomalyRow(AuditTable, table=True):
    """One finding. `position` is that of the record with which it was found."""

    __tablename__ = "anomaly"
    __table_args__ = (Index("anomaly_at", "at_unix_us"), Index("anomaly_of", "principal_ref", "at_unix_us"))
    id: int | None = Field(
        default=None, sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True)
    )
    at_unix_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    kind: str
    principal_ref: str
    namespace: str
    mcp_server: str  # "namespace/name"
    tool: str
    observed: float = Field(sa_column=Column(Float, nullable=False))
    expected: float = Field(sa_column=Column(Float, nullable=False))
    spread: float = Field(sa_column=Column(Float, nullable=False))
    sentence: str
    decision_id: str
    position: int = Field(sa_column=Column(BigInteger, nullable=False))


BASELINE_PROFILE: Table = BaselineProfileRow.__table__  # type: ignore[attr-defined]
ANOMALY: Table = AnomalyRow.__table__  # type: ignore[attr-defined]
