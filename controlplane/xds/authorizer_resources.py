"""What authorizers are told: the registry as our own messages. `explain` builds its state from the very same messages.

Effects, argument types and idempotence come from accepted definitions only; a tool that is not in the catalog does not exist.
Secrets are opened here and nowhere else; an Envoy never gets any of these types.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, time, timedelta
from types import MappingProxyType
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from controlplane.registry.authorization_server_rules import issued_rules_of
from controlplane.registry.catalog import is_held, tool_of
from controlplane.registry.encryption import CLIENT_SECRET, STATIC_HEADER_SECRET, RegistryKey, open_secret
from controlplane.registry.exposure import Exposures
from controlplane.registry.preset import cedar_of
from controlplane.registry.provider_rules import algorithms_of, claim_rules_of, token_types_of
from controlplane.registry.public_url import issuer_of, public_url
from controlplane.registry.revocation import what_is_revoked
from controlplane.registry.signing_key import ALGORITHM, public_key_set
from controlplane.registry.spec import (
    AuthorizationServerSpec,
    GatewaySpec,
    IdentityProviderSpec,
    McpServerSpec,
    PolicyCandidateSpec,
    PolicySetSpec,
    RequiredScopesSpec,
    RevocationSpec,
    RoleBindingSpec,
    SecretReference,
    TrustDomainSpec,
)
from controlplane.registry.state import Definition, Entry, RegistryState, SigningKey
from controlplane.registry.subjects import provider_id
from controlplane.registry.trust_bundle import TrustBundle
from controlplane.xds.audit_resources import AUDIT_SEALING_KEY_NAME, make_audit_policy, make_audit_sealing_key
from controlplane.xds.cluster_name import cluster_name, upstream_path
from controlplane.xds.virtual_server_resources import make_virtual_server
from extauthz.catalog.gateway import GatewayNames
from extauthz.catalog.server import ArgumentType, Effect
from extauthz.discovery import (
    AUDIT_POLICY,
    AUDIT_SEALING_KEY,
    CONTEXT_KEY,
    GATEWAY,
    IDENTITY_PROVIDER,
    MCP_SERVER,
    POLICY_CANDIDATE,
    POLICY_SET,
    REVOCATION,
    ROLE_BINDING,
    TRUST_DOMAIN,
    VIRTUAL_SERVER,
)
from extauthz.errors import CredentialError
from extauthz.identity.provider import ClaimRules
from extauthz.identity.revocation import RevocationIndex
from extauthz.policy.cedar import CedarEngine
from extauthz.state import (
    AuthorizationState,
    audit_policies_by_namespace,
    audit_policy_from_message,
    audit_sealing_key_from_messages,
    context_keys_from_messages,
    gateway_from_message,
    identity_provider_from_message,
    mcp_server_from_message,
    policy_document_from_message,
    revocation_from_message,
    role_binding_from_message,
    trust_domain_from_message,
    virtual_server_from_message,
)
from extauthz.v1 import registry_pb2 as pb

logger = structlog.get_logger(__name__)

Messages = dict[str, dict[str, Message]]

CONTEXT_KEY_PURPOSE = "legation/v1/egress-context/"
CONTEXT_KEY_OVERLAP = timedelta(hours=2)
"""A day's key is accepted this much before and after its day: clocks differ, and a context outlives midnight."""

_EFFECTS = {Effect.READ: pb.EFFECT_READ, Effect.WRITE: pb.EFFECT_WRITE, Effect.DESTRUCTIVE: pb.EFFECT_DESTRUCTIVE}
_ARGUMENT_TYPES = {
    ArgumentType.STRING: pb.ARGUMENT_TYPE_STRING,
    ArgumentType.LONG: pb.ARGUMENT_TYPE_INTEGER,
    ArgumentType.DECIMAL: pb.ARGUMENT_TYPE_NUMBER,
    ArgumentType.BOOL: pb.ARGUMENT_TYPE_BOOLEAN,
    ArgumentType.STRING_SET: pb.ARGUMENT_TYPE_STRING_SET,
}
_SUBJECT_KINDS = {
    "User": pb.SUBJECT_KIND_USER,
    "Group": pb.SUBJECT_KIND_GROUP,
    "Agent": pb.SUBJECT_KIND_AGENT,
    "Workload": pb.SUBJECT_KIND_WORKLOAD,
    "Claim": pb.SUBJECT_KIND_CLAIM,
}

