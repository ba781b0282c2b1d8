"""One connection over which a directory is shipped: what is sent, what is under way, and what an ack means.

A writer is first asked for (an empty batch: the ack says how far it is held), then sent from there on, and acknowledged in the order
in which it was sent. A writer that is refused is left alone for a while; the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio
import structlog

from extauthz.audit.writer_log import Part, Place, WriterLog
from extauthz.v1 import audit_pb2 as pb

logger = structlog.get_logger(__name__)

GATHER_SECONDS = 0.1
MAX_UNDER_WAY_BYTES = 4 * 1024 * 1024
REFUSED_SECONDS = 60.0
"""After how long a writer that was refused is offered again."""
_MESSAGE_BYTES = 64  # of what carries no records

Call = grpc.aio.StreamStreamCall[Any, pb.ShipResponse]
Scan = Callable[[bool], Awaitable[None]]
"""Looks for new files; at once when that is wanted, else not too often."""


@dataclass(slots=True, eq=False)
class _Offer:
    """How far a writer is on this stream."""

    log: WriterLog
    place: Place | None = None  # None: it is not known yet how far it is held
    asked: bool = False
    closing: bool = False  # its end is under way
    closed: bool = False  # and was acknowledged
    deletable: bool = False
    quiet_until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnderWay:
    """What an ack has to come for; without a `behind` it is a question."""

    offer: _Offer
    behind: Place | None
    last: int
    size: int
    closed: bool


class ShipStream:
    """Ships `writers`, which `scan` keeps up to date, until the stream ends or `run` is cancelled."""

    def __init__(self, call: Call, *, writers: dict[str, WriterLog], scan: Scan) -> None:
        self.answered = False
        """Whether the control plane acknowledged anything."""
        self._call = call
        self._writers = writers
        self._scan = scan
        self._offers: dict[str, _Offer] = {}
        self._under_way: deque[_UnderWay] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._asked: list[int] = []  # barriers that came since the last look at files
        self._barriers: dict[int, set[_Offer]] = {}  # whom they wait for to be sent to its end

    def hurry(self) -> None:
        """Look for files and send what is there, now."""
        self._wake.set()

    async def run(self) -> None:
        """Send and receive; returns when the control plane closes the stream, raises what gRPC raises."""
        receiving = asyncio.create_task(self._receive())
        sending = asyncio.create_task(self._send())
        try:
            done, _ = await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (receiving, sending):
                task.cancel()
            await asyncio.gather(receiving, sending, return_exceptions=True)

    # sending

    async def _send(self) -> None:
        while True:
            hurried = self._wake.is_set()
            self._wake.clear()
            asked, self._asked = self._asked, []
            await self._scan(hurried)
            self._offers = {name: self._offers.get(name) or _Offer(log) for name, log in self._writers.items()}
            for number in asked:
                self._barriers[number] = set(self._offers.values())
            more = False
            for offer in self._offers.values():
                more |= await self._advance(offer)
            await self._answer_barriers()
            if not more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), GATHER_SECONDS)

    async def _advance(self, offer: _Offer) -> bool:
        """Send the next part of a writer; whether there is more of it now."""
        if offer.deletable:
            offer.deletable = False
            await asyncio.to_thread(offer.log.delete_held, ended=offer.closed)
            if offer.log.is_empty:
                self._writers.pop(offer.log.writer_id, None)
        if offer.closing or offer.quiet_until > time.monotonic():
            self._is_at_end(offer, list(self._barriers.values()))
            return False
        if offer.place is None:
            await self._ask(offer)
            return False
        waiting = list(self._barriers.values())
        await self._room.wait()
        ended, part = await asyncio.to_thread(_read, offer.log, offer.place)
        await self._send_part(offer, part, closed=ended and part.at_end)
        if part.at_end:
            self._is_at_end(offer, waiting)
        return not part.at_end

    async def _ask(self, offer: _Offer) -> None:
        if not offer.asked:
            offer.asked = True
            batch = pb.ShipBatch(writer_id=offer.log.writer_id)
            await self._write(batch, _UnderWay(offer=offer, behind=None, last=0, size=_MESSAGE_BYTES, closed=False))

    async def _send_part(self, offer: _Offer, part: Part, *, closed: bool) -> None:
        offer.place = part.behind
        batch = part.batch
        if closed:
            offer.closing = True
            batch = batch or pb.ShipBatch(writer_id=offer.log.writer_id, first_sequence=max(part.behind.sequence, offer.log.held + 1))
            batch.closed = True
        if batch is not None:
            last = batch.first_sequence + len(batch.records) - 1 if batch.records else 0
            await self._write(batch, _UnderWay(offer=offer, behind=part.behind, last=last, size=batch.ByteSize(), closed=closed))

    async def _write(self, batch: pb.ShipBatch, entry: _UnderWay) -> None:
        self._under_way.append(entry)
        self._bytes += entry.size
        if self._bytes >= MAX_UNDER_WAY_BYTES:
            self._room.clear()
        await self._call.write(pb.ShipRequest(batch=batch))

    def _is_at_end(self, offer: _Offer, waiting: list[set[_Offer]]) -> None:
        for offers in waiting:
            offers.discard(offer)

    async def _answer_barriers(self) -> None:
        for number in [number for number, waiting in self._barriers.items() if not waiting]:
            del self._barriers[number]
            await self._call.write(pb.ShipRequest(barrier=number))

    # receiving

    async def _receive(self) -> None:
        responses: AsyncIterable[pb.ShipResponse] = self._call
        async for response in responses:
            if response.HasField("ack"):
                self._acknowledged(response.ack)
            elif response.HasField("barrier"):
                self._asked.append(response.barrier)
                self._wake.set()

    def _acknowledged(self, ack: pb.ShipAck) -> None:
        if not self._under_way or self._under_way[0].offer.log.writer_id != ack.writer_id:
            raise ValueError(f"an ack came for {ack.writer_id}, of which nothing was under way")
        entry = self._under_way.popleft()
        self._bytes -= entry.size
        if self._bytes < MAX_UNDER_WAY_BYTES:
            self._room.set()
        self.answered = True
        offer, log = entry.offer, entry.offer.log
        if ack.refused:
            self._refused(offer, ack)
        elif entry.behind is None:
            offer.place, offer.asked = log.place_behind(ack.sequence), False
            self._wake.set()
        elif offer.place is None:
            pass  # it was under way when the writer was refused
        elif ack.sequence < entry.last:
            offer.place, offer.closing = None, False  # the control plane holds less than it did: it is asked once more
        else:
            log.is_held(max(ack.sequence, log.held), entry.behind)
            log.refused = ""
            offer.deletable, offer.closed = True, entry.closed
            if entry.closed or self._barriers:
                self._wake.set()

    def _refused(self, offer: _Offer, ack: pb.ShipAck) -> None:
        offer.place, offer.asked, offer.closing = None, False, False
        offer.quiet_until = time.monotonic() + REFUSED_SECONDS
        if offer.log.refused != ack.refused:
            offer.log.refused = ack.refused
            logger.error("audit records refused by the control plane", writer=ack.writer_id, held_to=ack.sequence, reason=ack.refused)


def _read(log: WriterLog, place: Place) -> tuple[bool, Part]:
    ended = log.is_ended()  # before the reading, or it might miss the last records
    return ended, log.read(place)
