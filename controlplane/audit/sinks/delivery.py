"""Delivers the record to one sink, from its cursor on, as long as it runs.

    read a batch ─▶ send ─▶ what was refused: divided until the guilty record is found, which becomes a dead letter
         ▲                └▶ what was not taken: again, later and later
         └── the cursor moves, in one transaction with the dead letters ◀── all of the batch is received or dead

The database is the spool: while a receiver is away nothing is lost, nothing piles up in memory, and no call waits. What was sent and
not noted before a crash is sent again, under the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from controlplane.audit.sinks.dead_letter import DeadLetters
from controlplane.audit.sinks.lease import LeaseLostError, Leases
from controlplane.audit.sinks.pace import Pace
from controlplane.audit.sinks.reading import Batch, Carried, Reading, carried_text, parse_carried
from controlplane.audit.sinks.receiver.receiver import DeliveryError, Receipt, Receiver, RefusedError
from controlplane.audit.sinks.sent_record import SentRecord
from controlplane.audit.sinks.statistics import SinkCounters
from controlplane.audit.store import AuditStore
from extauthz.errors import LegationError

logger = structlog.get_logger(__name__)

REFUSALS_IN_A_ROW = 10
"""So many single records may be refused without one being taken; from then on each waits and is tried once more: it is not the records."""
_RESENT_AT_ONCE = 20
_PASSING_FAILURES = 2
"""So many in a row are nothing to speak of: receivers throttle, connections end."""


class ReopenError(LegationError):
    """The receiver has not taken anything for a while: it is opened anew, with what its document and its files say now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """At most so many positions, or what there is so many seconds after the first came."""

    records: int
    seconds: float


