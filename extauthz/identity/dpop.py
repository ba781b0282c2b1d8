"""Demonstrating proof of possession (RFC 9449): the proof that comes with each request, checked as section 4.3 lists it.

Before this: `identity.binding`, which knows the key that the token is bound to. A proof is good once in a process, for a minute.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import jwt

from extauthz import base64url
from extauthz.errors import AuthenticationError, ConfigurationError, Reason
from extauthz.identity.jwks import VerificationKey, parse_key_set
from extauthz.identity.signature import verified_payload

MAX_PROOF_BYTES = 8 * 1024
MAX_PROOF_AGE_SECONDS = 60.0
MAX_PROOF_LEAD_SECONDS = 30.0
"""Clocks differ: how far in the future a proof may have been made."""
PROOF_ALGORITHMS = ("ES256", "ES384", "ES512", "EdDSA", "PS256", "RS256")
NONCE_SECONDS = 60
MAX_JTI_LENGTH = 500

_THUMBPRINT_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
_DEFAULT_PORTS = {"https": 443, "http": 80}
_NONCE_PURPOSE = b"legation dpop nonce v1\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedProof:
    """One proof, by a digest of its key and its `jti`."""

    digest: bytes


class ProofMemory:
    """Proofs that were used, for as long as they could be used again. Bounded; when full, no proof is taken."""

    def __init__(self, *, max_entries: int = 300_000) -> None:
        self._max_entries = max_entries
        self._taken_at: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._taken_at)

    def take(self, proof: VerifiedProof, now: float) -> None:
        """Use a proof; raises `AuthenticationError` when it was used before."""
        forgotten = now - MAX_PROOF_AGE_SECONDS - MAX_PROOF_LEAD_SECONDS
        while self._taken_at and next(iter(self._taken_at.values())) < forgotten:
            self._taken_at.popitem(last=False)
        if proof.digest in self._taken_at:
            raise _invalid("the DPoP proof was used before (jti)")
        if len(self._taken_at) >= self._max_entries:
            raise _invalid("too many DPoP proofs were used in the last minute")
        self._taken_at[proof.digest] = now


def verify_proof(
    proofs: Sequence[str],
    *,
    http_method: str,
    url: str,
    access_token: str,
    key_thumbprint: str,
    nonces: Sequence[str] | None,
    now: float,
) -> VerifiedProof:
    """The proof of this request and of this token, by the key that the token is bound to; else `AuthenticationError`.

    `nonces`: it must hold one of these, of an empty list none does; None asks for none.
    """
    # (1) exactly one, a signed JWT of the right type
    if len(proofs) != 1:
        raise _invalid("a token that is bound by DPoP needs exactly one DPoP header")
    proof = proofs[0]
    header = _header(proof)
    if header.get("typ") != "dpop+jwt":
        raise _invalid("the DPoP proof's type (typ) is not dpop+jwt")
    if "crit" in header or "b64" in header:
        raise _invalid("the DPoP proof demands a header extension that is not supported (crit)")
    algorithm = header.get("alg")
    if algorithm not in PROOF_ALGORITHMS:
        raise _invalid(f"the DPoP proof's algorithm is none of {', '.join(PROOF_ALGORITHMS)}")
    # (2) by a public key, which is the one that the token is bound to
    jwk = header.get("jwk")
    key = _public_key(jwk, str(algorithm))
    if not isinstance(jwk, dict) or not hmac.compare_digest(thumbprint(jwk), key_thumbprint):
        raise _invalid("the DPoP proof is by another key than the one that the access token is bound to")
    claims = _verified_claims(proof, key, str(algorithm))
    # (3) for this request and this token
    if claims.get("htm") != http_method:
        raise _invalid("the DPoP proof is for another HTTP method (htm)")
    asked, proved = normalised_url(url), normalised_url(claims.get("htu"))
    if not asked or asked != proved:
        raise _invalid("the DPoP proof is for another URL (htu)")
    digest = base64url.encode(hashlib.sha256(access_token.encode("ascii")).digest())
    if claims.get("ath") != digest:
        raise _invalid("the DPoP proof is for another access token (ath)")
    # (4) made now, and once
    _check_time(claims.get("iat"), now)
    if nonces is not None and claims.get("nonce") not in nonces:
        raise AuthenticationError(Reason.USE_DPOP_NONCE, "the DPoP proof lacks the nonce that is demanded, or holds an old one")
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI_LENGTH:
        raise _invalid("the DPoP proof has no usable jti")
    return VerifiedProof(digest=hashlib.sha256(f"{key_thumbprint} {jti}".encode("utf-8", "surrogatepass")).digest())


def thumbprint(jwk: Mapping[str, object]) -> str:
    """The JWK SHA-256 thumbprint (RFC 7638); "" for a key of a type that is not used here."""
    members = _THUMBPRINT_MEMBERS.get(str(jwk.get("kty")), ())
    if not members or not all(isinstance(jwk.get(member), str) for member in members):
        return ""
    text = json.dumps({member: jwk[member] for member in members}, separators=(",", ":"), sort_keys=True)
    return base64url.encode(hashlib.sha256(text.encode()).digest())


def normalised_url(url: object) -> str:
    """A URL for comparison (RFC 9449 section 4.3, RFC 3986 section 6.2): without query and fragment; "" for what is none."""
    if not isinstance(url, str) or len(url) > 4096 or not url.isascii() or not url.isprintable():
        return ""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
    if scheme not in _DEFAULT_PORTS or not host or parts.username is not None or parts.password is not None:
        return ""
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{_DEFAULT_PORTS[scheme] if port is None else port}{parts.path or '/'}"


def nonces_at(keys: Sequence[bytes], now: float) -> tuple[str, ...]:
    """The nonces that are good at `now`, the one to hand out first: of this minute and the last, by each key.

    They are derived from keys that all authorizers have, so that any of them takes what another one handed out.
    """
    period = int(now // NONCE_SECONDS)
    return tuple(_nonce(key, number) for number in (period, period - 1) for key in keys)


def _nonce(key: bytes, period: int) -> str:
    mac = hmac.new(key, _NONCE_PURPOSE + period.to_bytes(8, "big"), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mac[:18]).decode("ascii")


def _header(proof: str) -> dict[str, object]:
    if len(proof) > MAX_PROOF_BYTES or proof.count(".") != 2 or not proof.isascii():
        raise _invalid("the DPoP proof is not a signed JSON Web Token")
    segment = proof.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, RecursionError) as error:
        raise _invalid("the DPoP proof is malformed") from error
    if not isinstance(header, dict):
        raise _invalid("the DPoP proof is malformed")
    return header


def _public_key(jwk: object, algorithm: str) -> VerificationKey:
    """The proof's own key: public, of a size and kind that fits the algorithm."""
    try:
        key = parse_key_set(json.dumps({"keys": [jwk]})).select(None, frozenset({algorithm}))
    except (ConfigurationError, ValueError, TypeError, RecursionError) as error:
        raise _invalid("the DPoP proof's key (jwk) is not a public key that can be used here") from error
    if key is None:
        raise _invalid("the DPoP proof's key (jwk) does not fit its algorithm")
    return key


def _verified_claims(proof: str, key: VerificationKey, algorithm: str) -> dict[str, object]:
    try:
        claims = verified_payload(proof, key=key.public_key, algorithms=(algorithm,), required=("jti", "htm", "htu", "iat", "ath"))
    except jwt.MissingRequiredClaimError as error:
        raise _invalid(f"the DPoP proof lacks the claim {error.claim}") from error
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise _invalid("the DPoP proof's signature is wrong, or it is malformed") from error
    return claims


def _check_time(issued_at: object, now: float) -> None:
    if isinstance(issued_at, bool) or not isinstance(issued_at, int | float):
        raise _invalid("the DPoP proof does not say when it was made (iat)")
    if not now - MAX_PROOF_AGE_SECONDS <= issued_at <= now + MAX_PROOF_LEAD_SECONDS:
        raise _invalid("the DPoP proof was not made just now (iat)")


def _invalid(sentence: str) -> AuthenticationError:
    return AuthenticationError(Reason.DPOP_PROOF_INVALID, sentence)
