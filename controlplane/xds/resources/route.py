"""RDS: the lanes, the API, and 404. Constant: of the registry only whether some server takes large bodies changes it.

A lane is chosen by `x-legation-lane`, which clients cannot send (early header mutation removes it) and only the authorizer
sets; its answer clears the route cache, so the request is matched again. The route that is matched first, before the
authorizer was asked, decides whether it is asked: by default it is, and only the API's routes and the final 404 say no.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.ext_authz import v3 as ext_authz
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_mutation
from envoy_data_plane.envoy.extensions.filters.http.header_to_metadata import v3 as header_to_metadata
from envoy_data_plane.envoy.extensions.filters.http.stateful_session import v3 as stateful_session
from envoy_data_plane.envoy.extensions.http.stateful_session.envelope import v3 as envelope
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts import v3 as previous_hosts
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from controlplane.xds.gateway import GatewaySettings
from controlplane.xds.resources.cluster import API_CLUSTER, REFUSAL_CLUSTER
from controlplane.xds.resources.filter_name import (
    CUSTOM_RESPONSE,
    EXT_AUTHZ,
    EXT_PROC,
    HEADER_MUTATION,
    HEADER_TO_METADATA,
    STATEFUL_SESSION,
)
from controlplane.xds.resources.local_reply import SESSION_GONE, make_lane_policy
from controlplane.xds.resources.typed import pack
from extauthz.audit.outcome import ANSWER_HEADER, ANSWER_KEY, ANSWER_METADATA
from extauthz.check_input import EGRESS_CONTEXT_HEADER
from extauthz.passage import AFFINITY_HEADER, LANE_AGGREGATE, LANE_DIRECT, LANE_INSPECT, LANE_STREAM
from extauthz.session import SEALED_HEADER, SESSION_HEADER

LANE_HEADER = "x-legation-lane"
GATEWAY_HEADER = "x-legation-gateway"
"""At the API: the Gateway by whose listener a request came; absent at the listener of the settings and of `default`."""
PEER_HEADER = "x-legation-peer"
"""At authorization servers: the address at the other end of the connection, whatever headers say. Behind a balancer: the balancer's."""
CLIENT_CERTIFICATE_HEADER = "x-forwarded-client-cert"
"""What Envoy says of a client's certificate, to authorizers only."""
CLUSTER_HEADER = "x-legation-cluster"

API_PREFIXES = ("/v1/",)
API_PATHS = ("/v1", "/healthz", "/readyz")
ISSUER_PREFIXES = ("/oauth/", "/.well-known/oauth-authorization-server/oauth/", "/.well-known/openid-configuration/oauth/")
"""Authorization servers of ours, and where their metadata is looked for (RFC 8414 section 3.1, section 5)."""
ISSUER_TIMEOUT = timedelta(seconds=30)
API_METADATA_PATH = "/.well-known/oauth-protected-resource/v1"
"""Matched before the prefix that the authorizer is asked about: the metadata of MCP servers is the authorizer's, this is the API's."""
_NOT_PLAIN = (r".*//.*", r".*/\.{1,2}(/.*)?", r".*([;\\]|[^!-~]).*", r"(?i).*%([01]|2[035EF]|3[BF]|5C|7F|[89A-F]).*")
"""Paths that servers read in several ways: empty and dot segments; parameters, backslashes, anything but printable ASCII; escapes of
those and of what has a meaning in a URL."""
MCP_PREFIXES = ("/servers/", "/virtual/")
GOVERNED_PREFIXES = (*MCP_PREFIXES, "/.well-known/oauth-protected-resource/")

_ATTEMPTS_ON_THE_RING = 20
"""A place on the ring is mostly followed by another one of the same aggregator."""

CALL_IDLE = timedelta(minutes=15)
STREAM_IDLE = timedelta(hours=1)
LONGEST_CALL = timedelta(hours=1)
"""As `spec.timeoutMs` at most: a call that is allowed so long may be silent as long."""

LOOP_HEADER = "cdn-loop"
"""RFC 8586. Lanes append this deployment's name; the ingress refuses what carries it already."""

