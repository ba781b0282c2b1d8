"""JWT-SVIDs: a bearer token that says which workload sends it (JWT-SVID sections 2 to 4).

    authenticator ──▶ verify_jwt_svid ──▶ JwtSvid ──▶ workload.principal_of

The library `spiffe` checks the signature by the bundle of the trust domain, algorithm, type and audience. What it lets pass is checked
here: a token without `exp`, one that lives for years, one of the future, a trust domain in upper case, critical headers; and whatever
it raises is a refusal. A JWT-SVID is good as often as it is sent until it expires: replay is not prevented, so issue short ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import jwt

from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.access_token import (
    LEEWAY_SECONDS,
    TokenLimits,
    check_audience,
    check_times,
    issued_at_of,
    limits_of,
    token_parts,
)
from extauthz.identity.binding import Binding, binding_of
from extauthz.identity.spiffe_id import SpiffeId, claims_spiffe, parse_spiffe_id
from extauthz.identity.trust_domain import TrustDomain

if TYPE_CHECKING:
    from spiffe import JwtBundle

MAX_NAME_LENGTH = 500
_TYPES = frozenset({"JWT", "JOSE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSvid:
    """A verified JWT-SVID. `limits` are checked again on every use. `token_id` is its `jti`, "" without one."""

    spiffe_id: SpiffeId
    limits: TokenLimits
    issued_at_unix: float
    token_id: str
    binding: Binding


def subject_spiffe_id(unverified_subject: object) -> SpiffeId | None:
    """The SPIFFE ID that a token's subject claims; None when it claims none. Raises `AuthenticationError` for a malformed one."""
    if not isinstance(unverified_subject, str) or not claims_spiffe(unverified_subject):
        return None
    try:
        return parse_spiffe_id(unverified_subject)
    except ValueError as error:
        raise _invalid(f"the token's subject (sub) is not a SPIFFE ID: {error}") from error


def verify_jwt_svid(token: str, trust_domain: TrustDomain, *, audiences: Sequence[str], now: float) -> JwtSvid:
    """Verify a JWT-SVID by the keys of `trust_domain`, for one of `audiences`. Raises `AuthenticationError` without token content."""
    # (1) what it may say before anybody looks for keys
    header, _ = token_parts(token)
    if "crit" in header or "b64" in header:
        raise _invalid("the JWT-SVID demands a header extension that is not supported (crit)")
    if header.get("typ", "JWT") not in _TYPES:
        raise _invalid("the token is not a JWT-SVID (typ)")
    # (2) signature, audience, trust domain
    _verify_signature(token, trust_domain, audiences)
    _, claims = token_parts(token)
    # (3) who, exactly as it is written
    spiffe_id = subject_spiffe_id(claims.get("sub"))
    if spiffe_id is None or spiffe_id.trust_domain != trust_domain.trust_domain:
        raise _invalid("the JWT-SVID is of another trust domain")
    # (4) when and where
    limits = limits_of(claims)
    check_times(limits, now)
    check_audience(limits, audiences)
    issued_at = issued_at_of(claims)
    begins = min(issued_at, now) if "iat" in claims else now
    if limits.expires_at - begins > trust_domain.max_jwt_svid_seconds + LEEWAY_SECONDS:
        raise _invalid(f"the JWT-SVID is valid for more than {trust_domain.max_jwt_svid_seconds} seconds")
    token_id = claims.get("jti", "")
    if not isinstance(token_id, str) or len(token_id) > MAX_NAME_LENGTH or not token_id.isprintable():
        raise _invalid("the JWT-SVID's claim jti is not a printable name")
    return JwtSvid(spiffe_id=spiffe_id, limits=limits, issued_at_unix=issued_at, token_id=token_id, binding=binding_of(claims))


def prepare(trust_domain: TrustDomain) -> None:
    """Read the keys ahead of the first call: the library takes its time to be imported. Never raises."""
    if trust_domain.jwt_authorities_json:
        with contextlib.suppress(Exception):  # then no JWT-SVID of it is good, and each refusal says so
            _bundle(trust_domain.trust_domain, trust_domain.jwt_authorities_json)


def _verify_signature(token: str, trust_domain: TrustDomain, audiences: Sequence[str]) -> None:
    from spiffe import JwtSvid as LibraryJwtSvid  # noqa: PLC0415 - slow to import; only where JWT-SVIDs are accepted

    try:
        bundle = _bundle(trust_domain.trust_domain, trust_domain.jwt_authorities_json)
        LibraryJwtSvid.parse_and_validate(token, bundle, set(audiences))
    except Exception as error:
        match error.__cause__:
            case jwt.ExpiredSignatureError():
                raise AuthenticationError(Reason.ACCESS_TOKEN_EXPIRED, "the JWT-SVID has expired") from error
            case jwt.InvalidAudienceError() | jwt.MissingRequiredClaimError(claim="aud"):
                raise AuthenticationError(Reason.AUDIENCE_MISMATCH, "the JWT-SVID is meant for another resource (aud)") from error
            case _:
                raise _invalid("the JWT-SVID is not signed by its trust domain, or malformed") from error


@lru_cache(maxsize=64)
def _bundle(trust_domain: str, jwt_authorities_json: str) -> JwtBundle:
    from spiffe import JwtBundle, TrustDomain  # noqa: PLC0415

    return JwtBundle.parse(TrustDomain(trust_domain), jwt_authorities_json.encode())


def _invalid(sentence: str) -> AuthenticationError:
    return AuthenticationError(Reason.ACCESS_TOKEN_INVALID, sentence)
