"""CDS: a cluster per MCP server, and those of our own processes."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any, Struct

from controlplane.registry.spec import McpServerSpec
from controlplane.xds.cluster_name import server_names
from controlplane.xds.gateway import GatewaySettings
from controlplane.xds.resources.listener_tls import sds_secret
from controlplane.xds.resources.typed import ADS_ENDPOINTS, TLS_SOCKET, is_name, link_tls_context, load_assignment, pack
from controlplane.xds.upstream_tls import PLAIN_TLS, UpstreamTls
from extauthz.passage import AGGREGATOR_CLUSTER

AUTHORIZER_CLUSTER = "legation-authorizer"
PROCESSOR_CLUSTER = "legation-processor"
API_CLUSTER = "legation-api"
REFUSAL_CLUSTER = "legation-refusal"
REFUSAL_LISTENER = "refusal"

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

# uvicorn and Node close idle connections after 5 s; a connection that we close first never swallows a call that must not
# be repeated.
PLAIN_IDLE_SECONDS = 4
LONGEST_MUTUAL = timedelta(minutes=10)
TLS_IDLE_SECONDS = 50

READY_PATH = "/readyz"
"""At an aggregator: 200 as soon as it has a registry to answer from."""


def make_mcp_cluster(name: str, spec: McpServerSpec, *, authority: str | bytes, mutual: UpstreamTls = PLAIN_TLS) -> cluster.Cluster:
    """The cluster of one MCP server; its endpoints come by EDS under the same name.

    `authority`: what upstream certificates are checked against, the system's file on Envoy's host or certificates in PEM.
    """
    secure = urlsplit(spec.endpoints[0].url).scheme == "https"
    names = server_names(spec)
    sockets = {host: _tls_socket(host, authority, mutual) for host in names}
    return cluster.Cluster(
        name=name,
        type=cluster.ClusterDiscoveryType.EDS,
        eds_cluster_config=cluster.ClusterEdsClusterConfig(eds_config=ADS_ENDPOINTS, service_name=name),
        connect_timeout=timedelta(seconds=5),
        per_connection_buffer_limit_bytes=1024 * 1024,
        lb_policy=cluster.ClusterLbPolicy.LEAST_REQUEST,
        circuit_breakers=_breakers(spec.max_concurrent_calls),
        outlier_detection=_outlier_detection(),
        upstream_connection_options=cluster.UpstreamConnectionOptions(
            tcp_keepalive=core.TcpKeepalive(keepalive_probes=3, keepalive_time=30, keepalive_interval=10)
        ),
        typed_extension_protocol_options={HTTP_OPTIONS: _tls_options(mutual) if secure else _http1_options(PLAIN_IDLE_SECONDS)},
        transport_socket=next(iter(sockets.values())) if sockets else None,  # never plain text, whatever matches below
        transport_socket_matches=[
            cluster.ClusterTransportSocketMatch(name=host, match=Struct.from_dict({"host": host}), transport_socket=socket)
            for host, socket in sorted(sockets.items())
        ]
        if len(sockets) > 1
        else [],
    )


def make_authorizer_cluster(settings: GatewaySettings) -> cluster.Cluster:
    """Where ext_authz asks: one endpoint per authorizer process, gRPC over HTTP/2."""
    return _authorizers(AUTHORIZER_CLUSTER, settings.authorizer_addresses, settings)


def make_processor_cluster(settings: GatewaySettings) -> cluster.Cluster:
    """Where ext_proc has sessions sealed: the same processes, at their other address."""
    return _authorizers(PROCESSOR_CLUSTER, settings.processor_addresses, settings)


def _authorizers(name: str, addresses: tuple[str, ...], settings: GatewaySettings) -> cluster.Cluster:
    return cluster.Cluster(
        name=name,
        type=_static_type(addresses),
        load_assignment=load_assignment(name, addresses),
        connect_timeout=timedelta(seconds=5),  # the Check's own timeout is what ends the waiting
        lb_policy=cluster.ClusterLbPolicy.LEAST_REQUEST,
        circuit_breakers=_breakers(100_000),
        outlier_detection=_outlier_detection() if len(addresses) > 1 else None,
        typed_extension_protocol_options={HTTP_OPTIONS: _http2_options()},
        transport_socket=_link_socket(settings, addresses[0], "authorizer"),
    )


def make_aggregator_cluster(settings: GatewaySettings) -> cluster.Cluster:
    """Where the lane `aggregate` goes: callers are spread by their hash, so that one caller meets one aggregator while it lives.

    There may be none. One that has died is left out by its refused connections, one that hangs by its silence.
    """
    addresses = settings.aggregator_addresses
    several = len(addresses) > 1
    return cluster.Cluster(
        name=AGGREGATOR_CLUSTER,
        type=_static_type(addresses),
        load_assignment=load_assignment(AGGREGATOR_CLUSTER, addresses),
        connect_timeout=timedelta(seconds=5),
        lb_policy=cluster.ClusterLbPolicy.RING_HASH,
        circuit_breakers=_breakers(10_000),
        health_checks=[_health_check()] if several else [],
        outlier_detection=_outlier_detection() if several else None,
        typed_extension_protocol_options={HTTP_OPTIONS: _http1_options(TLS_IDLE_SECONDS)},
        transport_socket=_link_socket(settings, addresses[0], "aggregator") if addresses else None,
    )


def _health_check() -> core.HealthCheck:
    return core.HealthCheck(
        timeout=timedelta(seconds=5),
        interval=timedelta(seconds=2),
        no_traffic_interval=timedelta(seconds=10),
        unhealthy_threshold=2,
        healthy_threshold=1,
        http_health_check=core.HealthCheckHttpHealthCheck(host="aggregator", path=READY_PATH),
    )


def make_api_cluster(settings: GatewaySettings) -> cluster.Cluster:
    """The control plane's HTTP API."""
    return cluster.Cluster(
        name=API_CLUSTER,
        type=_static_type((settings.api_address,)),
        load_assignment=load_assignment(API_CLUSTER, (settings.api_address,)),
        connect_timeout=timedelta(seconds=5),
        circuit_breakers=_breakers(1024),
        typed_extension_protocol_options={HTTP_OPTIONS: _http1_options(TLS_IDLE_SECONDS)},
        transport_socket=_link_socket(settings, settings.api_address, "control-plane"),
    )


