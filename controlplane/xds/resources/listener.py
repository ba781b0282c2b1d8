"""LDS: the public listener and the egress listener, with the filters in their order. Constant: nothing volatile stands here.

    local rate limit ──▶ custom response (acts on answers, lanes only) ──▶ ext_authz ──▶ header mutation (the same)
        ──▶ ext_proc (answers of the lane `inspect`) ──▶ stateful session (lanes only)
        ──▶ header to metadata (answers of the lane `aggregate`) ──▶ router

Before the first filter the connection manager removes the headers that only we may set and refuses what two parsers could read
in two ways. Paths are not normalised: one that is not in its plain form is refused by a route (`route`).
"""

from __future__ import annotations

from datetime import timedelta

import betterproto2
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.custom_response import v3 as custom_response
from envoy_data_plane.envoy.extensions.filters.http.ext_authz import v3 as ext_authz
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_mutation
from envoy_data_plane.envoy.extensions.filters.http.header_to_metadata import v3 as header_to_metadata
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit import v3 as local_ratelimit
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.http.stateful_session import v3 as stateful_session
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early_mutation
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from controlplane.xds.gateway import USUAL_BODY_BYTES, GatewaySettings
from controlplane.xds.public_listener import PublicListener
from controlplane.xds.resources import filter_name
from controlplane.xds.resources.access_log import make_access_logs
from controlplane.xds.resources.cluster import AUTHORIZER_CLUSTER, PROCESSOR_CLUSTER, REFUSAL_LISTENER
from controlplane.xds.resources.listener_tls import HANDSHAKE, make_listener_socket
from controlplane.xds.resources.local_reply import SESSION_NOT_SEALED, make_local_replies
from controlplane.xds.resources.tracing import make_tracing
from controlplane.xds.resources.typed import ADS, TLS_SOCKET, address, link_tls_context, pack
from extauthz.session import SEALED_HEADER, SESSION_HEADER

EGRESS = "egress"
REFUSAL = REFUSAL_LISTENER

_CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"
_ONLY_OURS = ("x-legation-", "x-envoy-")
_IDENTITY_OF_PROXIES = ("x-forwarded-", "forwarded", "x-real-ip")
_OF_THE_CONNECTION = ("proxy-",)  # to a proxy, not to what is behind it; no authorizer may touch these, so they go before it
_IDENTITY_ELSEWHERE = (
    # who calls, as other proxies tell their servers
    *("remote-", "x-remote-", "impersonate-", "x-authenticated-", "x-gw-", "x-webauth-", "x-user", "x-group", "x-role"),
    *("x-auth-user", "x-auth-request-", "x-goog-authenticated-", "x-amzn-oidc-", "x-ms-client-principal", "x-email", "x-principal"),
    *("x-subject", "x-identity", "ssl-client-", "x-ssl-client-", "x-client-cert", "client-cert"),
    # and from where
    *("true-client-ip", "x-client-ip", "x-cluster-client-ip", "fastly-client-ip", "cf-connecting-ip", "client-ip", "x-originating-ip"),
)
"""Beginnings of headers by which a server behind some other proxy might believe who calls, or from where. None of them is ours."""

# Headers that an authorizer's answer never has reason to touch. Host and method are already refused by Envoy's default rules.
_UNTOUCHABLE = r"^(host|connection|content-length|transfer-encoding|te|upgrade|keep-alive|proxy-.*|x-forwarded-.*)$"


def make_public_listener(public: PublicListener, settings: GatewaySettings) -> listener.Listener:
    """A public door: the one of the settings, or of a Gateway."""
    stripped = (*_ONLY_OURS, "legation-", *_IDENTITY_OF_PROXIES)
    manager = _connection_manager(public.routes, settings, stripped)
    if public.tls is not None and public.tls.clients != "none":
        # The header comes from here alone: what clients send of it went with the other ones of proxies.
        manager.forward_client_cert_details = hcm.HttpConnectionManagerForwardClientCertDetails.SANITIZE_SET
        manager.set_current_client_cert_details = hcm.HttpConnectionManagerSetCurrentClientCertDetails(cert=True, chain=True)
    if public.max_connection_seconds and manager.common_http_protocol_options is not None:
        manager.common_http_protocol_options.max_connection_duration = timedelta(seconds=public.max_connection_seconds)
        manager.http1_safe_max_connection_duration = True  # told by `connection: close`; HTTP/2 has GOAWAY
    door = _listener(public.name, public.listen, manager, make_listener_socket(public.tls) if public.tls is not None else None)
    if public.tls is not None:
        door.filter_chains[0].transport_socket_connect_timeout = HANDSHAKE
    return door


