"""What a decision writes down about a request: the facts of Envoy at its start, those of the message once it is read."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping

from extauthz.audit.record import AuditEvent, AuditRecord
from extauthz.check_input import CheckInput
from extauthz.mcp.request import McpRequest
from extauthz.policy.model import ResourceKind
from extauthz.virtual_request import MemberRequest

_SORTED_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)

_SHORTEST_CREDENTIAL = 12


def open_record(check: CheckInput, now_unix: float) -> AuditRecord:
    """A record of what is known before anything is decided; it says "denied" until something else is decided."""
    credential = check.first("authorization").rpartition(" ")[2]
    return AuditRecord(
        decision_id=secrets.token_urlsafe(16),
        at_unix_us=int(now_unix * 1_000_000),
        http_method=check.http_method[:16],
        path=_without(credential, check.path.partition("?")[0])[:500],
        downstream_address=check.downstream_address,
        envoy_request_id=check.envoy_request_id,
        body_bytes=len(check.body),
        user_agent=_without(credential, check.first("user-agent"))[:200],
        trace_id=_trace_id(check.traceparent or check.first("traceparent")),
    )


def _without(credential: str, text: str) -> str:
    """The text, should the caller have written there once more what it shows in the header."""
    return text.replace(credential, "[token]") if len(credential) >= _SHORTEST_CREDENTIAL and credential in text else text


def describe_request(record: AuditRecord, check: CheckInput, request: McpRequest) -> None:
    """Add what the message asks. Arguments are only digested: they may hold anything."""
    record.era = request.era.value
    record.protocol_version = request.protocol_version
    record.method = request.method or (check.http_method if request.message_class is None else request.message_class.value)
    record.request_id_json = "" if request.id_json == "null" else request.id_json
    record.tool = request.tool
    for target in request.targets:
        if target.kind is ResourceKind.PROMPT:
            record.prompt = target.name
        elif target.kind is ResourceKind.MCP_RESOURCE:
            record.mcp_resource_uri = target.name
    if request.has_arguments:
        record.arguments_digest = arguments_digest(request.arguments)
    record.event = _event_of(check, request)


def describe_member(record: AuditRecord, request: McpRequest, member: MemberRequest) -> None:
    """What a request at a virtual server is for: the member's own names, and the one that the client used."""
    record.namespace, _, record.mcp_server = member.mcp_server_id.partition("/")
    record.exposed_name = member.exposed_name
    record.tool = member.request.tool
    for target in member.request.targets:
        if target.kind is ResourceKind.PROMPT:
            record.prompt = target.name
        elif target.kind is ResourceKind.MCP_RESOURCE:
            record.mcp_resource_uri = target.name
    if member.request.arguments is not request.arguments:
        record.arguments_digest = arguments_digest(member.request.arguments)


def arguments_digest(arguments: Mapping[str, object]) -> str:
    """SHA-256 of the arguments as JSON with sorted keys and no white space: equal arguments, equal digest."""
    text = _SORTED_JSON.encode(arguments)
    return "sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()


def _event_of(check: CheckInput, request: McpRequest) -> AuditEvent:
    if request.method == "tools/call":
        return AuditEvent.TOOL_CALL
    if check.http_method == "GET":
        return AuditEvent.MCP_STREAM
    if check.http_method == "DELETE":
        return AuditEvent.MCP_SESSION_END
    return AuditEvent.MCP_MESSAGE


def _trace_id(traceparent: str) -> str:
    """The trace id of a W3C traceparent, or "" when it is not one."""
    parts = traceparent.split("-")
    is_one = len(parts) == 4 and len(parts[1]) == 32 and all(c in "0123456789abcdef" for c in parts[1])
    return parts[1] if is_one else ""
