"""Verification of access tokens: every rule that makes claims of a token into `VerifiedClaims`.

    authenticator ──▶ verify_access_token ──▶ VerifiedClaims ──▶ authenticator.principal_from_claims

What is read before the signature was checked is called `unverified_…` and chooses only where to look for keys.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import jwt

from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.jwks import KeySet
from extauthz.identity.principal import VerifiedClaims
from extauthz.identity.provider import IdentityProvider
from extauthz.identity.signature import verified_payload

MAX_ACCESS_TOKEN_BYTES = 16 * 1024
MAX_LIFETIME_SECONDS = 31 * 86_400
LEEWAY_SECONDS = 30
"""For `nbf` and `iat` only: clocks differ. A token ends exactly when its `exp` says so."""

ASYMMETRIC_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
_DEFAULT_TOKEN_TYPES = frozenset({"at+jwt", "jwt", "none"})
_ID_TOKEN_CLAIMS = frozenset({"at_hash", "c_hash", "s_hash"})
_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedToken:
    """What an access token says of itself. Good for choosing keys, for nothing else."""

    unverified_issuer: str
    unverified_subject: object
    unverified_kid: str | None
    unverified_algorithm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """What is checked again on every use of a verified token: when and where it is good."""

    expires_at: float
    not_before: float
    audiences: frozenset[str]


def read_unverified_token(access_token: str) -> UnverifiedToken:
    """Issuer, key id and algorithm of a compact JWS that nobody has verified. Raises `AuthenticationError`.

    The issuer may be "": a JWT-SVID needs none.
    """
    header, payload = token_parts(access_token)
    kid, algorithm, issuer = header.get("kid"), header.get("alg"), payload.get("iss", "")
    if not isinstance(algorithm, str) or not isinstance(kid, str | None):
        raise _invalid("the access token's header is malformed")
    if not isinstance(issuer, str):
        raise _invalid("the access token's issuer (iss) is malformed")
    return UnverifiedToken(
        unverified_issuer=issuer, unverified_subject=payload.get("sub"), unverified_kid=kid, unverified_algorithm=algorithm
    )


def token_parts(token: str) -> tuple[dict[str, object], dict[str, object]]:
    """Header and claims of a compact JWS, nothing verified. Raises `AuthenticationError`."""
    if len(token) > MAX_ACCESS_TOKEN_BYTES:
        raise _invalid("the access token is too large")
    if not _COMPACT_JWS.fullmatch(token):
        raise _invalid("the access token is not a signed JSON Web Token")
    header_segment, payload_segment, _ = token.split(".")
    return _json_object(header_segment), _json_object(payload_segment)


def verify_access_token(
    access_token: str,
    provider: IdentityProvider,
    keys: KeySet,
    *,
    audiences: Sequence[str],
    now: float,
    leeway_seconds: float = LEEWAY_SECONDS,
) -> VerifiedClaims:
    """Verify signature, issuer, audience, times, type and subject. Raises `AuthenticationError` without token content.

    What the token is bound to (`cnf`) depends on how it was presented: `identity.binding`, on every call.
    """
    # (1) a key that this provider's keys and algorithms both allow
    unverified = read_unverified_token(access_token)
    header = _json_object(access_token.partition(".")[0])
    _check_header(header, provider)
    allowed = ASYMMETRIC_ALGORITHMS & frozenset(provider.algorithms)
    if unverified.unverified_algorithm not in allowed:
        raise _invalid("the access token is signed with an algorithm that its identity provider may not use")
    key = keys.select(unverified.unverified_kid, frozenset({unverified.unverified_algorithm}))
    if key is None:
        raise _invalid("the access token is signed with a key that its identity provider does not have")

    # (2) signature, issuer, audience; times follow in (3)
    try:
        claims = verified_payload(
            access_token,
            key=key.public_key,
            algorithms=allowed & key.algorithms,
            required=("exp", "iss", "aud") if provider.rules.subject_from_client else ("exp", "iss", "aud", "sub"),
            issuer=provider.issuer,
            audiences=audiences,
        )
    except jwt.InvalidAudienceError as error:
        raise AuthenticationError(Reason.AUDIENCE_MISMATCH, "the access token is meant for another resource (aud)") from error
    except jwt.MissingRequiredClaimError as error:
        raise _invalid(f"the access token lacks the claim {error.claim}") from error
    except jwt.InvalidIssuerError as error:
        raise AuthenticationError(Reason.ISSUER_UNKNOWN, "the access token's issuer is not trusted here") from error
    except jwt.InvalidSignatureError as error:
        raise _invalid("the access token's signature is wrong") from error
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise _invalid("the access token is malformed") from error

    # (3) times, subject, and not a token of another kind
    check_times(limits_of(claims), now, leeway_seconds)
    _check_lifetime(claims, now, leeway_seconds)
    if not claims.get("sub", provider.rules.subject_from_client):
        raise _invalid("the access token's subject (sub) is empty")
    _check_kind(header, claims, id_tokens=provider.rules.id_tokens)
    return VerifiedClaims(MappingProxyType(claims))


def limits_of(claims: Mapping[str, object]) -> TokenLimits:
    """When and where these claims are good; raises `AuthenticationError` for times or audiences of a wrong type."""
    audience = claims.get("aud")
    members = [audience] if isinstance(audience, str) else audience
    if not isinstance(members, list) or len(members) > 100 or not all(isinstance(member, str) for member in members):
        raise _invalid("the access token's audience (aud) is malformed")
    not_before = max(_numeric_date(claims, "nbf", float("-inf")), _numeric_date(claims, "iat", float("-inf")))
    return TokenLimits(expires_at=_numeric_date(claims, "exp", None), not_before=not_before, audiences=frozenset(members))


def issued_at_of(claims: Mapping[str, object]) -> float:
    """When the token was issued, Unix seconds; 0 when it does not say, so that it counts as older than any instant."""
    return _numeric_date(claims, "iat", 0.0)


def check_times(limits: TokenLimits, now: float, leeway_seconds: float = LEEWAY_SECONDS) -> None:
    """Raise `AuthenticationError` unless the token is good at `now`."""
    if now >= limits.expires_at:
        raise AuthenticationError(Reason.ACCESS_TOKEN_EXPIRED, "the access token has expired")
    if limits.not_before > now + leeway_seconds:
        raise _invalid("the access token is not valid yet")


def check_audience(limits: TokenLimits, audiences: Sequence[str]) -> None:
    """Raise `AuthenticationError` unless one of `audiences` is, character by character, an audience of the token."""
    if not any(audience in limits.audiences for audience in audiences):
        raise AuthenticationError(Reason.AUDIENCE_MISMATCH, "the access token is meant for another resource (aud)")


def _check_lifetime(claims: Mapping[str, object], now: float, leeway_seconds: float) -> None:
    # From when it was issued, so that a token of ten years does not become good in its last month.
    begins = min(_numeric_date(claims, "iat", now), now)
    if _numeric_date(claims, "exp", None) - begins > MAX_LIFETIME_SECONDS + leeway_seconds:
        raise _invalid(f"the access token is valid for more than {MAX_LIFETIME_SECONDS // 86_400} days")


def _check_header(header: Mapping[str, object], provider: IdentityProvider) -> None:
    """Header rules. `jku`, `jwk`, `x5u` and `x5c` have no effect here: keys come from the provider's configuration only."""
    if "crit" in header or "b64" in header:
        raise _invalid("the access token demands a header extension that is not supported (crit)")
    token_type = header.get("typ", "none")
    if not isinstance(token_type, str):
        raise _invalid("the access token's type (typ) is malformed")
    accepted = {_short_type(name) for name in provider.token_types} or _DEFAULT_TOKEN_TYPES
    if _short_type(token_type) not in accepted:
        raise _invalid("the token is not an access token (typ)")


