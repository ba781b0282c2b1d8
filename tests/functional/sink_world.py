"""A record with many entries, a registry with sinks, and the delivery between them: all of it real."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import select

from controlplane.audit.database import open_audit_database
from controlplane.audit.models import AUDIT_CURSOR
from controlplane.audit.sinks.dead_letter import DeadLetters
from controlplane.audit.sinks.pace import Pace
from controlplane.audit.sinks.receiver.splunk import AckPatience
from controlplane.audit.sinks.sinks import Sinks, cursor_name
from controlplane.audit.store import AuditStore
from extauthz.address import AddressRules
from extauthz.v1 import audit_pb2 as pb
from tests.functional.registry import Registry, open_registry
from tests.sink_receivers import POISON

RECORDS = int(os.environ.get("LEGATION_SOAK_RECORDS", "2000"))
"""How many records every sink gets; `make soak` sends 100,000."""
PATIENCE_SECONDS = 120.0 + RECORDS / 50
FAST = Pace(first=0.01, most=0.2, reopen=5.0, look=0.2)
SPLUNK_PATIENCE = AckPatience(poll_seconds=0.02, wait_seconds=1.0)


class SinkWorld:
    """`fill` the record, `apply` sinks, deliver."""

    def __init__(self, directory: Path, *, audit_url: str = "") -> None:
        self.directory = directory
        self.export_dir = directory / "export"
        self.secrets_dir = directory / "secrets"
        (self.secrets_dir / "system").mkdir(parents=True)
        self.audit_url = audit_url or f"sqlite:///{directory}/audit.db"
        self.registry: Registry = open_registry(f"sqlite:///{directory}/registry.db", secrets_dir=self.secrets_dir)
        self.store = AuditStore(open_audit_database(self.audit_url), self.registry.key)
        self.dead_letters = DeadLetters(self.store)
        self.ids: list[str] = []
        self._writers = 0

    def close(self) -> None:
        self.store.close()
        self.registry.store.close()

    # the record

    def fill(self, count: int = RECORDS, **fields: Any) -> list[str]:
        """One more writer with this many records of its own; their ids."""
        self._writers += 1
        return self.write([{"tool": f"tool_{number % 7}", **fields} for number in range(count)], writer=f"node-{self._writers}")

    def write(self, records: list[dict[str, Any]], *, writer: str = "hand") -> list[str]:
        """These records, in this order."""
        writer_id = f"{writer}-1700000000000-{self._writers + 100}"
        self._writers += 1
        previous, payloads, now = b"", [], int(time.time() * 1_000_000)
        for sequence, fields in enumerate(records, 1):
            values: dict[str, Any] = {
                "decision_id": f"{writer_id}.{sequence}",
                "at_unix_us": now + sequence,
                "event": pb.AUDIT_EVENT_TOOL_CALL,
                "decision": pb.AUDIT_DECISION_ALLOW if sequence % 5 else pb.AUDIT_DECISION_DENY,
                "reason": "allowed" if sequence % 5 else "no_matching_permit",
                "namespace": "demo",
                "mcp_server": "crm",
                "method": "tools/call",
                "principal": pb.AuditPrincipal(kind="User", id="idp/ann", subject="ann"),
                "downstream_address": "192.0.2.7:40123",
                **fields,
            }
            payload = pb.AuditRecord(writer_id=writer_id, sequence=sequence, previous_hash=previous, **values).SerializeToString()
            previous = hashlib.sha256(payload).digest()
            payloads.append(payload)
        for begin in range(0, len(payloads), 1000):
            part = payloads[begin : begin + 1000]
            self.store.append(pb.ShipBatch(writer_id=writer_id, first_sequence=begin + 1, records=part), writer)
        ids = [f"{writer_id}/{sequence}" for sequence in range(1, len(records) + 1)]
        self.ids += ids
        return ids

    # sinks

    def apply(self, name: str = "siem", namespace: str = "system", **spec: Any) -> str:
        """Write an AuditSink; its uid. Batches are small and quick, so that much can go wrong."""
        spec = {"batch": {"records": 100, "seconds": 1}, **spec}
        document = {"apiVersion": "legation/v1", "kind": "AuditSink", "metadata": {"namespace": namespace, "name": name}, "spec": spec}
        self.registry.apply(yaml.safe_dump(document).encode())
        return self.registry.live.state.audit_sinks[f"{namespace}/{name}"].uid

    def sinks(self, store: AuditStore | None = None, pace: Pace = FAST) -> Sinks:
        return Sinks(
            store=store or self.store,
            live=self.registry.live,
            key=self.registry.key,
            rules=AddressRules(("127.0.0.0/8",)),
            secrets_dir=self.secrets_dir,
            export_dir=self.export_dir,
            pace=pace,
            patience=SPLUNK_PATIENCE,
        )

    @contextlib.asynccontextmanager
    async def delivering(self, store: AuditStore | None = None, pace: Pace = FAST) -> AsyncIterator[Sinks]:
        sinks = self.sinks(store, pace)
        task = asyncio.create_task(sinks.run())
        try:
            yield sinks
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def delivered(self, uid: str, position: int | None = None) -> None:
        """Wait until the sink's cursor has come to the end of the record (or to a position)."""
        wanted = self.store.last_position() if position is None else position
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while (found := self.cursor(uid)[0]) < wanted:
            assert time.monotonic() < give_up_at, f"delivered {found} of {wanted}: {self.cursor(uid)[1]}"
            await asyncio.sleep(0.05)

    async def until(self, condition: Any, what: str) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < give_up_at, what
            await asyncio.sleep(0.05)

    def cursor(self, uid: str) -> tuple[int, str]:
        """Position and fault."""
        with self.store.reading() as connection:
            columns = select(AUDIT_CURSOR.c.position, AUDIT_CURSOR.c.fault)
            row = connection.execute(columns.where(AUDIT_CURSOR.c.name == cursor_name(uid))).first()
        return (row.position, row.fault) if row is not None else (0, "")

    def dead(self, uid: str) -> list[str]:
        """Ids of the dead letters of a sink."""
        return [letter.record_id for letter in self.dead_letters.read(cursor_name(uid), after=0, limit=10_000)]

    def files(self) -> list[Path]:
        """What file sinks have written, in its order."""
        return sorted(self.export_dir.rglob("*.jsonl"), key=lambda path: (path.name == "audit.jsonl", path.name))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for path in self.files() for line in path.read_bytes().splitlines()]


@contextlib.contextmanager
def sink_world(directory: Path, *, audit_url: str = "") -> Iterator[SinkWorld]:
    world = SinkWorld(directory, audit_url=audit_url)
    try:
        yield world
    finally:
        world.close()


__all__ = ["FAST", "PATIENCE_SECONDS", "POISON", "RECORDS", "SinkWorld", "sink_world"]
