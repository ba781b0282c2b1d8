"""The control plane's own records: what changed in the registry, what the API refused, whose outcome is missing.

    changes, refusals, reconciler ──▶ drafts ──▶ `RecordWriter.append_in`: chained, sealed ──▶ AuditStore, in the caller's transaction

All control planes of a deployment continue one chain, one after the other: the record of whatever is followed (a cursor) and the
cursor itself are written together, so that nothing is recorded twice or left out, whoever is killed when.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sqlalchemy import Connection

from controlplane.audit.chain import OWN_NODE
from controlplane.audit.store import AuditStore
from controlplane.registry.audit_key import audit_key_id, audit_public_key
from controlplane.registry.encryption import RegistryKey
from extauthz.audit.chain import link
from extauthz.audit.draft import Draft
from extauthz.audit.sealing import SubjectKeys
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.errors import AuditError
from extauthz.v1 import audit_pb2 as pb

WRITER = "control-plane"


class RecordWriter:
    """Appends the control plane's records. Thread-safe; synchronous as the store is."""

    def __init__(self, store: AuditStore, key: RegistryKey) -> None:
        self._store = store
        self._keys = SubjectKeys(AuditSealingKey(key_id=audit_key_id(key), public_key=audit_public_key(key)))
        self._lock = threading.Lock()

    def append(self, drafts: Sequence[Draft]) -> None:
        """Write these, durably when this returns."""
        if drafts:
            with self._store.transaction() as connection:
                self.append_in(connection, drafts)

    def is_still(self, connection: Connection, cursor: str, read: tuple[int, str]) -> bool:
        """Whether a cursor is as it was read before this transaction. From here to its end nobody else appends or moves it."""
        self._store.head(connection, WRITER)
        return self._store.cursor_in(connection, cursor) == read

    def append_in(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        """`append` in the caller's transaction. Raises `AuditError` when the chain in the database is not what it was."""
        head = self._store.head(connection, WRITER)
        batch = pb.ShipBatch(writer_id=WRITER, first_sequence=head.sequence + 1)
        with self._lock:
            linked, head = link(head, drafts, self._keys)
        batch.records.extend(payload for payload, _ in linked)
        batch.subject_keys.extend({key.key_id: key.wrapped for _, key in linked if key is not None}.values())
        ack = self._store.append_in(connection, batch, OWN_NODE)
        if ack.refused or ack.sequence != head.sequence:
            raise AuditError(f"the record of {WRITER} cannot be continued: {ack.refused or 'another end is held'}")
