"""Workloads: from an SVID to a principal, and what becomes of a token and an SVID on one request.

    TrustDomains(…).trusted(name, namespace) ──▶ the one trust domain of that name that counts there
    Workloads.of_certificate(presentation, namespace) ──▶ principal | None
    calling_for(principal, workload) ──▶ the token's principal, with the workload as its actor

A chain is verified once per certificate and trust domain. That the trust domain is the one that is registered now, that the namespace
trusts it, and that every date of the path holds is checked on every call, however long the connection has been open.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.binding import Presentation
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.identity.spiffe_id import SCHEME, SpiffeId
from extauthz.identity.trust_domain import TrustDomain
from extauthz.identity.x509_svid import X509Svid, claimed_spiffe_id, verify_x509_svid

REFUSED_SECONDS = 5.0
"""How long a refused chain is not looked at again; it may be one that is not valid yet."""


class TrustDomains:
    """The trust domains of one revision, by name and namespace."""

    def __init__(self, trust_domains: Sequence[TrustDomain] = ()) -> None:
        self._by_name: dict[str, list[TrustDomain]] = {}
        for trust_domain in sorted(trust_domains, key=lambda t: (t.namespace != "system", t.id)):
            self._by_name.setdefault(trust_domain.trust_domain, []).append(trust_domain)

    def trusted(self, name: str, namespace: str) -> TrustDomain | None:
        """The one that counts in `namespace`: of `system` before its own, so that nobody there takes over a name that all know."""
        return next((t for t in self._by_name.get(name, ()) if namespace and t.trusts(namespace)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _VerifiedCertificate:
    trust_domain: TrustDomain
    svid: X509Svid
    principal: Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class _RefusedCertificate:
    trust_domain: TrustDomain
    reason: Reason
    sentence: str
    until_unix: float


class VerifiedCertificates:
    """Bounded memory of verified chains, by the digest of all that was verified. Share one in a process.

    What was refused is remembered for some seconds, apart: a stranger who calls again and again on one connection costs what one
    verification costs, and displaces nobody's good chain.
    """

    def __init__(self, *, max_entries: int = 4096) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, _VerifiedCertificate] = OrderedDict()
        self._refused: OrderedDict[bytes, _RefusedCertificate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, digest: bytes, trust_domain: TrustDomain, now: float) -> _VerifiedCertificate | None:
        """What was verified against this very trust domain and is good at `now`."""
        found = self._entries.get(digest)
        if found is None or found.trust_domain is not trust_domain:
            return None
        if not found.svid.not_before_unix <= now < found.svid.not_after_unix:
            return None
        self._entries.move_to_end(digest)
        return found

    def remember(self, digest: bytes, verified: _VerifiedCertificate) -> None:
        """Keep it; the least recently used one goes when there are too many."""
        self._entries[digest] = verified
        self._entries.move_to_end(digest)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def refusal(self, digest: bytes, trust_domain: TrustDomain, now: float) -> AuthenticationError | None:
        """Why this very trust domain did not vouch for it a moment ago; a clock that was set back does not make moments longer."""
        found = self._refused.get(digest)
        if found is None or found.trust_domain is not trust_domain or not 0 < found.until_unix - now <= REFUSED_SECONDS:
            return None
        return AuthenticationError(found.reason, found.sentence)

    def remember_refusal(self, digest: bytes, trust_domain: TrustDomain, error: AuthenticationError, now: float) -> None:
        """Keep it for `REFUSED_SECONDS`; the oldest goes when there are too many."""
        until = now + REFUSED_SECONDS
        self._refused[digest] = _RefusedCertificate(
            trust_domain=trust_domain, reason=error.reason, sentence=error.sentence, until_unix=until
        )
        self._refused.move_to_end(digest)
        while len(self._refused) > self._max_entries:
            self._refused.popitem(last=False)


class Workloads:
    """Authenticates client certificates against the trust domains of one revision. Cheap to make anew with each revision."""

    def __init__(self, trust_domains: TrustDomains, clock: Callable[[], float], verified: VerifiedCertificates) -> None:
        self._trust_domains = trust_domains
        self._clock = clock
        self._verified = verified

    def of_certificate(self, presentation: Presentation, namespace: str) -> Principal | None:
        """The workload whose X.509-SVID the connection has shown; None when its certificate claims to be none.

        A certificate that claims to be one and is not good here and now raises `AuthenticationError`: it is never ignored.
        """
        # (1) what it claims, and that Envoy read the same
        spiffe_id = claimed_spiffe_id(presentation.certificate)
        if spiffe_id is None:
            return None
        if presentation.peer_principal not in {"", spiffe_id.text}:
            raise AuthenticationError(Reason.SVID_INVALID, "Envoy names another principal than the client certificate does")
        # (2) a trust domain that this namespace trusts
        trust_domain = self._trust_domains.trusted(spiffe_id.trust_domain, namespace)
        if trust_domain is None:
            raise AuthenticationError(
                Reason.TRUST_DOMAIN_UNKNOWN, f"the trust domain {spiffe_id.trust_domain} of the client certificate is not trusted here"
            )
        # (3) verified, with every date of the path
        now = self._clock()
        digest = _digest(trust_domain, presentation)
        verified = self._verified.find(digest, trust_domain, now)
        if verified is None:
            svid = self._verify(digest, presentation, spiffe_id, trust_domain, now)
            principal = principal_of(
                trust_domain, spiffe_id, issued_at_unix=svid.issued_at_unix, expires_at_unix=svid.not_after_unix, by_certificate=True
            )
            verified = _VerifiedCertificate(trust_domain=trust_domain, svid=svid, principal=principal)
            self._verified.remember(digest, verified)
        return verified.principal

    def _verify(self, digest: bytes, presentation: Presentation, spiffe_id: SpiffeId, trust_domain: TrustDomain, now: float) -> X509Svid:
        refusal = self._verified.refusal(digest, trust_domain, now)
        if refusal is not None:
            raise refusal
        try:
            return verify_x509_svid(presentation.certificate, presentation.forwarded, spiffe_id, trust_domain, now)
        except AuthenticationError as error:
            self._verified.remember_refusal(digest, trust_domain, error, now)
            raise


def principal_of(
    trust_domain: TrustDomain,
    spiffe_id: SpiffeId,
    *,
    issued_at_unix: float,
    expires_at_unix: float,
    token_id: str = "",
    by_certificate: bool = False,
) -> Principal:
    """The principal of a verified SPIFFE ID. Of the mappings every one that fits counts for groups and scopes, the first for the owner
    and for each label."""
    fitting = [mapping for mapping in trust_domain.workloads if mapping.pattern.matches(spiffe_id.text)]
    owner = next((mapping.owner for mapping in fitting if mapping.owner), "")
    groups = dict.fromkeys(f"{trust_domain.id}/{group}" for mapping in fitting for group in mapping.groups)
    labels = {name: value for mapping in reversed(fitting) for name, value in mapping.labels}
    return Principal(
        kind=PrincipalKind.WORKLOAD,
        id=spiffe_id.text,
        provider=trust_domain.id,
        subject=spiffe_id.text,
        issuer=SCHEME + spiffe_id.trust_domain,
        groups=tuple(groups),
        attributes=(f"{trust_domain.id}/owner={owner}",) if owner else (),
        owner=owner,
        labels=tuple(sorted(labels.items())),
        by_certificate=by_certificate,
        scopes=tuple(dict.fromkeys(scope for mapping in fitting for scope in mapping.scopes)),
        access_token_id=token_id,
        trusted_namespaces=trust_domain.trusted_namespaces or ("*",) if trust_domain.namespace == "system" else (trust_domain.namespace,),
        issued_at_unix=issued_at_unix,
        expires_at_unix=expires_at_unix,
    )


def calling_for(principal: Principal, workload: Principal) -> Principal:
    """Who asks when a token and an SVID come together: the token's principal, for whom the workload acts.

    `authorization` and `revocation` ask about both. The same identity in both is one principal, as old as the older of its two SVIDs.
    Either end is the end.
    """
    expires_at = min(principal.expires_at_unix, workload.expires_at_unix)
    if principal.kind is PrincipalKind.WORKLOAD and (principal.id, principal.provider) == (workload.id, workload.provider):
        issued_at = min(principal.issued_at_unix, workload.issued_at_unix)
        return replace(principal, by_certificate=True, issued_at_unix=issued_at, expires_at_unix=expires_at)
    earlier = (principal.actor, *principal.earlier_actors) if principal.actor else ()
    return replace(principal, actor=workload.id, earlier_actors=earlier, workload=workload, by_certificate=True, expires_at_unix=expires_at)


def _digest(trust_domain: TrustDomain, presentation: Presentation) -> bytes:
    parts = (trust_domain.id, presentation.certificate, *presentation.forwarded)
    return hashlib.sha256("".join([f"{len(part)}:{part}" for part in parts]).encode("utf-8", "surrogatepass")).digest()
