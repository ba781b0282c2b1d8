"""Personal values of records, each under a key of the person: who deletes the key makes them unreadable, and the chain stays whole.

    writer:          SubjectKeys.key_of(principal, day) ──▶ SubjectKey.seal(personal part) ──▶ AuditSealed, in the record
                     SubjectKey.wrapped ──▶ AuditSubjectKey, in the log before the first record that needs it
    control plane:   open_subject_key(message, private key) ──▶ AuditSubject ──▶ open_record(payload, it)

A key is made by a writer for one principal and one UTC day, and wrapped for the control plane's public key: X25519, HKDF-SHA256
(RFC 5869), AES-256-GCM. One exchange serves all keys of a writer; HKDF makes another wrapping key for each of them. Whoever reads the
log of an authorizer reads nobody's values, and what an authorizer forgets (its memory) it cannot read itself.
"""

from __future__ import annotations

import os
import secrets
import time

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from extauthz.audit.wire_field import content_field, content_tag, varint
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.v1 import audit_pb2 as pb

MAX_KEYS = 20_000
"""As many are remembered; a principal beyond them has another key for its later records of the day."""

_PURPOSE = b"legation/v1/audit-subject-key "
_NONCE_BYTES = 12
_DAY_US = 86_400_000_000
_KEY_ID, _NONCE, _CIPHERTEXT = (content_tag(pb.AuditSealed.DESCRIPTOR, name) for name in ("key_id", "nonce", "ciphertext"))


PERSONAL = frozenset(
    ("principal", "workload", "labels", "downstream_address", "user_agent", "sentence", "mcp_resource_uri", "replay")
    + ("arguments_json", "arguments_digest", "result_json", "result_digest")
)
"""What may be sealed, and nothing else of a record (protos/extauthz/v1/audit.proto, AuditSealed)."""


class SealedValueError(ValueError):
    """A sealed value or its key was altered, is for somebody else, or says what it has no say in."""


class SubjectKey:
    """Seals values of one principal. No nonce is used twice, also not for what was never written."""

    __slots__ = ("_aead", "_beginning", "_count", "day", "kept", "key_id", "wrapped")

    def __init__(self, *, key_id: str, key: bytes, wrapped: bytes, day: int) -> None:
        self.key_id = key_id
        self.wrapped = wrapped
        """A serialised AuditSubjectKey."""
        self.day = day
        self.kept = False
        """Whether `wrapped` is durable in the writer's log; its owner says so."""
        self._aead = AESGCM(key)
        self._beginning = content_field(_KEY_ID, key_id.encode()) + _NONCE + varint(_NONCE_BYTES)
        self._count = 0

    def seal(self, personal: bytes, associated: bytes) -> bytes:
        """The personal part of a record (a serialised AuditRecord), for the record that `associated` names: a serialised AuditSealed."""
        self._count += 1
        nonce = self._count.to_bytes(_NONCE_BYTES, "big")
        ciphertext = self._aead.encrypt(nonce, personal, associated)
        return self._beginning + nonce + content_field(_CIPHERTEXT, ciphertext)


class SubjectKeys:
    """The keys of one writer, made when they are needed. Not for two threads at once."""

    def __init__(self, sealing_key: AuditSealingKey, *, max_keys: int = MAX_KEYS) -> None:
        """Raises ValueError for a public key that nothing can be sealed for."""
        self.sealing_key = sealing_key
        own = X25519PrivateKey.generate()
        self._public = own.public_key().public_bytes_raw()
        self._shared = own.exchange(X25519PublicKey.from_public_bytes(sealing_key.public_key))
        self._max_keys = max_keys
        self._keys: dict[tuple[str, int], SubjectKey] = {}
        self._latest_day = 0

    def key_of(self, principal_id: str, at_unix_us: int) -> SubjectKey:
        """The key for this principal ("" is everybody who is nobody) on the day of that time."""
        day = at_unix_us // _DAY_US
        known = self._keys.get((principal_id, day))
        if known is None:
            self._make_room(day)
            known = self._keys[principal_id, day] = self._new(principal_id, day)
        return known

    def _make_room(self, day: int) -> None:
        if day > self._latest_day:  # of yesterday there may still be a record on its way
            self._latest_day = day
            self._keys = {key: value for key, value in self._keys.items() if value.day >= day - 1}
        while len(self._keys) >= self._max_keys:
            del self._keys[next(iter(self._keys))]

    def _new(self, principal_id: str, day: int) -> SubjectKey:
        key_id, key, nonce = secrets.token_urlsafe(15), os.urandom(32), os.urandom(_NONCE_BYTES)
        wrapping = AESGCM(_wrapping_key(self._shared, self._public, self.sealing_key.public_key, key_id))
        subject = pb.AuditSubject(key=key, principal_id=principal_id).SerializeToString()
        message = pb.AuditSubjectKey(
            key_id=key_id,
            sealing_key_id=self.sealing_key.key_id,
            ephemeral_public_key=self._public,
            nonce=nonce,
            wrapped=wrapping.encrypt(nonce, subject, key_id.encode()),
            created_at_unix_us=time.time_ns() // 1000,
        )
        return SubjectKey(key_id=key_id, key=key, wrapped=message.SerializeToString(), day=day)


