"""One line of Envoy's log of what it refused by itself, as an audit record (event `edge_rejected`).

The line is what `controlplane.xds.resources.access_log` asks Envoy to write. Strangers chose half of what stands in it, so it is
parsed strictly, every text is bounded, and nothing unprintable survives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from extauthz.audit.envoy_line import line_members
from extauthz.audit.foreign_text import printable
from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord

_TEXTS = {
    "address": 64, "at": 32, "closed": 200, "details": 200, "flags": 64, "method": 32, "path": 500, "protocol": 16, "request": 64,
    "user_agent": 200,
}  # fmt: skip
_NUMBERS = ("bytes", "status")
_AT = re.compile(r"([0-9]{1,12})\.([0-9]{6})", re.ASCII)
_MCP_PATH = re.compile(r"(?:/\.well-known/oauth-protected-resource)?/(servers|virtual)/([-a-z0-9]{1,63})/([-a-z0-9]{1,63})/mcp", re.ASCII)
_API_PATH = re.compile(r"/v1(/.*)?|/healthz|/readyz", re.DOTALL)
_BEYOND_ENVOY = frozenset({"UF", "UH", "UC", "UT", "URX", "UR", "LR", "UO", "NC", "UPE"})

_RESET = "http2.remote_reset"
_CANCELLED = b'"details":"http2.remote_reset","flags":"DR"'
_UNANSWERED = b'"status":0,'
_PERHAPS_THE_API = (b'"path":"/v1', b'"path":"/healthz"', b'"path":"/readyz"')

_BY_FLAG = {"UAEX": "authorizer_unavailable", "RL": "rate_limited", "OM": "gateway_overloaded"}
_BY_PART_OF_DETAILS = {
    "flood": "http_flood",
    "too_many_resets": "http_flood",
    "headers_too_large": "headers_too_large",
    "too_many_headers": "headers_too_large",
    "header_list_size_too_large": "headers_too_large",
    "cookies_total_bytes_too_large": "headers_too_large",
}
_BY_DETAILS = {
    "low_version": "http_version_refused",
    "overload": "gateway_overloaded",
    "request_header_timeout": "request_timeout",
    "request_overall_timeout": "request_timeout",
    "request_payload_too_large": "body_too_large",
    "stream_idle_timeout": "request_timeout",
    "path_normalization_failed": "path_refused",
    "upgrade_failed": "upgrade_refused",
}
_BY_STATUS = {
    400: "http_malformed",
    404: "not_found",
    405: "http_method_refused",
    408: "request_timeout",
    413: "body_too_large",
    415: "content_type_refused",
    426: "http_version_refused",
    429: "rate_limited",
    431: "headers_too_large",
    501: "http_malformed",
    508: "loop_detected",
}
EDGE_REASONS: Mapping[str, str] = {
    "authorizer_unavailable": "No authorizer answered.",
    "body_too_large": "The request body is larger than any server takes.",
    "connect_refused": "The method CONNECT is not served.",
    "content_type_refused": "The content type is one of gRPC.",
    "edge_line_unreadable": "A line of Envoy's log could not be read.",
    "edge_log_gap": "Envoy's log was turned over before it was read to its end.",
    "gateway_error": "Envoy could not handle the request.",
    "gateway_overloaded": "Envoy is short of memory or has too many connections.",
    "headers_too_large": "The headers are too many or too large.",
    "http_flood": "Too many frames or resets came over one HTTP/2 connection.",
    "http_malformed": "The request is not HTTP that can be read in one way only.",
    "http_method_refused": "The HTTP method is not served.",
    "http_version_refused": "The HTTP version is neither 1.1 nor 2.",
    "loop_detected": "The call came back to the gateway that made it.",
    "not_found": "No such path.",
    "path_refused": "The path is not in its one plain form.",
    "rate_limited": "Too many requests reach this gateway.",
    "request_timeout": "The request did not arrive in time.",
    "suppressed": "Refusals by Envoy that have no record of their own.",
    "upgrade_refused": "The connection is not changed to another protocol.",
}
"""Why Envoy refused, and what the record says about it (docs/errors.md, "Edge")."""
_FAILURES = frozenset({"authorizer_unavailable", "edge_line_unreadable", "edge_log_gap", "gateway_error", "gateway_overloaded"})


def is_refusal(line: bytes) -> bool | None:
    """Whether a line is a refusal of the edge, by a glance at it; None when only `parse_edge_line` can tell.

    Members stand in the order of their names, and what strangers wrote cannot hold a quotation mark.
    """
    if _CANCELLED in line and _UNANSWERED in line:  # one that was refused is a refusal, whatever its sender did then
        return False
    return None if any(path in line for path in _PERHAPS_THE_API) else True


def parse_edge_line(line: bytes, *, decision_id: str) -> AuditRecord | None:
    """The record of a line; None when it is no refusal of the edge (the API's own answer, or its absence).

    Raises ValueError for anything but the one JSON object that Envoy was asked for.
    """
    fields = line_members(line, texts=_TEXTS, numbers=_NUMBERS)
    texts = {name: printable(str(fields.get(name) or ""), limit) for name, limit in _TEXTS.items()}
    numbers = {name: int(fields.get(name) or 0) for name in _NUMBERS}
    path = texts["path"].partition("?")[0]
    flags = frozenset(texts["flags"].split(","))
    if _API_PATH.fullmatch(path) and (texts["details"] in {"via_upstream", _RESET} or flags & _BEYOND_ENVOY):
        return None
    reason = _reason(texts, flags, numbers["status"])
    record = edge_record(reason, decision_id=decision_id, at_unix_us=_microseconds(texts["at"]))
    named = _MCP_PATH.fullmatch(path)
    if named is not None:
        record.namespace = named[2]
        if named[1] == "virtual":
            record.virtual_server = f"{named[2]}/{named[3]}"
        else:
            record.mcp_server = named[3]
    if texts["details"]:
        record.sentence += f" Envoy: {texts['details']}"
    record.method = record.http_method = texts["method"]
    record.path = path
    record.http_status = min(max(numbers["status"], 0), 999)
    record.body_bytes = min(max(numbers["bytes"], 0), 2**32 - 1)
    record.downstream_address = texts["address"]
    record.envoy_request_id = texts["request"]
    record.user_agent = texts["user_agent"]
    return record


def edge_record(reason: str, *, decision_id: str, at_unix_us: int) -> AuditRecord:
    """A record of the edge with one of `EDGE_REASONS`."""
    return AuditRecord(
        decision_id=decision_id,
        at_unix_us=at_unix_us,
        event=AuditEvent.EDGE_REJECTED,
        decision=AuditDecision.ERROR if reason in _FAILURES else AuditDecision.DENY,
        reason=reason,
        sentence=EDGE_REASONS[reason],
    )


def _microseconds(at: str) -> int:
    found = _AT.fullmatch(at)
    if found is None:
        raise ValueError("the time is not one")
    return int(found[1]) * 1_000_000 + int(found[2])


def _reason(texts: Mapping[str, str], flags: frozenset[str], status: int) -> str:
    details = texts["details"].partition("{")[0]
    if texts["method"] == "CONNECT":
        return "connect_refused"
    if details == "direct_response" and status == 400:
        return "path_refused"
    for part, reason in _BY_PART_OF_DETAILS.items():
        if part in details:
            return reason
    by_flag = next((reason for flag, reason in _BY_FLAG.items() if flag in flags), "")
    return by_flag or _BY_DETAILS.get(details) or _BY_STATUS.get(status, "http_malformed" if flags & {"DPE", "DR"} else "gateway_error")