class Delivery:
    """One sink while its lease is held and its receiver is open. `name` is that of its cursor, `sink` is for people."""

    def __init__(
        self,
        *,
        name: str,
        sink: str,
        store: AuditStore,
        reading: Reading,
        receiver: Receiver,
        leases: Leases,
        shape: BatchShape,
        counters: SinkCounters,
        pace: Pace,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._sink = sink
        self._store = store
        self._reading = reading
        self._receiver = receiver
        self._leases = leases
        self._shape = shape
        self._counters = counters
        self._pace = pace
        self._clock = clock
        self._dead_letters = DeadLetters(store)
        self._position = 0
        self._carried: tuple[Carried, ...] = ()
        self._refused_in_a_row = 0
        self._taken_at = time.monotonic()
        self._looked_at = float("-inf")

    async def run(self) -> None:
        """Deliver until cancelled. Raises `ReopenError`, `LeaseLostError`, and what the database raises."""
        self._position, state = await asyncio.to_thread(self._store.cursor, self._name)
        self._carried = parse_carried(state)
        read_to, carried = self._position, self._carried
        under_way: deque[tuple[Batch, asyncio.Task[dict[int, str]]]] = deque()
        try:
            while True:
                await self._look()
                while len(under_way) < self._receiver.most_requests:
                    batch = await self._next(read_to, carried, is_idle=not under_way)
                    if batch is None:
                        break
                    read_to, carried = batch.last, batch.carried
                    under_way.append((batch, asyncio.create_task(self._deliver(batch.records))))
                if under_way:
                    batch, task = under_way[0]
                    dead = await task
                    under_way.popleft()
                    await _finished(self._advance, batch, dead)
        finally:
            for _, task in under_way:
                task.cancel()
            await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)

    # what is next

    async def _next(self, after: int, carried: Sequence[Carried], *, is_idle: bool) -> Batch | None:
        """The next batch, when it is full or old enough; None after a look at most when there is none yet."""
        available = await asyncio.to_thread(self._store.last_position) - after
        if available <= 0:
            if is_idle:
                await self._wait_for(after, self._pace.look)
            return None
        if available < self._shape.records:
            if not is_idle:
                return None
            await self._wait_for(after + self._shape.records - 1, self._shape.seconds)
        batch = await asyncio.to_thread(self._reading.read, after, self._shape.records, carried)
        if batch.last > after:
            return batch
        if is_idle and batch.is_held:  # the first one waits for its outcome
            await asyncio.sleep(min(self._pace.first, 0.5))
        return None

    async def _wait_for(self, position: int, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._store.wait(position), seconds)

    # sending

    async def _deliver(self, records: Sequence[SentRecord]) -> dict[int, str]:
        """Send until each record is received or dead. The dead ones by position, with their faults."""
        pending, dead, failures = list(records), dict[int, str](), 0
        while pending:
            try:
                receipt = _checked(await self._receiver.send(pending))
            except DeliveryError as error:
                failures += 1
                self._counters.retried += len(pending)
                await self._pause(str(error), failures, error.retry_after_seconds)
            except RefusedError as error:
                dead |= await self._divide(pending[: error.taken], str(error))
                pending = pending[error.taken :]
            except Exception as error:  # a record that we cannot put into form must not stop the others
                logger.exception("records cannot be sent", sink=self._sink)
                dead |= await self._divide(pending, f"cannot be put into this form ({type(error).__name__})")
                pending = []
            else:
                dead |= {pending[index].position: fault for index, fault in receipt.refused.items()}
                failures = failures + 1 if receipt.again else 0
                pending = await self._left(pending, receipt, failures)
        return dead

    async def _left(self, pending: Sequence[SentRecord], receipt: Receipt, failures: int) -> list[SentRecord]:
        """What is still to be sent, after a wait where the receiver could not take all."""
        taken = receipt.taken - len(receipt.again) - len(receipt.refused)
        if taken:
            await self._note_success(taken)
        if receipt.again:
            self._counters.retried += len(receipt.again)
            await self._pause(receipt.fault, failures, receipt.retry_after_seconds)
        return [pending[index] for index in receipt.again] + list(pending[receipt.taken :])

    async def _divide(self, records: Sequence[SentRecord], fault: str) -> dict[int, str]:
        """These were refused together: find those that are refused alone."""
        if len(records) > 1:
            half = len(records) // 2
            return {**await self._deliver(records[:half]), **await self._deliver(records[half:])}
        self._refused_in_a_row += 1
        if self._refused_in_a_row > REFUSALS_IN_A_ROW:
            await self._note_fault(f"refuses every record: {fault}")
            await self._pause(f"refuses every record: {fault}", self._refused_in_a_row - REFUSALS_IN_A_ROW, 0.0)
            try:
                receipt = await self._receiver.send(records)
            except DeliveryError:
                return await self._deliver(records)
            except RefusedError as error:
                fault = str(error)
            else:
                if receipt.again:
                    return await self._deliver(records)
                if not receipt.refused:
                    await self._note_success(1)
                    return {}
        return {record.position: fault for record in records}

    async def _pause(self, fault: str, failures: int, wished: float) -> None:
        if time.monotonic() - self._taken_at > self._pace.reopen:
            raise ReopenError(fault)
        if failures > _PASSING_FAILURES:
            await self._note_fault(fault)
        await asyncio.sleep(self._pace.after(failures - 1, wished))

    async def _note_success(self, count: int) -> None:
        self._counters.delivered += count
        self._refused_in_a_row = 0
        self._taken_at = time.monotonic()
        if self._counters.fault:
            logger.info("audit sink takes records again", sink=self._sink)
            self._counters.fault = ""

    async def _note_fault(self, fault: str) -> None:
        if not self._counters.fault:
            logger.warning("audit sink does not take records", sink=self._sink, fault=fault)
        if fault != self._counters.fault:
            self._counters.fault = fault
            await _finished(self._write, self._position, self._carried, {}, fault)

    # what is noted

    def _advance(self, batch: Batch, dead: Mapping[int, str]) -> None:
        self._write(batch.last, batch.carried, dead, self._counters.fault)
        self._counters.dead += len(dead)
        for position, fault in dead.items():
            logger.warning("audit sink refuses a record", sink=self._sink, position=position, fault=fault)

    def _write(self, position: int, carried: Sequence[Carried], dead: Mapping[int, str], fault: str) -> None:
        with self._store.transaction() as connection:
            if self._store.cursor_in(connection, self._name)[0] != self._position:
                raise LeaseLostError("the sink's cursor was moved by another process")
            self._dead_letters.bury(connection, self._name, dead, int(self._clock() * 1_000_000))
            self._store.advance(connection, self._name, position, carried_text(carried), fault=fault)
        self._position, self._carried = position, tuple(carried)

    # looked after now and then

    async def _look(self) -> None:
        """Check the lease, and send dead letters that somebody wants sent once more."""
        if time.monotonic() - self._looked_at < self._pace.look:
            return
        self._looked_at = time.monotonic()
        await asyncio.to_thread(self._leases.check, self._name)
        wanted = await asyncio.to_thread(self._dead_letters.wanted, self._name, _RESENT_AT_ONCE)
        for position in wanted:
            await self._resend(position)
        if len(wanted) == _RESENT_AT_ONCE:
            self._looked_at = float("-inf")

    async def _resend(self, position: int) -> None:
        record = await asyncio.to_thread(self._reading.record_at, position)
        faults = {position: "the record is not kept any more"} if record is None else await self._deliver([record])
        await asyncio.to_thread(self._note_resent, position, faults)

    def _note_resent(self, position: int, faults: Mapping[int, str]) -> None:
        with self._store.transaction() as connection:
            self._dead_letters.forget(connection, self._name, (position,))
            self._dead_letters.bury(connection, self._name, faults, int(self._clock() * 1_000_000))


async def _finished(work: Callable[..., None], *arguments: object) -> None:
    """Do this in a thread, to its end even when cancelled: whoever delivers next must find what it noted."""
    task = asyncio.create_task(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _checked(receipt: Receipt) -> Receipt:
    """Where each of several records is refused it may be the receiver: they are divided and tried alone."""
    if len(receipt.refused) == receipt.taken > 1:
        raise RefusedError(next(iter(receipt.refused.values())), taken=receipt.taken)
    return receipt