_NOT_FOR_UPSTREAMS = [
    *(LANE_HEADER, CLUSTER_HEADER, "x-legation-decision-id", "x-legation-revision", EGRESS_CONTEXT_HEADER, AFFINITY_HEADER),
    # what is between the client and the gateway
    *("cookie", "cookie2", "dpop", "origin", "proxy-authorization", "referer"),
    *("expect", "forwarded", "te", "trailer", "via", "x-forwarded-for", "x-envoy-external-address", "x-envoy-internal"),
    CLIENT_CERTIFICATE_HEADER,
    # what would have the upstream read another request than the one that was decided about
    *("x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-original-uri", "x-rewrite-url"),
    *("host-override", "http2-settings", "x-host", "x-http-host-override", "x-original-host"),
]
"""A static credential may use none of these names (`registry.spec`), since it would be removed as well."""

_NOT_FOR_CLIENTS = [
    # what is between the gateway and the upstream
    *("authentication-info", "proxy-authenticate", "proxy-authentication-info", "set-cookie", "set-cookie2", "www-authenticate"),
    # what acts on the gateway's whole origin, or leads the client away from it
    *("accept-ch", "alt-svc", "clear-site-data", "critical-ch", "expect-ct", "link", "nel", "public-key-pins"),
    *("public-key-pins-report-only", "refresh", "report-to", "reporting-endpoints", "service-worker-allowed"),
    *("strict-transport-security", "trailer", "via"),
    # what a proxy in front of the gateway obeys: it would send files of its own, ask within its own network, or keep the answer for others
    *("cdn-cache-control", "edge-control", "surrogate-control", "x-accel-charset", "x-accel-expires", "x-accel-limit-rate"),
    *("x-accel-redirect", "x-lighttpd-send-file", "x-lighttpd-send-tempfile", "x-litespeed-cache-control", "x-litespeed-location"),
    *("x-reproxy-file", "x-reproxy-url", "x-send-file", "x-sendfile", "x-sendfile2"),
]
_NOT_FOR_CLIENTS_PREFIXES = ("access-control-", "legation-", "x-envoy-", "x-legation-")


def make_ingress_routes(
    name: str, gateway: GatewaySettings, *, max_body_bytes: int, issuing: bool = False, entered_by: str = ""
) -> route.RouteConfiguration:
    """What a public listener serves. `issuing`: there is an authorization server of ours, which the control plane answers for.

    `entered_by`: the Gateway whose listener it is, unless it is `default`. Authorizers and the API are told, so that the names of one
    Gateway are not served by the listener of another, which may ask less of its clients.
    """
    loop_name = gateway.loop_name
    refused = [*_refused_paths(), *_refused_grpc(), *_refused_loops(loop_name)]
    metadata = _api_route("api-metadata", route.RouteMatch(path=API_METADATA_PATH))
    own = [metadata, *_api_routes(), *(_issuer_routes() if issuing else ())]
    if entered_by:
        for each in own:
            each.request_headers_to_add.append(_overwritten(GATEWAY_HEADER, entered_by))
    routes = [*_lanes(gateway), *_aggregate_lanes(gateway), *refused, metadata, *_governed(), *own[1:], _not_found()]
    context = {"gateway": entered_by, "listener": "ingress"} if entered_by else {"listener": "ingress"}
    return _route_configuration(name, context, routes, max_body_bytes)


def make_egress_routes(name: str, gateway: GatewaySettings, *, max_body_bytes: int, issuing: bool = False) -> route.RouteConfiguration:  # noqa: ARG001
    """What our own processes reach upstreams through: the same lanes and the same authorizer, and nothing else."""
    context = {"listener": "egress"}
    return _route_configuration(name, context, [*_lanes(gateway), *_refused_paths(), *_governed()[:1], _not_found()], max_body_bytes)


def _route_configuration(name: str, context: dict[str, str], routes: list[route.Route], max_body_bytes: int) -> route.RouteConfiguration:
    whole = ext_authz.BufferSettings(max_request_bytes=max_body_bytes, allow_partial_message=False, pack_as_bytes=True)
    asked = ext_authz.ExtAuthzPerRoute(check_settings=ext_authz.CheckSettings(context_extensions=context, with_request_body=whole))
    configs = {EXT_AUTHZ: pack(asked), EXT_PROC: pack(ext_proc.ExtProcPerRoute(disabled=True))}
    virtual_host = route.VirtualHost(name=context["listener"], domains=["*"], routes=routes, typed_per_filter_config=configs)
    return route.RouteConfiguration(name=name, virtual_hosts=[virtual_host])


