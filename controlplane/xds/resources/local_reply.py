"""What clients read when Envoy answers by itself: JSON-RPC errors where MCP is spoken, problems (RFC 9457) elsewhere.

The authorizer's own denials are local replies too and must pass untouched: it always sets the dynamic metadata `verdict`,
and everything here applies only when that is `allow` (something went wrong later) or absent (it was never asked, or failed).
After an allow `:path` is the upstream's, so the path tells MCP from the rest only while the verdict is absent.
"""

from __future__ import annotations

from dataclasses import dataclass

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.custom_response import v3 as custom_response
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.custom_response.local_response_policy import v3 as local_response
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Struct
from envoy_data_plane.xds.core import v3 as xds_core
from envoy_data_plane.xds.type.matcher import v3 as xds_matcher

from controlplane.xds.resources.filter_name import EXT_AUTHZ
from controlplane.xds.resources.typed import pack
from extauthz.passage import AFFINITY_HEADER

_MCP_PATH = r"/*(servers/|virtual/|\.well-known/oauth-protected-resource/(servers|virtual)/).*"
"""Where MCP is spoken, and where it was meant to be."""
UPSTREAM_REDIRECTED = 530
"""Between the lane's policy and the mapper of its words only; no client sees it."""
UPSTREAM_SWITCHED = 532
"""The same, for an upstream that changes to another protocol."""
SESSION_GONE = 531
"""The endpoint of a legacy session is no more: from the session filter to the mapper of its words."""
SESSION_NOT_SEALED = envoy_type.StatusCode.InsufficientStorage
"""A legacy session could not be sealed: from ext_proc to the mapper of its words. A status that nobody else of Envoy uses."""
_REDIRECTS = (300, 301, 302, 303, 305, 307, 308)

_RETRY_LATER = (429, 503)
_RETRY_AFTER_SECONDS = "1"

_OP = accesslog.ComparisonFilterOp


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalError:
    """One of Envoy's own errors as MCP clients see it. `flags` are Envoy's response flags, else `status` selects it."""

    code: int
    reason: str
    message: str
    flags: tuple[str, ...] = ()
    status: int = 0
    answered_status: int | None = None
    aggregate: bool = False  # on the lane to an aggregator only
    retryable: bool | None = None  # whether the same call may be sent again without harm, where that is told


LOCAL_ERRORS = (
    LocalError(
        code=50300, reason="authorizer_unavailable", message="The gateway cannot decide about this call right now.", flags=("UAEX",)
    ),
    LocalError(
        code=40401,
        reason="session_unknown",
        message="This session is unknown here or has ended. Start a new one with initialize.",
        status=SESSION_GONE,
        answered_status=404,
    ),
    LocalError(
        code=50306,
        reason="aggregator_unavailable",
        message="The part of the gateway that answers this cannot be reached. Nothing was done; try again.",
        flags=("UF", "UH", "UO", "NC", "URX"),
        answered_status=503,
        aggregate=True,
        retryable=True,
    ),
    LocalError(
        code=50208,
        reason="aggregator_lost",
        message="The part of the gateway that was handling this call has ended. The call may have been made, or not.",
        flags=("UC", "UR", "LR", "UPE", "DF"),
        answered_status=502,
        aggregate=True,
        retryable=False,
    ),
    LocalError(
        code=50400, reason="upstream_timeout", message="The MCP server did not answer in time.", flags=("UT", "DT"), answered_status=504
    ),
    LocalError(code=50303, reason="upstream_overloaded", message="Too many calls to this MCP server are under way.", flags=("UO",)),
    LocalError(code=50302, reason="upstream_not_ready", message="The gateway is not ready to reach this MCP server.", flags=("NC",)),
    LocalError(
        code=50200,
        reason="upstream_unreachable",
        message="The MCP server cannot be reached, or closed the connection.",
        flags=("UF", "UH", "UC", "URX", "UR", "LR", "UPE", "DF"),
        answered_status=502,
    ),
    LocalError(code=50200, reason="upstream_credential_refused", message="The MCP server refused the gateway's credential.", status=502),
    LocalError(
        code=50203,
        reason="upstream_redirected",
        message="The MCP server answered with a redirect, which the gateway does not follow.",
        status=UPSTREAM_REDIRECTED,
        answered_status=502,
    ),
    LocalError(
        code=50204,
        reason="upstream_switched",
        message="The MCP server answered by changing to another protocol, which nobody asked for.",
        status=UPSTREAM_SWITCHED,
        answered_status=502,
    ),
    LocalError(
        code=50305,
        reason="session_unavailable",
        message="The MCP server opened a session that the gateway could not make safe.",
        status=int(SESSION_NOT_SEALED),
        answered_status=503,
    ),
    LocalError(
        code=50305,
        reason="session_unavailable",
        message="The MCP server opened a session that the gateway could not make safe in time.",
        status=504,  # ext_proc's own for a late answer; an upstream's lateness has a flag
        answered_status=503,
    ),
    LocalError(code=50304, reason="gateway_overloaded", message="The gateway can take no more requests right now.", status=503),
    LocalError(code=50800, reason="loop_detected", message="This call came back to the gateway that made it.", status=508),
    LocalError(code=-32600, reason="content_type_refused", message="The content type is not one of MCP.", status=415),
    LocalError(code=42900, reason="rate_limited", message="Too many requests reach this gateway.", status=429),
    LocalError(code=41300, reason="body_too_large", message="The request is too large.", status=413),
    LocalError(code=40800, reason="request_timeout", message="The request did not arrive in time.", status=408),
    LocalError(code=40400, reason="not_found", message="Not found.", status=404),
    LocalError(code=43100, reason="headers_too_large", message="The headers of the request are too many or too large.", status=431),
    LocalError(code=-32600, reason="upgrade_refused", message="This connection is not changed to another protocol.", status=403),
    LocalError(code=-32600, reason="http_version_refused", message="HTTP/1.1 or HTTP/2 is needed.", status=426),
    LocalError(code=-32600, reason="http_malformed", message="The request, or its path, can be read in more than one way.", status=400),
    LocalError(code=-32600, reason="http_malformed", message="The transfer coding of the request is not one of ours.", status=501),
)
"""Tried in this order; what none of them fits is -32603 with Envoy's own words."""