M = TypeVar("M", bound=Message)


def build_messages(
    state: RegistryState, *, key: RegistryKey, now: datetime, gateway_url: str = "", exposures: Exposures | None = None
) -> Messages:
    """Everything an authorizer gets of this state, by type URL and resource name; the Revision is added by the snapshot.

    What virtual servers offer is taken from `exposures` where it is known there. Without trust bundles, which verify a certificate or
    token that `explain` only imagines.
    """
    known = exposures or Exposures()
    return {
        AUDIT_SEALING_KEY: {AUDIT_SEALING_KEY_NAME: make_audit_sealing_key(key)},
        AUDIT_POLICY: {name: make_audit_policy(entry) for name, entry in state.audit_policies.items()},
        REVOCATION: {name: make_revocation(entry) for name, entry in state.revocations.items()},
        IDENTITY_PROVIDER: {
            **{name: make_identity_provider(entry) for name, entry in state.identity_providers.items()},
            **{
                name: make_issued_provider(entry, state.signing_keys.get(entry.uid, ()), gateway_url=public_url(state, gateway_url))
                for name, entry in state.authorization_servers.items()
            },
        },
        GATEWAY: {name: make_gateway(entry) for name, entry in state.gateways.items()},
        TRUST_DOMAIN: {name: make_trust_domain(entry, None) for name, entry in state.trust_domains.items()},
        CONTEXT_KEY: {message.key_id: message for message in make_context_keys(key, now)},
        POLICY_SET: {name: make_policy_set(entry) for name, entry in state.policy_sets.items()},
        POLICY_CANDIDATE: {name: make_policy_candidate(entry) for name, entry in state.policy_candidates.items()},
        ROLE_BINDING: {name: make_role_binding(entry) for name, entry in state.role_bindings.items()},
        MCP_SERVER: {
            name: make_mcp_server(
                entry, state.definitions.get(entry.uid, ()), key=key, cluster=cluster_name(entry), eras=eras_of(state, entry.uid)
            )
            for name, entry in state.mcp_servers.items()
        },
        VIRTUAL_SERVER: {name: make_virtual_server(entry, known.of(state, entry)) for name, entry in state.virtual_servers.items()},
    }


def build_authorization_state(
    state: RegistryState,
    *,
    key: RegistryKey,
    now: datetime,
    previous: AuthorizationState | None = None,
    gateway_url: str = "",
    exposures: Exposures | None = None,
) -> AuthorizationState:
    """What an authorizer makes of this state, for `explain`. Raises `PolicyError` where the authorizer would refuse it.

    With `previous`, policies that did not change are not compiled again.
    """
    messages = build_messages(state, key=key, now=now, gateway_url=gateway_url, exposures=exposures)
    documents = [policy_document_from_message(m) for m in _of(messages[POLICY_SET], pb.PolicySet)]
    bindings = [role_binding_from_message(m) for m in _of(messages[ROLE_BINDING], pb.RoleBinding)]
    servers = {server.id: server for server in map(mcp_server_from_message, _of(messages[MCP_SERVER], pb.McpServer))}
    known = previous.policy if previous is not None else None
    build: Callable[..., CedarEngine] = known.rebuilt if isinstance(known, CedarEngine) else CedarEngine.build
    return AuthorizationState(
        revision=state.revision,
        mcp_servers=MappingProxyType(servers),
        virtual_servers=MappingProxyType(
            {server.id: server for server in map(virtual_server_from_message, _of(messages[VIRTUAL_SERVER], pb.VirtualServer))}
        ),
        policy=build(documents, bindings, servers),
        identity_providers=tuple(identity_provider_from_message(m) for m in _of(messages[IDENTITY_PROVIDER], pb.IdentityProvider)),
        context_keys=context_keys_from_messages(_of(messages[CONTEXT_KEY], pb.ContextKey)),
        gateways=gateway_names(state),
        trust_domains=tuple(map(trust_domain_from_message, _of(messages[TRUST_DOMAIN], pb.TrustDomain))),
        revocations=RevocationIndex(map(revocation_from_message, _of(messages[REVOCATION], pb.Revocation))),
        audit_policies=audit_policies_by_namespace(map(audit_policy_from_message, _of(messages[AUDIT_POLICY], pb.AuditPolicy))),
        audit_sealing_key=audit_sealing_key_from_messages(_of(messages[AUDIT_SEALING_KEY], pb.AuditSealingKey)),
        committed_at_unix=state.committed_at.timestamp(),
    )


