"""One record behind the other: what makes a payload of a draft, numbered, naming the one before it, its personal values sealed.

    Draft (audit.record) ──▶ `link(head, draft, keys)` ──▶ Linked(payload, head behind it)

`link` changes nothing: a head is taken over by its owner when the payload is durable, and not before. So a record that could not be
written leaves no hole, and its number and its hash are those of no other.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from extauthz.audit.draft import Draft
from extauthz.audit.sealing import SubjectKey, SubjectKeys, associated_data
from extauthz.v1 import audit_pb2 as pb


class Head(NamedTuple):
    """The last record of a writer. `record_hash` is the SHA-256 of its payload; empty, with sequence 0, before the first."""

    writer_id: str
    sequence: int = 0
    record_hash: bytes = b""


class Linked(NamedTuple):
    """A record as it is to be written. `key` has to be durable in the same log before it, or with it."""

    payload: bytes
    head: Head
    key: SubjectKey | None = None


def link(head: Head, draft: Draft, keys: SubjectKeys | None) -> Linked:
    """The record of `draft` behind `head`. Without `keys` its personal values stand in the open."""
    sequence = head.sequence + 1
    key, sealed, personal = None, None, draft.personal
    if personal and keys is not None:
        key = keys.key_of(draft.principal_id, draft.at_unix_us)
        sealed, personal = key.seal(personal, associated_data(head.writer_id, sequence)), b""
    place = pb.AuditRecord(writer_id=head.writer_id, sequence=sequence, previous_hash=head.record_hash, sealed=sealed)
    # messages one behind the other are one message (protobuf encoding, "Last One Wins")
    payload = draft.open + place.SerializeToString() + personal
    return Linked(payload, Head(head.writer_id, sequence, hashlib.sha256(payload).digest()), key)
