"""All sinks of the registry, each delivered to by a task of its own. What is wrong with one of them is no matter of the others.

registry (AuditSink entries) ─▶ settings, secrets, certificates ─▶ receiver ─▶ Delivery
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from controlplane.audit.models import AUDIT_CURSOR
from controlplane.audit.sinks.dead_letter import DeadLetters
from controlplane.audit.sinks.delivery import BatchShape, Delivery, ReopenError
from controlplane.audit.sinks.lease import LeaseLostError, Leases
from controlplane.audit.sinks.pace import Pace
from controlplane.audit.sinks.reading import Reading
from controlplane.audit.sinks.receiver.opening import open_receiver
from controlplane.audit.sinks.receiver.splunk import AckPatience
from controlplane.audit.sinks.selection import selection_of
from controlplane.audit.sinks.settings import SinkReader
from controlplane.audit.sinks.statistics import SinkCounters, SinkStatistics
from controlplane.audit.store import AuditStore
from controlplane.registry.audit_sink_spec import AuditSinkSpec
from controlplane.registry.encryption import RegistryKey
from controlplane.registry.live import LiveState
from controlplane.registry.state import Entry, RegistryState
from extauthz.address import AddressRules
from extauthz.errors import ConfigurationError

logger = structlog.get_logger(__name__)

CURSOR_PREFIX = "sink/"
"""Of the cursors of sinks, before the uid."""
PARQUET_ROWS = 10_000
"""Most records of one file; more of them in an interval make more files."""
_FORGOTTEN_AFTER_SECONDS = 600.0


def cursor_name(uid: str) -> str:
    """The name of a sink's cursor, and of its dead letters."""
    return CURSOR_PREFIX + uid


