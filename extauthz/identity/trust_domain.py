"""A SPIFFE trust domain as the authorizer knows it: whose SPIFFE IDs are believed, by which authorities, and what they are.

Pure values. What is made of the authorities is cached elsewhere, by the identity of the object: a value that did not change is the
same object at the next revision (`extauthz.subscription`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from extauthz.identity.provider import TokenBinding
from extauthz.identity.spiffe_pattern import SpiffePattern


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadMapping:
    """What the workloads are whose SPIFFE ID fits `pattern`. `groups` and `owner` are not qualified; `scopes` count as OAuth scopes;
    `labels` are names and values."""

    pattern: SpiffePattern
    owner: str = ""
    groups: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustDomain:
    """One trust domain. `id` qualifies its groups; its principals are named by their SPIFFE IDs, which are unique by themselves.

    `trusted_namespaces` empty = every namespace when registered in `system`, else its own only. `x509_authorities` are DER; without
    any no X.509-SVID is believed. `jwt_authorities_json` is a JWK set; empty: no JWT-SVID is believed. `audiences` are accepted beside
    the URL of the route that is called.
    """

    id: str
    namespace: str
    name: str
    trust_domain: str
    trusted_namespaces: tuple[str, ...] = ()
    x509_authorities: tuple[bytes, ...] = field(default=(), repr=False)
    jwt_authorities_json: str = field(default="", repr=False)
    audiences: tuple[str, ...] = ()
    max_jwt_svid_seconds: int = 3600
    workloads: tuple[WorkloadMapping, ...] = ()

    @property
    def token_binding(self) -> TokenBinding:
        """What its JWT-SVIDs must be bound to: nothing, and one that is bound is refused."""
        return TokenBinding.NONE

    @property
    def dpop_nonce(self) -> bool:
        """Whether proofs must hold a nonce of ours."""
        return False

    def trusts(self, namespace: str) -> bool:
        """Whether this trust domain's workloads may act in `namespace`."""
        if self.namespace != "system":
            return namespace == self.namespace
        return not self.trusted_namespaces or namespace in self.trusted_namespaces
