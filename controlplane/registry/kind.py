"""The kinds of registry documents and their names in paths. Apart from `spec`, because the command line must start without pydantic."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Kinds of this release; the values are what documents say."""

    NAMESPACE = "Namespace"
    MCP_SERVER = "McpServer"
    POLICY_SET = "PolicySet"
    POLICY_CANDIDATE = "PolicyCandidate"
    ROLE_BINDING = "RoleBinding"
    IDENTITY_PROVIDER = "IdentityProvider"
    REVOCATION = "Revocation"
    GATEWAY = "Gateway"
    TRUST_DOMAIN = "TrustDomain"
    AUTHORIZATION_SERVER = "AuthorizationServer"
    VIRTUAL_SERVER = "VirtualServer"
    AUDIT_POLICY = "AuditPolicy"
    AUDIT_SINK = "AuditSink"
    COST_MODEL = "CostModel"


PLURAL_OF_KIND: dict[Kind, str] = {
    Kind.NAMESPACE: "namespaces",
    Kind.MCP_SERVER: "mcp-servers",
    Kind.POLICY_SET: "policy-sets",
    Kind.POLICY_CANDIDATE: "policy-candidates",
    Kind.ROLE_BINDING: "role-bindings",
    Kind.IDENTITY_PROVIDER: "identity-providers",
    Kind.REVOCATION: "revocations",
    Kind.GATEWAY: "gateways",
    Kind.TRUST_DOMAIN: "trust-domains",
    Kind.AUTHORIZATION_SERVER: "authorization-servers",
    Kind.VIRTUAL_SERVER: "virtual-servers",
    Kind.AUDIT_POLICY: "audit-policies",
    Kind.AUDIT_SINK: "audit-sinks",
    Kind.COST_MODEL: "cost-models",
}
