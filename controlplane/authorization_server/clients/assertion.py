"""Client assertions: a client proves itself by a JWT that it signed (`private_key_jwt`; RFC 7523 sections 2.2 and 3).

Stricter than the RFC where that costs nothing: the assertion is for exactly this server and no other, good for five minutes at most,
and has a `jti`, with which it is good once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jwt

from controlplane.authorization_server.clients.refusal import ClientAuthenticationError
from extauthz import base64url
from extauthz.identity.jwks import KeySet
from extauthz.identity.signature import verified_payload

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_ALGORITHMS = frozenset({"ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256"})
MAX_ASSERTION_BYTES = 8 * 1024
MAX_LIFETIME_SECONDS = 300.0
LEEWAY_SECONDS = 30.0
MAX_JTI_LENGTH = 255
_TYPES = frozenset({"jwt", "client-authentication+jwt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedAssertion:
    """What an assertion says of itself: enough to find the client and the key, and nothing to be relied on."""

    unverified_client_id: str
    unverified_kid: str | None
    unverified_algorithm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedAssertion:
    """An assertion that was the client's: its digest, for the memory of those that were used, and when it ends (Unix seconds)."""

    digest: bytes
    expires_at: float


def read_unverified_assertion(assertion: str) -> UnverifiedAssertion:
    """Read without verifying. Raises `ClientAuthenticationError`."""
    if len(assertion) > MAX_ASSERTION_BYTES or assertion.count(".") != 2 or not assertion.isascii():
        raise _refused("the client assertion is not a signed JSON Web Token")
    header_segment, payload_segment, _ = assertion.split(".")
    header, payload = _json_object(header_segment), _json_object(payload_segment)
    if "crit" in header or "b64" in header:
        raise _refused("the client assertion demands a header extension that is not supported (crit)")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise _refused("the token is not a client assertion (typ)")
    kid, algorithm, subject = header.get("kid"), header.get("alg"), payload.get("sub")
    if not isinstance(kid, str | None) or not isinstance(algorithm, str) or not isinstance(subject, str) or not subject:
        raise _refused("the client assertion names no client (sub), or its header is malformed")
    return UnverifiedAssertion(unverified_client_id=subject, unverified_kid=kid, unverified_algorithm=algorithm)


def verify_assertion(
    assertion: str, *, server_uid: str, client_id: str, keys: KeySet, audiences: Sequence[str], now: float
) -> VerifiedAssertion:
    """The assertion, if it is this client's, made for one of `audiences` alone, and good at `now`; else `ClientAuthenticationError`."""
    # (1) by a key of the client
    unverified = read_unverified_assertion(assertion)
    if unverified.unverified_algorithm not in ASSERTION_ALGORITHMS:
        raise _refused(f"the client assertion's algorithm is none of {', '.join(sorted(ASSERTION_ALGORITHMS))}")
    key = keys.select(unverified.unverified_kid, frozenset({unverified.unverified_algorithm}))
    if key is None:
        raise _refused("the client assertion is signed with a key that the client does not have")
    try:
        claims = verified_payload(
            assertion,
            key=key.public_key,
            algorithms=(unverified.unverified_algorithm,),
            required=("iss", "sub", "aud", "exp", "jti"),
            issuer=client_id,
        )
    except jwt.MissingRequiredClaimError as error:
        raise _refused(f"the client assertion lacks the claim {error.claim}") from error
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise _refused("the client assertion's signature or issuer (iss) is wrong, or it is malformed") from error
    # (2) about itself, for this server alone
    if claims.get("sub") != client_id:
        raise _refused("the client assertion is about another client (sub)")
    audience = claims.get("aud")
    audience = audience[0] if isinstance(audience, list) and len(audience) == 1 else audience
    if not isinstance(audience, str) or audience not in audiences:
        raise _refused("the client assertion is not for this authorization server alone (aud)")
    # (3) made for now, and for once
    expires_at = _check_times(claims, now)
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI_LENGTH:
        raise _refused("the client assertion has no usable jti")
    digest = hashlib.sha256(json.dumps([server_uid, client_id, jti]).encode()).digest()
    return VerifiedAssertion(digest=digest, expires_at=expires_at + LEEWAY_SECONDS)


def _check_times(claims: Mapping[str, object], now: float) -> float:
    expires_at = _seconds(claims, "exp", now)
    issued_at = _seconds(claims, "iat", now)
    if expires_at <= now:
        raise _refused("the client assertion has expired")
    if expires_at - min(issued_at, now) > MAX_LIFETIME_SECONDS + LEEWAY_SECONDS:
        raise _refused(f"the client assertion is good for more than {MAX_LIFETIME_SECONDS / 60:.0f} minutes")
    if max(issued_at, _seconds(claims, "nbf", now)) > now + LEEWAY_SECONDS:
        raise _refused("the client assertion is not good yet")
    return expires_at


def _seconds(claims: Mapping[str, object], claim: str, default: float) -> float:
    value = claims.get(claim, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e12:
        raise _refused(f"the client assertion's claim {claim} is not a date")
    return float(value)


def _json_object(segment: str) -> dict[str, object]:
    try:
        found = json.loads(base64url.decode(segment))
    except (ValueError, RecursionError) as error:
        raise _refused("the client assertion is malformed") from error
    if not isinstance(found, dict):
        raise _refused("the client assertion is malformed")
    return found


def _refused(description: str) -> ClientAuthenticationError:
    return ClientAuthenticationError("invalid_client", description)
