"""OpenTelemetry logs by OTLP/HTTP with protobuf.

An answer may say that some log records were rejected, and not which: then each is sent alone, until it is found. The others are there
twice, with the same `log.record.uid`: the protocol cannot avoid that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from controlplane.audit.sinks.form.otlp import export_request, log_record
from controlplane.audit.sinks.receiver.http import ReceiverHttp, check_status, said
from controlplane.audit.sinks.receiver.receiver import DeliveryError, Receipt, RefusedError, front_within
from controlplane.audit.sinks.sent_record import SentRecord
from controlplane.registry.audit_sink_spec import OtlpSinkSpec

MAX_REQUEST_BYTES = 2 * 1024 * 1024


class OtlpReceiver:
    """One collector, or a backend that takes OTLP."""

    most_requests = 1

    def __init__(self, spec: OtlpSinkSpec, *, headers: Mapping[str, str], http: ReceiverHttp) -> None:
        self._url = spec.endpoint
        self._http = http
        self._headers = {**headers, "Content-Type": "application/x-protobuf", "Accept": "application/x-protobuf"}

    async def send(self, records: Sequence[SentRecord]) -> Receipt:
        """See `Receiver`."""
        messages = await asyncio.to_thread(lambda: [log_record(record) for record in records])
        taken = front_within([message.ByteSize() + 8 for message in messages], MAX_REQUEST_BYTES)
        answer = await self._http.post(self._url, body=export_request(messages[:taken]), headers=self._headers)
        check_status(answer, taken=taken)
        try:
            partial = ExportLogsServiceResponse.FromString(answer.body).partial_success
        except DecodeError as error:
            raise DeliveryError("answered with something that is not OTLP") from error
        if partial.rejected_log_records > 0:
            raise RefusedError(f"rejected log records: {said(partial.error_message)}", taken=taken)
        return Receipt(taken=taken)

    async def close(self) -> None:
        """See `Receiver`."""
        await self._http.close()
