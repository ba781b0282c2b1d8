"""RFC 5424 syslog messages, framed by octet counting (RFC 5425 section 4.3, RFC 6587 section 3.4.1).

The structured data names the record in every format, so that copies can be told by `id`. JSON is sent as ASCII; a sentence that is
not ASCII begins with the BOM that RFC 5424 wants; CEF and LEEF never do, since their readers expect their own first letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from controlplane.audit.sinks.form import cef, fields, leef
from controlplane.audit.sinks.form.json_form import ascii_json_text, fitting, json_document
from controlplane.audit.sinks.form.plain_text import clipped, visible
from controlplane.audit.sinks.sent_record import SentRecord

MAX_MESSAGE_BYTES = 8192
"""RFC 5425 section 4.3.1: what a receiver should be able to take."""
ENTERPRISE_NUMBER = 32473
"""Legation has no enterprise number: this is the one for examples (RFC 5612)."""

_FACILITIES = {"user": 1, "daemon": 3, "auth": 4, "authpriv": 10, "audit": 13, **{f"local{number}": 16 + number for number in range(8)}}
_NOT_NAME = re.compile(r"[^\x21-\x7e]")
_UNSAFE_PARAMETER = re.compile(r'(["\\\]])')
_BOM = "\ufeff"

MessageForm = Callable[[SentRecord, int], str]


def syslog_frame(record: SentRecord, *, message_format: str, facility: str, app_name: str) -> bytes:
    """One record as an octet-counted syslog message of at most `MAX_MESSAGE_BYTES` (without the count)."""
    header = _header(record, facility=facility, app_name=app_name)
    room = MAX_MESSAGE_BYTES - len(header.encode()) - len(_BOM.encode()) - 1
    message = f"{header} {MESSAGE_FORMS[message_format](record, room)}".encode()
    return b"%d %b" % (len(message), message)


def _header(record: SentRecord, *, facility: str, app_name: str) -> str:
    at = datetime.fromtimestamp(record.at_unix_us / 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    priority = _FACILITIES[facility] * 8 + _syslog_severity(record)
    process_id = record.writer_id.rpartition("-")[2]
    names = (_name(record.node, 255), _name(app_name, 48), _name(process_id, 128), _name(record.event, 32))
    return f"<{priority}>1 {at} {' '.join(names)} {_structured_data(record)}"


def _syslog_severity(record: SentRecord) -> int:
    """6 informational, 5 notice, 4 warning, 3 error, 1 alert."""
    if record.event == "alarm":
        return 1
    if record.event == "change":
        return 5
    return {"deny": 4, "error": 3}.get(record.decision, 4 if record.event in {"outcome_missing", "api_refused"} else 6)


def _structured_data(record: SentRecord) -> str:
    values = {
        "id": record.id,
        "position": str(record.position),
        "event": record.event,
        "decision": "" if record.decision == "unspecified" else record.decision,
        "reason": fields.text_of(record, "reason"),
        "decisionId": fields.text_of(record, "decision_id"),
        "hash": fields.text_of(record, "record_hash"),
    }
    parameters = " ".join(f'{name}="{_parameter(value)}"' for name, value in values.items() if value)
    return f"[legation@{ENTERPRISE_NUMBER} {parameters}]"


def _parameter(value: str) -> str:
    return _UNSAFE_PARAMETER.sub(r"\\\1", visible(clipped(value, 256)))


def _name(text: str, length: int) -> str:
    return _NOT_NAME.sub("_", text)[:length] or "-"


def _json(record: SentRecord, room: int) -> str:
    return ascii_json_text(fitting(json_document(record), room))


def _sentence(record: SentRecord, room: int) -> str:
    sentence = clipped(fields.sentence_of(record), room // 4)
    return sentence if sentence.isascii() else _BOM + sentence


MESSAGE_FORMS: dict[str, MessageForm] = {"json": _json, "cef": cef.cef_message, "leef": leef.leef_message, "text": _sentence}
