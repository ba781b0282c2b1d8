"""Makes what is personal in somebody's records unreadable for ever, and records who did that."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection

from controlplane.audit.change_record import change_draft
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter

ERASED = "erased"


Forget = Callable[[Connection, str], None]
"""Takes a name out of what was made of records, by its keyed digest, in the same transaction."""


class Erasure:
    """Erases principals. Synchronous; thread-safe."""

    def __init__(
        self,
        store: AuditStore,
        writer: RecordWriter,
        *,
        forget: Sequence[Forget] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._writer = writer
        self._forget = tuple(forget)
        self._clock = clock

    def erase(self, principal_id: str, *, actor: str, message: str) -> int:
        """Delete the keys of this principal's values; how many there were. The record of it names the principal by a keyed digest only."""
        with self._store.transaction() as connection:
            keys = self._store.erase_in(connection, principal_id)
            for forget in self._forget:
                forget(connection, self._store.principal_ref(principal_id))
            draft = change_draft(
                decision_id=f"erase-{secrets.token_hex(10)}",
                at=self._clock(),
                actor=actor,
                message=message,
                op=ERASED,
                kind="Principal",
                namespace="",
                name="",
                uid=self._store.principal_ref(principal_id),
                after={"keys": keys},
            )
            self._writer.append_in(connection, [draft])
        self._store.forget_keys()
        return keys