def make_mcp_server(
    entry: Entry[McpServerSpec], definitions: Sequence[Definition], *, key: RegistryKey, cluster: str, eras: Iterable[str] = ()
) -> pb.McpServer:
    """One server with its catalog, the cluster that Envoys know it by and, opened, the secret of its credential."""
    spec = entry.spec
    message = pb.McpServer(
        uid=entry.uid,
        namespace=entry.namespace,
        name=entry.name,
        cluster=cluster,
        path=upstream_path(spec),
        max_body_bytes=spec.max_body_bytes,
        timeout_ms=spec.timeout_ms,
        suspended=spec.suspended,
        bridged=spec.era_bridge,
        eras=sorted(eras),
    )
    message.required_scopes.extend(_make_scopes(spec.required_scopes))
    _set_credential(message, entry, key)
    for definition in sorted(definitions, key=lambda d: (d.kind, d.name)):
        if definition.kind == "tool":
            message.tools.append(_make_tool(definition))
        elif definition.kind == "prompt" and not is_held(definition):  # what is not told is denied
            message.prompts.add(name=definition.name, digest=definition.digest)
    return message


def eras_of(state: RegistryState, uid: str) -> frozenset[str]:
    """The eras of the protocol that a server was found to speak; none: not known yet."""
    reading = state.readings.get(uid)
    return reading.eras if reading is not None else frozenset()


def make_policy_set(entry: Entry[PolicySetSpec] | Entry[PolicyCandidateSpec]) -> pb.PolicySet:
    """One PolicySet: its Cedar text as written, and its presets as Cedar."""
    return pb.PolicySet(namespace=entry.namespace, name=entry.name, cedar=cedar_of(entry.namespace, entry.name, entry.spec))


def make_policy_candidate(entry: Entry[PolicyCandidateSpec]) -> pb.PolicyCandidate:
    """One PolicyCandidate."""
    return pb.PolicyCandidate(policies=make_policy_set(entry), replaces=entry.spec.replaces)


def make_role_binding(entry: Entry[RoleBindingSpec]) -> pb.RoleBinding:
    """One RoleBinding; names of subjects were qualified when they were stored."""
    subjects = [pb.Subject(kind=_SUBJECT_KINDS[subject.kind], name=subject.name) for subject in entry.spec.subjects]
    return pb.RoleBinding(namespace=entry.namespace, name=entry.name, role=entry.spec.role, subjects=subjects)


