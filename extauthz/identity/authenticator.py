"""Step (1) of a decision: who asks. From a client certificate and `Authorization` headers to a `Principal`, or `AuthenticationError`.

    authenticate ─┬▶ Workloads ──▶ the workload whose X.509-SVID the connection has shown
                  └▶ (cache of verified tokens) ─┬▶ KeySource ──▶ verify_access_token ──▶ principal_from_claims
                                                 └▶ verify_jwt_svid ──▶ principal_of

A token is one thing only: of the identity provider that its issuer is, or else a JWT-SVID of the trust domain that its subject names.
A signature is checked once per token and key set; issuer, trust, audience, times and binding are checked on every call. What an
unauthenticated caller is told next (RFC 6750, RFC 9728) is built in `identity.challenge`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.access_token import (
    MAX_ACCESS_TOKEN_BYTES,
    TokenLimits,
    UnverifiedToken,
    check_audience,
    check_times,
    limits_of,
    read_unverified_token,
    verify_access_token,
)
from extauthz.identity.binding import PLAIN, Binding, BindingCheck, Presentation, binding_of
from extauthz.identity.challenge import protected_resource_metadata, www_authenticate
from extauthz.identity.claim import principal_from_claims
from extauthz.identity.dpop import ProofMemory
from extauthz.identity.jwks import KeySet, KeySource
from extauthz.identity.jwt_svid import prepare, subject_spiffe_id, verify_jwt_svid
from extauthz.identity.principal import Principal
from extauthz.identity.provider import IdentityProvider, TokenBinding
from extauthz.identity.trust_domain import TrustDomain
from extauthz.identity.workload import TrustDomains, VerifiedCertificates, Workloads, calling_for, principal_of

__all__ = [
    "OPERATORS_API",
    "Authenticator",
    "VerifiedTokens",
    "is_admitted",
    "parse_authorization",
    "protected_resource_metadata",
    "www_authenticate",
]

DEFAULT_WAIT_SECONDS = 1.8
OPERATORS_API = ""
"""The `namespace` of `authenticate` for the registry's own API."""

_SCHEMES = frozenset({"bearer", "dpop"})
_B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class _VerifiedToken:
    """One remembered verification: true while its source is configured like this and has these keys (a trust domain holds its own).

    `issuer`: of a JWT-SVID, which is one only as long as no provider has that issuer.
    """

    source: IdentityProvider | TrustDomain
    keys: KeySet | None
    issuer: str = ""
    limits: TokenLimits
    binding: Binding
    principal: Principal


class VerifiedTokens:
    """Bounded memory of verifications, by the SHA-256 of the token. Share one across `Authenticator`s of one process."""

    def __init__(self, *, max_entries: int = 10_000) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, _VerifiedToken] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, digest: bytes) -> _VerifiedToken | None:
        """The verification of this token, if remembered."""
        found = self._entries.get(digest)
        if found is not None:
            self._entries.move_to_end(digest)
        return found

    def remember(self, digest: bytes, verified: _VerifiedToken) -> None:
        """Keep a verification; the least recently used one goes when there are too many."""
        self._entries[digest] = verified
        self._entries.move_to_end(digest)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def forget(self, digest: bytes) -> None:
        """Drop a verification that no longer holds."""
        self._entries.pop(digest, None)