def open_subject_key(message: pb.AuditSubjectKey, private_key: X25519PrivateKey) -> pb.AuditSubject:
    """What a key is and whose values it opens. Raises `SealedValueError`, also for one that was wrapped for another key."""
    try:
        shared = private_key.exchange(X25519PublicKey.from_public_bytes(message.ephemeral_public_key))
        own_public = private_key.public_key().public_bytes_raw()
        wrapping = AESGCM(_wrapping_key(shared, message.ephemeral_public_key, own_public, message.key_id))
        subject = pb.AuditSubject.FromString(wrapping.decrypt(message.nonce, message.wrapped, message.key_id.encode()))
    except (InvalidTag, ValueError, DecodeError) as error:
        raise SealedValueError(f"the key {message.key_id!r} of sealed values cannot be opened with this private key") from error
    return subject


def open_record(payload: bytes, subject: pb.AuditSubject | None) -> pb.AuditRecord:
    """The record with its personal values in their places. Without its key it is as it was written, `sealed` included.

    Raises `SealedValueError` when the key is another, or the values are not to be shown; google.protobuf's DecodeError for what is no
    record.
    """
    return open_message(pb.AuditRecord.FromString(payload), subject)


def open_message(message: pb.AuditRecord, subject: pb.AuditSubject | None) -> pb.AuditRecord:
    """`open_record` of a message that was read already; that message is changed, but not when it raises.

    Whoever writes records can seal anything, so what is sealed is believed as far as it can do no harm. It is only personal: what is
    open was checked when the record came, says who may see it, and is what it is found by. It says nothing again that is open. And it
    is of the principal whose key it is under: else it would be shown as somebody's who could not have it erased.
    """
    if subject is None or not message.HasField("sealed"):
        return message
    sealed, associated = message.sealed, associated_data(message.writer_id, message.sequence)
    try:
        personal = pb.AuditRecord.FromString(AESGCM(subject.key).decrypt(sealed.nonce, sealed.ciphertext, associated))
    except (InvalidTag, ValueError, DecodeError) as error:
        raise SealedValueError(f"{_said(message)} cannot be opened") from error
    names = {field.name for field, _ in personal.ListFields()}
    if not names <= PERSONAL or len(UnknownFieldSet(personal)):
        raise SealedValueError(f"{_said(message)} are not only personal")
    if not names.isdisjoint(field.name for field, _ in message.ListFields()):
        raise SealedValueError(f"{_said(message)} say again what it says openly")
    if any(said.HasField("principal") and said.principal.id != subject.principal_id for said in (message, personal)):
        raise SealedValueError(f"{_said(message)} are under the key of another principal")
    message.ClearField("sealed")
    message.MergeFrom(personal)
    return message


def _said(message: pb.AuditRecord) -> str:
    return f"the sealed values of record {message.sequence} of {message.writer_id}"


def associated_data(writer_id: str, sequence: int) -> bytes:
    """What binds sealed values to their record."""
    return f"{writer_id}/{sequence}".encode()


def _wrapping_key(shared: bytes, ephemeral_public: bytes, recipient_public: bytes, key_id: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=ephemeral_public + recipient_public, info=_PURPOSE + key_id.encode()).derive(shared)
