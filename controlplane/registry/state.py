"""The whole registry at one revision, as frozen values: what `xds.snapshot`, the prober and `explain` read.

Made by `registry.store.read_state`; secrets are still encrypted in it (`xds` decrypts what authorizers need).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Generic, TypeVar

from controlplane.registry.spec import (
    AuditPolicySpec,
    AuditSinkSpec,
    AuthorizationServerSpec,
    CostModelSpec,
    GatewaySpec,
    IdentityProviderSpec,
    McpServerSpec,
    NamespaceSpec,
    PolicyCandidateSpec,
    PolicySetSpec,
    RevocationSpec,
    RoleBindingSpec,
    TrustDomainSpec,
    VirtualServerSpec,
)

S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[S]):
    """One live registry entry. `uid` is never reused; `resource_revision` is the revision that last changed it (its ETag)."""

    uid: str
    namespace: str
    name: str
    spec: S
    resource_revision: int

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One tool, prompt, resource or template that the prober read, and what an operator accepted of it.

    `accepted` is the definition (MCP JSON) that was accepted, whole; None = never. Only accepted annotations and accepted
    input schemas count. `digest` is "sha256:<hex>" of the RFC 8785 form of `document`.

    `change_class` and `findings` say what a review has to know of a `document` that is not the accepted one (`definition_change`).
    `rejected_digest` is that of the last `document` that an operator rejected.
    """

    kind: str  # "tool" | "prompt" | "resource" | "resource_template"
    name: str  # tool or prompt name, resource URI, URI template
    digest: str
    document: Mapping[str, object]
    accepted: Mapping[str, object] | None = None
    accepted_digest: str = ""
    change_class: str = ""
    findings: tuple[str, ...] = ()
    rejected_digest: str = ""

    @property
    def pending(self) -> bool:
        """Whether it is presented otherwise than it was accepted, if it ever was."""
        return self.digest != self.accepted_digest

    @property
    def rejected(self) -> bool:
        """Whether an operator has rejected what is presented now."""
        return self.pending and self.rejected_digest == self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogReading:
    """What was found of one server beside its definitions. A part of the state: a change of it is a revision, `read_at` alone is none.

    `eras`: "modern", "legacy"; none: not known yet. `fault`: why it cannot be read now; empty: it can. `read_at`: when it was read well.
    """

    eras: frozenset[str] = frozenset()
    instructions: str = ""
    capabilities: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    server_info: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    fault: str = ""
    read_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key of an AuthorizationServer. `sealed` is its private part; it signs from `signs_from` until a newer one does."""

    kid: str
    public_jwk: Mapping[str, object]
    sealed: str = field(repr=False)
    created_at: datetime
    signs_from: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryState:
    """Everything at `revision`. Keys are entry ids (`namespace/name`); `definitions` and `readings` by McpServer uid, `signing_keys` by
    that of an AuthorizationServer, the oldest first.

    `pinned_versions` by McpServer uid and catalog digest: kind, name and digest of what was in the versions that virtual servers pin.
    """

    revision: int
    committed_at: datetime
    namespaces: Mapping[str, Entry[NamespaceSpec]] = field(default_factory=lambda: MappingProxyType({}))
    mcp_servers: Mapping[str, Entry[McpServerSpec]] = field(default_factory=lambda: MappingProxyType({}))
    policy_sets: Mapping[str, Entry[PolicySetSpec]] = field(default_factory=lambda: MappingProxyType({}))
    policy_candidates: Mapping[str, Entry[PolicyCandidateSpec]] = field(default_factory=lambda: MappingProxyType({}))
    role_bindings: Mapping[str, Entry[RoleBindingSpec]] = field(default_factory=lambda: MappingProxyType({}))
    identity_providers: Mapping[str, Entry[IdentityProviderSpec]] = field(default_factory=lambda: MappingProxyType({}))
    revocations: Mapping[str, Entry[RevocationSpec]] = field(default_factory=lambda: MappingProxyType({}))
    gateways: Mapping[str, Entry[GatewaySpec]] = field(default_factory=lambda: MappingProxyType({}))
    trust_domains: Mapping[str, Entry[TrustDomainSpec]] = field(default_factory=lambda: MappingProxyType({}))
    authorization_servers: Mapping[str, Entry[AuthorizationServerSpec]] = field(default_factory=lambda: MappingProxyType({}))
    signing_keys: Mapping[str, tuple[SigningKey, ...]] = field(default_factory=lambda: MappingProxyType({}))
    definitions: Mapping[str, tuple[Definition, ...]] = field(default_factory=lambda: MappingProxyType({}))
    virtual_servers: Mapping[str, Entry[VirtualServerSpec]] = field(default_factory=lambda: MappingProxyType({}))
    readings: Mapping[str, CatalogReading] = field(default_factory=lambda: MappingProxyType({}))
    audit_policies: Mapping[str, Entry[AuditPolicySpec]] = field(default_factory=lambda: MappingProxyType({}))
    audit_sinks: Mapping[str, Entry[AuditSinkSpec]] = field(default_factory=lambda: MappingProxyType({}))
    cost_models: Mapping[str, Entry[CostModelSpec]] = field(default_factory=lambda: MappingProxyType({}))
    pinned_versions: Mapping[tuple[str, str], frozenset[tuple[str, str, str]]] = field(default_factory=lambda: MappingProxyType({}))
