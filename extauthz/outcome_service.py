"""The adapter between Envoy's gRPC access log and the record: how requests ended that were passed on.

Envoy opens one stream per worker and sends entries in batches (`controlplane.xds.resources.access_log`); it waits for no answer and
keeps nothing that it has sent. Served beside `process`, to Envoys only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import structlog

from extauthz import transport
from extauthz.audit.outcome import outcome_of_entry
from extauthz.audit.outcome_log import OutcomeLog
from extauthz.wire import accesslog_pb2 as wire

logger = structlog.get_logger(__name__)

SERVICE = "envoy.service.accesslog.v3.AccessLogService"


class OutcomeService:
    """Envoy's AccessLogService. `leave` ends the streams, which otherwise have no end."""

    def __init__(self, outcomes: OutcomeLog) -> None:
        self._outcomes = outcomes
        self._streams: set[asyncio.Task[None]] = set()
        self._is_leaving = False

    def handler(self, *, require_envoy: bool = False) -> grpc.GenericRpcHandler:
        """The service under its real name; over TLS only a node of kind envoy may tell."""

        async def stream(
            messages: AsyncIterator[wire.StreamAccessLogsMessage], context: grpc.aio.ServicerContext[Any, Any]
        ) -> wire.StreamAccessLogsResponse:
            if require_envoy and transport.role_of(transport.peer_identity(context)) != "envoy":
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "only an Envoy of this deployment may tell")
            if self._is_leaving:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "this authorizer stops")
            await self._follow(messages)
            return wire.StreamAccessLogsResponse()

        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "StreamAccessLogs": grpc.stream_unary_rpc_method_handler(
                    stream,
                    request_deserializer=wire.StreamAccessLogsMessage.FromString,
                    response_serializer=wire.StreamAccessLogsResponse.SerializeToString,
                )
            },
        )

    def leave(self) -> None:
        """End the streams: Envoy goes to another authorizer, or comes back."""
        self._is_leaving = True
        for reading in self._streams:
            reading.cancel()

    async def _follow(self, messages: AsyncIterator[wire.StreamAccessLogsMessage]) -> None:
        """Read to the end, or until we leave. The reading is a task of its own: gRPC answers nothing when the call's own is cancelled."""
        reading = asyncio.create_task(self._read(messages))
        self._streams.add(reading)
        try:
            await asyncio.wait({reading})
        finally:
            self._streams.discard(reading)
            reading.cancel()
        if not reading.cancelled() and (error := reading.exception()) is not None:
            raise error

    async def _read(self, messages: AsyncIterator[wire.StreamAccessLogsMessage]) -> None:
        async for message in messages:
            self._take(message)

    def _take(self, message: wire.StreamAccessLogsMessage) -> None:
        records = []
        for entry in message.http_logs.log_entry:
            try:
                record = outcome_of_entry(entry)
            except ValueError as error:
                logger.warning("outcome not readable", error=str(error))
                continue
            if record is not None:
                records.append(record)
        if records:
            self._outcomes.put(records)