def make_identity_provider(entry: Entry[IdentityProviderSpec]) -> pb.IdentityProvider:
    """One IdentityProvider."""
    spec = entry.spec
    return pb.IdentityProvider(
        id=provider_id(entry.namespace, entry.name),
        namespace=entry.namespace,
        name=entry.name,
        issuer=spec.issuer,
        jwks_json=json.dumps(spec.jwks, sort_keys=True, separators=(",", ":")) if spec.jwks is not None else "",
        jwks_url=spec.jwks_url,
        algorithms=algorithms_of(spec),
        audiences=spec.audiences,
        trusted_namespaces=spec.trusted_namespaces,
        allow_insecure_http=spec.allow_insecure_http,
        operators_only=spec.operators_only,
        required_token_types=token_types_of(spec),
        scopes=spec.scopes,
        token_binding=spec.token_binding,
        dpop_nonce=spec.dpop_nonce,
        rules=_make_rules(claim_rules_of(spec)),
    )


def make_issued_provider(entry: Entry[AuthorizationServerSpec], keys: Sequence[SigningKey], *, gateway_url: str) -> pb.IdentityProvider:
    """An authorization server of ours as the issuer that it is: its keys are inline, so that its tokens are good while we are away."""
    spec = entry.spec
    return pb.IdentityProvider(
        id=provider_id(entry.namespace, entry.name),
        namespace=entry.namespace,
        name=entry.name,
        issuer=issuer_of(gateway_url, entry.name),
        jwks_json=json.dumps(public_key_set(keys), sort_keys=True, separators=(",", ":")),
        algorithms=[ALGORITHM],
        trusted_namespaces=spec.trusted_namespaces,
        required_token_types=["at+jwt"],
        scopes=spec.initial_scopes,
        token_binding="none",  # noqa: S106 - a word
        rules=_make_rules(issued_rules_of(spec)),
    )


def _make_rules(rules: ClaimRules) -> pb.ClaimRules:
    plain = {field.name: getattr(rules, field.name) for field in fields(rules) if field.name not in {"required", "labels"}}
    required = [pb.ClaimRequirement(claim=claim, allowed=allowed) for claim, allowed in rules.required]
    labels = [pb.ClaimLabel(label=label, claim=claim) for label, claim in rules.labels]
    return pb.ClaimRules(required=required, labels=labels, **plain)


def make_trust_domain(entry: Entry[TrustDomainSpec], bundle: TrustBundle | None) -> pb.TrustDomain:
    """One TrustDomain with its authorities; without them no SVID of it is believed."""
    spec = entry.spec
    known = bundle if bundle is not None and bundle.trust_domain == spec.trust_domain else TrustBundle(trust_domain=spec.trust_domain)
    mappings = [
        pb.WorkloadMapping(
            spiffe_id=mapping.spiffe_id,
            owner=mapping.owner,
            groups=mapping.groups,
            scopes=mapping.scopes,
            labels=[pb.Label(name=name, value=value) for name, value in sorted(mapping.labels.items())],
        )
        for mapping in spec.workloads
    ]
    return pb.TrustDomain(
        id=provider_id(entry.namespace, entry.name),
        namespace=entry.namespace,
        name=entry.name,
        trust_domain=spec.trust_domain,
        trusted_namespaces=spec.trusted_namespaces,
        x509_authorities=known.x509_authorities,
        jwt_authorities_json=known.jwt_authorities_json if spec.jwt_svids.accepted else "",
        audiences=spec.jwt_svids.audiences,
        max_jwt_svid_seconds=spec.jwt_svids.max_lifetime_seconds,
        workloads=mappings,
    )


def make_gateway(entry: Entry[GatewaySpec]) -> pb.Gateway:
    """What one public listener is called."""
    return pb.Gateway(name=entry.name, url=entry.spec.url, hostnames=entry.spec.hostnames)


def gateway_names(state: RegistryState) -> tuple[GatewayNames, ...]:
    """What all of them are called, as authorizers know it."""
    return tuple(gateway_from_message(make_gateway(entry)) for _, entry in sorted(state.gateways.items()))


