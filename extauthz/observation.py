"""What a decision tells telemetry: one span per Check, and the numbers of `telemetry.metric_name`. `Decider` asks it twice per decision.

The span is a child of Envoy's span of the question; what a client names in the body (`params._meta.traceparent`) is only linked, since
Envoy's span began before anybody had read the body. Nothing about a caller is told but of which kind it is.
"""

from __future__ import annotations

import time

import structlog

from extauthz.answer import TOLD
from extauthz.audit.loss import Losses
from extauthz.audit.record import AuditDecision, AuditRecord
from extauthz.audit.shipper import RecordShipper
from extauthz.audit.wal import AuditLog
from extauthz.case import Case
from extauthz.catalog.audit_policy import AuditMode
from extauthz.errors import Reason
from extauthz.mcp.jsonrpc import MessageClass
from extauthz.telemetry import metric_name
from extauthz.telemetry import semantic_convention as names
from extauthz.telemetry.metric import MetricRegistry
from extauthz.telemetry.process import Telemetry
from extauthz.telemetry.span import Span, SpanKind
from extauthz.telemetry.trace_context import parse_traceparent

logger = structlog.get_logger(__name__)

_FAULT_OF_THE_CALLER = range(-32799, -32599)  # -32700, -32600 to -32602: not errors of a server, say the conventions
_UNREAD = "check"
_LONGEST_ID = 64
_HTTP_METHODS = frozenset({"DELETE", "GET", "POST"})


