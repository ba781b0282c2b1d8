"""How a new revision takes effect in an authorizer: messages become one immutable state, swapped in one assignment.

    discovery stream ──▶ `Subscription.take(resources, revision)` ──▶ AuthorizationState ──▶ read by every decision

What did not change since the last revision is reused as it is, so a change costs what changed. A state that cannot be built
raises, the Revision is NACKed with its words, and the last good state keeps deciding. The last good copy is also kept on
disk, without secrets and MAC keys, for a restart while every control plane is away; it serves at most `max_staleness`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import cast

import structlog

from extauthz import discovery
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.catalog.server import McpServer
from extauthz.decoded import Decoded
from extauthz.discovery import StagedResources
from extauthz.errors import AuthenticationError, PolicyError, Reason
from extauthz.identity.authenticator import Authenticator, VerifiedTokens
from extauthz.identity.binding import PLAIN, Presentation
from extauthz.identity.dpop import ProofMemory
from extauthz.identity.jwks import KeySource
from extauthz.identity.principal import Principal
from extauthz.identity.revocation import Revocation, RevocationIndex
from extauthz.identity.workload import VerifiedCertificates
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.model import PolicyCandidate, PolicyDocument, RoleBinding
from extauthz.shadow import shadow_documents
from extauthz.state import (
    AuthorizationState,
    audit_policies_by_namespace,
    audit_policy_from_message,
    audit_sealing_key_from_messages,
    context_keys_from_messages,
    gateway_from_message,
    identity_provider_from_message,
    mcp_server_from_message,
    policy_candidate_from_message,
    policy_document_from_message,
    revocation_from_message,
    role_binding_from_message,
    trust_domain_from_message,
    virtual_server_from_message,
)
from extauthz.v1 import registry_pb2 as pb

logger = structlog.get_logger(__name__)

MAX_CLOCK_STEP_SECONDS = 300
"""A copy that was written later than now would not grow too old in time; a clock may be set back by a little."""


class Subscription:
    """The state that decisions read, and how it is replaced."""

    def __init__(
        self, *, key_source: KeySource, cache_file: Path | None, max_staleness_seconds: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._key_source = key_source
        self._cache_file = cache_file
        self._max_staleness_seconds = max_staleness_seconds
        self._clock = clock
        self._state: AuthorizationState | None = None
        self._authenticator: Authenticator | None = None
        self._verified_tokens = VerifiedTokens()
        self._verified_certificates = VerifiedCertificates()
        self._proofs = ProofMemory()
        self._last_contact = clock()
        self._connected: Callable[[], bool] = lambda: False
        self._revocations = Decoded(lambda data: revocation_from_message(pb.Revocation.FromString(data)))
        self._audit_policies = Decoded(lambda data: audit_policy_from_message(pb.AuditPolicy.FromString(data)))
        self._servers = Decoded(lambda data: mcp_server_from_message(pb.McpServer.FromString(data)))
        self._virtual_servers = Decoded(lambda data: virtual_server_from_message(pb.VirtualServer.FromString(data)))
        self._documents = Decoded(lambda data: policy_document_from_message(pb.PolicySet.FromString(data)))
        self._candidates = Decoded(lambda data: policy_candidate_from_message(pb.PolicyCandidate.FromString(data)))
        self._bindings = Decoded(lambda data: role_binding_from_message(pb.RoleBinding.FromString(data)))
        self._providers = Decoded(lambda data: identity_provider_from_message(pb.IdentityProvider.FromString(data)))
        self._gateways = Decoded(lambda data: gateway_from_message(pb.Gateway.FromString(data)))
        self._trust_domains = Decoded(lambda data: trust_domain_from_message(pb.TrustDomain.FromString(data)))

    def current(self) -> AuthorizationState | None:
        """The state to decide by, None before the first revision."""
        return self._state

    def audit_sealing_key(self) -> AuditSealingKey | None:
        """What personal values of the record are sealed for; None before the first revision."""
        return self._state.audit_sealing_key if self._state is not None else None

    def stale(self) -> bool:
        """Whether the control plane has been away for longer than the state may be trusted."""
        if self._connected():
            self._last_contact = self._clock()
        return self._clock() - self._last_contact > self._max_staleness_seconds

    def watch_connection(self, connected: Callable[[], bool]) -> None:
        """Tell where to read whether the control plane is there."""
        self._connected = connected

    async def authenticate(
        self,
        authorization_headers: Sequence[str],
        *,
        resource_url: str,
        namespace: str,
        deadline: float,
        presentation: Presentation = PLAIN,
    ) -> Principal:
        """The principal of a token and certificate, by the providers and trust domains of the current state; `deadline`: loop time."""
        if self._authenticator is None:
            raise AuthenticationError(Reason.ISSUER_UNKNOWN, "no identity provider is registered")
        return await self._authenticator.authenticate(
            authorization_headers, resource_url=resource_url, namespace=namespace, deadline=deadline, presentation=presentation
        )

    def take(self, resources: StagedResources, revision: int) -> None:
        """Swap to a revision as a whole, or raise `LegationError` or ValueError and change nothing."""
        revocations = self._revocations.updated(resources.get(discovery.REVOCATION, {}))
        audit_policies = self._audit_policies.updated(resources.get(discovery.AUDIT_POLICY, {}))
        servers = self._servers.updated(resources.get(discovery.MCP_SERVER, {}))
        virtual_servers = self._virtual_servers.updated(resources.get(discovery.VIRTUAL_SERVER, {}))
        documents = self._documents.updated(resources.get(discovery.POLICY_SET, {}))
        candidates = self._candidates.updated(resources.get(discovery.POLICY_CANDIDATE, {}))
        bindings = self._bindings.updated(resources.get(discovery.ROLE_BINDING, {}))
        providers = self._providers.updated(resources.get(discovery.IDENTITY_PROVIDER, {}))
        trust_domains = self._trust_domains.updated(resources.get(discovery.TRUST_DOMAIN, {}))
        gateways = self._gateways.updated(resources.get(discovery.GATEWAY, {}))
        state = AuthorizationState(
            revision=revision,
            mcp_servers=MappingProxyType(servers.values),
            virtual_servers=MappingProxyType(virtual_servers.values),
            policy=self._policy(tuple(documents.values.values()), tuple(bindings.values.values()), servers.values),
            identity_providers=tuple(providers.values.values()),
            context_keys=context_keys_from_messages(
                pb.ContextKey.FromString(data) for data in resources.get(discovery.CONTEXT_KEY, {}).values()
            ),
            trust_domains=tuple(trust_domains.values.values()),
            gateways=tuple(gateways.values.values()),
            revocations=self._revocation_index(revocations),
            audit_policies=audit_policies_by_namespace(audit_policies.values.values()),
            audit_sealing_key=audit_sealing_key_from_messages(
                pb.AuditSealingKey.FromString(data) for data in resources.get(discovery.AUDIT_SEALING_KEY, {}).values()
            ),
        )
        state = replace(state, shadow=self._shadow(state, documents, bindings, candidates))
        known = self._state
        if known is None or (known.identity_providers, known.trust_domains) != (state.identity_providers, state.trust_domains):
            self._replace_authenticator(state)
        self._servers, self._documents, self._bindings, self._providers = servers, documents, bindings, providers
        self._trust_domains, self._gateways, self._revocations = trust_domains, gateways, revocations
        self._virtual_servers, self._audit_policies = virtual_servers, audit_policies
        self._candidates = candidates
        self._state = state
        self._last_contact = self._clock()

    def _revocation_index(self, revocations: Decoded[Revocation]) -> RevocationIndex:
        known = self._state.revocations if self._state is not None else RevocationIndex()
        return (
            known if revocations is self._revocations else known.replaced(self._revocations.values, revocations.values, revocations.changed)
        )

    def _policy(
        self, documents: tuple[PolicyDocument, ...], bindings: tuple[RoleBinding, ...], mcp_servers: Mapping[str, McpServer]
    ) -> CedarEngine:
        if self._state is not None and isinstance(self._state.policy, CedarEngine):
            return self._state.policy.rebuilt(documents, bindings, mcp_servers)
        return CedarEngine.build(documents, bindings, mcp_servers)

    def _shadow(
        self,
        state: AuthorizationState,
        documents: Decoded[PolicyDocument],
        bindings: Decoded[RoleBinding],
        candidates: Decoded[PolicyCandidate],
    ) -> AuthorizationState | None:
        """The state with the candidates' policies; None without any, or where they cannot be built, which must not hold up what decides."""
        if not candidates.values:
            return None
        tried = shadow_documents(tuple(documents.values.values()), tuple(candidates.values.values()))
        known = self._state.shadow.policy if self._state is not None and self._state.shadow is not None else state.policy
        try:
            policy = cast("CedarEngine", known).rebuilt(tried, tuple(bindings.values.values()), state.mcp_servers)
        except PolicyError as error:
            logger.warning("policy candidates are not judged", error=str(error))
            return None
        return replace(state, policy=policy)

    def _replace_authenticator(self, state: AuthorizationState) -> None:
        self._key_source.watch(state.identity_providers)
        self._authenticator = Authenticator(
            state.identity_providers,
            self._key_source,
            self._clock,
            trust_domains=state.trust_domains,
            verified_tokens=self._verified_tokens,
            verified_certificates=self._verified_certificates,
            proofs=self._proofs,
        )

    def read_last_good(self) -> StagedResources:
        """The copy on disk: taken as the state when it is young enough. Returns what to offer the control plane as held."""
        if self._cache_file is None or not self._cache_file.is_file():
            return {}
        try:
            held = json.loads(self._cache_file.read_bytes())
            age = self._clock() - float(held["written_at_unix"])
            resources = {t: {n: bytes.fromhex(v) for n, v in named.items()} for t, named in held["resources"].items()}
            if age > self._max_staleness_seconds:
                logger.warning("last good copy is too old", age_seconds=int(age))
                return {}
            if age < -MAX_CLOCK_STEP_SECONDS:
                logger.warning("last good copy is of the future: the clock was set back, or the copy is not ours")
                return {}
            self.take(resources, int(held["revision"]))
            self._last_contact = self._clock() - max(age, 0.0)
        except Exception as error:  # noqa: BLE001 - a damaged copy must not keep an authorizer from asking the control plane
            logger.warning("last good copy is unusable", error=str(error))
            return {}
        logger.info("deciding by the last good copy", revision=held["revision"], age_seconds=int(age))
        return resources

    def write_last_good(self, resources: StagedResources, revision: int) -> None:
        """Keep a copy for the next start, atomically, mode 0600, without secrets and MAC keys. Blocks; call it in a thread."""
        if self._cache_file is None:
            return
        kept = {
            type_url: {name: _without_secrets(type_url, data).hex() for name, data in named.items()}
            for type_url, named in resources.items()
            if type_url != discovery.CONTEXT_KEY
        }
        text = json.dumps({"written_at_unix": self._clock(), "revision": revision, "resources": kept})
        temporary = self._cache_file.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._cache_file)


def _without_secrets(type_url: str, data: bytes) -> bytes:
    """The same resource without secret values; a server that needs one answers 502 until the control plane is back."""
    if type_url != discovery.MCP_SERVER:
        return data
    message = pb.McpServer.FromString(data)
    kind = message.credential.WhichOneof("kind")
    if kind == "static_header":
        message.credential.static_header.secret.ClearField("value")
    elif kind == "client_credentials":
        message.credential.client_credentials.client_secret.ClearField("value")
    return message.SerializeToString()