_API_PATH = r"(/v1|/v1/.*|/healthz|/readyz)(\?.*)?"
_TITLES = {
    404: "There is nothing here.",
    429: "Too many requests reach this gateway.",
    503: "The gateway can answer nothing here right now.",
    0: "The gateway does not serve this request.",
}
"""What people read where no MCP is spoken, by status; 0 stands for all others."""


def make_local_replies() -> hcm.LocalReplyConfig:
    """The mappers of a listener; the first that fits is used."""
    mappers = [_mapper(error) for error in LOCAL_ERRORS]
    unknown = _json_rpc(code=-32603, reason="gateway_error", message="The gateway could not handle this request.")
    mappers.append(hcm.ResponseMapper(filter=_mcp_error(), body_format_override=unknown))
    mappers.extend(_elsewhere())
    return hcm.LocalReplyConfig(mappers=mappers)


def _elsewhere() -> list[hcm.ResponseMapper]:
    """Where no MCP is spoken: a sentence for people, a problem for programs that ask for JSON and on the API's paths."""
    for_programs = _any(_header(":path", safe_regex=_API_PATH), _header("accept", safe_regex=".*json.*"))
    mappers: list[hcm.ResponseMapper] = []
    for status, title in _TITLES.items():
        chosen = _all(_verdict(missing=True), _status(_OP.EQ if status else _OP.GE, status or 400))
        headers = _retry_later() if status in _RETRY_LATER else []
        told = core.SubstitutionFormatString(
            text_format_source=core.DataSource(inline_string=f"{title} MCP servers are at /servers/NAMESPACE/NAME/mcp.\n"),
            content_type="text/plain; charset=utf-8",
        )
        mappers.append(hcm.ResponseMapper(filter=_all(chosen, for_programs), body_format_override=_problem(title), headers_to_add=headers))
        mappers.append(hcm.ResponseMapper(filter=chosen, body_format_override=told, headers_to_add=headers))
    return mappers


def make_lane_policy(*, of_our_own: bool = False) -> custom_response.CustomResponse:
    """On lanes: what an upstream says to the gateway and not to its caller becomes a 502.

    Its 401 or 403 is about the gateway's credential. Its redirect would have the caller's client send the call, and the token
    that is meant for the gateway, somewhere else. Its 101 would have the client, or a proxy before us, read what follows as another
    protocol, and breaks an HTTP/2 connection with all that is on it. The mappers above see the status that is set here (Envoy's own
    errors with a flag come first) and give it its words. `of_our_own`: the upstream is an aggregator, which refuses in our name.
    """
    refused, redirected = _becomes("refused-credential", 502), _becomes("redirected", UPSTREAM_REDIRECTED)
    switched = _becomes("switched", UPSTREAM_SWITCHED)
    actions = {str(status): redirected for status in _REDIRECTS} | {"101": switched}
    if not of_our_own:
        actions |= {"401": refused, "403": refused}
    by_status = xds_matcher.MatcherMatcherTree(
        input=xds_core.TypedExtensionConfig(name="status", typed_config=pack(matcher.HttpResponseStatusCodeMatchInput())),
        exact_match_map=xds_matcher.MatcherMatcherTreeMatchMap(map=dict(sorted(actions.items()))),
    )
    return custom_response.CustomResponse(custom_response_matcher=xds_matcher.Matcher(matcher_tree=by_status))


