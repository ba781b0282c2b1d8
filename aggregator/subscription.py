"""How a new revision takes effect in an aggregator: messages become one immutable state, swapped in one assignment.

    discovery stream ──▶ `Subscription.take(resources, revision)` ──▶ AggregatorState ──▶ read by every request, told to streams

What did not change since the last revision is reused as it is. A state that cannot be built raises, the Revision is NACKed with its
words, and the last good state goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from aggregator.front import Fronts
from aggregator.state import AggregatorState, catalog_from_message, sealing_keys_from_messages
from extauthz import discovery
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.catalog.server import McpServer
from extauthz.decoded import Decoded
from extauthz.discovery import StagedResources
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.model import PolicyDocument, RoleBinding
from extauthz.state import (
    AuthorizationState,
    audit_policies_by_namespace,
    audit_policy_from_message,
    audit_sealing_key_from_messages,
    mcp_server_from_message,
    policy_document_from_message,
    role_binding_from_message,
    virtual_server_from_message,
)
from extauthz.v1 import registry_pb2 as pb


class Subscription:
    """The state that requests read, and how it is replaced."""

    def __init__(self) -> None:
        self._state: AggregatorState | None = None
        self._fronts: Fronts | None = None
        self._changed = asyncio.Event()
        self._audit_policies = Decoded(lambda data: audit_policy_from_message(pb.AuditPolicy.FromString(data)))
        self._servers = Decoded(lambda data: mcp_server_from_message(pb.McpServer.FromString(data)))
        self._virtual_servers = Decoded(lambda data: virtual_server_from_message(pb.VirtualServer.FromString(data)))
        self._catalogs = Decoded(lambda data: catalog_from_message(pb.Catalog.FromString(data)))
        self._documents = Decoded(lambda data: policy_document_from_message(pb.PolicySet.FromString(data)))
        self._bindings = Decoded(lambda data: role_binding_from_message(pb.RoleBinding.FromString(data)))

    def current(self) -> AggregatorState | None:
        """The state to answer from, None before the first revision."""
        return self._state

    def fronts(self) -> Fronts | None:
        """What that state offers, None before the first revision."""
        return self._fronts

    def audit_sealing_key(self) -> AuditSealingKey | None:
        """The key that personal values of records are sealed for, as soon as there is one."""
        return self._state.authorization.audit_sealing_key if self._state is not None else None

    async def wait(self, after: AggregatorState | None) -> AggregatorState:
        """The state, as soon as it is another one than `after`."""
        while self._state is None or self._state is after:
            await self._changed.wait()
        return self._state

    def take(self, resources: StagedResources, revision: int) -> None:
        """Swap to a revision as a whole, or raise `LegationError` or ValueError and change nothing."""
        audit_policies = self._audit_policies.updated(resources.get(discovery.AUDIT_POLICY, {}))
        servers = self._servers.updated(resources.get(discovery.MCP_SERVER, {}))
        virtual_servers = self._virtual_servers.updated(resources.get(discovery.VIRTUAL_SERVER, {}))
        catalogs = self._catalogs.updated(resources.get(discovery.CATALOG, {}))
        documents = self._documents.updated(resources.get(discovery.POLICY_SET, {}))
        bindings = self._bindings.updated(resources.get(discovery.ROLE_BINDING, {}))
        authorization = AuthorizationState(
            revision=revision,
            mcp_servers=MappingProxyType(servers.values),
            policy=self._policy(tuple(documents.values.values()), tuple(bindings.values.values()), servers.values),
            identity_providers=(),
            context_keys=(),
            virtual_servers=MappingProxyType(virtual_servers.values),
            audit_policies=audit_policies_by_namespace(audit_policies.values.values()),
            audit_sealing_key=audit_sealing_key_from_messages(
                pb.AuditSealingKey.FromString(data) for data in resources.get(discovery.AUDIT_SEALING_KEY, {}).values()
            ),
        )
        keys = [pb.SealingKey.FromString(data) for data in resources.get(discovery.SEALING_KEY, {}).values()]
        state = AggregatorState(
            authorization=authorization,
            catalogs=MappingProxyType(catalogs.values),
            sealing_keys=sealing_keys_from_messages(keys),
        )
        self._servers, self._virtual_servers, self._catalogs = servers, virtual_servers, catalogs
        self._documents, self._bindings, self._audit_policies = documents, bindings, audit_policies
        self._state = state
        self._fronts = Fronts(state, self._fronts)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _policy(
        self, documents: tuple[PolicyDocument, ...], bindings: tuple[RoleBinding, ...], mcp_servers: Mapping[str, McpServer]
    ) -> CedarEngine:
        if self._state is not None and isinstance(self._state.authorization.policy, CedarEngine):
            return self._state.authorization.policy.rebuilt(documents, bindings, mcp_servers)
        return CedarEngine.build(documents, bindings, mcp_servers)
