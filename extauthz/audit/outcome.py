"""How a request ended that was passed on, as an audit record (event `outcome`) beside that of its decision.

Envoy says it when the last byte has gone, or nobody is there any more: over gRPC (`extauthz.outcome_service`), in a file
(`extauthz.audit.outcome_line`), or both. The record has the id of the decision; a reader of both finds one by the other. What the
answer meant is known where a process of ours has seen it: an aggregator says so in a header that Envoy notes and takes away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from extauthz.audit.foreign_text import printable
from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord
from extauthz.v1 import audit_pb2 as pb
from extauthz.wire import accesslog_pb2 as wire
from extauthz.wire import common_pb2

ANSWER_HEADER = "x-legation-outcome"
"""Of an aggregator's answer, for Envoy only: what `answer_outcome` says."""
ANSWER_METADATA, ANSWER_KEY = "legation.answer", "outcome"
"""Where Envoy notes it."""

DECISION_METADATA = "envoy.filters.http.ext_authz"

OUTCOME_REASONS: Mapping[str, str] = {
    "answered_with_error": "The answer has an HTTP status of failure.",
    "client_gone": "The client went away before the end.",
    "completed": "The answer was passed on whole.",
    "outcome_missing": "Nobody said in time how it ended.",
    "time_limit": "The call or stream reached its time limit.",
    "upstream_failed": "The MCP server broke its answer off.",
    "upstream_unreachable": "The MCP server could not be reached, or takes no more calls.",
}
"""How requests end (docs/errors.md, "Outcomes"); a JSON-RPC error and a tool's error are completed answers."""

_FLAGS = (
    ("failed_local_healthcheck", "LH"), ("no_healthy_upstream", "UH"), ("upstream_request_timeout", "UT"), ("local_reset", "LR"),
    ("upstream_remote_reset", "UR"), ("upstream_connection_failure", "UF"), ("upstream_connection_termination", "UC"),
    ("upstream_overflow", "UO"), ("no_route_found", "NR"), ("delay_injected", "DI"), ("fault_injected", "FI"), ("rate_limited", "RL"),
    ("rate_limit_service_error", "RLSE"), ("downstream_connection_termination", "DC"), ("upstream_retry_limit_exceeded", "URX"),
    ("stream_idle_timeout", "SI"), ("invalid_envoy_request_headers", "IH"), ("downstream_protocol_error", "DPE"),
    ("upstream_max_stream_duration_reached", "UMSDR"), ("response_from_cache_filter", "RFCF"), ("no_filter_config_found", "NFCF"),
    ("duration_timeout", "DT"), ("upstream_protocol_error", "UPE"), ("no_cluster_found", "NC"), ("overload_manager", "OM"),
    ("dns_resolution_failure", "DF"), ("downstream_remote_reset", "DR"),
)  # fmt: skip
"""Envoy's flags by the names that its text logs use."""
_TIME_LIMIT = frozenset({"UT", "SI", "DT", "UMSDR"})
_CLIENT_GONE = frozenset({"DC", "DR", "DPE"})
_UNREACHABLE = frozenset({"UF", "UH", "UO", "NC", "NR", "DF", "LH"})

_DECISION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_ANSWER = re.compile(r"result|tool_error|error=(-?[0-9]{1,15})", re.ASCII)
_MAX_NUMBER = 2**63 - 1


def outcome_log_beside(edge_log: Path) -> Path:
    """The file in which Envoy writes outcomes, where it writes what it refused by itself into `edge_log`."""
    return edge_log.with_name("outcome.jsonl")


def answer_outcome(*, error_code: int | None = None, tool_error: bool = False) -> str:
    """The value of `ANSWER_HEADER`. A code that no JSON-RPC library would take is told as 0: servers choose them."""
    if error_code is not None:
        return f"error={error_code if abs(error_code) < 10**15 else 0}"
    return "tool_error" if tool_error else "result"


