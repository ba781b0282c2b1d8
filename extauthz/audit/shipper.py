"""Ships the write-ahead log of a directory to the control plane: every record at least once, in order per writer.

    files of this process and of those before it ─▶ batches ═▶ RecordService.Ship ═▶ acks ─▶ files that are held there are deleted

How far the control plane holds a writer is asked when a stream begins, so that nothing is remembered here. While it is away nothing
but the files grows; what is under way is bounded. One shipper per directory: a lock keeps others waiting, and they go on when its
holder is gone. What a reader waits for (a barrier) is sent at once; else records are gathered for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import structlog

from extauthz.audit.file_lock import take_lock
from extauthz.audit.frames import writer_of
from extauthz.audit.ship_stream import Call, ShipStream
from extauthz.audit.shipping import RESULTS, SHIP_METHOD
from extauthz.audit.writer_log import DurableEnd, WriterLog
from extauthz.v1 import audit_pb2 as pb

logger = structlog.get_logger(__name__)

LOCK_FILE, RESULTS_LOCK_FILE = "shipper.lock", "results-shipper.lock"
SCAN_SECONDS = 1.0
FIRST_BACKOFF_SECONDS = 0.1
LAST_BACKOFF_SECONDS = 1.0
_LOOK_SECONDS = 0.02


class RecordShipper:
    """Follows a directory for ever. `open_channel` leads to the control plane; `durable_end` bounds what is read of segments that this
    process writes. `results`: it ships what aggregators wrote, and nothing else; without, all but that. So both may have one directory.
    """

    def __init__(
        self,
        *,
        directory: Path,
        node_id: str,
        open_channel: Callable[[], grpc.aio.Channel],
        durable_end: DurableEnd = lambda _: None,
        results: bool = False,
    ) -> None:
        self._results = results
        self._directory = directory
        self._node_id = node_id
        self._open_channel = open_channel
        self._durable_end = durable_end
        self._writers: dict[str, WriterLog] = {}
        self._stream: ShipStream | None = None
        self._scanned_at = 0.0
        self._fault = ""

    @property
    def connected(self) -> bool:
        """Whether the control plane takes records now."""
        return self._stream is not None and self._stream.answered

    def held(self, writer_id: str) -> int:
        """Up to which sequence the control plane holds this writer, as far as is known here."""
        log = self._writers.get(writer_id)
        return log.held if log is not None else 0

    async def run(self) -> None:
        """Ship until cancelled; a lost stream is opened again with jitter."""
        with contextlib.ExitStack() as stack:
            while not self._lock(stack):  # noqa: ASYNC110 - another process has no event to wait for
                await asyncio.sleep(SCAN_SECONDS)
            backoff = FIRST_BACKOFF_SECONDS
            while True:
                reason = await self._ship()
                if self.connected:
                    backoff = FIRST_BACKOFF_SECONDS
                self._stream = None
                if reason != self._fault:
                    logger.warning("audit records are not shipped", reason=reason)
                self._fault = reason
                await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
                backoff = min(backoff * 2, LAST_BACKOFF_SECONDS)

    async def finish(self, timeout_seconds: float) -> bool:
        """Ship what is there, now that the log is closed; False when that is not done in time. `run` is still to be cancelled."""
        give_up_at = time.monotonic() + timeout_seconds
        while time.monotonic() < give_up_at:
            await self._scan(hurried=True)
            if not self._writers:
                return True
            if self._stream is not None:
                self._stream.hurry()
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    async def _ship(self) -> str:
        """One stream, to its end; why it ended."""
        try:
            async with self._open_channel() as channel:
                call: Call = channel.stream_stream(
                    SHIP_METHOD, request_serializer=pb.ShipRequest.SerializeToString, response_deserializer=pb.ShipResponse.FromString
                )()
                await call.write(pb.ShipRequest(hello=pb.ShipHello(node_id=self._node_id)))
                await call.initial_metadata()  # accepted, or refused with words that a write under way would hide
                self._stream = ShipStream(call, writers=self._writers, scan=self._scan)
                self._fault = ""
                await self._stream.run()
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except Exception as error:
            logger.exception("shipping failed and is begun again")
            return f"{type(error).__name__}: {error}"
        return "the control plane closed the stream"

    def _lock(self, stack: contextlib.ExitStack) -> bool:
        try:
            return take_lock(self._directory / (RESULTS_LOCK_FILE if self._results else LOCK_FILE), stack)
        except OSError as error:
            logger.warning("audit records are not shipped", reason=str(error))
            return False

    async def _scan(self, hurried: bool) -> None:
        """Take note of new segments; once in a second when nobody waits."""
        if hurried or time.monotonic() >= self._scanned_at + SCAN_SECONDS:
            self._scanned_at = time.monotonic()
            for path in await asyncio.to_thread(_segments, self._directory, self._results):
                writer_id = writer_of(path)
                log = self._writers.setdefault(writer_id, WriterLog(writer_id, self._durable_end))
                log.add(path)


def _segments(directory: Path, results: bool) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if (writer := writer_of(path)) and writer.startswith(RESULTS) is results)
    except FileNotFoundError:
        return []  # it was taken away; the log says so
