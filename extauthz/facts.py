"""What a decision writes down about a request: the facts of Envoy at its start, those of the message once it is read."""

from __future__ import annotations

from extauthz.audit.keeping import kept_content, replayed_arguments
from extauthz.audit.record import AuditEvent, AuditRecord, Replay
from extauthz.catalog.audit_policy import AuditMode, policy_for
from extauthz.check_input import CheckInput
from extauthz.decision_id import new_decision_id
from extauthz.mcp.request import McpRequest
from extauthz.policy.model import Caller, ResourceKind
from extauthz.state import AuthorizationState
from extauthz.virtual_request import MemberRequest

_SHORTEST_CREDENTIAL = 12


def open_record(check: CheckInput, now_unix: float) -> AuditRecord:
    """A record of what is known before anything is decided; it says "denied" until something else is decided."""
    credential = check.first("authorization").rpartition(" ")[2]
    at_unix_us = int(now_unix * 1_000_000)
    return AuditRecord(
        decision_id=new_decision_id(at_unix_us),
        at_unix_us=at_unix_us,
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
    """Add what the message asks, but for its arguments."""
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
    record.event = _event_of(check, request)


def describe_member(record: AuditRecord, member: MemberRequest) -> None:
    """What a request at a virtual server is for: the member's own names, and the one that the client used."""
    record.namespace, _, record.mcp_server = member.mcp_server_id.partition("/")
    record.exposed_name = member.exposed_name
    record.tool = member.request.tool
    for target in member.request.targets:
        if target.kind is ResourceKind.PROMPT:
            record.prompt = target.name
        elif target.kind is ResourceKind.MCP_RESOURCE:
            record.mcp_resource_uri = target.name


def require_record(record: AuditRecord, state: AuthorizationState, namespace: str) -> None:
    """Whether there is a call without a record: not when one namespace that it is about says that there is none."""
    record.needed = record.needed or policy_for(state, namespace).mode is AuditMode.STRICT


def describe_content(record: AuditRecord, state: AuthorizationState, request: McpRequest, caller: Caller | None) -> None:
    """Add what is kept of the arguments that were decided about, and what policies read of the request (`caller` None: they were not
    asked). All else about the request must stand there already."""
    name = record.tool or record.prompt
    treatment = policy_for(state, record.namespace).argument_rules.treatment(f"{record.namespace}/{record.mcp_server}", name)
    sent = request.has_arguments or bool(request.arguments)
    if sent:
        kept = kept_content(request.arguments, treatment)
        record.arguments_json, record.arguments_digest, record.arguments_kept = kept.json, kept.digest, kept.kept
    if caller is None:
        return
    replayed: tuple[str, tuple[str, ...]] = "", ()
    if sent and record.tool:
        tool = record.server.tools.get(record.tool) if record.server is not None else None
        replayed = replayed_arguments(request.arguments, tool.arguments if tool is not None else {}, treatment)
    record.replay = Replay(caller_address=caller.address, caller_era=caller.era, arguments_json=replayed[0], withheld=replayed[1])


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
