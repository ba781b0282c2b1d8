"""The Envoy cluster of an MCP server: one name, used for CDS, EDS and in what authorizers are told.

The name changes with everything that decides how bytes reach the upstream and as whom, so that no edit can send the old
server's credential to a new kind of address, and a changed cluster is made beside the old one before it is broken. Health,
scaling and a move to another address of the same kind are EDS only and keep the name.
"""

from __future__ import annotations

import hashlib
import json
from urllib.parse import urlsplit

from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import Entry
from controlplane.xds.authority_file import NO_AUTHORITIES, Authorities, authority_of
from controlplane.xds.upstream_tls import tls_shape


def cluster_name(entry: Entry[McpServerSpec], authorities: Authorities = NO_AUTHORITIES) -> str:
    """`mcp-<uid>-<12 hex>`; the hash covers scheme, path and query, TLS and the server's own authorities, credential, call limit."""
    spec = entry.spec
    url = urlsplit(spec.endpoints[0].url)
    shape = {
        "scheme": url.scheme,
        "path": upstream_path(spec),
        "tls": tls_shape(spec),
        "server_names": server_names(spec),
        "credential": spec.credential.model_dump(mode="json") if spec.credential else None,
        "max_concurrent_calls": spec.max_concurrent_calls,
    }
    if authority := authority_of(entry):
        shape["authorities"] = hashlib.sha256(authorities.get(authority, b"")).hexdigest()
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return f"mcp-{entry.uid}-{digest[:12]}"


def upstream_path(spec: McpServerSpec) -> str:
    """The registered path (and query) of the MCP endpoint, which replaces the client's."""
    url = urlsplit(spec.endpoints[0].url)
    return (url.path or "/") + (f"?{url.query}" if url.query else "")


def server_names(spec: McpServerSpec) -> list[str]:
    """The names that upstream certificates must carry (SNI and SAN), sorted; empty without TLS."""
    if urlsplit(spec.endpoints[0].url).scheme != "https":
        return []
    if spec.tls.server_name:
        return [spec.tls.server_name]
    return sorted({urlsplit(endpoint.url).hostname or "" for endpoint in spec.endpoints})
