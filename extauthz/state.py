"""Everything an authorizer decides by, at one revision. Built whole from our xDS resources, swapped whole, never edited.

The control plane builds the very same value for `explain`, from the very same messages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from extauthz.catalog.audit_policy import AuditMode, AuditPolicy, AuditSealingKey, ContentRule, ContentRules, Keep, PathStep
from extauthz.catalog.gateway import GatewayNames
from extauthz.catalog.name_glob import parse_globs
from extauthz.catalog.server import (
    ArgumentType,
    ClientCredentials,
    Effect,
    McpServer,
    MirroredArgument,
    RequiredScopes,
    Secret,
    StaticHeader,
    Tool,
    UpstreamCredential,
)
from extauthz.catalog.virtual import DefinitionKind, Exposed, Member, Mode, VirtualServer
from extauthz.identity.provider import ClaimRules, IdentityProvider, TokenBinding
from extauthz.identity.revocation import Revocation, RevocationIndex, RevokedKind
from extauthz.identity.spiffe_pattern import parse_spiffe_pattern
from extauthz.identity.trust_domain import TrustDomain, WorkloadMapping
from extauthz.policy.model import PolicyCandidate, PolicyDocument, PolicyEngine, RoleBinding
from extauthz.v1 import registry_pb2 as pb
from extauthz.views import Views

_EFFECTS = {pb.EFFECT_READ: Effect.READ, pb.EFFECT_WRITE: Effect.WRITE}
_ARGUMENT_TYPES = {
    pb.ARGUMENT_TYPE_STRING: ArgumentType.STRING,
    pb.ARGUMENT_TYPE_INTEGER: ArgumentType.LONG,
    pb.ARGUMENT_TYPE_NUMBER: ArgumentType.DECIMAL,
    pb.ARGUMENT_TYPE_BOOLEAN: ArgumentType.BOOL,
    pb.ARGUMENT_TYPE_STRING_SET: ArgumentType.STRING_SET,
}
_KEEPS = {pb.AUDIT_KEEP_FULL: Keep.FULL, pb.AUDIT_KEEP_REDACTED: Keep.REDACTED, pb.AUDIT_KEEP_HASHED: Keep.HASHED}
_DEFINITION_KINDS = frozenset(kind.value for kind in DefinitionKind)
_PUBLIC_KEY_BYTES = 32
_SUBJECT_KINDS = {
    pb.SUBJECT_KIND_USER: "User",
    pb.SUBJECT_KIND_GROUP: "Group",
    pb.SUBJECT_KIND_AGENT: "Agent",
    pb.SUBJECT_KIND_WORKLOAD: "Workload",
    pb.SUBJECT_KIND_CLAIM: "Claim",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextKey:
    """A MAC key of the egress context and when it may be used (Unix seconds)."""

    key_id: str
    key: bytes
    not_before_unix: int
    not_after_unix: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationState:
    """What exists, who may do what, whom we trust: one revision, immutable."""

    revision: int
    mcp_servers: Mapping[str, McpServer]  # by id, "namespace/name"
    policy: PolicyEngine
    identity_providers: tuple[IdentityProvider, ...]
    context_keys: tuple[ContextKey, ...]
    trust_domains: tuple[TrustDomain, ...] = ()
    gateways: tuple[GatewayNames, ...] = ()
    virtual_servers: Mapping[str, VirtualServer] = field(default_factory=lambda: MappingProxyType({}))  # by id, "namespace/name"
    revocations: RevocationIndex = field(default_factory=RevocationIndex)
    audit_policies: Mapping[str, AuditPolicy] = field(default_factory=lambda: MappingProxyType({}))  # by namespace
    audit_sealing_key: AuditSealingKey | None = None
    committed_at_unix: float = 0.0
    shadow: AuthorizationState | None = None  # the same with other policies, by which nothing is decided (`extauthz.shadow`)
    views: Views = field(default_factory=Views, init=False, repr=False, compare=False)


def mcp_server_from_message(message: pb.McpServer) -> McpServer:
    """One McpServer of the catalog. Effects that are absent or unknown are destructive."""
    return McpServer(
        uid=message.uid,
        namespace=message.namespace,
        name=message.name,
        cluster=message.cluster,
        path=message.path,
        max_body_bytes=message.max_body_bytes,
        timeout_ms=message.timeout_ms,
        credential=_credential_from_message(message),
        tools=MappingProxyType({tool.name: _tool_from_message(tool) for tool in message.tools}),
        prompts=frozenset(prompt.name for prompt in message.prompts),
        suspended=message.suspended,
        required_scopes=_scopes_from_message(message.required_scopes),
        eras=frozenset(message.eras),
        bridged=message.bridged,
    )


def virtual_server_from_message(message: pb.VirtualServer) -> VirtualServer:
    """One virtual server. Items of a kind, and of a member, that nobody knows are left out, and so are not offered."""
    members = tuple(Member(mcp_server_id=m.mcp_server, uri_prefix=m.uri_prefix) for m in message.members)
    items: dict[DefinitionKind, dict[str, Exposed]] = {kind: {} for kind in DefinitionKind}
    for item in message.items:
        if item.kind in _DEFINITION_KINDS and item.member < len(members):
            exposed = _exposed_from_message(item, members[item.member].mcp_server_id)
            items[exposed.kind][exposed.name] = exposed
    return VirtualServer(
        uid=message.uid,
        namespace=message.namespace,
        name=message.name,
        members=members,
        items=MappingProxyType({kind: MappingProxyType(of_kind) for kind, of_kind in items.items()}),
        title=message.title,
        instructions=message.instructions,
        strict=message.strict,
        stale_seconds=message.stale_seconds,
        mode=Mode.SEARCH if message.mode == Mode.SEARCH else Mode.DIRECT,
        suspended=message.suspended,
    )


def _exposed_from_message(message: pb.ExposedItem, mcp_server_id: str) -> Exposed:
    return Exposed(
        kind=DefinitionKind(message.kind),
        name=message.name,
        mcp_server_id=mcp_server_id,
        own_name=message.own_name or message.name,
        title=message.title,
        description=message.description,
        annotations=MappingProxyType(json.loads(message.annotations_json or b"{}")),
        defaults=MappingProxyType(json.loads(message.input_defaults_json or b"{}")),
        hidden=frozenset(message.hidden_arguments),
    )


def _tool_from_message(message: pb.Tool) -> Tool:
    arguments = {a.name: _ARGUMENT_TYPES[a.type] for a in message.arguments if a.type in _ARGUMENT_TYPES}
    return Tool(
        name=message.name,
        digest=message.digest,
        effect=_EFFECTS.get(message.effect, Effect.DESTRUCTIVE),
        idempotent=message.idempotent,
        arguments=MappingProxyType(arguments),
        mirrored=tuple(
            MirroredArgument(header=m.header, path=tuple(m.path), type=_ARGUMENT_TYPES[m.type])
            for m in message.mirrored
            if m.type in _ARGUMENT_TYPES
        ),
        held=message.held,
    )


def _scopes_from_message(messages: Iterable[pb.ScopeRequirement]) -> RequiredScopes:
    connect: tuple[str, ...] = ()
    effects: dict[Effect, tuple[str, ...]] = {}
    tools: dict[str, tuple[str, ...]] = {}
    for message in messages:
        match message.WhichOneof("of"):
            case "tool":
                tools[message.tool] = tuple(message.scopes)
            case "effect":
                effects[_EFFECTS.get(message.effect, Effect.DESTRUCTIVE)] = tuple(message.scopes)
            case _:
                connect += tuple(message.scopes)
    return RequiredScopes(connect=connect, effects=MappingProxyType(effects), tools=MappingProxyType(tools))


def _credential_from_message(message: pb.McpServer) -> UpstreamCredential:
    kind = message.credential.WhichOneof("kind")
    if kind == "static_header":
        header = message.credential.static_header
        return StaticHeader(header=header.header, prefix=header.prefix, secret=_secret_from_message(header.secret))
    if kind == "client_credentials":
        grant = message.credential.client_credentials
        return ClientCredentials(
            token_url=grant.token_url,
            oauth_client_id=grant.client_id,
            client_secret=_secret_from_message(grant.client_secret),
            scopes=tuple(grant.scopes),
            audience=grant.audience,
            resource=grant.resource,
        )
    return None


def _secret_from_message(message: pb.Secret) -> Secret:
    return Secret(file=message.file, value=message.value)


def policy_document_from_message(message: pb.PolicySet) -> PolicyDocument:
    """One PolicySet's text."""
    return PolicyDocument(namespace=message.namespace, name=message.name, cedar=message.cedar)


