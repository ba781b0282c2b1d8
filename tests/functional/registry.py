"""The real registry on a real database, for tests: documents to apply, operators to apply them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from controlplane.catalog_digest import definition_digest
from controlplane.database import open_database
from controlplane.registry.authority import AuthorityReader
from controlplane.registry.encryption import RegistryKey
from controlplane.registry.key_pair_reader import KeyPairReader
from controlplane.registry.live import LiveState
from controlplane.registry.own_address import PublicAddress
from controlplane.registry.permissions import PERMISSIONS_OF_ROLE, Operator, Permissions
from controlplane.registry.probe import ProbedDefinition, ProbeResult
from controlplane.registry.reader import RegistryReader
from controlplane.registry.service import ApplyResult, RegistryService
from controlplane.registry.store import RegistryStore
from extauthz.address import AddressRules
from extauthz.identity.principal import Principal, PrincipalKind

BASE = b"""
apiVersion: legation/v1
kind: Namespace
metadata: {name: system}
---
apiVersion: legation/v1
kind: Namespace
metadata: {name: demo}
---
apiVersion: legation/v1
kind: Namespace
metadata: {name: other}
---
apiVersion: legation/v1
kind: IdentityProvider
metadata: {namespace: system, name: operators}
spec: {issuer: "https://operators.example.com", operatorsOnly: true}
---
apiVersion: legation/v1
kind: IdentityProvider
metadata: {namespace: system, name: local}
spec: {issuer: "https://idp.example.com"}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: system, name: administrators}
spec: {role: "legation:administrator", subjects: [{kind: User, name: operators/admin}]}
"""

CRM = b"""
apiVersion: legation/v1
kind: McpServer
metadata: {namespace: demo, name: crm}
spec: {endpoints: [{url: "https://crm.example.com/mcp"}]}
"""


def operator(name: str, role: str = "legation:administrator", namespace: str = "system") -> Operator:
    """An operator who holds one role."""
    principal = Principal(kind=PrincipalKind.USER, id=f"operators/{name}", provider="operators", subject=name)
    return Operator(principal=principal, permissions=Permissions(by_namespace=MappingProxyType({namespace: PERMISSIONS_OF_ROLE[role]})))


ADMIN = operator("admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Everything that stands on one database."""

    store: RegistryStore
    live: LiveState
    key: RegistryKey
    service: RegistryService
    reader: RegistryReader

    def apply(self, text: bytes, who: Operator = ADMIN, **options: Any) -> ApplyResult:
        return self.service.apply(who, text, **options)


def open_registry(
    url: str,
    *,
    networks: tuple[str, ...] = ("127.0.0.0/8",),
    base: bool = True,
    secrets_dir: Path | None = None,
    public: PublicAddress | None = None,
) -> Registry:
    """A registry on this database, with the entries of BASE."""
    store = RegistryStore(open_database(url))
    live = LiveState(store)
    key = RegistryKey(b"0123456789abcdef0123456789abcdef")
    service = RegistryService(
        store=store,
        live=live,
        key=key,
        address_rules=AddressRules(networks),
        public=public,
        authorities=AuthorityReader(secrets_dir),
        pairs=KeyPairReader(secrets_dir, key),
    )
    registry = Registry(store=store, live=live, key=key, service=service, reader=RegistryReader(store=store, live=live))
    if base and store.read_revision() == 0:
        registry.apply(BASE)
    return registry


def tool(name: str, **annotations: object) -> ProbedDefinition:
    """A tool as a server announces it."""
    document: dict[str, object] = {"name": name, "description": f"{name}.", "inputSchema": {"type": "object", "properties": {}}}
    if annotations:
        document["annotations"] = annotations
    return ProbedDefinition(kind="tool", name=name, digest=definition_digest(document), document=document)


def reading(*definitions: ProbedDefinition, error: str = "") -> ProbeResult:
    """What a probe brings home."""
    return ProbeResult(at=datetime.now(UTC), era="modern", protocol_version="2026-07-28", definitions=definitions, error=error)
