"""EDS: where the endpoints of an MCP server are, as addresses that we resolved, checked and pinned."""

from __future__ import annotations

from urllib.parse import urlsplit

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.google.protobuf import Struct

from controlplane.registry.spec import McpServerSpec
from controlplane.xds.resolver import ResolvedHosts, port_of

SOCKET_MATCH = "envoy.transport_socket_match"


def make_load_assignment(name: str, spec: McpServerSpec, resolved: ResolvedHosts) -> endpoint.ClusterLoadAssignment:
    """One endpoint per address of each registered URL; a host that never resolved has none."""
    endpoints = [_lb_endpoint(registered.url, ip) for registered in spec.endpoints for ip in resolved.get(_host(registered.url), ())]
    return endpoint.ClusterLoadAssignment(cluster_name=name, endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=endpoints)])


def host_header(url: str) -> str:
    """What the upstream must read as `Host`: the registered host, with the port unless it is the scheme's own."""
    parts = urlsplit(url)
    host = _host(url)
    shown = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "https" else 80
    return shown if port_of(url) == default else f"{shown}:{port_of(url)}"


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _lb_endpoint(url: str, ip: str) -> endpoint.LbEndpoint:
    socket_address = core.SocketAddress(address=ip, port_value=port_of(url))
    metadata = None
    if urlsplit(url).scheme == "https":
        metadata = core.Metadata(filter_metadata={SOCKET_MATCH: Struct.from_dict({"host": _host(url)})})
    return endpoint.LbEndpoint(
        endpoint=endpoint.Endpoint(address=core.Address(socket_address=socket_address), hostname=host_header(url)), metadata=metadata
    )
