"""Seals secrets before they are stored and opens them for authorizers. The key is a file that only this process reads.

A sealed value is bound to where it stands (AES-256-GCM with the entry's uid and the field's path as associated data): moved
to another entry or field it does not open.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from extauthz.errors import ConfigurationError, CredentialError

SEALED_PREFIX = "sealed:v1:"
STATIC_HEADER_SECRET = "spec.credential.staticHeader.secret"  # noqa: S105 - a path
CLIENT_SECRET = "spec.credential.clientCredentials.clientSecret"  # noqa: S105 - a path
LOGIN_SECRET = "spec.login.clientSecret"  # noqa: S105 - a path
LOGIN_KEY = "spec.login.privateKeyJwt.key"
OAUTH_CLIENT_SECRET = "spec.clients.*.secret"  # noqa: S105 - a path
INITIAL_ACCESS_TOKEN = "spec.registration.initialAccessToken"  # noqa: S105 - a path
SPLUNK_TOKEN = "spec.splunkHec.token"  # noqa: S105 - a path
ELASTIC_API_KEY = "spec.elastic.apiKey"
SENTINEL_SECRET = "spec.sentinel.clientSecret"  # noqa: S105 - a path
OTLP_HEADER = "spec.otlp.headers.*"
S3_SECRET_KEY = "spec.parquet.s3.secretAccessKey"  # noqa: S105 - a path
UPSTREAM_KEY = "spec.tls.clientCertificate.stored.key"
LISTENER_KEY = "spec.tls.certificates.*.stored.key"
"""Private keys of a Gateway's certificates; `*` is the certificate's name."""

_KEY_BYTES = 32
_NONCE_BYTES = 12


def secret_aad(uid: str, path: str) -> str:
    """What a sealed value is bound to: the entry's uid and the field's path (`STATIC_HEADER_SECRET`, `CLIENT_SECRET`)."""
    return f"{uid}:{path}"


class RegistryKey:
    """The registry's key. Sealing and deriving use different keys made from it, so neither says anything about the other."""

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise ConfigurationError(f"the encryption key must be {_KEY_BYTES} bytes")
        self._root = key
        self._cipher = AESGCM(self.derive(b"legation/v1/seal"))

    def __repr__(self) -> str:
        return "RegistryKey(…)"

    def seal(self, plaintext: str, aad: str) -> str:
        """`sealed:v1:<base64>`; a different text on every call."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, plaintext.encode(), aad.encode())
        return SEALED_PREFIX + base64.b64encode(sealed).decode()

    def open(self, sealed: str, aad: str) -> bytes:
        """The secret. Raises `CredentialError` when the text was made by another key, for another place, or damaged."""
        prefix, encoded = sealed[: len(SEALED_PREFIX)], sealed[len(SEALED_PREFIX) :]
        try:
            raw = base64.b64decode(encoded if prefix == SEALED_PREFIX else "", validate=True)
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], aad.encode())
        except (ValueError, binascii.Error, InvalidTag) as error:
            raise CredentialError(f"the stored secret {aad} cannot be opened with this LEGATION_ENCRYPTION_KEY_FILE") from error

    def derive(self, info: bytes) -> bytes:
        """32 bytes for one purpose, the same on every replica that has this key (HKDF-SHA256)."""
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._root)


def read_registry_key(path: Path) -> RegistryKey:
    """Read the key file (32 bytes in base64); refuses one that others may read."""
    try:
        mode = path.stat().st_mode
        text = path.read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"LEGATION_ENCRYPTION_KEY_FILE: cannot read {path}: {error.strerror}") from error
    if mode & 0o037:
        raise ConfigurationError(f"LEGATION_ENCRYPTION_KEY_FILE: {path} may be read or changed by others; run: chmod 600 {path}")
    try:
        return RegistryKey(base64.b64decode(text, validate=True))
    except (binascii.Error, ConfigurationError) as error:
        raise ConfigurationError(f"LEGATION_ENCRYPTION_KEY_FILE: {path} must hold 32 bytes in base64") from error


def open_secret(key: RegistryKey, *, uid: str, path: str, sealed: str) -> bytes:
    """The secret that stands at `path` of the entry `uid`."""
    return key.open(sealed, secret_aad(uid, path))