def _lanes(gateway: GatewaySettings) -> list[route.Route]:
    """A call may take as long as all calls may, or as its server's `timeoutMs` says (the authorizer's header overrules the route).

    A stream has two limits that do not know of each other: the route's for all streams, and the authorizer's header for when its
    caller's access token ends.
    """
    direct, stream, name = _call_action(gateway), _stream_action(gateway), gateway.loop_name
    return [_lane(LANE_DIRECT, direct, name), _lane(LANE_STREAM, stream, name), _inspect_lane(direct, name)]


def _aggregate_lanes(gateway: GatewaySettings) -> list[route.Route]:
    """To an aggregator, for calls and for streams: a stream is known by the head of its request, which was compared with the body.

    The signed context stays, since it is what the aggregator goes on with, and so does the header that the caller's aggregator is
    found by. Sessions are of its own making: their ids pass. It is one of us, so that its refusals (403) reach the client.
    """
    listening = route.HeaderMatcher(name="mcp-method", string_match=matcher.StringMatcher(exact="subscriptions/listen"))
    reading = route.HeaderMatcher(name=":method", string_match=matcher.StringMatcher(exact="GET"))
    calls: list[route.HeaderMatcher] = []
    kinds = (("-get", [reading], _stream_action), ("-listen", [listening], _stream_action), ("", calls, _call_action))
    lanes = []
    for suffix, further, action_of in kinds:
        action = action_of(gateway)
        action.hash_policy = [route.RouteActionHashPolicy(header=route.RouteActionHashPolicyHeader(header_name=AFFINITY_HEADER))]
        if action.retry_policy is not None:
            action.retry_policy.host_selection_retry_max_attempts = _ATTEMPTS_ON_THE_RING
        lane = _lane(LANE_AGGREGATE, action, gateway.loop_name)
        lane.name += suffix
        if lane.match is not None:
            lane.match.headers += further
        lane.request_headers_to_remove = [name for name in _NOT_FOR_UPSTREAMS if name not in {EGRESS_CONTEXT_HEADER, AFFINITY_HEADER}]
        lane.response_headers_to_remove = [*_NOT_FOR_CLIENTS, SEALED_HEADER]
        lane.typed_per_filter_config[CUSTOM_RESPONSE] = pack(make_lane_policy(of_our_own=True))
        lane.typed_per_filter_config[HEADER_TO_METADATA] = pack(_answer_to_metadata())
        del lane.typed_per_filter_config[STATEFUL_SESSION]
        lanes.append(lane)
    return lanes


def _answer_to_metadata() -> header_to_metadata.Config:
    """What an aggregator says of its answer is for the access log. The header goes no further."""
    noted = header_to_metadata.ConfigKeyValuePair(metadata_namespace=ANSWER_METADATA, key=ANSWER_KEY)
    return header_to_metadata.Config(
        response_rules=[header_to_metadata.ConfigRule(header=ANSWER_HEADER, on_header_present=noted, remove=True)]
    )


def _call_action(gateway: GatewaySettings) -> route.RouteAction:
    whole = timedelta(seconds=gateway.max_call_seconds)
    return _lane_action(timeout=whole, idle=LONGEST_CALL, flush=CALL_IDLE, priority=core.RoutingPriority.DEFAULT)


def _stream_action(gateway: GatewaySettings) -> route.RouteAction:
    longest = timedelta(seconds=gateway.max_stream_seconds)
    return _lane_action(timeout=timedelta(0), idle=STREAM_IDLE, priority=core.RoutingPriority.HIGH, duration=longest)


def _lane(name: str, action: route.RouteAction, loop_name: str) -> route.Route:
    chosen = route.HeaderMatcher(name=LANE_HEADER, string_match=matcher.StringMatcher(exact=name))
    return route.Route(
        name=f"lane-{name}",
        match=route.RouteMatch(prefix="/", headers=[chosen]),
        route=action,
        request_headers_to_add=[
            core.HeaderValueOption(
                header=core.HeaderValue(key=LOOP_HEADER, value=loop_name),
                append_action=core.HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD,
            )
        ],
        request_headers_to_remove=_NOT_FOR_UPSTREAMS,
        # a session that an answer names is removed before any filter sees it: only `initialize` opens one
        response_headers_to_remove=[*_NOT_FOR_CLIENTS, SEALED_HEADER, SESSION_HEADER],
        typed_per_filter_config={
            CUSTOM_RESPONSE: pack(make_lane_policy()),
            HEADER_MUTATION: pack(header_mutation.HeaderMutationPerRoute(mutations=_on_answers(_without_prefixes()))),
            STATEFUL_SESSION: pack(_session_of_one_endpoint()),
        },
    )