def outcome_of_entry(entry: wire.HTTPAccessLogEntry) -> AuditRecord | None:
    """The record of an entry of Envoy's gRPC access log; None for one that is not of an allowed request's end.

    Raises ValueError for what our Envoys do not send.
    """
    common, response = entry.common_properties, entry.response
    metadata = common.metadata.filter_metadata
    if common.intermediate_log_entry or DECISION_METADATA not in metadata:
        return None
    decided = metadata[DECISION_METADATA].fields  # an absent member reads as an empty one
    if decided["verdict"].string_value != "allow":
        return None
    duration = _microseconds(common.time_to_last_downstream_tx_byte) or _microseconds(common.duration)
    started = common.start_time
    answer = metadata[ANSWER_METADATA].fields[ANSWER_KEY].string_value if ANSWER_METADATA in metadata else ""
    outcome = pb.AuditOutcome(
        http_status=_status(response.response_code.value),
        upstream_address=printable(_address(common.upstream_remote_address), 100),
        request_bytes=_number(entry.request.request_body_bytes),
        response_bytes=_number(response.response_body_bytes),
        duration_us=duration,
        first_byte_us=_microseconds(common.time_to_first_upstream_rx_byte),
        response_flags=_short(common.response_flags) if common.HasField("response_flags") else "",
        response_code_details=printable(response.response_code_details, 200),
        upstream_failure=printable(common.upstream_transport_failure_reason, 200),
        upstream_attempts=common.upstream_request_attempt_count,
        cluster=printable(common.upstream_cluster, 200),
        source="grpc",
    )
    return outcome_record(
        decided["decision_id"].string_value,
        outcome,
        ended_at_unix_us=started.seconds * 1_000_000 + started.nanos // 1000 + duration,
        answer=answer,
        revision=decided["revision"].string_value,
        namespace=decided["namespace"].string_value,
        mcp_server=decided["mcp_server"].string_value,
        virtual_server=decided["virtual_server"].string_value,
    )


def outcome_record(
    decision_id: str,
    outcome: pb.AuditOutcome,
    *,
    ended_at_unix_us: int,
    answer: str = "",
    revision: str = "",
    namespace: str = "",
    mcp_server: str = "",
    virtual_server: str = "",
) -> AuditRecord:
    """The record of an outcome; names are those of its decision. `answer`: of `ANSWER_HEADER`. Raises ValueError for what cannot be."""
    if not _DECISION_ID.fullmatch(decision_id):
        raise ValueError("an outcome must name its decision")
    if not 0 < ended_at_unix_us <= _MAX_NUMBER:
        raise ValueError("an outcome must say when it came about")
    if answer:
        told = _ANSWER.fullmatch(answer)
        if told is None:
            raise ValueError("what an answer meant is told in another form")
        outcome.rpc_error_code, outcome.tool_error = told[1] or "", answer == "tool_error"
    return AuditRecord(
        decision_id=decision_id,
        at_unix_us=ended_at_unix_us,
        event=AuditEvent.OUTCOME,
        decision=AuditDecision.ALLOW,
        reason=_reason(outcome),
        revision=int(revision) if revision.isascii() and revision.isdecimal() and len(revision) < 19 else 0,
        namespace=printable(namespace, 63),
        mcp_server=printable(mcp_server, 63),
        virtual_server=printable(virtual_server, 127),
        outcome=outcome,
    )


def _reason(outcome: pb.AuditOutcome) -> str:
    if not outcome.response_flags:
        return "completed" if 200 <= outcome.http_status < 400 else "answered_with_error"
    flags = frozenset(outcome.response_flags.split(","))
    for some, reason in ((_TIME_LIMIT, "time_limit"), (_CLIENT_GONE, "client_gone"), (_UNREACHABLE, "upstream_unreachable")):
        if flags & some:
            return reason
    return "upstream_failed"


def _short(flags: wire.ResponseFlags) -> str:
    return ",".join([short for name, short in _FLAGS if getattr(flags, name)])


def _status(status: int) -> int:
    return status if 0 <= status <= 999 else 0


def _number(number: int) -> int:
    return min(number, _MAX_NUMBER)


def _microseconds(duration: Duration) -> int:
    microseconds = duration.seconds * 1_000_000 + duration.nanos // 1000
    return microseconds if 0 <= microseconds <= _MAX_NUMBER else 0


def _address(address: common_pb2.Address) -> str:
    socket = address.socket_address
    host = socket.address
    if not host:
        return address.pipe.path
    return f"[{host}]:{socket.port_value}" if ":" in host else f"{host}:{socket.port_value}"