def policy_candidate_from_message(message: pb.PolicyCandidate) -> PolicyCandidate:
    """Policies that are tried out."""
    return PolicyCandidate(document=policy_document_from_message(message.policies), replaces=tuple(message.replaces))


def role_binding_from_message(message: pb.RoleBinding) -> RoleBinding:
    """Who holds a role; subjects of a kind that we do not know are left out, and so hold nothing."""
    subjects = tuple((_SUBJECT_KINDS[s.kind], s.name) for s in message.subjects if s.kind in _SUBJECT_KINDS)
    return RoleBinding(namespace=message.namespace, name=message.name, role=message.role, subjects=subjects)


def identity_provider_from_message(message: pb.IdentityProvider) -> IdentityProvider:
    """One trusted issuer; a binding that is not known here raises ValueError, for nothing must be taken unbound by mistake."""
    return IdentityProvider(
        id=message.id,
        namespace=message.namespace,
        name=message.name,
        issuer=message.issuer,
        jwks_json=message.jwks_json,
        jwks_url=message.jwks_url,
        algorithms=tuple(message.algorithms),
        audiences=tuple(message.audiences),
        token_types=tuple(message.required_token_types),
        trusted_namespaces=tuple(message.trusted_namespaces),
        rules=_rules_from_message(message.rules),
        scopes=tuple(message.scopes),
        token_binding=TokenBinding(message.token_binding or "none"),
        dpop_nonce=message.dpop_nonce,
        allow_insecure_http=message.allow_insecure_http,
        operators_only=message.operators_only,
    )


