"""The key for which authorizers seal personal values of the record: X25519, derived from the registry's key, stored nowhere.

Authorizers and aggregators are told the public half (`legation.v1.AuditSealingKey`). Every replica derives the same pair, so the record
can be read as long as the registry's key is there, and by nobody else.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from controlplane.registry.encryption import RegistryKey

AUDIT_KEY_PURPOSE = b"legation/v1/audit-sealing"


def audit_private_key(key: RegistryKey) -> X25519PrivateKey:
    """What opens values that were sealed for the public half."""
    return X25519PrivateKey.from_private_bytes(key.derive(AUDIT_KEY_PURPOSE))


def audit_public_key(key: RegistryKey) -> bytes:
    """The public half, 32 bytes (RFC 7748)."""
    return audit_private_key(key).public_key().public_bytes_raw()


def audit_key_id(key: RegistryKey) -> str:
    """What tells this pair from those of other registry keys: 16 hexadecimal digits of the SHA-256 of the public half."""
    return hashlib.sha256(audit_public_key(key)).hexdigest()[:16]
