"""QRadar Log Event Extended Format 2.0: `LEEF:2.0|vendor|product|version|id|x09|key=value<tab>key=value`.

LEEF knows no escaping: what would end a value (tab, line breaks) or a header field (`|`), and what acts on screens, is shown as
`\\uXXXX`. A value begins behind the first `=`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from controlplane.audit.sinks.form import fields
from controlplane.audit.sinks.form.fields import text_of, texts_of
from controlplane.audit.sinks.form.plain_text import clipped, visible
from controlplane.audit.sinks.sent_record import SentRecord

_LENGTHS = (1023, 400, 120, 40)
_NAMED = (
    ("usrName", ("principal", "id")),
    ("identGrpName", ("principal", "provider")),
    ("reason", ("reason",)),
    ("url", ("path",)),
    ("method", ("http_method",)),
    ("userAgent", ("user_agent",)),
    ("mcpMethod", ("method",)),
    ("tool", ("tool",)),
    ("exposedName", ("exposed_name",)),
    ("virtualServer", ("virtual_server",)),
    ("decisionId", ("decision_id",)),
    ("revision", ("revision",)),
    ("traceId", ("trace_id",)),
    ("recordHash", ("record_hash",)),
    ("httpStatus", ("http_status",)),
    ("outcomeStatus", ("outcome", "http_status")),
    ("durationUs", ("outcome", "duration_us")),
    ("arguments", ("arguments_json",)),
    ("result", ("result_json",)),
    ("msg", ("sentence",)),
)


def leef_message(record: SentRecord, max_bytes: int) -> str:
    """The record as a LEEF message of at most `max_bytes` in UTF-8: long values are clipped."""
    header = "|".join((fields.VENDOR, fields.PRODUCT, _header(fields.product_version()), _header(fields.event_id(record))))
    begin = f"LEEF:2.0|{header}|x09|"
    pairs = [(key, value) for key, value in _pairs(record) if value]
    for length in _LENGTHS:
        message = begin + "\t".join(f"{key}={visible(clipped(value, length))}" for key, value in pairs)
        if len(message.encode()) <= max_bytes:
            return message
    return begin + "\t".join(f"{key}={visible(clipped(value, 100))}" for key, value in pairs[:4])


def _header(text: str) -> str:
    return clipped(visible(text).replace("|", "\\u007c"), 512)


def _pairs(record: SentRecord) -> Iterator[tuple[str, str]]:
    yield "recordId", record.id
    yield "devTime", datetime.fromtimestamp(record.at_unix_us / 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"
    yield "devTimeFormat", "yyyy-MM-dd'T'HH:mm:ss.SSSZ"
    yield "cat", record.event
    yield "sev", str(max(fields.severity_of(record), 1))
    yield "action", "" if record.decision == "unspecified" else record.decision
    address, port = fields.address_of(record)
    yield "src", address
    yield "srcPort", str(port) if address and port else ""
    yield "resource", fields.server_of(record)
    yield "policy", ",".join(texts_of(record, "determining_policies"))
    for key, path in _NAMED:
        yield key, text_of(record, *path)
