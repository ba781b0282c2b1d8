"""Keys with which authorization servers sign access tokens: made here, kept sealed in the registry, rotated with overlap.

A key is published (to authorizers and in the server's key set) a day before it signs, and a day longer than it signs. All
replicas read the same keys, so that any of them signs and each of them publishes the others'.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key

from controlplane.registry.encryption import RegistryKey
from controlplane.registry.spec import AuthorizationServerSpec
from controlplane.registry.state import Entry, RegistryState, SigningKey
from extauthz.errors import CredentialError

ALGORITHM = "ES256"
SIGNS_FOR = timedelta(days=30)
PUBLISHED_AHEAD = timedelta(days=1)
PUBLISHED_AFTER = timedelta(days=1)
"""Longer than any access token is good."""


def rotated_keys(keys: Sequence[SigningKey], now: datetime, *, key: RegistryKey, uid: str) -> tuple[SigningKey, ...]:
    """The keys that an authorization server (`uid`) should have at `now`, oldest first; the same ones while nothing is due."""
    if not keys:
        return (new_signing_key(now, signs_from=now, key=key, uid=uid),)
    kept = [each for each, successor in pairwise(keys) if now < successor.signs_from + PUBLISHED_AFTER] + [keys[-1]]
    due = kept[-1].signs_from + SIGNS_FOR - PUBLISHED_AHEAD
    if now >= due:
        kept.append(new_signing_key(now, signs_from=max(due, now) + PUBLISHED_AHEAD, key=key, uid=uid))
    return tuple(kept)


def new_signing_key(now: datetime, *, signs_from: datetime, key: RegistryKey, uid: str) -> SigningKey:
    """A fresh key on P-256, its private part sealed for this authorization server."""
    from jwt.algorithms import ECAlgorithm  # noqa: PLC0415 - only where there is an authorization server

    made = generate_private_key(SECP256R1())
    kid = secrets.token_hex(8)
    public = ECAlgorithm.to_jwk(made.public_key(), as_dict=True) | {"kid": kid, "alg": ALGORITHM, "use": "sig"}
    sealed = key.seal(json.dumps(ECAlgorithm.to_jwk(made, as_dict=True)), _aad(uid, kid))
    return SigningKey(kid=kid, public_jwk=public, sealed=sealed, created_at=now, signs_from=signs_from)


def signing_key_at(keys: Sequence[SigningKey], now: datetime) -> SigningKey:
    """The key that signs at `now`: the newest whose time has come. Raises `CredentialError` when there is none."""
    signing = [each for each in keys if each.signs_from <= now]
    if not signing:
        raise CredentialError("the authorization server has no signing key yet")
    return signing[-1]


def open_signing_key(signing: SigningKey, *, key: RegistryKey, uid: str) -> EllipticCurvePrivateKey:
    """The private key. Raises `CredentialError` when it was sealed for another server or by another registry key."""
    from jwt.algorithms import ECAlgorithm  # noqa: PLC0415

    opened = ECAlgorithm.from_jwk(key.open(signing.sealed, _aad(uid, signing.kid)).decode())
    if not isinstance(opened, EllipticCurvePrivateKey):
        raise CredentialError(f"the signing key {signing.kid} is not a private key")
    return opened


def public_key_set(keys: Sequence[SigningKey]) -> dict[str, object]:
    """The key set to publish (RFC 7517 section 5): of those that signed, sign and will sign."""
    return {"keys": [dict(each.public_jwk) for each in keys]}


def _aad(uid: str, kid: str) -> str:
    return f"{uid}:signing-key:{kid}"


def due_for_rotation(
    state: RegistryState, now: datetime, *, key: RegistryKey
) -> list[tuple[Entry[AuthorizationServerSpec], tuple[SigningKey, ...], tuple[SigningKey, ...]]]:
    """The authorization servers whose keys must change, with their keys before and after."""
    found = []
    for entry in state.authorization_servers.values():
        before = state.signing_keys.get(entry.uid, ())
        keys = rotated_keys(before, now, key=key, uid=entry.uid)
        if keys != before:
            found.append((entry, before, keys))
    return found
