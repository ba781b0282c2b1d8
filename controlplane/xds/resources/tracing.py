"""Envoy's spans: one for each request at a listener, one for the question to the authorizer, one for each request that goes on.

Parent is the `traceparent` of the request, if it has one, whose sender then has decided whether the trace is kept. What Envoy writes into
its spans by itself and might be personal or secret (the query of the URL, the address of the client, its user agent) is overwritten.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.trace import v3 as trace
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.envoy.type.metadata import v3 as metadata
from envoy_data_plane.envoy.type.tracing import v3 as tracing

from controlplane.xds.gateway import OTLP_CLUSTER, GatewaySettings
from controlplane.xds.resources import filter_name
from controlplane.xds.resources.typed import TLS_SOCKET, is_name, load_assignment, pack
from extauthz.telemetry import semantic_convention as names

SERVICE_NAME = "legation-envoy"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_OF_THE_DECISION = {
    names.LEGATION_DECISION: "verdict",
    names.LEGATION_DECISION_ID: "decision_id",
    names.LEGATION_REVISION: "revision",
}
_UNTOLD = ("peer.address", "user_agent")


def make_tracing(listener: str, settings: GatewaySettings) -> hcm.HttpConnectionManagerTracing | None:
    """The spans of one listener, or None when nobody wants any."""
    if not settings.otlp_address:
        return None
    exporter = trace.OpenTelemetryConfig(
        grpc_service=core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=OTLP_CLUSTER), timeout=timedelta(seconds=5)),
        service_name=SERVICE_NAME,
    )
    return hcm.HttpConnectionManagerTracing(
        client_sampling=envoy_type.Percent(value=0.0),
        random_sampling=envoy_type.Percent(value=settings.trace_sampling * 100.0),
        spawn_upstream_span=True,
        operation=f"%REQ(:METHOD):16% {listener}",
        upstream_operation="%REQ(:METHOD):16% upstream",
        max_path_tag_length=0,
        custom_tags=[
            *(_of_the_decision(tag, key) for tag, key in _OF_THE_DECISION.items()),
            *(tracing.CustomTag(tag=tag, literal=tracing.CustomTagLiteral(value="-")) for tag in _UNTOLD),
            tracing.CustomTag(tag=names.LEGATION_LISTENER, literal=tracing.CustomTagLiteral(value=listener)),
        ],
        provider=trace.TracingHttp(name="envoy.tracers.opentelemetry", typed_config=pack(exporter)),
    )


def _of_the_decision(tag: str, key: str) -> tracing.CustomTag:
    """What the authorizer's answer says, which is the dynamic metadata of its filter."""
    place = metadata.MetadataKey(key=filter_name.EXT_AUTHZ, path=[metadata.MetadataKeyPathSegment(key=key)])
    kind = metadata.MetadataKind(request=metadata.MetadataKindRequest())
    return tracing.CustomTag(tag=tag, metadata=tracing.CustomTagMetadata(kind=kind, metadata_key=place))


def make_otlp_cluster(settings: GatewaySettings) -> cluster.Cluster:
    """Where spans go: gRPC, with TLS when the endpoint says so. What cannot be sent is lost; no request waits for it."""
    addresses = (settings.otlp_address,) if settings.otlp_address else ()
    options = upstream.HttpProtocolOptions(
        explicit_http_config=upstream.HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=core.Http2ProtocolOptions())
    )
    return cluster.Cluster(
        name=OTLP_CLUSTER,
        type=cluster.ClusterDiscoveryType.STRICT_DNS if any(is_name(text) for text in addresses) else cluster.ClusterDiscoveryType.STATIC,
        load_assignment=load_assignment(OTLP_CLUSTER, addresses),
        connect_timeout=timedelta(seconds=5),
        typed_extension_protocol_options={_HTTP_OPTIONS: pack(options)},
        transport_socket=_socket(settings) if settings.otlp_tls_name else None,
    )


def _socket(settings: GatewaySettings) -> core.TransportSocket:
    name = settings.otlp_tls_name
    is_literal = ":" in name or name.replace(".", "").isdecimal()
    kind = tls.SubjectAltNameMatcherSanType.IP_ADDRESS if is_literal else tls.SubjectAltNameMatcherSanType.DNS
    expected = tls.SubjectAltNameMatcher(san_type=kind, matcher=matcher.StringMatcher(exact=name))
    validation = tls.CertificateValidationContext(
        trusted_ca=core.DataSource(filename=settings.otlp_ca_file or settings.upstream_ca_file), match_typed_subject_alt_names=[expected]
    )
    context = tls.UpstreamTlsContext(
        sni="" if is_literal else name,
        common_tls_context=tls.CommonTlsContext(
            tls_params=tls.TlsParameters(tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_2),
            alpn_protocols=["h2"],
            validation_context=validation,
        ),
    )
    return core.TransportSocket(name=TLS_SOCKET, typed_config=pack(context))
