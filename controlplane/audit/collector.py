"""Takes what authorizers and aggregators ship: a stream each, one transaction for all that waits, acknowledged when it is durable.

    shipper ═▶ stream ─▶ waiting batches of all streams ─▶ AuditStore.append_all ─▶ acks
                  ◀═ barrier ═ a reader that wants to see everything that is durable by now

A batch that does not continue its writer's chain is refused with the reason, and the writer's log stays where it is; so is one with a
record that its sender has no part in: aggregators see what tools answer, and decide nothing. When the
database is away streams end with UNAVAILABLE, and come back; nothing is acknowledged that is not kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from controlplane.audit.chain import MAX_WRITER_BYTES, OWN_NODE, is_writer_name
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from extauthz.audit.alarm import AlarmReason, alarm
from extauthz.audit.draft import Draft, draft_of
from extauthz.audit.shipping import RECORD_SERVICE, RESULTS
from extauthz.errors import AuditError
from extauthz.v1 import audit_pb2 as pb

logger = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
RequireWriter = Callable[[Context], str]

MAX_WAITING = 64
"""Batches that wait to be kept, of all streams together; then streams are read no further."""
GATHER_SECONDS = 0.5
"""From one transaction to the next, where nobody waits: what is kept together costs less. Whoever reads asks for a barrier."""
GATHER_BYTES = 1024 * 1024
"""So much is not gathered any longer: shippers send on when what is under way is kept."""
BARRIER_SECONDS = 1.0
MISSED_SECONDS = 24 * 3600
"""For how long a writer is missed that was not closed and whose node does not come back."""
_REFUSED_REMEMBERED = 10_000
ALARMS_A_MINUTE = 50
_ALARM_SECONDS = 60.0
AGGREGATOR = "aggregator"
_OF_AGGREGATORS = frozenset({pb.AUDIT_EVENT_RESULT, pb.AUDIT_EVENT_ALARM})


@dataclass(slots=True, eq=False)
class _Stream:
    """One connection, of an authorizer or an aggregator; `role` is empty where the link has no TLS."""

    node_id: str
    role: str = ""
    answers: asyncio.Queue[pb.ShipResponse | None] = field(default_factory=asyncio.Queue)  # None: the stream has to end
    barriers: dict[int, asyncio.Future[None]] = field(default_factory=dict)
    failed: bool = False  # something of it was not kept: nothing behind that is answered


@dataclass(frozen=True, slots=True)
class _Waiting:
    stream: _Stream
    request: pb.ShipRequest


class Collector:
    """The gRPC service `legation.v1.RecordService`. `run` keeps what came; without it nothing is acknowledged."""

    def __init__(self, store: AuditStore, writer: RecordWriter) -> None:
        self._store = store
        self._writer = writer
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue(MAX_WAITING)
        self._streams: set[_Stream] = set()
        self._numbers = itertools.count(1)
        self._refused: dict[str, str] = {}  # what was said already, by writer
        self._alarms_until, self._alarms_left, self._alarms_dropped = -math.inf, 0, 0

    def handler(self, require_writer: RequireWriter) -> grpc.GenericRpcHandler:
        """Serves under the service's name; `require_writer` gives its role, and raises `PermissionError` for other peers."""

        async def ship(_requests: object, context: Context) -> None:
            try:
                role = require_writer(context)
            except PermissionError as error:
                logger.warning("audit shipper refused", peer=context.peer(), reason=str(error))
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            else:
                await self._ship(context, role)

        method = grpc.stream_stream_rpc_method_handler(
            ship, request_deserializer=pb.ShipRequest.FromString, response_serializer=pb.ShipResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(RECORD_SERVICE, {"Ship": method})

    @property
    def nodes(self) -> list[str]:
        """Ids of the connected authorizers and aggregators."""
        return sorted({stream.node_id for stream in self._streams})

    async def barrier(self, timeout_seconds: float = BARRIER_SECONDS) -> list[str]:
        """Have everything sent that is durable at connected nodes by now, and keep it. The nodes that did not in time.

        Among them are nodes that are not connected and have a log that is not known to be at its end.
        """
        number = next(self._numbers)
        loop, asked = asyncio.get_running_loop(), list(self._streams)
        for stream in asked:
            stream.barriers[number] = loop.create_future()
            stream.answers.put_nowait(pb.ShipResponse(barrier=number))
        unclosed = asyncio.to_thread(self._store.open_nodes, MISSED_SECONDS)
        _, missed = await asyncio.gather(_wait([stream.barriers[number] for stream in asked], timeout_seconds), unclosed)
        answers = {stream: stream.barriers.pop(number) for stream in asked}
        late = {stream.node_id for stream, answer in answers.items() if not answer.done() or answer.cancelled()}
        return sorted(late | (missed - {stream.node_id for stream in asked}))

    async def run(self) -> None:
        """Keep what came, until cancelled."""
        self._refused = await asyncio.to_thread(self._store.refused_writers)
        kept_at = -math.inf
        while True:
            group = await self._gather(kept_at + GATHER_SECONDS)
            if any(waiting.request.batch.records for waiting in group):
                kept_at = time.monotonic()
            acks = await self._keep([waiting for waiting in group if waiting.request.HasField("batch")])
            news = [(ack, waiting.stream.node_id) for waiting in group if (ack := acks.get(id(waiting))) and self._is_news(ack)]
            if alarms := self._alarms(news):
                await self._record(alarms)
            for waiting in group:
                self._answer(waiting, acks)

    async def _gather(self, until: float) -> list[_Waiting]:
        """What waits, and what comes until then; at once where somebody waits for an answer."""
        group = [await self._waiting.get()]
        size = 0
        while True:
            request = group[-1].request
            size += sum(map(len, request.batch.records))
            left = until - time.monotonic()
            if left <= 0 or size >= GATHER_BYTES or _is_waited_for(request):
                break
            try:
                group.append(await asyncio.wait_for(self._waiting.get(), left))
            except TimeoutError:
                break
        while not self._waiting.empty():
            group.append(self._waiting.get_nowait())
        return group

    # streams

    async def _ship(self, context: Context, role: str) -> None:
        hello = await context.read()
        if not isinstance(hello, pb.ShipRequest) or not is_writer_name(hello.hello.node_id) or hello.hello.node_id == OWN_NODE:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first request says who sends")
        stream = _Stream(hello.hello.node_id, role)
        self._streams.add(stream)
        logger.info("audit shipper connected", node=stream.node_id)
        reader = asyncio.ensure_future(self._read(stream, context))
        try:
            await context.send_initial_metadata(())
            while (answer := await stream.answers.get()) is not None:
                await context.write(answer)
            if stream.failed:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the record cannot be kept now")
        finally:
            self._streams.discard(stream)
            for waiting in stream.barriers.values():
                waiting.cancel()
            reader.cancel()
            logger.info("audit shipper disconnected", node=stream.node_id)

    async def _read(self, stream: _Stream, context: Context) -> None:
        try:
            while isinstance(request := await context.read(), pb.ShipRequest):
                await self._waiting.put(_Waiting(stream, request))
        finally:
            stream.answers.put_nowait(None)

    # keeping

    async def _keep(self, group: list[_Waiting]) -> dict[int, pb.ShipAck]:
        """The acks by the identity of what they answer; those that could not be kept are left out."""
        foreign = {id(waiting): ack for waiting in group if (ack := _not_its_own(waiting)) is not None}
        group = [waiting for waiting in group if id(waiting) not in foreign]
        if not group:
            return foreign
        try:
            acks = await asyncio.to_thread(self._store.append_all, [(waiting.request.batch, waiting.stream.node_id) for waiting in group])
        except Exception as error:
            if isinstance(error, OperationalError) and not _is_about_what_came(error):  # the database is away
                logger.warning("audit records not kept", error=_first_line(error))
                return foreign
            if len(group) == 1:
                logger.exception("audit records cannot be kept", node=group[0].stream.node_id)
                return foreign | {id(group[0]): _refusal(group[0].request.batch, error)}
            kept = foreign
            for waiting in group:  # what one of them cannot be kept for does not hold up the others
                kept |= await self._keep([waiting])
            return kept
        return foreign | {id(waiting): ack for waiting, ack in zip(group, acks, strict=True)}

    def _answer(self, waiting: _Waiting, acks: dict[int, pb.ShipAck]) -> None:
        stream, request = waiting.stream, waiting.request
        if stream.failed:
            return
        if request.HasField("batch"):
            ack = acks.get(id(waiting))
            if ack is None:
                stream.failed = True
                stream.answers.put_nowait(None)
                return
            stream.answers.put_nowait(pb.ShipResponse(ack=ack))
        elif request.HasField("barrier"):
            answer = stream.barriers.get(request.barrier)
            if answer is not None and not answer.done():
                answer.set_result(None)

    # what is refused

    def _is_news(self, ack: pb.ShipAck) -> bool:
        """Whether a writer is refused for another reason than it was before."""
        if not ack.refused:
            self._refused.pop(ack.writer_id, None)
            return False
        if len(self._refused) >= _REFUSED_REMEMBERED:
            self._refused.clear()
        before, self._refused[ack.writer_id] = self._refused.get(ack.writer_id), ack.refused
        return before != ack.refused

    def _alarms(self, news: list[tuple[pb.ShipAck, str]]) -> list[Draft]:
        """An alarm for each, as many as a minute has; of the rest how many there were, in one of a later minute.

        The names of writers are made up by who sends: without a bound the record could be filled with them.
        """
        alarms: list[Draft] = []
        now = time.monotonic()
        if now >= self._alarms_until:
            self._alarms_until, self._alarms_left = now + _ALARM_SECONDS, ALARMS_A_MINUTE
            if self._alarms_dropped:
                alarms.append(_dropped_alarm(self._alarms_dropped))
                self._alarms_dropped = 0
        alarms += [self._alarm(ack, node_id) for ack, node_id in news[: self._alarms_left]]
        self._alarms_dropped += max(len(news) - self._alarms_left, 0)
        self._alarms_left -= min(len(news), self._alarms_left)
        return alarms

    def _alarm(self, ack: pb.ShipAck, node_id: str) -> Draft:
        writer = ack.writer_id[:MAX_WRITER_BYTES]
        logger.error("audit chain refused", writer=writer, node=node_id, held_to=ack.sequence, reason=ack.refused)
        sentence = f"Records of {writer}, which {node_id} sends, are not taken behind {ack.sequence}: {ack.refused}."
        return draft_of(alarm(AlarmReason.CHAIN_REFUSED, sentence, pb.AuditAlarm(ended_writer_id=writer, ended_sequence=ack.sequence)))

    async def _record(self, alarms: list[Draft]) -> None:
        try:
            await asyncio.to_thread(self._writer.append, alarms)
        except (SQLAlchemyError, AuditError) as error:
            logger.error("alarm not recorded", error=type(error).__name__)


async def _wait(answers: list[asyncio.Future[None]], timeout_seconds: float) -> None:
    if answers:
        await asyncio.wait(answers, timeout=timeout_seconds)


def _is_waited_for(request: pb.ShipRequest) -> bool:
    """A barrier, a question how far a writer is held, and the end of a writer; records are kept by who sends them until they are acked."""
    return not request.batch.records or request.batch.closed


def _not_its_own(waiting: _Waiting) -> pb.ShipAck | None:
    """The refusal of what is no aggregator's: another's writer, which it could end or begin in its place, and all records but answers of
    tools and alarms. The chain refuses what is no record."""
    batch = waiting.request.batch
    if waiting.stream.role != AGGREGATOR:
        return None
    if not batch.writer_id.startswith(RESULTS):
        return pb.ShipAck(writer_id=batch.writer_id, refused=f"the name of an aggregator's writer begins with {RESULTS}")
    for number, payload in enumerate(batch.records, batch.first_sequence):
        with contextlib.suppress(DecodeError):
            if pb.AuditRecord.FromString(payload).event not in _OF_AGGREGATORS:
                held = max(batch.first_sequence - 1, 0)
                return pb.ShipAck(writer_id=batch.writer_id, sequence=held, refused=f"record {number} is not an aggregator's to write")
    return None


def _refusal(batch: pb.ShipBatch, error: Exception) -> pb.ShipAck:
    return pb.ShipAck(writer_id=batch.writer_id, sequence=max(batch.first_sequence - 1, 0), refused=f"cannot be kept: {_first_line(error)}")


def _dropped_alarm(count: int) -> Draft:
    logger.error("more audit chains refused than have an alarm of their own", count=count)
    record = alarm(
        AlarmReason.CHAIN_REFUSED, f"Records of {count} more writers were not taken, none of which has an alarm.", pb.AuditAlarm()
    )
    record.suppressed = count
    return draft_of(record)


def _is_about_what_came(error: OperationalError) -> bool:
    """Whether the database is there, and does not take this: PostgreSQL says so of what is too large for it (SQLSTATE 54...)."""
    return str(getattr(error.orig, "sqlstate", None) or "").startswith("54")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
