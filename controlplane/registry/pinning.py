"""Which versions of which catalogs virtual servers pin (`spec.members[].version`).

`store` keeps those versions and loads them into the state, `exposure` offers what is in them.
"""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.state import Entry, RegistryState
from controlplane.registry.virtual_server_spec import VirtualServerSpec


def member_id(namespace: str, server: str) -> str:
    """`namespace/name` of the MCP server that a member of a VirtualServer in `namespace` names."""
    return server if "/" in server else f"{namespace}/{server}"


def pins_of(entry: Entry[VirtualServerSpec]) -> Iterator[tuple[str, str]]:
    """Server id and catalog digest of every member that is pinned."""
    for member in entry.spec.members:
        if member.version is not None:
            yield member_id(entry.namespace, member.server), member.version


def pinned_versions_of(state: RegistryState) -> frozenset[tuple[str, str]]:
    """Server uid and catalog digest of everything that is pinned in this state."""
    pins = {pin for entry in state.virtual_servers.values() for pin in pins_of(entry)}
    return frozenset((state.mcp_servers[server].uid, digest) for server, digest in pins if server in state.mcp_servers)
