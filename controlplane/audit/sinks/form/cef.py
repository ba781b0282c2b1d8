"""ArcSight Common Event Format, version 0: `CEF:0|vendor|product|version|id|name|severity|key=value key=value`.

In the header `\\` and `|` are escaped, in values `\\` and `=`; line breaks of values are written `\\n`, and what else acts on
lines or screens is shown as `\\uXXXX`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from controlplane.audit.sinks.form import fields
from controlplane.audit.sinks.form.fields import text_of, texts_of
from controlplane.audit.sinks.form.plain_text import clipped, visible
from controlplane.audit.sinks.sent_record import SentRecord

_LENGTHS = (1023, 400, 120, 40)
_NAMED = (  # key, path in the record
    ("suser", ("principal", "id")),
    ("suid", ("principal", "subject")),
    ("sourceServiceName", ("principal", "oauth_client_id")),
    ("reason", ("reason",)),
    ("request", ("path",)),
    ("requestMethod", ("http_method",)),
    ("requestClientApplication", ("user_agent",)),
    ("msg", ("sentence",)),
)
_CUSTOM = (  # number, label, path in the record
    (1, "Tool", ("tool",)),
    (2, "DecisionId", ("decision_id",)),
    (3, "McpMethod", ("method",)),
    (4, "RecordHash", ("record_hash",)),
    (5, "TraceId", ("trace_id",)),
)
_OUTCOMES = {"allow": "success", "deny": "failure", "error": "failure"}


def cef_message(record: SentRecord, max_bytes: int) -> str:
    """The record as a CEF message of at most `max_bytes` in UTF-8: long values are clipped."""
    header = "|".join(("CEF:0", *_product(), _header(fields.event_id(record)), _header(fields.event_title(record))))
    begin = f"{header}|{fields.severity_of(record)}|"
    pairs = [(key, value) for key, value in _pairs(record) if value]
    for length in _LENGTHS:
        message = begin + " ".join(f"{key}={escaped_value(clipped(value, length))}" for key, value in pairs)
        if len(message.encode()) <= max_bytes:
            return message
    return begin + " ".join(f"{key}={escaped_value(clipped(value, 100))}" for key, value in pairs[:3])


def escaped_value(text: str) -> str:
    """A value of a CEF extension."""
    lines = (visible(line).replace("\\", "\\\\").replace("=", "\\=") for line in text.strip(" ").split("\n"))
    return "\\n".join(lines).strip(" ")


def _header(text: str) -> str:
    return clipped(visible(text), 512).replace("\\", "\\\\").replace("|", "\\|")


@lru_cache(maxsize=1)
def _product() -> tuple[str, str, str]:
    return fields.VENDOR, fields.PRODUCT, _header(fields.product_version())


def _pairs(record: SentRecord) -> Iterator[tuple[str, str]]:
    yield "externalId", record.id
    yield "rt", str(record.at_unix_us // 1000)
    yield "act", "" if record.decision == "unspecified" else record.decision
    yield "cat", record.event
    yield "outcome", _OUTCOMES.get(record.decision, "")
    yield "dvchost", record.node
    address, port = fields.address_of(record)
    if ":" in address:
        yield "c6a2", address
        yield "c6a2Label", "Source IPv6 Address"
    else:
        yield "src", address
    yield "spt", str(port) if address and port else ""
    yield "destinationServiceName", fields.server_of(record)
    for key, path in _NAMED:
        yield key, text_of(record, *path)
    for number, label, path in _CUSTOM:
        if value := text_of(record, *path):
            yield f"cs{number}", value
            yield f"cs{number}Label", label
    if policies := ",".join(texts_of(record, "determining_policies")):
        yield "cs6", policies
        yield "cs6Label", "Policies"
    if revision := text_of(record, "revision"):
        yield "cn1", revision
        yield "cn1Label", "Revision"
    if duration := text_of(record, "outcome", "duration_us"):
        yield "cn2", duration
        yield "cn2Label", "DurationMicroseconds"
    if status := text_of(record, "outcome", "http_status") or text_of(record, "http_status"):
        yield "cn3", status
        yield "cn3Label", "HttpStatus"
    yield "flexString1", text_of(record, "arguments_json")
    if text_of(record, "arguments_json"):
        yield "flexString1Label", "Arguments"
