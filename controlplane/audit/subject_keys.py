"""Keys of sealed values, opened with the registry's key. Authorizers do not seal yet: what is sealed stays so."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from extauthz.v1 import audit_pb2 as pb

ReadWrapped = Callable[[str], bytes]
"""A key as it is stored, by its id; empty: it is not (any longer) there."""


class SubjectKeyring:
    """Opens what authorizers sealed. Thread-safe."""

    def __init__(self, private_key: X25519PrivateKey) -> None:
        self._private_key = private_key

    def unwrap(self, wrapped: bytes) -> tuple[str, pb.AuditSubject | None]:
        """The id of a serialised AuditSubjectKey and what it holds; None when it cannot be opened."""
        return pb.AuditSubjectKey.FromString(wrapped).key_id, None

    def opened(self, message: pb.AuditRecord, read: ReadWrapped) -> pb.AuditRecord:  # noqa: ARG002
        """The record with its sealed values; as it is where their key is gone."""
        return message

    def forget(self) -> None:
        """Remember nothing: keys were deleted."""
