"""Credential files of an embedded deployment, and the short-lived access tokens that are signed with them.

Two files of one form (mode 0600): the administrator's credential (it has a subject and signs for that one only) and the
development issuer (signs for anybody; loopback deployments only). Read by the command line: nothing heavy is imported early.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from extauthz.errors import ConfigurationError

Json = dict[str, object]

_RESERVED_CLAIMS = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})
MAX_TTL_SECONDS = 24 * 3600


def create_private_file(path: Path, content: bytes) -> bool:
    """Create a file that only its owner may read, whole or not at all; False when it exists already (and is kept)."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # fails when `path` exists: nothing is ever replaced
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return True


def create_signing_key_file(path: Path) -> bool:
    """Make an Ed25519 key (PEM, PKCS #8) that signs statements about the record, unless there is one; whether it was made."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - see the module's docstring
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    if path.exists():
        return False
    return create_private_file(path, Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def create_credential_file(path: Path, *, issuer: str, subject: str = "") -> bool:
    """Make an Ed25519 key and its credential file, unless there is one; whether it was made."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - see the module's docstring

    if path.exists():
        return False
    private_key = Ed25519PrivateKey.generate()
    public = private_key.public_key().public_bytes_raw()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": _base64url(public), "d": _base64url(private_key.private_bytes_raw())}
    credential: Json = {"issuer": issuer, "kid": secrets.token_hex(8), "private_jwk": jwk}
    if subject:
        credential["subject"] = subject
    return create_private_file(path, json.dumps(credential, indent=2).encode() + b"\n")


def read_credential_file(path: Path) -> Json:
    """The content of a credential file; raises `ConfigurationError` saying what to do."""
    try:
        mode = path.stat().st_mode
        raw = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no credential {path}; `legation up` with this data directory makes one") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the credential {path} cannot be read: {error}") from error
    if mode & 0o077:
        raise ConfigurationError(f"the credential {path} may be read by others; run: chmod 600 {path}")
    credential: Json = raw if isinstance(raw, dict) else {}
    jwk = credential.get("private_jwk")
    texts = [credential.get("issuer"), credential.get("kid"), jwk.get("x"), jwk.get("d")] if isinstance(jwk, dict) else [None]
    if not all(isinstance(text, str) and text for text in texts):
        raise ConfigurationError(f"the credential {path} is not one: it needs issuer, kid and private_jwk")
    return credential


def public_jwks(path: Path) -> Json:
    """The key set that verifies what this credential signs."""
    credential = read_credential_file(path)
    jwk = credential["private_jwk"]
    assert isinstance(jwk, dict)  # noqa: S101 - read_credential_file has checked
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": jwk["x"], "kid": credential["kid"], "use": "sig", "alg": "EdDSA"}]}


def mint_token(
    file: Path,
    *,
    subject: str,
    audience: str,
    groups: Sequence[str] = (),
    claims: Mapping[str, object] | None = None,
    ttl_seconds: int = 300,
) -> str:
    """An access token (RFC 9068, EdDSA) of this credential. A credential with a subject signs for that subject only."""
    import jwt  # noqa: PLC0415 - see the module's docstring
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    credential = read_credential_file(file)
    bound = credential.get("subject")
    if bound and subject and subject != bound:
        raise ConfigurationError(f"the credential {file} is that of {bound} and cannot sign for {subject}")
    if not (bound or subject):
        raise ConfigurationError("a token needs a subject: --as NAME")
    refused = _RESERVED_CLAIMS & (claims or {}).keys()
    if refused:
        raise ConfigurationError(f"the claim {min(refused)} cannot be chosen")
    if not 1 <= ttl_seconds <= MAX_TTL_SECONDS:
        raise ConfigurationError(f"a token lives 1 to {MAX_TTL_SECONDS} seconds")
    now = int(time.time())
    payload: Json = {**(claims or {}), "iss": credential["issuer"], "sub": bound or subject, "aud": audience}
    payload |= {"iat": now, "exp": now + ttl_seconds, "jti": secrets.token_hex(12)}
    if groups:
        payload["groups"] = list(groups)
    jwk = credential["private_jwk"]
    assert isinstance(jwk, dict)  # noqa: S101 - read_credential_file has checked
    try:
        private_key = Ed25519PrivateKey.from_private_bytes(_from_base64url(str(jwk["d"])))
    except ValueError as error:
        raise ConfigurationError(f"the credential {file} does not hold an Ed25519 key") from error
    return jwt.encode(payload, private_key, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": str(credential["kid"])})


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