def make_egress_listener(settings: GatewaySettings) -> listener.Listener:
    """The inner door of our own processes: a Unix socket of ours, or TCP with mutual TLS. Keeps the signed context."""
    secured = settings.link_tls and not settings.egress_listen.startswith("unix:")
    manager = _connection_manager(EGRESS, settings, (*_ONLY_OURS, *_IDENTITY_OF_PROXIES))
    inner = _listener(EGRESS, settings.egress_listen, manager, _egress_socket() if secured else None)
    inner.ignore_global_conn_limit = True  # strangers never keep our own processes out
    return inner


def make_refusal_listener(_settings: GatewaySettings) -> listener.Listener:
    """Reached from inside this Envoy only: 415 to everything, in the words that the path asks for.

    Envoy turns every answer of its own to a gRPC request into one of gRPC (200, and the status in a header that MCP clients do
    not read). So such a request comes here first, without its content type.
    """
    refused = route.DirectResponseAction(status=415, body=core.DataSource(inline_string="not served by the gateway"))
    everything = route.Route(name="refused", match=route.RouteMatch(prefix="/"), direct_response=refused)
    manager = hcm.HttpConnectionManager(
        stat_prefix=REFUSAL,
        route_config=route.RouteConfiguration(
            name=REFUSAL, virtual_hosts=[route.VirtualHost(name=REFUSAL, domains=["*"], routes=[everything])]
        ),
        http_filters=[hcm.HttpFilter(name=filter_name.ROUTER, typed_config=pack(router.Router(suppress_envoy_headers=True)))],
        local_reply_config=make_local_replies(),
        server_name="legation",
        stream_idle_timeout=timedelta(seconds=30),
    )
    network_filter = listener.Filter(name=_CONNECTION_MANAGER, typed_config=pack(manager))
    return listener.Listener(
        name=REFUSAL,
        internal_listener=listener.ListenerInternalListenerConfig(),
        filter_chains=[listener.FilterChain(filters=[network_filter])],
    )


def _listener(name: str, listen: str, manager: hcm.HttpConnectionManager, socket: core.TransportSocket | None) -> listener.Listener:
    network_filter = listener.Filter(name=_CONNECTION_MANAGER, typed_config=pack(manager))
    return listener.Listener(
        name=name,
        address=address(listen),
        per_connection_buffer_limit_bytes=1024 * 1024,
        filter_chains=[listener.FilterChain(filters=[network_filter], transport_socket=socket)],
    )


def _egress_socket() -> core.TransportSocket:
    context = tls.DownstreamTlsContext(common_tls_context=link_tls_context("control-plane", "aggregator"), require_client_certificate=True)
    return core.TransportSocket(name=TLS_SOCKET, typed_config=pack(context))


def _connection_manager(name: str, settings: GatewaySettings, stripped: tuple[str, ...]) -> hcm.HttpConnectionManager:
    return hcm.HttpConnectionManager(
        stat_prefix=name,
        rds=hcm.Rds(config_source=ADS, route_config_name=name),
        http_filters=_http_filters(settings),
        early_header_mutation_extensions=[_early_mutation(stripped)],
        local_reply_config=make_local_replies(),
        access_log=make_access_logs(settings),
        tracing=make_tracing(EGRESS if name == EGRESS else "ingress", settings),
        # what is refused or rewritten before anybody looks
        normalize_path=False,
        path_with_escaped_slashes_action=hcm.HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        common_http_protocol_options=core.HttpProtocolOptions(
            headers_with_underscores_action=core.HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
            max_headers_count=100,
            idle_timeout=timedelta(minutes=5),
        ),
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=100,
            initial_stream_window_size=65_536,
            initial_connection_window_size=1024 * 1024,
            connection_keepalive=core.KeepaliveSettings(interval=timedelta(minutes=1), timeout=timedelta(seconds=20)),
        ),
        max_request_headers_kb=64,
        upgrade_configs=[],
        # who asks: the connection's own address, never a header
        use_remote_address=True,
        skip_xff_append=True,
        forward_client_cert_details=hcm.HttpConnectionManagerForwardClientCertDetails.SANITIZE,
        generate_request_id=True,
        # time: lanes set their own idle timeouts
        stream_idle_timeout=timedelta(minutes=5),
        request_headers_timeout=timedelta(seconds=min(10, settings.request_timeout_seconds)),
        request_timeout=timedelta(seconds=settings.request_timeout_seconds),
        server_name="legation",
        server_header_transformation=hcm.HttpConnectionManagerServerHeaderTransformation.OVERWRITE,
    )


def _early_mutation(prefixes: tuple[str, ...]) -> core.TypedExtensionConfig:
    matchers = [matcher.StringMatcher(prefix=prefix, ignore_case=True) for prefix in (*prefixes, *_OF_THE_CONNECTION, *_IDENTITY_ELSEWHERE)]
    removals = [
        mutation_rules.HeaderMutation(remove_on_match=mutation_rules.HeaderMutationRemoveOnMatch(key_matcher=each)) for each in matchers
    ]
    return core.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=pack(early_mutation.HeaderMutation(mutations=removals))
    )


