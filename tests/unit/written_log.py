"""What stands in the files of a write-ahead log, checked as whoever holds the control plane's key can check it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from extauthz.audit.chain import Head, link
from extauthz.audit.draft import Draft
from extauthz.audit.frames import SUFFIX, read_frames, writer_of
from extauthz.audit.sealing import SubjectKey, SubjectKeys, open_record, open_subject_key
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.v1 import audit_pb2 as pb


@dataclass(slots=True)
class WrittenLog:
    """Payloads and keys by writer, in their order."""

    payloads: dict[str, list[bytes]] = field(default_factory=dict)
    keys: dict[str, dict[str, pb.AuditSubjectKey]] = field(default_factory=dict)

    def records(self, private_key: X25519PrivateKey | None = None) -> list[pb.AuditRecord]:
        """All of them, opened where there is a key for it. A key of another writer opens nothing."""
        return [self._opened(writer, payload, private_key) for writer, payloads in self.payloads.items() for payload in payloads]

    def _opened(self, writer: str, payload: bytes, private_key: X25519PrivateKey | None) -> pb.AuditRecord:
        message = pb.AuditRecord.FromString(payload)
        if private_key is None or not message.HasField("sealed"):
            return message
        subject = open_subject_key(self.keys[writer][message.sealed.key_id], private_key)
        return open_record(payload, subject)


class OneLinked(NamedTuple):
    """One record as it is to be written, and the head behind it."""

    payload: bytes
    head: Head
    key: SubjectKey | None


def link_one(head: Head, draft: Draft, keys: SubjectKeys | None) -> OneLinked:
    """`link` of one draft."""
    ((payload, key),), behind = link(head, [draft], keys)
    return OneLinked(payload, behind, key)


def written_log(directory: Path) -> WrittenLog:
    """Read every file; fails when a chain is broken, or a sealed value stands before its key."""
    log = WrittenLog()
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        writer = writer_of(path)
        payloads, keys = log.payloads.setdefault(writer, []), log.keys.setdefault(writer, {})
        for frame in read_frames(path):
            if frame.is_key:
                key = pb.AuditSubjectKey.FromString(frame.payload)
                keys[key.key_id] = key
                continue
            message = pb.AuditRecord.FromString(frame.payload)
            assert (message.writer_id, message.sequence) == (writer, len(payloads) + 1)
            assert message.previous_hash == (hashlib.sha256(payloads[-1]).digest() if payloads else b"")
            assert not message.HasField("sealed") or message.sealed.key_id in keys
            payloads.append(frame.payload)
    return log


def sealing_pair() -> tuple[X25519PrivateKey, AuditSealingKey]:
    """The control plane's key, and what authorizers are told of it."""
    private_key = X25519PrivateKey.generate()
    return private_key, AuditSealingKey(key_id="k1", public_key=private_key.public_key().public_bytes_raw())