def _becomes(name: str, status: int) -> xds_matcher.MatcherOnMatch:
    policy = local_response.LocalResponsePolicy(status_code=status)
    return xds_matcher.MatcherOnMatch(action=xds_core.TypedExtensionConfig(name=name, typed_config=pack(policy)))


def _mapper(error: LocalError) -> hcm.ResponseMapper:
    if error.flags:
        selected = accesslog.AccessLogFilter(response_flag_filter=accesslog.ResponseFlagFilter(flags=list(error.flags)))
    else:
        selected = _status(_OP.EQ, error.status)
    aggregated = [_header(AFFINITY_HEADER)] if error.aggregate else []
    return hcm.ResponseMapper(
        filter=_all(selected, _mcp_error(), *aggregated),
        status_code=error.answered_status,
        headers_to_add=_retry_later() if _told_status(error) in _RETRY_LATER else [],
        body_format_override=_json_rpc(code=error.code, reason=error.reason, message=error.message, retryable=error.retryable),
    )


def _told_status(error: LocalError) -> int:
    """The status that clients see; errors with a flag and no status of their own are 503 of Envoy."""
    return error.answered_status or error.status or 503


def _retry_later() -> list[core.HeaderValueOption]:
    header = core.HeaderValue(key="retry-after", value=_RETRY_AFTER_SECONDS)
    return [core.HeaderValueOption(header=header, append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD)]


def _mcp_error() -> accesslog.AccessLogFilter:
    """An error after the authorizer allowed, or before it could answer where MCP is spoken.

    A request of which not even the path could be read is answered as MCP: that is what most callers speak.
    """
    spoken = _any(_header(":path", safe_regex=_MCP_PATH), _header(":path", absent=True))
    never_decided = _all(_verdict(missing=True), spoken)
    return accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=[_verdict(missing=False), never_decided]))


def _verdict(*, missing: bool) -> accesslog.AccessLogFilter:
    """Verdict `allow`; with `missing`, also no verdict at all. A denial never passes."""
    allowed = matcher.MetadataMatcher(
        filter=EXT_AUTHZ,
        path=[matcher.MetadataMatcherPathSegment(key="verdict")],
        value=matcher.ValueMatcher(string_match=matcher.StringMatcher(exact="allow")),
    )
    return accesslog.AccessLogFilter(metadata_filter=accesslog.MetadataFilter(matcher=allowed, match_if_key_not_found=missing))


def _header(name: str, *, safe_regex: str = "", absent: bool = False) -> accesslog.AccessLogFilter:
    if absent or not safe_regex:
        header = route.HeaderMatcher(name=name, present_match=True, invert_match=absent)
    else:
        expression = matcher.RegexMatcher(regex=safe_regex)
        header = route.HeaderMatcher(name=name, string_match=matcher.StringMatcher(safe_regex=expression))
    return accesslog.AccessLogFilter(header_filter=accesslog.HeaderFilter(header=header))


def _any(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=list(filters)))


def _all(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=list(filters)))


def _status(op: accesslog.ComparisonFilterOp, status: int) -> accesslog.AccessLogFilter:
    value = core.RuntimeUInt32(default_value=status, runtime_key="legation.local_reply.status")
    return accesslog.AccessLogFilter(
        status_code_filter=accesslog.StatusCodeFilter(comparison=accesslog.ComparisonFilter(op=op, value=value))
    )


def _json_rpc(*, code: int, reason: str, message: str, retryable: bool | None = None) -> core.SubstitutionFormatString:
    data: dict[str, object] = {"reason": reason} if retryable is None else {"reason": reason, "retryable": retryable}
    body: dict[str, object] = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message, "data": data}}
    return core.SubstitutionFormatString(json_format=Struct.from_dict(body), content_type="application/json")


def _problem(title: str) -> core.SubstitutionFormatString:
    """RFC 9457. Envoy's own words stay inside: they name addresses."""
    body: dict[str, object] = {"type": "about:blank", "title": title, "status": "%RESPONSE_CODE%"}
    return core.SubstitutionFormatString(json_format=Struct.from_dict(body), content_type="application/problem+json")
