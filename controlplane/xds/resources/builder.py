"""Which function builds which resource, and their bytes. Importing this imports all of envoy-data-plane that we use."""

from __future__ import annotations

from controlplane.registry.spec import McpServerSpec
from controlplane.xds.gateway import GatewaySettings
from controlplane.xds.resolver import ResolvedHosts
from controlplane.xds.resources import cluster, endpoint, listener, route
from controlplane.xds.resources.typed import serialise

OWN_CLUSTERS = {
    cluster.AUTHORIZER_CLUSTER: cluster.make_authorizer_cluster,
    cluster.PROCESSOR_CLUSTER: cluster.make_processor_cluster,
    cluster.API_CLUSTER: cluster.make_api_cluster,
    cluster.REFUSAL_CLUSTER: cluster.make_refusal_cluster,
}
LISTENERS = {
    listener.INGRESS: listener.make_ingress_listener,
    listener.EGRESS: listener.make_egress_listener,
    listener.REFUSAL: listener.make_refusal_listener,
}
ROUTES = {listener.INGRESS: route.make_ingress_routes, listener.EGRESS: route.make_egress_routes}


def build_own_cluster(name: str, gateway: GatewaySettings) -> bytes:
    """A cluster of our own processes."""
    return serialise(OWN_CLUSTERS[name](gateway))


def build_listener(name: str, gateway: GatewaySettings) -> bytes:
    """A listener with its filters."""
    return serialise(LISTENERS[name](gateway))


def build_routes(name: str, gateway: GatewaySettings, max_body_bytes: int, *, issuing: bool = False) -> bytes:
    """The routes of a listener. `issuing`: there is an authorization server of ours."""
    return serialise(ROUTES[name](name, gateway, max_body_bytes=max_body_bytes, issuing=issuing))


def build_cluster(name: str, spec: McpServerSpec, authority: str | bytes) -> bytes:
    """The cluster of an MCP server. `authority`: the system's file on Envoy's host, or certificates in PEM."""
    return serialise(cluster.make_mcp_cluster(name, spec, authority=authority))


def build_endpoints(name: str, spec: McpServerSpec, resolved: ResolvedHosts) -> bytes:
    """The endpoints of an MCP server."""
    return serialise(endpoint.make_load_assignment(name, spec, resolved))
