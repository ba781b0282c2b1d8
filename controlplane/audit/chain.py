"""Whether records that came continue the chain of their writer: numbered without a gap, each naming the one before it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from google.protobuf.message import DecodeError

from extauthz.audit.chain import Head
from extauthz.v1 import audit_pb2 as pb

OWN_NODE = "control-plane"
"""The node of writers that append to the store themselves and ship nothing; its writer has the same name, and nobody ships under it."""
MAX_AT_UNIX_US = 253_370_764_800_000_000
"""9999-01-01: what is later has no date in the calendars of those who read the record."""
MAX_WRITER_BYTES = 255
"""A writer's name is the name of a file, too."""
OWN_EVENTS = frozenset({pb.AUDIT_EVENT_CHANGE, pb.AUDIT_EVENT_API_REFUSED, pb.AUDIT_EVENT_OUTCOME_MISSING, pb.AUDIT_EVENT_ANOMALY})
"""What only the control plane itself records: who changed what, and what was found in the record."""


class Link(NamedTuple):
    """A record that continues a chain."""

    message: pb.AuditRecord
    payload: bytes
    record_hash: bytes


def is_writer_name(text: str) -> bool:
    """Whether a writer may be called so: printable, and no longer than a file may be."""
    return 1 <= len(text.encode()) <= MAX_WRITER_BYTES and text.isprintable()


def links_behind(head: Head, batch: pb.ShipBatch, *, shipped: bool = False) -> tuple[list[Link], str]:
    """The records of the batch behind `head` up to the first that does not continue the chain, and why it does not ("": all do).

    Records that are held already are passed over, but for the last of them, which must be the one that is held. `shipped`: by an
    authorizer, which has no say in what the control plane itself records.
    """
    if batch.records and batch.first_sequence > head.sequence + 1:
        return [], f"records {head.sequence + 1} to {batch.first_sequence - 1} are missing"
    found: list[Link] = []
    expected, previous = head.sequence + 1, head.record_hash
    for number, payload in enumerate(batch.records, batch.first_sequence):
        if number < expected:
            if number == head.sequence and hashlib.sha256(payload).digest() != previous:
                return [], f"record {number} is another than the one that came before"
            continue
        link, fault = _link(batch.writer_id, number, previous, payload)
        if link is not None and shipped and link.message.event in OWN_EVENTS:
            link, fault = None, f"record {number} is about what only the control plane records"
        if link is None:
            return found, fault
        found.append(link)
        expected, previous = number + 1, link.record_hash
    return found, ""


def _link(writer_id: str, number: int, previous: bytes, payload: bytes) -> tuple[Link | None, str]:
    try:
        message = pb.AuditRecord.FromString(payload)
    except DecodeError:
        return None, f"record {number} is not an AuditRecord"
    if message.writer_id != writer_id or message.sequence != number:
        return None, f"record {number} says that it is {message.sequence} of {message.writer_id[:MAX_WRITER_BYTES]}"
    if not 0 <= message.at_unix_us < MAX_AT_UNIX_US:
        return None, f"record {number} is of a time that no calendar has"
    if message.previous_hash != previous:
        return None, f"record {number} does not continue the chain: the record before it has another hash than it says"
    return Link(message, payload, hashlib.sha256(payload).digest()), ""