def _inspect_lane(action: route.RouteAction, loop_name: str) -> route.Route:
    """The answer to `initialize`: its session id reaches the client sealed, or not at all.

    Backwards through the chain: Envoy's envelope around the upstream's id, ext_proc adds the sealed one, the mutation removes the
    former and puts the latter in its place. So whatever becomes of ext_proc, an id that was not sealed does not pass.
    """
    lane = _lane(LANE_INSPECT, action, loop_name)
    lane.response_headers_to_remove = [*_NOT_FOR_CLIENTS, SEALED_HEADER]
    sealed = _overwritten(SESSION_HEADER, f"%RESP({SEALED_HEADER})%")
    replaced = [mutation_rules.HeaderMutation(remove=SESSION_HEADER), mutation_rules.HeaderMutation(append=sealed)]
    mutations = _on_answers([*replaced, *_without_prefixes()])
    lane.typed_per_filter_config[HEADER_MUTATION] = pack(header_mutation.HeaderMutationPerRoute(mutations=mutations))
    lane.typed_per_filter_config[EXT_PROC] = pack(ext_proc.ExtProcPerRoute(overrides=_on_the_answers_head()))
    lane.request_headers_to_add.append(_overwritten("accept-encoding", "identity"))
    return lane


def _overwritten(header: str, value: str) -> core.HeaderValueOption:
    return core.HeaderValueOption(
        header=core.HeaderValue(key=header, value=value),
        append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _on_the_answers_head() -> ext_proc.ExtProcOverrides:
    """Switches ext_proc on: the chain has it, and asks nothing of it."""
    send = ext_proc.ProcessingModeHeaderSendMode
    mode = ext_proc.ProcessingMode(
        request_header_mode=send.SKIP,
        response_header_mode=send.SEND,
        request_trailer_mode=send.SKIP,
        response_trailer_mode=send.SKIP,
    )
    return ext_proc.ExtProcOverrides(processing_mode=mode)


def _session_of_one_endpoint() -> stateful_session.StatefulSessionPerRoute:
    """The id that an endpoint made goes back to that endpoint and to no other; when it is gone, so is the session."""
    state = envelope.EnvelopeSessionState(header=envelope.EnvelopeSessionStateHeader(name=SESSION_HEADER))
    return stateful_session.StatefulSessionPerRoute(
        stateful_session=stateful_session.StatefulSession(
            session_state=core.TypedExtensionConfig(name="envoy.http.stateful_session.envelope", typed_config=pack(state)),
            strict=True,
            status_on_strict_destination_not_found=SESSION_GONE,
        )
    )


def _on_answers(mutations: list[mutation_rules.HeaderMutation]) -> header_mutation.Mutations:
    """Trailers pass in neither direction: nobody judged them, and a server may take them for headers (RFC 9110 section 6.5.1)."""
    anything = matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=".*"))
    none = [mutation_rules.HeaderMutation(remove_on_match=mutation_rules.HeaderMutationRemoveOnMatch(key_matcher=anything))]
    return header_mutation.Mutations(response_mutations=mutations, request_trailers_mutations=none, response_trailers_mutations=none)


def _without_prefixes() -> list[mutation_rules.HeaderMutation]:
    """Acts before ext_authz adds its own to the answer."""
    return [
        mutation_rules.HeaderMutation(
            remove_on_match=mutation_rules.HeaderMutationRemoveOnMatch(key_matcher=matcher.StringMatcher(prefix=prefix, ignore_case=True))
        )
        for prefix in _NOT_FOR_CLIENTS_PREFIXES
    ]


def _lane_action(
    *,
    timeout: timedelta,
    idle: timedelta,
    priority: core.RoutingPriority,
    flush: timedelta | None = None,
    duration: timedelta | None = None,
) -> route.RouteAction:
    """Retries and timeouts are per call: headers that only the authorizer can set. Here only how a retry is done."""
    return route.RouteAction(
        cluster_header=CLUSTER_HEADER,
        timeout=timeout,
        idle_timeout=idle,
        flush_timeout=flush,
        auto_host_rewrite=True,
        priority=priority,
        max_stream_duration=route.RouteActionMaxStreamDuration(max_stream_duration=duration) if duration else None,
        retry_policy=route.RetryPolicy(
            retry_host_predicate=[
                route.RetryPolicyRetryHostPredicate(
                    name="envoy.retry_host_predicates.previous_hosts", typed_config=pack(previous_hosts.PreviousHostsPredicate())
                )
            ],
            host_selection_retry_max_attempts=3,
            retry_back_off=route.RetryPolicyRetryBackOff(
                base_interval=timedelta(milliseconds=25), max_interval=timedelta(milliseconds=250)
            ),
        ),
    )


