"""Tokens that are bound to a key or a certificate: never good by themselves (RFC 9449, RFC 8705 section 3).

    verified token ──▶ `Binding` from its `cnf` ──▶ `BindingCheck.check(…)` on every call ──▶ good as it was presented, or not

A token that says it is bound (`cnf`) is never taken as a plain bearer token, whatever the provider's configuration.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote

from extauthz import base64url
from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.dpop import ProofMemory, verify_proof
from extauthz.identity.provider import TokenBinding


@dataclass(frozen=True, slots=True, kw_only=True)
class Presentation:
    """How a token came: the request that it came with, beside the Authorization header.

    `url` is the gateway's own name of what was asked for, without query. `certificate` is the client's, as Envoy gives it
    (PEM, percent-encoded), "" when there was none; `forwarded` what Envoy says of its chain, `peer_principal` whom it reads in it.
    `nonces` are those that a proof may hold: of an empty list none, None asks for
    none. No key to make nonces of must not mean that none is needed.
    """

    http_method: str = ""
    url: str = ""
    proofs: Sequence[str] = field(default=(), repr=False)
    certificate: str = field(default="", repr=False)
    forwarded: Sequence[str] = field(default=(), repr=False)
    peer_principal: str = ""
    nonces: Sequence[str] | None = None


PLAIN = Presentation()


@lru_cache(maxsize=4096)
def plain_presentation(http_method: str, url: str) -> Presentation:
    """What nearly every call is: a token with nothing beside it."""
    return Presentation(http_method=http_method, url=url, nonces=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What `cnf` of a token names (RFC 7800): thumbprints of a key, of a certificate, or of both. Empty: not bound."""

    key_thumbprint: str = ""
    certificate_thumbprint: str = ""

    @property
    def bound(self) -> bool:
        """Whether the token is bound to anything."""
        return bool(self.key_thumbprint or self.certificate_thumbprint)


def binding_of(claims: Mapping[str, object]) -> Binding:
    """The token's binding; raises `AuthenticationError` for one of a kind that cannot be checked here."""
    confirmation = claims.get("cnf")
    if confirmation is None:
        return Binding()
    if not isinstance(confirmation, Mapping) or not confirmation or not confirmation.keys() <= {"jkt", "x5t#S256"}:
        raise _invalid("the access token is bound (cnf) in a way that cannot be checked here")
    if not all(isinstance(value, str) and len(value) == 43 for value in confirmation.values()):
        raise _invalid("the access token's claim cnf is malformed")
    return Binding(key_thumbprint=str(confirmation.get("jkt", "")), certificate_thumbprint=str(confirmation.get("x5t#S256", "")))


class BindingCheck:
    """Checks presentations; remembers proofs, so share one in a process."""

    def __init__(self, clock: Callable[[], float], proofs: ProofMemory | None = None) -> None:
        self._clock = clock
        self._proofs = ProofMemory() if proofs is None else proofs

    def check(self, binding: Binding, demanded: TokenBinding, *, scheme: str, access_token: str, presentation: Presentation) -> None:
        """Raise `AuthenticationError` unless the token was presented as its binding and its provider demand."""
        # (1) is the token of a kind that the provider issues
        if not binding.bound and not demanded.takes_unbound:
            raise _failed("the access token is not bound to a key or certificate, and this identity provider's must be")
        if binding.key_thumbprint and not demanded.takes_dpop:
            raise _refused_kind("a key (DPoP)")
        if binding.certificate_thumbprint and not demanded.takes_mtls:
            raise _refused_kind("a client certificate")
        # (2) presented by the scheme of its kind: RFC 9449 section 7.1, neither the one as the other
        if (scheme == "dpop") != bool(binding.key_thumbprint):
            raise _failed("a token that is bound by DPoP is sent as Authorization: DPoP, and no other token is")
        # (3) the certificate of this very connection
        if binding.certificate_thumbprint and certificate_thumbprint(presentation.certificate) != binding.certificate_thumbprint:
            raise _failed("the access token is bound to another client certificate than that of this connection")
        # (4) the proof of this very request
        if binding.key_thumbprint:
            proof = verify_proof(
                presentation.proofs,
                http_method=presentation.http_method,
                url=presentation.url,
                access_token=access_token,
                key_thumbprint=binding.key_thumbprint,
                nonces=presentation.nonces,
                now=self._clock(),
            )
            self._proofs.take(proof, self._clock())


@lru_cache(maxsize=1024)
def certificate_thumbprint(certificate: str) -> str:
    """`x5t#S256` (RFC 8705 section 3.1) of a PEM certificate, percent-encoded as Envoy gives it; "" when there is none."""
    if not certificate:
        return ""
    try:
        der = ssl.PEM_cert_to_DER_cert(unquote(certificate))
    except ValueError:
        return ""
    return base64url.encode(hashlib.sha256(der).digest())


def _refused_kind(what: str) -> AuthenticationError:
    return _invalid(f"the access token is bound to {what} (cnf), which is not switched on for its identity provider")


def _invalid(sentence: str) -> AuthenticationError:
    return AuthenticationError(Reason.ACCESS_TOKEN_INVALID, sentence)


def _failed(sentence: str) -> AuthenticationError:
    return AuthenticationError(Reason.TOKEN_BINDING_FAILED, sentence)