def _rules_from_message(message: pb.ClaimRules) -> ClaimRules:
    return ClaimRules(
        subject=message.subject or "sub",
        subject_from_client=message.subject_from_client,
        groups=tuple(message.groups),
        attributes=tuple(message.attributes),
        tenant=message.tenant,
        tenants=tuple(message.tenants),
        oauth_client=tuple(message.oauth_client),
        oauth_clients=tuple(message.oauth_clients),
        client_required=message.client_required,
        token_id=tuple(message.token_id),
        agent=message.agent,
        kind=message.kind,
        agent_kinds=tuple(message.agent_kinds),
        agent_subjects=tuple(message.agent_subjects),
        agent_without=tuple(message.agent_without),
        required=tuple((requirement.claim, tuple(requirement.allowed)) for requirement in message.required),
        id_tokens=message.id_tokens,
        labels=tuple((label.label, label.claim) for label in message.labels),
    )


def trust_domain_from_message(message: pb.TrustDomain) -> TrustDomain:
    """One trust domain; a mapping that is no pattern raises ValueError, for a group that is missing could lift a `forbid`."""
    return TrustDomain(
        id=message.id,
        namespace=message.namespace,
        name=message.name,
        trust_domain=message.trust_domain,
        trusted_namespaces=tuple(message.trusted_namespaces),
        x509_authorities=tuple(message.x509_authorities),
        jwt_authorities_json=message.jwt_authorities_json,
        audiences=tuple(message.audiences),
        max_jwt_svid_seconds=message.max_jwt_svid_seconds,
        workloads=tuple(
            WorkloadMapping(
                pattern=parse_spiffe_pattern(mapping.spiffe_id),
                owner=mapping.owner,
                groups=tuple(mapping.groups),
                scopes=tuple(mapping.scopes),
                labels=tuple((label.name, label.value) for label in mapping.labels),
            )
            for mapping in message.workloads
        ),
    )


def gateway_from_message(message: pb.Gateway) -> GatewayNames:
    """What one public listener is called."""
    return GatewayNames(name=message.name, url=message.url, hostnames=tuple(message.hostnames))


def audit_policy_from_message(message: pb.AuditPolicy) -> AuditPolicy:
    """What is recorded in one namespace. A mode that nobody knows is strict, and of values kept as nobody knows nothing is kept."""
    return AuditPolicy(
        namespace=message.namespace,
        mode=AuditMode.AVAILABLE if message.mode == pb.AUDIT_MODE_AVAILABLE else AuditMode.STRICT,
        argument_rules=_content_rules_from_message(message.arguments),
        result_rules=_content_rules_from_message(message.results),
    )


def _content_rules_from_message(message: pb.AuditContent) -> ContentRules:
    rules = tuple(
        ContentRule(
            path=tuple(_path_step_from_message(step) for step in rule.path),
            keep=_KEEPS.get(rule.keep, Keep.OFF),
            servers=parse_globs(rule.servers),
            tools=parse_globs(rule.tools or ("*",)),
        )
        for rule in message.rules
    )
    return ContentRules(keep=_KEEPS.get(message.keep, Keep.OFF), rules=rules)


def _path_step_from_message(message: pb.PathStep) -> PathStep:
    match message.WhichOneof("to"):
        case "name":
            return PathStep(name=message.name, deep=message.deep)
        case "index":
            return PathStep(index=message.index, deep=message.deep)
        case _:
            return PathStep(deep=message.deep)


def audit_policies_by_namespace(policies: Iterable[AuditPolicy]) -> Mapping[str, AuditPolicy]:
    """By namespace."""
    return MappingProxyType({policy.namespace: policy for policy in policies})


def audit_sealing_key_from_messages(messages: Iterable[pb.AuditSealingKey]) -> AuditSealingKey | None:
    """The one key, if it was told. One that is none raises ValueError."""
    for message in messages:
        if len(message.public_key) != _PUBLIC_KEY_BYTES or not message.key_id:
            raise ValueError("the audit sealing key is not an X25519 public key with an id")
        return AuditSealingKey(key_id=message.key_id, public_key=message.public_key)
    return None


def revocation_from_message(message: pb.Revocation) -> Revocation:
    """One revocation; of a kind that we do not know it is nobody's."""
    kind = message.WhichOneof("revoked")
    return Revocation(
        id=f"{message.namespace}/{message.name}",
        kind=RevokedKind(kind) if kind is not None else RevokedKind.TOKEN,
        revoked=getattr(message, kind) if kind is not None else "",
        issued_before_unix=message.issued_before_unix or math.inf,
        expires_at_unix=message.expires_at_unix or math.inf,
    )


def context_keys_from_messages(messages: Iterable[pb.ContextKey]) -> tuple[ContextKey, ...]:
    """The MAC keys of the egress context."""
    return tuple(
        ContextKey(key_id=m.key_id, key=m.key, not_before_unix=m.not_before_unix, not_after_unix=m.not_after_unix) for m in messages
    )
