"""Keys of sealed values, opened with the registry's key and remembered for a moment: erasing one counts everywhere within that moment."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError

from extauthz.audit.sealing import SealedValueError, associated_data, open_subject_key
from extauthz.v1 import audit_pb2 as pb

logger = structlog.get_logger(__name__)

_PERSONAL = (
    *("principal", "workload", "labels", "downstream_address", "user_agent", "sentence", "mcp_resource_uri", "replay"),
    *("arguments_json", "arguments_digest", "result_json", "result_digest"),
)
"""What may be sealed (protos/extauthz/v1/audit.proto, AuditSealed)."""

REMEMBERED_SECONDS = 30.0
MAX_REMEMBERED = 8192

ReadWrapped = Callable[[str], bytes]
"""A key as it is stored, by its id; empty: it is not there, or not any longer."""


class SubjectKeyring:
    """Opens what authorizers sealed. Thread-safe."""

    def __init__(self, private_key: X25519PrivateKey) -> None:
        self._private_key = private_key
        self._lock = threading.Lock()
        self._remembered: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def unwrap(self, message: pb.AuditSubjectKey) -> pb.AuditSubject | None:
        """What a key is and whose; None when it was not wrapped for this deployment."""
        try:
            subject = open_subject_key(message, self._private_key)
        except SealedValueError:
            logger.error("audit key cannot be opened with this LEGATION_ENCRYPTION_KEY_FILE", key_id=message.key_id)
            return None
        with self._lock:
            self._remembered[message.key_id] = (subject.key, time.monotonic() + REMEMBERED_SECONDS)
            self._remembered.move_to_end(message.key_id)
            while len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return subject

    def key(self, key_id: str, read: ReadWrapped) -> bytes | None:
        """The key with this id; None when it was erased, never came, or cannot be opened."""
        with self._lock:
            key, until = self._remembered.get(key_id, (b"", 0.0))
        if until > time.monotonic():
            return key
        message = subject_key_message(read(key_id))
        subject = self.unwrap(message) if message is not None else None
        return subject.key if subject is not None else None

    def opened(self, message: pb.AuditRecord, read: ReadWrapped) -> pb.AuditRecord:
        """The message with its sealed values in their places; as it is where their key is gone, or they were altered."""
        if not message.HasField("sealed"):
            return message
        key = self.key(message.sealed.key_id, read)
        if key is None:
            return message
        try:
            personal = _personal_of(message, key)
        except SealedValueError as error:
            logger.error("sealed values cannot be opened", reason=str(error))
            return message
        message.ClearField("sealed")
        message.MergeFrom(personal)
        return message

    def forget(self) -> None:
        """Remember nothing: keys were erased."""
        with self._lock:
            self._remembered.clear()


def _personal_of(message: pb.AuditRecord, key: bytes) -> pb.AuditRecord:
    """What is sealed in a record. Raises `SealedValueError`, also where it would say again what the record says openly.

    What is open was checked when the record came, says who may see it, and is what it is found by: nothing that is sealed goes before it.
    """
    sealed, associated = message.sealed, associated_data(message.writer_id, message.sequence)
    try:
        content = AESGCM(key).decrypt(sealed.nonce, sealed.ciphertext, associated)
        personal, rest = pb.AuditRecord.FromString(content), pb.AuditRecord.FromString(content)
    except (InvalidTag, ValueError, DecodeError) as error:
        raise SealedValueError(f"the sealed values of record {message.sequence} of {message.writer_id} cannot be opened") from error
    for name in _PERSONAL:
        rest.ClearField(name)
    if rest.ByteSize():  # fields of newer releases are among them
        raise SealedValueError(f"the sealed values of record {message.sequence} of {message.writer_id} are not only personal")
    return personal


def subject_key_message(wrapped: bytes) -> pb.AuditSubjectKey | None:
    """The message of a key; None for what is none."""
    try:
        message = pb.AuditSubjectKey.FromString(wrapped)
    except DecodeError:
        logger.error("audit key is unreadable")
        return None
    return message if message.key_id else None
