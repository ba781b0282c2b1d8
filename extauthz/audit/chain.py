"""One record behind the other: what makes a payload of a draft, numbered, naming the one before it, its personal values sealed.

    Drafts (audit.draft) ──▶ `link(head, drafts, keys)` ──▶ payloads, and the head behind them

`link` changes nothing: a head is taken over by its owner when the payload is durable, and not before. So a record that could not be
written leaves no hole, and its number and its hash are those of no other.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from extauthz.audit.draft import Draft
from extauthz.audit.sealing import SubjectKey, SubjectKeys, associated_data
from extauthz.audit.wire_field import content_field, content_tag, number_tag, varint
from extauthz.v1 import audit_pb2 as pb

_RECORD = pb.AuditRecord.DESCRIPTOR
_WRITER_ID, _PREVIOUS_HASH, _SEALED = (content_tag(_RECORD, name) for name in ("writer_id", "previous_hash", "sealed"))
_SEQUENCE = number_tag(_RECORD, "sequence")


class Head(NamedTuple):
    """The last record of a writer. `record_hash` is the SHA-256 of its payload; empty, with sequence 0, before the first."""

    writer_id: str
    sequence: int = 0
    record_hash: bytes = b""


Linked = tuple[bytes, SubjectKey | None]
"""The payload of a record as it is to be written, and a key that has to be durable in the same log before it, or with it."""


def link(head: Head, drafts: Iterable[Draft], keys: SubjectKeys | None) -> tuple[list[Linked], Head]:
    """The records of `drafts` behind `head`, and the head behind them. Without `keys` personal values stand in the open."""
    writer_id, sequence, record_hash = head
    writer = content_field(_WRITER_ID, writer_id.encode())
    linked: list[Linked] = []
    for draft in drafts:
        sequence += 1
        place = writer + _SEQUENCE + varint(sequence)
        if record_hash:
            place += content_field(_PREVIOUS_HASH, record_hash)
        key, personal = None, draft.personal
        if personal and keys is not None:
            key = keys.key_of(draft.principal_id, draft.at_unix_us)
            personal = content_field(_SEALED, key.seal(personal, associated_data(writer_id, sequence)))
        payload = draft.open + place + personal  # messages one behind the other are one message ("Last One Wins")
        record_hash = sha256(payload).digest()
        linked.append((payload, key))
    return linked, Head(writer_id, sequence, record_hash)
