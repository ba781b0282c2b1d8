"""What Envoy writes down by itself: requests that it answered without the authorizer, one line of JSON each.

Such a request never reaches a Check, so nobody else could record it. The lines go to a file on Envoy's host; the authorizer
beside it (`extauthz.audit.edge_reader`) makes an `edge_rejected` event of each. No header that could hold a secret stands in
a line, and of the path only what is before the query.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.access_loggers.file import v3 as file_log
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Struct

from controlplane.xds.resources.filter_name import EXT_AUTHZ
from controlplane.xds.resources.typed import pack

_FILE_LOG = "envoy.access_loggers.file"
_FIELDS = {
    "address": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    "at": "%START_TIME(%s.%6f)%",
    "bytes": "%BYTES_RECEIVED%",
    "closed": "%CONNECTION_TERMINATION_DETAILS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "method": "%REQ(:METHOD):32%",
    "path": "%PATH(NQ:ORIG_OR_PATH):500%",
    "protocol": "%PROTOCOL%",
    "request": "%REQ(X-REQUEST-ID):64%",
    "status": "%RESPONSE_CODE%",
    "user_agent": "%REQ(USER-AGENT):200%",
}
"""Members of a line; `extauthz.audit.edge_line` reads exactly these."""

_OF_THE_EDGE = ("DPE", "RL", "OM", "IH", "DR")
"""Response flags of refusals without a status of their own: protocol error, rate limit, overload, a malformed x-envoy header, a
reset stream. With the last come requests that clients cancel before anybody answers; the reader leaves them out."""


def make_edge_log(file: str) -> list[accesslog.AccessLog]:
    """The access log of a listener, or none when no file is configured.

    A line is written when the authorizer said nothing and the request failed. Failures of the API are among them; the reader
    leaves those out that the API itself answered.
    """
    if not file:
        return []
    at_the_edge = accesslog.AccessLogFilter(response_flag_filter=accesslog.ResponseFlagFilter(flags=list(_OF_THE_EDGE)))
    failed = _any(at_the_edge, _status_at_least(400))
    return [
        accesslog.AccessLog(
            name=_FILE_LOG,
            filter=_all(_never_decided(), failed),
            typed_config=pack(
                file_log.FileAccessLog(
                    path=file,
                    log_format=core.SubstitutionFormatString(json_format=Struct.from_dict(dict(_FIELDS))),
                )
            ),
        )
    ]


def _never_decided() -> accesslog.AccessLogFilter:
    """No verdict: the value matches none, its absence does."""
    verdict = matcher.MetadataMatcher(
        filter=EXT_AUTHZ,
        path=[matcher.MetadataMatcherPathSegment(key="verdict")],
        value=matcher.ValueMatcher(null_match=matcher.ValueMatcherNullMatch()),
    )
    return accesslog.AccessLogFilter(metadata_filter=accesslog.MetadataFilter(matcher=verdict, match_if_key_not_found=True))


def _status_at_least(status: int) -> accesslog.AccessLogFilter:
    comparison = accesslog.ComparisonFilter(
        op=accesslog.ComparisonFilterOp.GE, value=core.RuntimeUInt32(default_value=status, runtime_key="legation.edge_log.status")
    )
    return accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(comparison=comparison))


def _all(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=list(filters)))


def _any(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=list(filters)))