class Authenticator:
    """Authenticates callers against the identity providers and trust domains of one revision. Cheap to make anew with each revision."""

    def __init__(
        self,
        identity_providers: Sequence[IdentityProvider],
        key_source: KeySource,
        clock: Callable[[], float] = time.time,
        *,
        trust_domains: Sequence[TrustDomain] = (),
        verified_tokens: VerifiedTokens | None = None,
        verified_certificates: VerifiedCertificates | None = None,
        proofs: ProofMemory | None = None,
    ) -> None:
        self._providers = {provider.id: provider for provider in identity_providers}
        self._by_issuer: dict[str, list[IdentityProvider]] = {}
        for provider in sorted(identity_providers, key=lambda p: (p.namespace != "system", p.id)):
            self._by_issuer.setdefault(provider.issuer, []).append(provider)
        self._trust_domains = TrustDomains(trust_domains)
        for trust_domain in trust_domains:
            prepare(trust_domain)
        known_certificates = VerifiedCertificates() if verified_certificates is None else verified_certificates
        self._workloads = Workloads(self._trust_domains, clock, known_certificates)
        self._key_source = key_source
        self._clock = clock
        self._verified_tokens = VerifiedTokens() if verified_tokens is None else verified_tokens
        self._binding_check = BindingCheck(clock, proofs)

    async def authenticate(
        self,
        authorization_headers: Sequence[str],
        *,
        resource_url: str,
        namespace: str,
        deadline: float | None = None,
        presentation: Presentation = PLAIN,
    ) -> Principal:
        """The caller whose access token and client certificate these are, good for `resource_url` in `namespace` now, as presented.

        A certificate that is no SVID says nothing by itself. An SVID without a token is the workload's own call; with a token the
        workload acts for the token's principal, and a bad token is refused, never left out.
        `deadline` is event loop time; a provider's keys that are not there by then are `ISSUER_UNAVAILABLE`.
        """
        # (0) the workload of the connection
        workload = self._workloads.of_certificate(presentation, namespace) if presentation.certificate else None
        if workload is not None and not authorization_headers:
            return workload

        # (1) exactly one token
        scheme, access_token = parse_authorization(authorization_headers)
        digest = hashlib.sha256(access_token.encode("ascii")).digest()

        # (2) verified before, with keys and configuration that still hold
        verified = self._verified_tokens.find(digest)
        if verified is not None and not self._still_holds(verified):
            self._verified_tokens.forget(digest)
            verified = None
        if verified is None or not self._admits(verified.source, namespace):
            # (3) else verify it now, against who may have issued it and is trusted in this namespace
            verified = await self._verify(access_token, resource_url, namespace, deadline)
            self._verified_tokens.remember(digest, verified)
        else:
            # (4) good here and now
            check_times(verified.limits, self._clock())
            check_audience(verified.limits, (resource_url, *verified.source.audiences))

        # (5) presented by whom it was issued to
        if verified.binding.bound or scheme != "bearer" or verified.source.token_binding is not TokenBinding.NONE:
            self._check_binding(verified, scheme, access_token, presentation)
        return verified.principal if workload is None else calling_for(verified.principal, workload)

    def _check_binding(self, verified: _VerifiedToken, scheme: str, access_token: str, presentation: Presentation) -> None:
        if not verified.source.dpop_nonce:
            presentation = replace(presentation, nonces=None)
        self._binding_check.check(
            verified.binding, verified.source.token_binding, scheme=scheme, access_token=access_token, presentation=presentation
        )

    def _still_holds(self, verified: _VerifiedToken) -> bool:
        source = verified.source
        if isinstance(source, TrustDomain):
            return verified.issuer not in self._by_issuer  # whether it is the one of now: `_admits`
        return self._providers.get(source.id) == source and self._key_source.current_keys(source) is verified.keys

    def _admits(self, source: IdentityProvider | TrustDomain, namespace: str) -> bool:
        if isinstance(source, TrustDomain):
            return self._trust_domains.trusted(source.trust_domain, namespace) is source
        return is_admitted(source, namespace)

    async def _verify(self, access_token: str, resource_url: str, namespace: str, deadline: float | None) -> _VerifiedToken:
        """By the provider of its issuer, wherever that is registered; a token without one may be a JWT-SVID, and never both."""
        unverified = read_unverified_token(access_token)
        if unverified.unverified_issuer in self._by_issuer:
            return await self._verify_access_token(access_token, unverified, resource_url, namespace, deadline)
        spiffe_id = subject_spiffe_id(unverified.unverified_subject)
        trust_domain = self._trust_domains.trusted(spiffe_id.trust_domain, namespace) if spiffe_id is not None else None
        if trust_domain is None or not trust_domain.jwt_authorities_json:
            raise AuthenticationError(Reason.ISSUER_UNKNOWN, "the access token's issuer is not trusted here")
        svid = verify_jwt_svid(access_token, trust_domain, audiences=(resource_url, *trust_domain.audiences), now=self._clock())
        principal = principal_of(
            trust_domain,
            svid.spiffe_id,
            issued_at_unix=svid.issued_at_unix,
            expires_at_unix=svid.limits.expires_at,
            token_id=svid.token_id,
        )
        return _VerifiedToken(
            source=trust_domain,
            keys=None,
            issuer=unverified.unverified_issuer,
            limits=svid.limits,
            binding=svid.binding,
            principal=principal,
        )

    async def _verify_access_token(
        self, access_token: str, unverified: UnverifiedToken, resource_url: str, namespace: str, deadline: float | None
    ) -> _VerifiedToken:
        candidates = [p for p in self._by_issuer[unverified.unverified_issuer] if is_admitted(p, namespace)]
        refusal = AuthenticationError(Reason.ISSUER_UNKNOWN, "the access token's issuer is not trusted here")
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + DEFAULT_WAIT_SECONDS
        for index, provider in enumerate(candidates):
            try:
                keys = await self._key_source.keys_for(provider, unverified.unverified_kid, deadline)
                audiences = (resource_url, *provider.audiences)
                claims = verify_access_token(access_token, provider, keys, audiences=audiences, now=self._clock())
                binding = binding_of(claims)
                principal = principal_from_claims(claims, provider)
                if binding.certificate_thumbprint:
                    principal = replace(principal, by_certificate=True)
            except AuthenticationError as error:
                refusal = error if index == 0 else refusal
                continue
            return _VerifiedToken(source=provider, keys=keys, limits=limits_of(claims), binding=binding, principal=principal)
        raise refusal


def parse_authorization(authorization_headers: Sequence[str]) -> tuple[str, str]:
    """Scheme ("bearer" or "dpop") and token of exactly one `Authorization` header (RFC 6750 section 2.1, RFC 9449 section 7.1)."""
    if not authorization_headers:
        raise AuthenticationError(Reason.ACCESS_TOKEN_MISSING, "an access token is needed: send Authorization: Bearer")
    if len(authorization_headers) > 1:
        raise AuthenticationError(Reason.ACCESS_TOKEN_INVALID, "more than one Authorization header was sent")
    scheme, separator, credentials = authorization_headers[0].strip(" \t").partition(" ")
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        raise AuthenticationError(Reason.ACCESS_TOKEN_MISSING, "an access token is needed: send Authorization: Bearer")
    access_token = credentials.lstrip(" ")
    if len(access_token) > MAX_ACCESS_TOKEN_BYTES:
        raise AuthenticationError(Reason.ACCESS_TOKEN_INVALID, "the access token is too large")
    if not separator or not _B64TOKEN.fullmatch(access_token):
        raise AuthenticationError(Reason.ACCESS_TOKEN_INVALID, "the Authorization header does not hold one access token")
    return scheme, access_token


def is_admitted(provider: IdentityProvider, namespace: str) -> bool:
    """Whether this provider's principals may come to `namespace`; `OPERATORS_API` is open to providers of `system` only."""
    if namespace == OPERATORS_API:
        return provider.namespace == "system"
    return not provider.operators_only and provider.trusts(namespace)
