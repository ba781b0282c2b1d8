"""Who asks, after verification. Produced by `identity.authenticator`, consumed by policy, audit and egress context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NewType

VerifiedClaims = NewType("VerifiedClaims", Mapping[str, object])
"""Claims of a token whose signature, issuer, times and audience were verified. Only `verify_access_token` makes one."""


class PrincipalKind(StrEnum):
    """Cedar entity types of principals, plus ours."""

    USER = "User"
    AGENT = "Agent"
    WORKLOAD = "Workload"
    SYSTEM = "System"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """One authenticated caller.

    `id` is qualified by the identity provider (`acme-okta/ann`), and so is each of `groups` (`acme-okta/marketing`):
    two issuers that both say "marketing" are two groups. `issued_at_unix` 0 = not known.
    `attributes` are values of claims that role bindings may name (`acme-okta/department=sales`). `actor` acts for the principal,
    `earlier_actors` acted before it (RFC 8693), the latest first. A workload's `id` is its SPIFFE ID and `owner` who answers for it.
    `by_certificate`: it proved itself by the client certificate of the connection, alone or with a token that is bound to it.
    `workload` is the actor as a principal of its own, when it has shown an X.509-SVID: what it may not do, nobody does through it.
    `labels` are names and values, by name, that reports group by (team, project); nothing is decided by them.
    """

    kind: PrincipalKind
    id: str
    provider: str
    subject: str
    issuer: str = ""
    tenant: str = ""
    groups: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    oauth_client_id: str = ""
    access_token_id: str = ""
    actor: str = ""
    earlier_actors: tuple[str, ...] = ()
    trusted_namespaces: tuple[str, ...] = ("*",)
    issued_at_unix: float = 0.0
    expires_at_unix: float = 0.0
    owner: str = ""
    by_certificate: bool = False
    workload: Principal | None = None
    labels: tuple[tuple[str, str], ...] = ()
    claims: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}), compare=False, repr=False)

    def trusted_in(self, namespace: str) -> bool:
        """Whether who vouches for the principal, and for the workload that calls for it, is trusted in this namespace."""
        itself = "*" in self.trusted_namespaces or namespace in self.trusted_namespaces
        return itself and (self.workload is None or self.workload.trusted_in(namespace))


PROBER = Principal(kind=PrincipalKind.SYSTEM, id="system/prober", provider="system", subject="prober")
"""Reads catalogs through the egress listener; list methods only."""


def is_prober(principal: Principal) -> bool:
    """Whether it is `PROBER`; asked for every call, so the kind is looked at first."""
    return principal.kind is PrincipalKind.SYSTEM and principal == PROBER
