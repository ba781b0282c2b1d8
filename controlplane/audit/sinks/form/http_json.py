"""What receivers over HTTP take of a record in JSON: an event of Splunk's, two lines of Elasticsearch's bulk API, a row of Sentinel's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from controlplane.audit.sinks.form import fields
from controlplane.audit.sinks.form.fields import text_of
from controlplane.audit.sinks.form.json_form import json_document, json_text
from controlplane.audit.sinks.form.ocsf import ocsf_event
from controlplane.audit.sinks.form.plain_text import clipped
from controlplane.audit.sinks.sent_record import SentRecord

SENTINEL_FIELD_CHARACTERS = 16_000
"""A column of Log Analytics holds 64 KiB: this many characters, whatever they are in UTF-8."""

Json = dict[str, Any]


def record_document(record: SentRecord, record_format: str) -> Json:
    """The record in our own fields (`json`) or in OCSF (`ocsf`)."""
    return ocsf_event(record) if record_format == "ocsf" else json_document(record)


def splunk_event(record: SentRecord, *, index: str, source: str, sourcetype: str, record_format: str) -> bytes:
    """One event of a request to the HTTP Event Collector. `legation_id` is an indexed field, by which copies are found."""
    event: Json = {
        "time": f"{record.at_unix_us // 1_000_000}.{record.at_unix_us % 1_000_000:06d}",
        "host": record.node or "legation",
        "source": source or "legation",
        "sourcetype": sourcetype,
        "event": record_document(record, record_format),
        "fields": {"legation_id": record.id, "legation_position": str(record.position)},
    }
    if index:
        event["index"] = index
    return json_text(event).encode()


def bulk_lines(record: SentRecord, *, index: str, record_format: str) -> bytes:
    """The action and the document of one record. `create` with the record's id: a copy is refused by Elasticsearch, not kept."""
    action = {"create": {"_index": index, "_id": record.id}}
    at = datetime.fromtimestamp(record.at_unix_us / 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    document = record_document(record, record_format)
    if record_format == "ocsf":
        body: Json = {"@timestamp": at, **document}
    else:
        body = {"@timestamp": at, "event": _ecs_event(record), "message": fields.sentence_of(record), "legation": document}
    return f"{json_text(action)}\n{json_text(body)}\n".encode()


def sentinel_row(record: SentRecord, *, record_format: str) -> bytes:
    """One row of the stream that docs/audit-sinks.md declares."""
    document = json_text(record_document(record, record_format))
    row: Json = {
        "TimeGenerated": datetime.fromtimestamp(record.at_unix_us / 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "RecordId": record.id,
        "Position": record.position,
        "Event": record.event,
        "Decision": record.decision,
        "Reason": text_of(record, "reason"),
        "DecisionId": text_of(record, "decision_id"),
        "PrincipalId": text_of(record, "principal", "id"),
        "Namespace": text_of(record, "namespace"),
        "Server": fields.server_of(record),
        "Tool": text_of(record, "tool"),
        "Message": fields.sentence_of(record),
        "RecordHash": text_of(record, "record_hash"),
    }
    row = {name: clipped(value, SENTINEL_FIELD_CHARACTERS) if isinstance(value, str) else value for name, value in row.items()}
    return json_text({**row, "Record": document if len(document) <= SENTINEL_FIELD_CHARACTERS else _short_document(record)}).encode()


def _short_document(record: SentRecord) -> str:
    from_longest = {name: value for name, value in json_document(record).items() if len(json_text(value)) <= 1000}
    return clipped(json_text({**from_longest, "truncated": ["*"]}), SENTINEL_FIELD_CHARACTERS)


def _ecs_event(record: SentRecord) -> Json:
    outcomes = {"allow": "success", "deny": "failure", "error": "failure"}
    return {
        "id": record.id,
        "kind": "alert" if record.event == "alarm" else "event",
        "action": record.event,
        "outcome": outcomes.get(record.decision, "unknown"),
        "reason": text_of(record, "reason"),
        "sequence": record.position,
        "provider": "legation",
        "dataset": "legation.audit",
        "hash": text_of(record, "record_hash"),
    }
