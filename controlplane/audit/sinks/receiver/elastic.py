"""The bulk API of Elasticsearch or OpenSearch. Each record has its own answer, and its own id: a copy is a conflict and not kept.

In a data stream, and behind an alias that rolled over, a copy that comes after the rollover is kept with the same `_id`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from controlplane.audit.sinks.form.http_json import bulk_lines
from controlplane.audit.sinks.receiver.http import ReceiverHttp, check_status, json_answer, said
from controlplane.audit.sinks.receiver.receiver import DeliveryError, Receipt, front_within, retry_after_seconds
from controlplane.audit.sinks.sent_record import SentRecord
from controlplane.registry.audit_sink_spec import ElasticSinkSpec

MAX_REQUEST_BYTES = 4 * 1024 * 1024
_FILTER = "errors,items.*.status,items.*.error.type,items.*.error.reason"
_CONFLICT = 409
_REFUSED = frozenset({400, 413, 422})


class ElasticReceiver:
    """One cluster."""

    most_requests = 1

    def __init__(self, spec: ElasticSinkSpec, *, api_key: str, http: ReceiverHttp, record_format: str) -> None:
        self._index = spec.index or spec.data_stream or ""
        self._url = f"{spec.url.rstrip('/')}/_bulk?filter_path={_FILTER}"
        self._http = http
        self._record_format = record_format
        self._headers = {"Authorization": f"ApiKey {api_key}", "Content-Type": "application/x-ndjson", "Accept": "application/json"}

    async def send(self, records: Sequence[SentRecord]) -> Receipt:
        """See `Receiver`."""
        lines = await asyncio.to_thread(lambda: [self._lines(record) for record in records])
        taken = front_within([len(line) for line in lines], MAX_REQUEST_BYTES)
        answer = await self._http.post(self._url, body=b"".join(lines[:taken]), headers=self._headers)
        document = json_answer(answer)
        check_status(answer, taken=taken, detail=_detail(document.get("error")))
        items = document.get("items")
        if not isinstance(items, list) or len(items) != taken:
            raise DeliveryError("answered without a result for each record")
        return _receipt([_result(item) for item in items], retry_after_seconds(answer.retry_after))

    async def close(self) -> None:
        """See `Receiver`."""
        await self._http.close()

    def _lines(self, record: SentRecord) -> bytes:
        return bulk_lines(record, index=self._index, record_format=self._record_format)


def _receipt(results: list[tuple[int, str]], retry_after: float) -> Receipt:
    refused: dict[int, str] = {}
    again: list[int] = []
    fault = ""
    for index, (status, reason) in enumerate(results):
        if 200 <= status < 300 or status == _CONFLICT:
            continue
        if status in _REFUSED:
            refused[index] = f"refused with {status}: {reason}"
        else:  # 429 and 5xx; 403 and 404 are about the index, not about the record
            again.append(index)
            fault = f"took a part only: {status} {reason}"
    return Receipt(taken=len(results), refused=refused, again=again, fault=fault, retry_after_seconds=retry_after)


def _result(item: object) -> tuple[int, str]:
    """Status and reason; 0 for an answer that says nothing of the record: it is sent again."""
    result = item.get("create") if isinstance(item, dict) else None
    if not isinstance(result, dict) or not isinstance(result.get("status"), int):
        return 0, "no result"
    return result["status"], _detail(result.get("error"))


def _detail(error: Any) -> str:  # noqa: ANN401 - any JSON
    if not isinstance(error, dict):
        return said(error)
    return ": ".join(part for part in (said(error.get("type")), said(error.get("reason"))) if part)