def make_revocation(entry: Entry[RevocationSpec]) -> pb.Revocation:
    """One Revocation."""
    spec = entry.spec
    kind, revoked = what_is_revoked(spec)
    message = pb.Revocation(
        namespace=entry.namespace,
        name=entry.name,
        issued_before_unix=spec.issued_before.timestamp() if spec.issued_before is not None else 0,
        expires_at_unix=spec.until.timestamp() if spec.until is not None else 0,
    )
    setattr(message, kind.value, revoked)
    return message


def make_context_keys(key: RegistryKey, now: datetime, *, purpose: str = CONTEXT_KEY_PURPOSE) -> list[pb.ContextKey]:
    """The keys of yesterday, today and tomorrow (UTC), derived: every replica makes the same ones and stores none."""
    today = now.astimezone(UTC).date()
    made: list[pb.ContextKey] = []
    for day in (today - timedelta(days=1), today, today + timedelta(days=1)):
        begins = datetime.combine(day, time.min, UTC)
        made.append(
            pb.ContextKey(
                key_id=day.isoformat(),
                key=key.derive(f"{purpose}{day.isoformat()}".encode()),
                not_before_unix=int((begins - CONTEXT_KEY_OVERLAP).timestamp()),
                not_after_unix=int((begins + timedelta(days=1) + CONTEXT_KEY_OVERLAP).timestamp()),
            )
        )
    return made


def _set_credential(message: pb.McpServer, entry: Entry[McpServerSpec], key: RegistryKey) -> None:
    credential = entry.spec.credential
    if credential is None:
        return
    if credential.static_header is not None:
        header = credential.static_header
        target = message.credential.static_header
        target.header, target.prefix = header.header.lower(), header.prefix
        _set_secret(target.secret, entry, header.secret, STATIC_HEADER_SECRET, key)
    elif credential.client_credentials is not None:
        grant = credential.client_credentials
        asked = message.credential.client_credentials
        asked.token_url, asked.client_id = grant.token_url, grant.client_id
        asked.scopes.extend(grant.scopes)
        asked.audience, asked.resource = grant.audience, grant.resource
        _set_secret(asked.client_secret, entry, grant.client_secret, CLIENT_SECRET, key)


def _set_secret(target: pb.Secret, entry: Entry[McpServerSpec], reference: SecretReference, path: str, key: RegistryKey) -> None:
    if reference.file is not None:
        target.file = f"{entry.namespace}/{reference.file}"
    elif reference.value is not None:
        try:
            target.value = open_secret(key, uid=entry.uid, path=path, sealed=reference.value)
        except CredentialError as error:  # calls of this one server then answer that its credential cannot be had
            logger.error("stored secret cannot be opened", server=entry.id, path=path, error=str(error))


def _make_scopes(required: RequiredScopesSpec) -> Iterator[pb.ScopeRequirement]:
    if required.connect:
        yield pb.ScopeRequirement(scopes=required.connect)
    for effect, scopes in required.effects.items():
        yield pb.ScopeRequirement(effect=_EFFECTS[Effect(effect)], scopes=scopes)
    for tool, scopes in required.tools.items():
        yield pb.ScopeRequirement(tool=tool, scopes=scopes)


def _make_tool(definition: Definition) -> pb.Tool:
    tool = tool_of(definition)  # the very reading that policies were checked against when they were applied
    arguments = [pb.Argument(name=name, type=_ARGUMENT_TYPES[kind]) for name, kind in tool.arguments.items()]
    mirrored = [pb.MirroredArgument(header=m.header, path=m.path, type=_ARGUMENT_TYPES[m.type]) for m in tool.mirrored]
    return pb.Tool(
        name=tool.name,
        digest=tool.digest,
        effect=_EFFECTS[tool.effect],
        idempotent=tool.idempotent,
        arguments=arguments,
        mirrored=mirrored,
        held=tool.held,
    )


def _of(messages: Mapping[str, Message], kind: type[M]) -> list[M]:
    return [message for message in messages.values() if isinstance(message, kind)]
