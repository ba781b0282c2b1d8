"""Keys of sealed values, opened with the registry's key and remembered for a moment: erasing one counts everywhere within that moment."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.message import DecodeError

from extauthz.audit.sealing import SealedValueError, open_message, open_subject_key
from extauthz.v1 import audit_pb2 as pb

logger = structlog.get_logger(__name__)

REMEMBERED_SECONDS = 30.0
MAX_REMEMBERED = 8192

ReadWrapped = Callable[[str], bytes]
"""A key as it is stored, by its id; empty: it is not there, or not any longer."""


class SubjectKeyring:
    """Opens what authorizers sealed. Thread-safe."""

    def __init__(self, private_key: X25519PrivateKey) -> None:
        self._private_key = private_key
        self._lock = threading.Lock()
        self._remembered: OrderedDict[str, tuple[pb.AuditSubject, float]] = OrderedDict()

    def unwrap(self, message: pb.AuditSubjectKey) -> pb.AuditSubject | None:
        """What a key is and whose; None when it was not wrapped for this deployment."""
        try:
            subject = open_subject_key(message, self._private_key)
        except SealedValueError:
            logger.error("audit key cannot be opened with this LEGATION_ENCRYPTION_KEY_FILE", key_id=message.key_id)
            return None
        with self._lock:
            self._remembered[message.key_id] = (subject, time.monotonic() + REMEMBERED_SECONDS)
            self._remembered.move_to_end(message.key_id)
            while len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return subject

    def subject(self, key_id: str, read: ReadWrapped) -> pb.AuditSubject | None:
        """The key with this id, and whose it is; None when it was erased, never came, or cannot be opened."""
        with self._lock:
            subject, until = self._remembered.get(key_id, (None, 0.0))
        if until > time.monotonic():
            return subject
        message = subject_key_message(read(key_id))
        return self.unwrap(message) if message is not None else None

    def opened(self, message: pb.AuditRecord, read: ReadWrapped) -> pb.AuditRecord:
        """The message with its sealed values in their places; as it is where their key is gone, or they are not to be shown."""
        if not message.HasField("sealed"):
            return message
        try:
            return open_message(message, self.subject(message.sealed.key_id, read))
        except SealedValueError as error:
            logger.error("sealed values cannot be opened", reason=str(error))
            return message

    def forget(self) -> None:
        """Remember nothing: keys were erased."""
        with self._lock:
            self._remembered.clear()


def subject_key_message(wrapped: bytes) -> pb.AuditSubjectKey | None:
    """The message of a key; None for what is none."""
    try:
        message = pb.AuditSubjectKey.FromString(wrapped)
    except DecodeError:
        logger.error("audit key is unreadable")
        return None
    return message if message.key_id else None
