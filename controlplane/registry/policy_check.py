"""Asks the policy engine's own checks about the policies of some namespaces, in the registry as it would be after a change."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import MappingProxyType

from controlplane.registry.catalog import tool_of
from controlplane.registry.changes import entries_of
from controlplane.registry.preset import cedar_of
from controlplane.registry.spec import SYSTEM_NAMESPACE, Kind, McpServerSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.registry.validation import PolicyFinding
from extauthz.catalog.server import McpServer
from extauthz.policy.cedar import PolicyProblem, check_policies
from extauthz.policy.model import PolicyDocument


def check_policies_of(
    state: RegistryState, namespaces: Collection[str], kind: Kind = Kind.POLICY_SET
) -> tuple[list[PolicyFinding], list[PolicyFinding]]:
    """Errors and warnings of every policy in entries of `kind` in these namespaces. Those of `system` are checked against every server."""
    everywhere = SYSTEM_NAMESPACE in namespaces
    documents = [
        PolicyDocument(namespace=entry.namespace, name=entry.name, cedar=cedar_of(entry.namespace, entry.name, entry.spec))
        for _, entry in sorted(entries_of(state, kind).items())
        if entry.namespace in namespaces
    ]
    servers = {entry.id: entry for entry in state.mcp_servers.values() if everywhere or entry.namespace in namespaces}
    errors, warnings = check_policies(
        documents,
        mcp_servers={server_id: _mcp_server(state, entry) for server_id, entry in servers.items()},
        roles={f"{binding.namespace}/{binding.spec.role}" for binding in state.role_bindings.values()},
        namespaces=state.namespaces.keys(),
        probed={server_id for server_id, entry in servers.items() if state.definitions.get(entry.uid)},
    )
    return _findings(errors), _findings(warnings)


def _mcp_server(state: RegistryState, entry: Entry[McpServerSpec]) -> McpServer:
    definitions = state.definitions.get(entry.uid, ())
    return McpServer(
        uid=entry.uid,
        namespace=entry.namespace,
        name=entry.name,
        cluster="",
        path="/",
        tools=MappingProxyType({d.name: tool_of(d) for d in definitions if d.kind == "tool"}),
        prompts=frozenset(d.name for d in definitions if d.kind == "prompt"),
    )


def _findings(problems: Sequence[PolicyProblem]) -> list[PolicyFinding]:
    return [PolicyFinding(namespace=p.namespace, name=p.name, policy_id=p.policy_id, message=p.message) for p in problems]
