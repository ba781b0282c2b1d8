"""Makes statements about what came since the last one, at an interval. Nobody waits for it: a fault here delays proof, not calls.

    audit_record (hashes by position) ─▶ Notary ─▶ audit_statement ─▶ `anchor`

One process at a time: on PostgreSQL whoever holds an advisory lock, and everywhere the statement's number is taken once. Signing
happens outside of any transaction, because a signing device may take its time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from controlplane.audit.evidence import Evidence
from controlplane.audit.models import AUDIT_RECORD, AUDIT_STATEMENT
from controlplane.audit.signer import KeyRing, SigningError
from controlplane.audit.statement import (
    MAX_RECORDS,
    SignedStatement,
    Statement,
    StatementError,
    WriterHead,
    parse_statement,
    record_root,
    signed_message,
)
from controlplane.audit.store import AuditStore
from extauthz.errors import LegationError

logger = structlog.get_logger(__name__)

_NOTARY_LOCK = 5_317_642_903  # pg_try_advisory_lock: any constant that is ours


class Notary:
    """States what the record holds. Without a key ring it states nothing, and says so. `evidence` finds what has left the database."""

    def __init__(
        self,
        store: AuditStore,
        keys: KeyRing | None,
        *,
        interval_seconds: float,
        evidence: Evidence | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._keys = keys
        self._interval_seconds = interval_seconds
        self._evidence = evidence
        self._clock = clock
        self._fault = ""

    @property
    def keys(self) -> KeyRing | None:
        """Who signs."""
        return self._keys

    @property
    def fault(self) -> str:
        """Why the last statement could not be made; empty when it could, or there was nothing to state."""
        return self._fault

    async def run(self) -> None:
        """Until cancelled."""
        if self._keys is None:
            logger.warning("the record is not proven", remedy="set LEGATION_AUDIT_SIGNING_KEY_FILE")
            await asyncio.Event().wait()
        while True:
            await self.state_now()
            await asyncio.sleep(self._interval_seconds)

    async def state_now(self) -> None:
        """State everything that there is. A fault is logged when it begins and when it ends, and raised never."""
        if self._keys is None:
            return
        try:
            while await asyncio.to_thread(self.state_next):
                pass
            fault = ""
        except (LegationError, StatementError, DBAPIError) as error:
            fault = str(error).splitlines()[0]
        if fault and fault != self._fault:
            logger.error("the record is not stated", error=fault)
        elif self._fault and not fault:
            logger.info("the record is stated again")
        self._fault = fault

    def state_next(self) -> bool:
        """Make one statement; whether there is more to state. Raises `SigningError` for what cannot be stated."""
        with self._alone() as alone:
            if not alone:
                return False
            last = self._last()
            made = self._make(last)
            if made is None:
                return False
            statement, signed = made
            try:
                self._keep(statement, signed)
            except IntegrityError:
                return False  # somebody else was first; ours is forgotten before anybody saw it
            return statement.records == MAX_RECORDS

    def _make(self, last: SignedStatement | None) -> tuple[Statement, SignedStatement] | None:
        before = parse_statement(last.document) if last is not None else None
        first = before.last_position + 1 if before is not None else 1
        hashes, heads = self._interval(first)
        if not hashes or self._keys is None:
            return None
        signer, next_key, lost = self._keys.choose(before.successor_key_id() if before is not None else "")
        statement = Statement(
            number=before.number + 1 if before is not None else 1,
            first_position=first,
            last_position=first + len(hashes) - 1,
            root=record_root(hashes),
            previous=last.digest if last is not None else b"",
            heads=heads,
            at_unix_us=int(self._clock().timestamp() * 1_000_000),
            key=signer.key,
            next_key=next_key,
            replaces_lost=lost,
        )
        document = statement.document()
        return statement, SignedStatement(document=document, signature=signer.sign(signed_message(document)))

    def _interval(self, first: int) -> tuple[list[bytes], dict[str, WriterHead]]:
        """Hashes by position from `first` on, and the last record of each writer among them. A gap is never stated."""
        hashes: list[bytes] = []
        last: dict[str, Any] = {}
        for row in self._hashed(first):
            if row.position != first + len(hashes):
                raise SigningError(f"the record has a gap: positions {first + len(hashes)} to {row.position - 1} are missing")
            hashes.append(row.record_hash)
            last[row.writer_id] = row
        return hashes, {writer: WriterHead(sequence=row.sequence, record_hash=row.record_hash) for writer, row in last.items()}

    def _hashed(self, first: int) -> Iterable[Any]:
        """Rows with these columns, of the database; of wherever they are where some have left it before there was a key to state them."""
        table = AUDIT_RECORD
        columns = select(table.c.position, table.c.writer_id, table.c.sequence, table.c.record_hash)
        with self._store.reading() as connection:
            rows = connection.execute(columns.where(table.c.position >= first).order_by(table.c.position).limit(MAX_RECORDS)).all()
        last = min(first + MAX_RECORDS - 1, self._store.last_position())
        if len(rows) < last - first + 1 and self._evidence is not None:
            return self._evidence.records(first, last)
        return rows

    def _last(self) -> SignedStatement | None:
        table = AUDIT_STATEMENT
        with self._store.reading() as connection:
            newest = select(func.max(table.c.number)).scalar_subquery()
            row = connection.execute(select(table.c.document, table.c.signature).where(table.c.number == newest)).first()
        return SignedStatement(document=row.document, signature=row.signature) if row is not None else None

    def _keep(self, statement: Statement, signed: SignedStatement) -> None:
        with self._store.transaction() as connection:
            connection.execute(
                AUDIT_STATEMENT.insert().values(
                    number=statement.number,
                    first_position=statement.first_position,
                    last_position=statement.last_position,
                    at_unix_us=statement.at_unix_us,
                    document=signed.document,
                    signature=signed.signature,
                    key_id=statement.key.key_id,
                    anchored_at_unix_us=0,
                )
            )

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process states at the same time, as far as the database can say."""
        if self._store.engine.dialect.name != "postgresql":
            yield True
            return
        with self._store.engine.connect() as connection:
            taken = bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _NOTARY_LOCK}).scalar())
            try:
                connection.commit()
                yield taken
            finally:
                if taken:
                    with contextlib.suppress(DBAPIError):  # a lost connection has lost the lock, too
                        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _NOTARY_LOCK})
                        connection.commit()