class Sinks:
    """Run as one background task. `export_dir`: below it sinks may write files."""

    def __init__(
        self,
        *,
        store: AuditStore,
        live: LiveState,
        key: RegistryKey,
        rules: AddressRules,
        secrets_dir: Path | None,
        export_dir: Path | None,
        pace: Pace | None = None,
        patience: AckPatience | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._live = live
        self._rules = rules
        self._settings = SinkReader(key=key, secrets_dir=secrets_dir, export_dir=export_dir)
        self._pace = pace or Pace()
        self._patience = patience
        self._clock = clock
        self._leases = Leases(store.engine)
        self._tasks: dict[str, tuple[Entry[AuditSinkSpec], asyncio.Task[None]]] = {}
        self._counters: dict[str, SinkCounters] = {}
        self._unusable: set[str] = set()  # sinks that failed before anything could be sent
        self._measured: tuple[SinkStatistics, ...] = ()

    async def run(self) -> None:
        """Deliver to what the registry says, until cancelled."""
        measuring = asyncio.create_task(self._measure())
        try:
            while True:
                state = self._live.state
                await self._follow(state)
                await self._live.wait(state.revision)
        finally:
            measuring.cancel()
            await self._stop(list(self._tasks))
            await asyncio.to_thread(self._leases.close)

    def statistics(self) -> tuple[SinkStatistics, ...]:
        """Every sink of this process as it was some seconds ago, for metrics. Never blocks."""
        return self._measured

    async def _measure(self) -> None:
        """Look now and then how far each sink is."""
        while True:
            entries = {uid: entry for uid, (entry, _) in sorted(self._tasks.items())}
            with contextlib.suppress(SQLAlchemyError):
                self._measured = await asyncio.to_thread(self._read_statistics, entries)
            await asyncio.sleep(self._pace.look)

    def _read_statistics(self, entries: dict[str, Entry[AuditSinkSpec]]) -> tuple[SinkStatistics, ...]:
        last = self._store.last_position()
        return tuple(self._statistics(uid, entry, last) for uid, entry in entries.items())

    async def _follow(self, state: RegistryState) -> None:
        wanted = {entry.uid: entry for entry in state.audit_sinks.values() if not entry.spec.suspended}
        changed = [uid for uid, (entry, _) in self._tasks.items() if wanted.get(uid) != entry]
        await self._stop(changed)
        for uid, entry in wanted.items():
            if uid not in self._tasks:
                self._tasks[uid] = (entry, asyncio.create_task(self._keep(entry)))
        await self._forget_deleted({entry.uid for entry in state.audit_sinks.values()})

    async def _stop(self, uids: list[str]) -> None:
        tasks = [self._tasks.pop(uid)[1] for uid in uids]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, entry: Entry[AuditSinkSpec]) -> None:
        """Deliver to one sink whatever happens: what fails is shown, and tried again."""
        counters = self._counters.setdefault(entry.uid, SinkCounters())
        failures = 0
        while True:
            try:
                await self._deliver(entry, counters)
            except ReopenError:
                failures = 0
                continue
            except (ConfigurationError, LeaseLostError, SQLAlchemyError) as error:
                fault = _fault_of(error)
            except Exception as error:  # one sink must not end the control plane, nor the other sinks
                logger.exception("audit sink failed", sink=entry.id)
                fault = f"failed ({type(error).__name__})"
            failures += 1
            self._unusable.add(entry.uid)
            if counters.fault != fault:
                logger.warning("audit sink does not work", sink=entry.id, fault=fault)
                counters.fault = fault
                await asyncio.to_thread(self._show_fault, cursor_name(entry.uid), fault)
            await asyncio.sleep(self._pace.after(failures - 1))

    async def _deliver(self, entry: Entry[AuditSinkSpec], counters: SinkCounters) -> None:
        name = cursor_name(entry.uid)
        while not await asyncio.to_thread(self._leases.take, name):  # noqa: ASYNC110 - another process tells by its end only
            await asyncio.sleep(self._pace.look)
        try:
            await asyncio.to_thread(self._begin, name, entry.spec)
            settings = await asyncio.to_thread(self._settings.read, entry)
            receiver = await asyncio.to_thread(open_receiver, settings, self._rules, patience=self._patience)
            if entry.uid in self._unusable:
                self._unusable.discard(entry.uid)
                counters.fault = ""
                await asyncio.to_thread(self._show_fault, name, "")
            try:
                delivery = Delivery(
                    name=name,
                    sink=entry.id,
                    store=self._store,
                    reading=self._reading(entry),
                    receiver=receiver,
                    leases=self._leases,
                    shape=_shape(entry.spec),
                    counters=counters,
                    pace=self._pace,
                    clock=self._clock,
                )
                await delivery.run()
            finally:
                await receiver.close()
        finally:
            await asyncio.to_thread(self._leases.give_back, name)

    def _reading(self, entry: Entry[AuditSinkSpec]) -> Reading:
        spec = entry.spec
        join_seconds = float(spec.outcome_seconds) if spec.outcomes == "joined" else None
        return Reading(self._store, selection_of(spec, entry.namespace), join_seconds=join_seconds, clock=self._clock)

    def _begin(self, name: str, spec: AuditSinkSpec) -> None:
        """A new sink begins where its document says."""
        with self._store.transaction() as connection:
            known = connection.execute(select(AUDIT_CURSOR.c.name).where(AUDIT_CURSOR.c.name == name)).first()
            if known is None:
                last = self._store.cursor_in(connection, "position")[0]
                self._store.advance(connection, name, last if spec.start == "newest" else 0)

    def _show_fault(self, name: str, fault: str) -> None:
        with contextlib.suppress(SQLAlchemyError), self._store.transaction() as connection:
            connection.execute(AUDIT_CURSOR.update().where(AUDIT_CURSOR.c.name == name).values(fault=fault))

    async def _forget_deleted(self, known: set[str]) -> None:
        """Cursors and dead letters of sinks that the registry has no more. A young cursor may be of a sink that only we do not know yet."""
        try:
            await asyncio.to_thread(self._forget, {cursor_name(uid) for uid in known})
        except SQLAlchemyError as error:
            logger.error("cursors of deleted audit sinks stay", error=type(error).__name__)

    def _forget(self, known: set[str]) -> None:
        old_us = int((self._clock() - _FORGOTTEN_AFTER_SECONDS) * 1_000_000)
        ours = AUDIT_CURSOR.c.name.startswith(CURSOR_PREFIX, autoescape=True)
        statement = select(AUDIT_CURSOR.c.name).where(ours, AUDIT_CURSOR.c.at_unix_us < old_us)
        with self._store.reading() as connection:
            gone = [name for name in connection.execute(statement).scalars() if name not in known]
        if not gone:
            return
        with self._store.transaction() as connection:
            for name in gone:
                DeadLetters(self._store).forget(connection, name)
                connection.execute(AUDIT_CURSOR.delete().where(AUDIT_CURSOR.c.name == name))

    def _statistics(self, uid: str, entry: Entry[AuditSinkSpec], last: int) -> SinkStatistics:
        counters = self._counters.get(uid, SinkCounters())
        position = self._store.cursor(cursor_name(uid))[0]
        waiting = self._store.rows(position, 1) if position < last else []
        return SinkStatistics(
            sink=entry.id,
            receiver=entry.spec.receiver,
            delivered=counters.delivered,
            retried=counters.retried,
            dead=counters.dead,
            lag_records=max(last - position, 0),
            lag_seconds=max(self._clock() - waiting[0].at_unix_us / 1_000_000, 0.0) if waiting else 0.0,
            is_faulty=bool(counters.fault),
        )


def _fault_of(error: Exception) -> str:
    """For people; a database's own words may hold addresses and values."""
    return f"the record's database does not answer ({type(error).__name__})" if isinstance(error, SQLAlchemyError) else str(error)


def _shape(spec: AuditSinkSpec) -> BatchShape:
    if spec.parquet is not None:
        return BatchShape(records=PARQUET_ROWS, seconds=spec.parquet.interval_minutes * 60.0)
    return BatchShape(records=spec.batch.records, seconds=float(spec.batch.seconds))