def _http_filters(settings: GatewaySettings) -> list[hcm.HttpFilter]:
    configs: dict[str, betterproto2.Message] = {
        filter_name.LOCAL_RATELIMIT: _local_ratelimit(settings),
        filter_name.CUSTOM_RESPONSE: custom_response.CustomResponse(),
        filter_name.EXT_AUTHZ: _ext_authz(settings),
        filter_name.HEADER_MUTATION: header_mutation.HeaderMutation(),
        filter_name.EXT_PROC: _ext_proc(settings),
        filter_name.STATEFUL_SESSION: stateful_session.StatefulSession(),  # none but on lanes
        filter_name.HEADER_TO_METADATA: header_to_metadata.Config(),  # none but on lanes of aggregators
        filter_name.ROUTER: router.Router(suppress_envoy_headers=True),
    }
    return [hcm.HttpFilter(name=name, typed_config=pack(configs[name])) for name in filter_name.HTTP_FILTERS]


def _local_ratelimit(settings: GatewaySettings) -> local_ratelimit.LocalRateLimit:
    """A shield against abuse, far above honest use: quotas are the authorizer's."""
    whole = core.RuntimeFractionalPercent(default_value=envoy_type.FractionalPercent(numerator=100))
    return local_ratelimit.LocalRateLimit(
        stat_prefix="abuse_shield",
        token_bucket=envoy_type.TokenBucket(
            max_tokens=settings.requests_per_second * 2, tokens_per_fill=settings.requests_per_second, fill_interval=timedelta(seconds=1)
        ),
        filter_enabled=whole,
        filter_enforced=whole,
    )


def _ext_proc(settings: GatewaySettings) -> ext_proc.ExternalProcessor:
    """Sees two headers of an answer, may set one of ours, and can neither replace the answer nor look away from it.

    Nothing is asked of it here, and the lane `inspect` asks (`route`). Were it on here, it would also see the
    refusals that Envoy answers before there is a route, which no route can switch off.
    """
    mode, send = ext_proc.ProcessingMode, ext_proc.ProcessingModeHeaderSendMode
    bodies = ext_proc.ProcessingModeBodySendMode.NONE
    return ext_proc.ExternalProcessor(
        grpc_service=core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=PROCESSOR_CLUSTER)),
        failure_mode_allow=False,
        status_on_error=envoy_type.HttpStatus(code=SESSION_NOT_SEALED),
        message_timeout=timedelta(milliseconds=settings.check_timeout_ms),
        processing_mode=mode(
            request_header_mode=send.SKIP,
            response_header_mode=send.SKIP,
            request_body_mode=bodies,
            response_body_mode=bodies,
            request_trailer_mode=send.SKIP,
            response_trailer_mode=send.SKIP,
        ),
        forward_rules=ext_proc.HeaderForwardingRules(
            allowed_headers=matcher.ListStringMatcher(patterns=[matcher.StringMatcher(exact=name) for name in (":status", SESSION_HEADER)])
        ),
        metadata_options=ext_proc.MetadataOptions(
            forwarding_namespaces=ext_proc.MetadataOptionsMetadataNamespaces(untyped=[filter_name.EXT_AUTHZ])
        ),
        mutation_rules=mutation_rules.HeaderMutationRules(
            disallow_all=True, allow_expression=matcher.RegexMatcher(regex=f"^{SEALED_HEADER}$"), disallow_is_error=True
        ),
        disable_immediate_response=True,
    )


def _ext_authz(settings: GatewaySettings) -> ext_authz.ExtAuthz:
    """Every request whole, or not at all; no answer is a denial."""
    return ext_authz.ExtAuthz(
        grpc_service=core.GrpcService(
            envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=AUTHORIZER_CLUSTER),
            timeout=timedelta(milliseconds=settings.check_timeout_ms),
        ),
        transport_api_version=core.ApiVersion.V3,
        failure_mode_allow=False,
        status_on_error=envoy_type.HttpStatus(code=envoy_type.StatusCode.ServiceUnavailable),
        clear_route_cache=True,
        encode_raw_headers=True,
        include_peer_certificate=True,
        include_tls_session=True,
        with_request_body=ext_authz.BufferSettings(max_request_bytes=USUAL_BODY_BYTES, allow_partial_message=False, pack_as_bytes=True),
        decoder_header_mutation_rules=mutation_rules.HeaderMutationRules(
            allow_envoy=True, disallow_expression=matcher.RegexMatcher(regex=_UNTOUCHABLE), disallow_is_error=True
        ),
    )