def make_refusal_cluster(_settings: GatewaySettings) -> cluster.Cluster:
    """This Envoy's own internal listener, which answers what must not be answered as gRPC."""
    address = core.Address(envoy_internal_address=core.EnvoyInternalAddress(server_listener_name=REFUSAL_LISTENER))
    endpoints = [endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address))]
    return cluster.Cluster(
        name=REFUSAL_CLUSTER,
        type=cluster.ClusterDiscoveryType.STATIC,
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=REFUSAL_CLUSTER, endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=endpoints)]
        ),
        connect_timeout=timedelta(seconds=1),
        circuit_breakers=_breakers(1024),
        typed_extension_protocol_options={HTTP_OPTIONS: _http1_options(PLAIN_IDLE_SECONDS)},
    )


def _static_type(addresses: tuple[str, ...]) -> cluster.ClusterDiscoveryType:
    return cluster.ClusterDiscoveryType.STRICT_DNS if any(is_name(text) for text in addresses) else cluster.ClusterDiscoveryType.STATIC


def _breakers(limit: int) -> cluster.CircuitBreakers:
    """The same limit for calls (DEFAULT) and for long streams (HIGH): idle streams never use up the budget of calls."""
    return cluster.CircuitBreakers(
        thresholds=[
            cluster.CircuitBreakersThresholds(
                priority=priority, max_connections=limit, max_pending_requests=limit, max_requests=limit, max_retries=max(3, limit // 10)
            )
            for priority in (core.RoutingPriority.DEFAULT, core.RoutingPriority.HIGH)
        ]
    )


def _outlier_detection() -> cluster.OutlierDetection:
    return cluster.OutlierDetection(
        consecutive_gateway_failure=5,
        enforcing_consecutive_gateway_failure=100,
        enforcing_consecutive_5xx=0,
        enforcing_success_rate=0,
        interval=timedelta(seconds=5),
        base_ejection_time=timedelta(seconds=10),
        max_ejection_percent=50,
    )


def _http1_options(idle_seconds: int) -> Any:
    return pack(
        upstream.HttpProtocolOptions(
            common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=timedelta(seconds=idle_seconds)),
            explicit_http_config=upstream.HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=core.Http1ProtocolOptions()),
        )
    )


