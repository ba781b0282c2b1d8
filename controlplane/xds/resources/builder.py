"""Which function builds which resource, and their bytes. Importing this imports all of envoy-data-plane that we use."""

from __future__ import annotations

from controlplane.registry.key_pair import KeyPair
from controlplane.registry.spec import McpServerSpec
from controlplane.xds.gateway import OTLP_CLUSTER, GatewaySettings
from controlplane.xds.public_listener import PublicListener
from controlplane.xds.resolver import ResolvedHosts
from controlplane.xds.resources import cluster, endpoint, listener, route, secret, tracing
from controlplane.xds.resources.typed import serialise
from controlplane.xds.trust_bundle import TrustBundles
from controlplane.xds.upstream_tls import PLAIN_TLS, UpstreamTls
from extauthz.passage import AGGREGATOR_CLUSTER

OWN_CLUSTERS = {
    cluster.AUTHORIZER_CLUSTER: cluster.make_authorizer_cluster,
    cluster.PROCESSOR_CLUSTER: cluster.make_processor_cluster,
    AGGREGATOR_CLUSTER: cluster.make_aggregator_cluster,
    cluster.API_CLUSTER: cluster.make_api_cluster,
    cluster.REFUSAL_CLUSTER: cluster.make_refusal_cluster,
    OTLP_CLUSTER: tracing.make_otlp_cluster,
}
LISTENERS = {
    listener.EGRESS: listener.make_egress_listener,
    listener.REFUSAL: listener.make_refusal_listener,
}
ROUTES = {listener.EGRESS: route.make_egress_routes}


def build_own_cluster(name: str, gateway: GatewaySettings) -> bytes:
    """A cluster of our own processes."""
    return serialise(OWN_CLUSTERS[name](gateway))


def build_listener(name: str, gateway: GatewaySettings) -> bytes:
    """A listener of our own processes with its filters."""
    return serialise(LISTENERS[name](gateway))


def build_public_listener(public: PublicListener, gateway: GatewaySettings) -> bytes:
    """A public listener with its filters."""
    return serialise(listener.make_public_listener(public, gateway))


def build_routes(name: str, gateway: GatewaySettings, max_body_bytes: int) -> bytes:
    """The routes of a listener of our own processes."""
    return serialise(ROUTES[name](name, gateway, max_body_bytes=max_body_bytes))


def build_public_routes(public: PublicListener, gateway: GatewaySettings, max_body_bytes: int, *, issuing: bool = False) -> bytes:
    """The routes of a public listener. `issuing`: there is an authorization server of ours."""
    name, entered_by = public.routes, public.gateway
    routes = route.make_ingress_routes(name, gateway, max_body_bytes=max_body_bytes, issuing=issuing, entered_by=entered_by)
    return serialise(routes)


def build_certificate(name: str, pair: KeyPair) -> bytes:
    """A certificate with its key, as a secret."""
    return serialise(secret.make_certificate(name, pair))


def build_authorities(name: str, authorities: bytes) -> bytes:
    """Certificate authorities, as a secret."""
    return serialise(secret.make_authorities(name, authorities))


def build_client_validation(name: str, bundles: TrustBundles) -> bytes:
    """Trust domains whose workloads may connect, as a secret."""
    return serialise(secret.make_client_validation(bundles, name=name))


def build_cluster(name: str, spec: McpServerSpec, authority: str | bytes, mutual: UpstreamTls = PLAIN_TLS) -> bytes:
    """The cluster of an MCP server. `authority`: the system's file on Envoy's host, or certificates in PEM."""
    return serialise(cluster.make_mcp_cluster(name, spec, authority=authority, mutual=mutual))


def build_endpoints(name: str, spec: McpServerSpec, resolved: ResolvedHosts) -> bytes:
    """The endpoints of an MCP server."""
    return serialise(endpoint.make_load_assignment(name, spec, resolved))
