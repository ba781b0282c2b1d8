"""Follows the registry's own history and puts every change on the record, exactly once.

    registry: change, revision ──▶ `ChangeFollower` ──▶ `writer`, cursor "changes" in the same transaction

The registry says who changed what in the transaction that changes it, so nothing is lost when this process is killed: whoever is
started next goes on behind the cursor. Several control planes may follow; one of them records each change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from sqlalchemy import Engine

from controlplane.audit.change_record import change_draft
from controlplane.audit.following import keep_on
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from controlplane.registry.change_log import LoggedChange, read_logged_changes
from controlplane.registry.live import LiveState
from extauthz.audit.draft import Draft

CURSOR = "changes"
BATCH = 200
MAX_BATCH_BYTES = 4 * 1024 * 1024


class ChangeFollower:
    """`registry` is its database. The cursor's position is the revision that is recorded so far, its state the last change's number."""

    def __init__(self, *, registry: Engine, store: AuditStore, writer: RecordWriter, live: LiveState) -> None:
        self._registry = registry
        self._store = store
        self._writer = writer
        self._live = live

    async def run(self) -> None:
        """Record what there is, then what comes, until cancelled."""
        while True:
            revision = self._live.state.revision
            await keep_on("changes of the registry", partial(asyncio.to_thread, self.record_next))
            await self._live.wait(revision)

    def record_next(self) -> bool:
        """Record the next changes; False when there are none. Synchronous."""
        last = self._store.cursor(CURSOR)
        changes = read_logged_changes(self._registry, int(last[1] or 0), BATCH)
        if not changes:
            return False
        drafts = _within([_draft(change) for change in changes], MAX_BATCH_BYTES)
        newest = changes[len(drafts) - 1]
        with self._store.transaction() as connection:
            if self._writer.is_still(connection, CURSOR, last):
                self._writer.append_in(connection, drafts)
                self._store.advance(connection, CURSOR, newest.revision, str(newest.number))
        return True


def _within(drafts: Sequence[Draft], most_bytes: int) -> Sequence[Draft]:
    """As many of them as are not larger together, and one at least."""
    size = 0
    for count, draft in enumerate(drafts):
        size += len(draft.open)
        if count and size > most_bytes:
            return drafts[:count]
    return drafts


def _draft(change: LoggedChange) -> Draft:
    return change_draft(
        decision_id=f"change-{change.revision}-{change.number}",
        at=change.committed_at,
        actor=change.actor,
        message=change.message,
        op=change.op,
        kind=change.kind,
        namespace=change.namespace,
        name=change.name,
        uid=change.uid,
        revision=change.revision,
        before=change.before,
        after=change.after,
    )