class Observation:
    """`telemetry` with anything on."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._tracer = telemetry.tracer
        self._numbers = _Numbers(telemetry.metrics) if telemetry.metrics is not None else None

    def began(self, case: Case) -> None:
        """A decision begins; from here on its trace is the one of this task."""
        if self._tracer is not None:
            check = case.check
            parent = parse_traceparent(check.traceparent or check.first("traceparent"))
            case.span = self._tracer.begin(_UNREAD, SpanKind.SERVER, parent)

    def ended(self, case: Case, reason: Reason) -> None:
        """The decision stands, and so does its record. Whatever fails here fails here only: calls do not depend on telemetry."""
        try:
            if self._numbers is not None:
                self._numbers.count(case, reason)
            if case.span is not None and self._tracer is not None:
                describe(case.span, case, reason)
                self._tracer.end(case.span)
                case.span = None
        except Exception as error:
            logger.error("a decision could not be told to telemetry", error=type(error).__name__, exc_info=error)


def observe_audit(metrics: MetricRegistry, audit: AuditLog, losses: Losses) -> None:
    """How the audit log fares."""
    metrics.gauge(metric_name.AUDIT_UNRECORDED, lambda: (((AuditMode.AVAILABLE,), losses.lost), ((AuditMode.STRICT,), losses.refused)))
    metrics.gauge(metric_name.AUDIT_RECORDS, lambda: audit.statistics().sequence)
    metrics.gauge(metric_name.AUDIT_WAITING, lambda: audit.statistics().waiting)
    metrics.gauge(metric_name.AUDIT_FAILURES, lambda: audit.statistics().failures)
    metrics.gauge(metric_name.AUDIT_USED, lambda: audit.statistics().used_bytes)
    metrics.gauge(metric_name.AUDIT_CAPACITY, lambda: audit.statistics().capacity_bytes)
    metrics.gauge(metric_name.AUDIT_SYNC_DURATION, lambda: audit.statistics().last_sync_seconds)


def observe_shipping(metrics: MetricRegistry, audit: AuditLog, shipper: RecordShipper) -> None:
    """How far the control plane is behind the audit log."""

    def unshipped() -> int:
        statistics = audit.statistics()
        return max(0, statistics.sequence - shipper.held(statistics.writer_id))

    metrics.gauge(metric_name.AUDIT_UNSHIPPED, unshipped)
    metrics.gauge(metric_name.AUDIT_SHIPPING, lambda: float(shipper.connected))


class _Numbers:
    def __init__(self, metrics: MetricRegistry) -> None:
        self._decisions = metrics.counter(metric_name.DECISIONS)
        self._tool_calls = metrics.counter(metric_name.TOOL_CALLS)
        self._denials = metrics.counter(metric_name.DENIALS)
        for reason in Reason:
            if reason is not Reason.ALLOWED:
                self._denials.add((reason.value,), 0)  # the first one is an increase, and so an alert, only after a zero
        self._duration = metrics.histogram(metric_name.DECISION_DURATION)
        self._opened = metrics.counter(metric_name.SESSIONS_OPENED)
        self._ended = metrics.counter(metric_name.SESSIONS_ENDED)

    def count(self, case: Case, reason: Reason) -> None:
        record = case.record
        decision = _decision(record, reason)
        place = _place(record)
        # names that callers make up are counted under none: what is not in the registry was not allowed, and has no server
        self._decisions.add((decision, record.method if case.request is not None else "", *place))
        if reason is not Reason.ALLOWED:
            self._denials.add((reason.value,))
        elif record.method == "initialize":
            self._opened.add(place)
        elif case.check.http_method == "DELETE" and case.request is not None:
            self._ended.add(place)
        if record.effect and record.tool and not record.parent_decision_id:  # once for a call, whoever passes it on
            self._tool_calls.add((decision, *place, record.tool))
        self._duration.record(time.perf_counter() - case.started, (decision,))


def _decision(record: AuditRecord, reason: Reason) -> str:
    return AuditDecision.ERROR.value if reason is Reason.AUDIT_UNAVAILABLE else record.decision.value


def _place(record: AuditRecord) -> tuple[str, str]:
    """Where it is decided about, as far as that is known to be there."""
    if record.server is not None:
        return record.server.namespace, record.server.name
    if record.virtual_server and _is_let_in(record):
        namespace, _, name = record.virtual_server.partition("/")
        return namespace, f"virtual/{name}"
    return "", ""


def _is_let_in(record: AuditRecord) -> bool:
    """Whether somebody who is known was let through to a place: it exists. Metadata is told of any path, and to anybody."""
    return record.decision is AuditDecision.ALLOW and record.principal is not None


def describe(span: Span, case: Case, reason: Reason) -> None:
    """Name and attributes of a decision's span."""
    record, request, attributes = case.record, case.request, span.attributes
    # what callers make up is told only where it is the name of something that there is
    tool, prompt = record.tool if record.effect else "", record.prompt if reason is Reason.ALLOWED else ""
    if record.method:
        span.name = f"{record.method} {tool or prompt}".rstrip()
    elif case.check.http_method in _HTTP_METHODS:
        span.name = case.check.http_method
    if record.server is not None or _is_let_in(record):
        attributes[names.LEGATION_NAMESPACE] = record.namespace
        attributes[names.LEGATION_SERVER] = record.mcp_server
        attributes[names.LEGATION_VIRTUAL_SERVER] = record.virtual_server
    attributes[names.LEGATION_DECISION] = _decision(record, reason)
    attributes[names.LEGATION_DECISION_ID] = record.decision_id
    attributes[names.LEGATION_DECISION_PARENT_ID] = record.parent_decision_id
    attributes[names.LEGATION_LISTENER] = case.check.listener
    attributes[names.LEGATION_LANE] = record.lane
    attributes[names.LEGATION_EFFECT] = record.effect
    attributes[names.LEGATION_REVISION] = record.revision
    if record.principal is not None:
        attributes[names.LEGATION_PRINCIPAL_KIND] = record.principal.kind.value
    if request is not None:
        attributes[names.LEGATION_ERA] = record.era
        attributes[names.MCP_METHOD_NAME] = record.method if request.method else ""
        attributes[names.MCP_PROTOCOL_VERSION] = record.protocol_version
        if request.message_class is MessageClass.REQUEST:
            attributes[names.JSONRPC_REQUEST_ID] = shown_id(request.id_json)
        if record.method == "tools/call":
            attributes[names.GEN_AI_OPERATION_NAME] = names.EXECUTE_TOOL
        attributes[names.GEN_AI_TOOL_NAME] = tool
        attributes[names.GEN_AI_PROMPT_NAME] = prompt
        span.link(request.traceparent)
    if reason is not Reason.ALLOWED:
        _describe_refusal(span, reason)


def shown_id(id_json: str) -> str:
    """The id of a request, in the form of the conventions: as text. Not one that is long, or looks like a token."""
    text = id_json.strip('"')
    return text if len(text) <= _LONGEST_ID and "eyJ" not in text else ""


def _describe_refusal(span: Span, reason: Reason) -> None:
    """A denial is what we are for, and no error; a failure of ours is one."""
    told = TOLD.get(reason)
    span.attributes[names.LEGATION_DENIAL_REASON] = reason.value
    if told is None:
        return
    span.attributes[names.RPC_RESPONSE_STATUS_CODE] = str(told.code)
    if told.status >= 500 and told.code not in _FAULT_OF_THE_CALLER:
        span.attributes[names.ERROR_TYPE] = str(told.code)
        span.error = reason.value
