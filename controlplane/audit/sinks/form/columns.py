"""Records as the columns of a Parquet file. Needs pyarrow: the extra `legation[archive]`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from controlplane.audit.sinks.form import fields
from controlplane.audit.sinks.form.fields import text_of
from controlplane.audit.sinks.form.json_form import json_document, json_text
from controlplane.audit.sinks.sent_record import SentRecord
from extauthz.errors import ConfigurationError

_TEXTS = ("decision_id", "reason", "namespace", "mcp_server", "virtual_server", "tool", "exposed_name", "method", "trace_id", "record_hash")


def require_pyarrow() -> None:
    """Raise `ConfigurationError` where Parquet cannot be written."""
    _module("pyarrow.parquet")


def parquet_file(records: Sequence[SentRecord]) -> bytes:
    """A Parquet file (zstd) with a row for each record; `record` is the whole of it as JSON."""
    arrow, parquet = _module("pyarrow"), _module("pyarrow.parquet")
    columns: dict[str, Any] = {
        "id": arrow.array([record.id for record in records], arrow.string()),
        "position": arrow.array([record.position for record in records], arrow.int64()),
        "writer_id": arrow.array([record.writer_id for record in records], arrow.string()),
        "sequence": arrow.array([record.sequence for record in records], arrow.uint64()),
        "at": arrow.array([record.at_unix_us for record in records], arrow.timestamp("us", tz="UTC")),
        "event": arrow.array([record.event for record in records], arrow.string()),
        "decision": arrow.array([record.decision for record in records], arrow.string()),
        "principal": arrow.array([text_of(record, "principal", "id") for record in records], arrow.string()),
        "server": arrow.array([fields.server_of(record) for record in records], arrow.string()),
        **{name: arrow.array([text_of(record, name) for record in records], arrow.string()) for name in _TEXTS},
        "record": arrow.array([json_text(json_document(record)) for record in records], arrow.string()),
    }
    sink = BytesIO()
    parquet.write_table(arrow.table(columns), sink, compression="zstd")
    return sink.getvalue()


def _module(name: str) -> Any:  # noqa: ANN401 - pyarrow has no types of its own
    """pyarrow is heavy and optional: only who writes Parquet loads it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError("Parquet needs pyarrow: pip install 'legation[archive]'") from error
