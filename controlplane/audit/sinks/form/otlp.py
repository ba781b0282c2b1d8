"""A record as a log record of OpenTelemetry, in a request of OTLP/HTTP with protobuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from controlplane.audit.sinks.form import fields
from controlplane.audit.sinks.form.fields import text_of
from controlplane.audit.sinks.form.json_form import json_document, json_text
from controlplane.audit.sinks.sent_record import SentRecord

_ATTRIBUTES = (  # attribute, path in the record
    ("legation.decision.id", ("decision_id",)),
    ("legation.decision", ("decision",)),
    ("legation.reason", ("reason",)),
    ("mcp.method.name", ("method",)),
    ("gen_ai.tool.name", ("tool",)),
    ("user.id", ("principal", "id")),
    ("legation.record.hash", ("record_hash",)),
)
_TRACE_ID, _SPAN_ID = 16, 8


def log_record(record: SentRecord) -> LogRecord:
    """The body is the record as JSON; `log.record.uid` tells copies."""
    attributes = {
        "log.record.uid": record.id,
        "legation.record.position": str(record.position),
        "legation.server": fields.server_of(record),
    }
    attributes |= {name: text_of(record, *path) for name, path in _ATTRIBUTES}
    number, text = _severity(record)
    return LogRecord(
        time_unix_nano=record.at_unix_us * 1000,
        observed_time_unix_nano=record.at_unix_us * 1000,
        severity_number=number,
        severity_text=text,
        event_name=f"legation.audit.{record.event}",
        body=AnyValue(string_value=_utf8(json_text(json_document(record)))),
        attributes=_attributes(attributes),
        trace_id=_identifier(text_of(record, "trace_id"), _TRACE_ID),
        span_id=_identifier(text_of(record, "span_id"), _SPAN_ID),
    )


def export_request(records: Sequence[LogRecord]) -> bytes:
    """A request that carries these, as they come from this product."""
    resource = Resource(attributes=_attributes({"service.name": "legation-audit", "service.version": fields.product_version()}))
    scope = ScopeLogs(scope=InstrumentationScope(name="legation.audit"), log_records=records)
    return ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope])]).SerializeToString()


def _severity(record: SentRecord) -> tuple[SeverityNumber.ValueType, str]:
    score = fields.severity_of(record)
    if score >= 9:
        return SeverityNumber.SEVERITY_NUMBER_FATAL, "FATAL"
    if score >= 8:
        return SeverityNumber.SEVERITY_NUMBER_ERROR, "ERROR"
    if score >= 5:
        return SeverityNumber.SEVERITY_NUMBER_WARN, "WARN"
    return SeverityNumber.SEVERITY_NUMBER_INFO, "INFO"


def _attributes(values: Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=_utf8(value))) for key, value in values.items() if value]


def _utf8(text: str) -> str:
    """Half of a surrogate pair has no place in protobuf."""
    return text.encode("utf-8", "replace").decode()


def _identifier(text: str, length: int) -> bytes:
    """A trace's or span's id as bytes; none where it is none or zero."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return b""
    return found if len(found) == length and any(found) else b""