def _http2_options() -> Any:
    return pack(
        upstream.HttpProtocolOptions(
            explicit_http_config=upstream.HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=core.Http2ProtocolOptions())
        )
    )


def _tls_options(mutual: UpstreamTls) -> Any:
    """HTTP/1.1 or HTTP/2, whichever the upstream chooses by ALPN."""
    common = core.HttpProtocolOptions(idle_timeout=timedelta(seconds=TLS_IDLE_SECONDS))
    if mutual.certificate is not None or mutual.authorities is not None:
        common.max_connection_duration = LONGEST_MUTUAL  # what was shown and believed when a connection began is not so for ever
    return pack(
        upstream.HttpProtocolOptions(
            common_http_protocol_options=common,
            auto_config=upstream.HttpProtocolOptionsAutoHttpConfig(
                http_protocol_options=core.Http1ProtocolOptions(), http2_protocol_options=core.Http2ProtocolOptions()
            ),
        )
    )


def _tls_socket(server_name: str, authority: str | bytes, mutual: UpstreamTls) -> core.TransportSocket:
    """TLS that insists on the registered name: SNI and subject alternative name. What the gateway shows comes by SDS."""
    validation = tls.CertificateValidationContext(match_typed_subject_alt_names=[_expected(name) for name in mutual.names or [server_name]])
    common = tls.CommonTlsContext(
        tls_params=tls.TlsParameters(tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_2),
        tls_certificate_sds_secret_configs=[sds_secret(mutual.certificate)] if mutual.certificate is not None else [],
    )
    if mutual.authorities is not None:
        common.combined_validation_context = tls.CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=validation, validation_context_sds_secret_config=sds_secret(mutual.authorities)
        )
    else:
        validation.trusted_ca = (
            core.DataSource(filename=authority) if isinstance(authority, str) else core.DataSource(inline_bytes=authority)
        )
        common.validation_context = validation
    context = tls.UpstreamTlsContext(
        sni="" if _is_literal(server_name) else server_name,
        common_tls_context=common,
        # a session is resumed without the certificates of either side: it would outlive them
        max_session_keys=0 if mutual.certificate is not None or mutual.authorities is not None else None,
    )
    return core.TransportSocket(name=TLS_SOCKET, typed_config=pack(context))


def _expected(name: str) -> tls.SubjectAltNameMatcher:
    return tls.SubjectAltNameMatcher(san_type=_san_type(name), matcher=matcher.StringMatcher(exact=name))


def _san_type(server_name: str) -> tls.SubjectAltNameMatcherSanType:
    if "://" in server_name:
        return tls.SubjectAltNameMatcherSanType.URI
    return tls.SubjectAltNameMatcherSanType.IP_ADDRESS if _is_literal(server_name) else tls.SubjectAltNameMatcherSanType.DNS


def _is_literal(server_name: str) -> bool:
    return ":" in server_name or server_name.replace(".", "").isdecimal()


def _link_socket(settings: GatewaySettings, address: str, peer: str) -> core.TransportSocket | None:
    if not settings.link_tls or address.startswith("unix:"):
        return None
    return core.TransportSocket(name=TLS_SOCKET, typed_config=pack(tls.UpstreamTlsContext(common_tls_context=link_tls_context(peer))))