def _check_kind(header: Mapping[str, object], claims: Mapping[str, object], *, id_tokens: bool) -> None:
    if _short_type(str(header.get("typ", ""))) != "at+jwt":
        kind = claims.get("typ")
        is_other_kind = isinstance(kind, str) and kind.lower() in {"refresh", "offline", "logout"}
        is_id_token = bool(_ID_TOKEN_CLAIMS & claims.keys()) or (isinstance(kind, str) and kind.lower() == "id")
        is_id_token = is_id_token or claims.get("token_use", "access") != "access"
        if is_other_kind or "events" in claims or (is_id_token and not id_tokens):
            raise _invalid("the token is an ID token or of another kind, not an access token")


def _short_type(token_type: str) -> str:
    return token_type.lower().removeprefix("application/")


def _numeric_date(claims: Mapping[str, object], claim: str, default: float | None) -> float:
    value = claims.get(claim)
    if claim not in claims and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(f"the access token's claim {claim} is not a number")
    try:
        seconds = float(value)
    except OverflowError as error:
        raise _invalid(f"the access token's claim {claim} is out of range") from error
    if not math.isfinite(seconds):
        raise _invalid(f"the access token's claim {claim} is not a number")
    return seconds


def _json_object(segment: str) -> dict[str, object]:
    try:
        parsed = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, RecursionError) as error:
        raise _invalid("the access token is malformed") from error
    if not isinstance(parsed, dict):
        raise _invalid("the access token is malformed")
    return parsed


def _invalid(sentence: str) -> AuthenticationError:
    return AuthenticationError(Reason.ACCESS_TOKEN_INVALID, sentence)