def _governed() -> list[route.Route]:
    """Asked first, then a lane or this 404: nothing leads to an upstream from here without the authorizer's headers."""
    return [
        route.Route(
            name=f"governed-{number}",
            match=route.RouteMatch(prefix=prefix),
            direct_response=route.DirectResponseAction(status=404, body=core.DataSource(inline_string="not found")),
        )
        for number, prefix in enumerate(GOVERNED_PREFIXES)
    ]


def _refused_paths() -> list[route.Route]:
    """Envoy would otherwise have to choose one of several readings, and whoever stands before or behind it may choose another."""
    unclear = [route.RouteMatch(safe_regex=matcher.RegexMatcher(regex=expression)) for expression in _NOT_PLAIN]
    return [
        route.Route(
            name=f"refused-path-{number}",
            match=match,
            direct_response=route.DirectResponseAction(status=400, body=core.DataSource(inline_string="not a plain path")),
            typed_per_filter_config={EXT_AUTHZ: _not_asked()},
        )
        for number, match in enumerate(unclear)
    ]


def _refused_grpc() -> list[route.Route]:
    """See `listener.make_refusal_listener`: 415, which must not be answered from here."""
    grpc = route.HeaderMatcher(name="content-type", string_match=matcher.StringMatcher(prefix="application/grpc", ignore_case=True))
    return [
        route.Route(
            name=f"refused-grpc-{number}",
            match=route.RouteMatch(prefix=prefix, headers=[grpc]),
            route=route.RouteAction(cluster=REFUSAL_CLUSTER, timeout=timedelta(seconds=5)),
            request_headers_to_remove=["content-type"],
            typed_per_filter_config={EXT_AUTHZ: _not_asked()},
        )
        for number, prefix in enumerate(GOVERNED_PREFIXES)
    ]


def _refused_loops(loop_name: str) -> list[route.Route]:
    """An MCP server whose address leads back to this gateway: every turn would be a call with credentials of its own."""
    passed = route.HeaderMatcher(name=LOOP_HEADER, string_match=matcher.StringMatcher(contains=loop_name, ignore_case=True))
    return [
        route.Route(
            name=f"refused-loop-{number}",
            match=route.RouteMatch(prefix=prefix, headers=[passed]),
            direct_response=route.DirectResponseAction(status=508, body=core.DataSource(inline_string="loop detected")),
            typed_per_filter_config={EXT_AUTHZ: _not_asked()},
        )
        for number, prefix in enumerate(MCP_PREFIXES)
    ]


def _api_routes() -> list[route.Route]:
    matches = [route.RouteMatch(prefix=prefix) for prefix in API_PREFIXES] + [route.RouteMatch(path=path) for path in API_PATHS]
    return [_api_route(f"api-{number}", match) for number, match in enumerate(matches)]


def _issuer_routes() -> list[route.Route]:
    """Nobody has a token yet who comes here, so that no authorizer is asked; and nothing here takes long."""
    routes = [
        _api_route(f"issuer-{number}", route.RouteMatch(prefix=prefix), timeout=ISSUER_TIMEOUT)
        for number, prefix in enumerate(ISSUER_PREFIXES)
    ]
    for each in routes:
        each.request_headers_to_add.append(_overwritten(PEER_HEADER, "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"))
    return routes


def _api_route(name: str, match: route.RouteMatch, *, timeout: timedelta = timedelta(0)) -> route.Route:
    return route.Route(
        name=name,
        match=match,
        route=route.RouteAction(cluster=API_CLUSTER, timeout=timeout, idle_timeout=CALL_IDLE),
        request_headers_to_remove=[CLIENT_CERTIFICATE_HEADER],
        typed_per_filter_config={EXT_AUTHZ: _not_asked()},
    )


def _not_found() -> route.Route:
    return route.Route(
        name="not-found",
        match=route.RouteMatch(prefix="/"),
        direct_response=route.DirectResponseAction(status=404, body=core.DataSource(inline_string="not found")),
        typed_per_filter_config={EXT_AUTHZ: _not_asked()},
    )


def _not_asked() -> Any:
    return pack(ext_authz.ExtAuthzPerRoute(disabled=True))
