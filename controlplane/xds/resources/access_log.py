"""What Envoy writes down by itself: requests that it answered without the authorizer, and how those ended that were passed on.

The former never reach a Check, so nobody else could record them. They go to a file on Envoy's host, one line of JSON each; the
authorizer beside it (`extauthz.audit.edge_reader`) makes an `edge_rejected` event of each. No header that could hold a secret
stands in a line, and of the path only what is before the query.

The latter are told to an authorizer over gRPC when they have ended, or written to a file beside the first one, or both; they become
`outcome` events (`extauthz.audit.outcome`). Envoy keeps no entry until somebody has it: what is lost on the way is found by the
control plane (`controlplane.audit.reconciler`).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.access_loggers.file import v3 as file_log
from envoy_data_plane.envoy.extensions.access_loggers.grpc import v3 as grpc_log
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Struct

from controlplane.xds.gateway import GatewaySettings
from controlplane.xds.resources.cluster import PROCESSOR_CLUSTER
from controlplane.xds.resources.filter_name import EXT_AUTHZ
from controlplane.xds.resources.typed import pack
from extauthz.audit.outcome import ANSWER_KEY, ANSWER_METADATA, outcome_log_beside

_FILE_LOG = "envoy.access_loggers.file"
_GRPC_LOG = "envoy.access_loggers.http_grpc"
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


_OUTCOME_FIELDS = {
    "address": "%UPSTREAM_REMOTE_ADDRESS%",
    "answer": f"%DYNAMIC_METADATA({ANSWER_METADATA}:{ANSWER_KEY})%",
    "at": "%START_TIME(%s.%6f)%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "decision": f"%DYNAMIC_METADATA({EXT_AUTHZ}:decision_id)%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "first": "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%",
    "flags": "%RESPONSE_FLAGS%",
    "namespace": f"%DYNAMIC_METADATA({EXT_AUTHZ}:namespace)%",
    "received": "%BYTES_RECEIVED%",
    "revision": f"%DYNAMIC_METADATA({EXT_AUTHZ}:revision)%",
    "sent": "%BYTES_SENT%",
    "server": f"%DYNAMIC_METADATA({EXT_AUTHZ}:mcp_server)%",
    "status": "%RESPONSE_CODE%",
    "virtual": f"%DYNAMIC_METADATA({EXT_AUTHZ}:virtual_server)%",
    "whole": "%DURATION%",
}
"""Members of a line; `extauthz.audit.outcome_line` reads exactly these."""

_FLUSH = timedelta(milliseconds=200)
"""What an Envoy that is killed has not told anybody is no more than so old."""
_FLUSH_BYTES = 64 * 1024


def make_access_logs(settings: GatewaySettings) -> list[accesslog.AccessLog]:
    """The access logs of a listener."""
    return [*make_edge_log(settings.edge_log), *make_outcome_logs(settings)]


def make_outcome_logs(settings: GatewaySettings) -> list[accesslog.AccessLog]:
    """How requests ended that an authorizer let pass; `settings.outcome_log` says where that is told."""
    logs = []
    if settings.outcome_log in {"grpc", "both"}:
        common = grpc_log.CommonGrpcAccessLogConfig(
            log_name="legation-outcome",
            grpc_service=core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=PROCESSOR_CLUSTER)),
            transport_api_version=core.ApiVersion.V3,
            buffer_flush_interval=_FLUSH,
            buffer_size_bytes=_FLUSH_BYTES,
        )
        config = pack(grpc_log.HttpGrpcAccessLogConfig(common_config=common))
        logs.append(accesslog.AccessLog(name=_GRPC_LOG, filter=_was_allowed(), typed_config=config))
    if settings.outcome_log in {"file", "both"}:
        file = file_log.FileAccessLog(
            path=str(outcome_log_beside(Path(settings.edge_log))),
            log_format=core.SubstitutionFormatString(json_format=Struct.from_dict(dict(_OUTCOME_FIELDS))),
        )
        logs.append(accesslog.AccessLog(name=_FILE_LOG, filter=_was_allowed(), typed_config=pack(file)))
    return logs


def make_edge_log(file: str) -> list[accesslog.AccessLog]:
    """The access log of what Envoy refuses by itself, or none when no file is configured.

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


def _was_allowed() -> accesslog.AccessLogFilter:
    """A refusal of the authorizer needs no outcome: its record has the status already."""
    verdict = matcher.MetadataMatcher(
        filter=EXT_AUTHZ,
        path=[matcher.MetadataMatcherPathSegment(key="verdict")],
        value=matcher.ValueMatcher(string_match=matcher.StringMatcher(exact="allow")),
    )
    return accesslog.AccessLogFilter(metadata_filter=accesslog.MetadataFilter(matcher=verdict, match_if_key_not_found=False))


def _status_at_least(status: int) -> accesslog.AccessLogFilter:
    comparison = accesslog.ComparisonFilter(
        op=accesslog.ComparisonFilterOp.GE, value=core.RuntimeUInt32(default_value=status, runtime_key="legation.edge_log.status")
    )
    return accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(comparison=comparison))


def _all(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=list(filters)))


def _any(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=list(filters)))
