"""The real log, shipper, discovery server, collector and store of the record, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from controlplane.audit.collector import Collector
from controlplane.audit.database import open_audit_database
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from controlplane.database import sqlite_url
from controlplane.registry.encryption import RegistryKey
from controlplane.xds.cache import ViewCache
from controlplane.xds.rollout import Rollout
from controlplane.xds.server import AdsServer
from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord
from extauthz.audit.shipper import RecordShipper
from extauthz.audit.wal import AuditLog
from extauthz.discovery import open_channel
from extauthz.transport import LinkIdentity

KEY = RegistryKey(b"0123456789abcdef0123456789abcdef")
PATIENCE_SECONDS = 60.0


def record(number: int, **fields: Any) -> AuditRecord:
    """A decision that was made."""
    return AuditRecord(
        decision_id=f"d{number}",
        at_unix_us=time.time_ns() // 1000,
        event=AuditEvent.TOOL_CALL,
        decision=AuditDecision.ALLOW,
        **fields,
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, and fail after a minute."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@dataclass
class RecordWorld:
    """A directory of logs, and a control plane that may come and go."""

    directory: Path
    database_url: str
    address: str

    @property
    def audit_dir(self) -> Path:
        return self.directory / "audit"

    def log(self, writer_id: str, **options: Any) -> AuditLog:
        log = AuditLog(directory=self.audit_dir, writer_id=writer_id, **options)
        log.open()
        return log

    def files(self) -> list[str]:
        return sorted(path.name for path in self.audit_dir.glob("*.wal"))

    def kept(self, store: AuditStore) -> list[tuple[str, int, str]]:
        """Writer, sequence and decision of every record, in the order of positions, which have no gap."""
        rows = store.rows(0, 1_000_000)
        assert [row.position for row in rows] == list(range(1, len(rows) + 1))
        return [(row.writer_id, row.sequence, row.decision_id) for row in rows]

    @contextlib.asynccontextmanager
    async def shipping(
        self, *logs: AuditLog, node_id: str = "node", credentials: grpc.ChannelCredentials | None = None, results: bool = False
    ) -> AsyncIterator[RecordShipper]:
        """A shipper of the directory, of an aggregator with `results`; `logs` are those of its own process."""

        def durable_end(path: Path) -> int | None:
            return next((end for log in logs if (end := log.durable_end(path)) is not None), None)

        opened = partial(open_channel, self.address, credentials)
        shipper = RecordShipper(directory=self.audit_dir, node_id=node_id, open_channel=opened, durable_end=durable_end, results=results)
        running = asyncio.create_task(shipper.run())
        try:
            yield shipper
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def control_plane(self, *, link: LinkIdentity | None = None, listen: str = "") -> AsyncIterator[tuple[AuditStore, Collector]]:
        """A control plane, as far as records are concerned."""
        store = AuditStore(await asyncio.to_thread(open_audit_database, self.database_url), KEY)
        collector, cache = Collector(store, RecordWriter(store, KEY)), ViewCache()
        keeping = asyncio.create_task(collector.run())
        rollout, identity = Rollout(cache=cache), link or LinkIdentity()
        server = AdsServer(listen=listen or self.address, cache=cache, rollout=rollout, identity=identity, for_writers=(collector.handler,))
        try:
            async with server:
                if listen:
                    self.address = f"localhost:{server.port}"
                yield store, collector
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            store.close()


def make_world(directory: Path, database_url: str = "") -> RecordWorld:
    """A world in a directory; its record is a SQLite file there unless another database is named."""
    url = database_url or sqlite_url(directory / "audit.db")
    return RecordWorld(directory=directory, database_url=url, address=f"unix:{directory / 'ads.sock'}")
