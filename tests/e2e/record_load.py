"""Calls that nobody else makes, and what the record has of them: for tests that take processes away under load."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import aiohttp

from controlplane.audit.chain import links_behind
from controlplane.audit.database import audit_database_url, open_audit_database
from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import StoredRecord
from controlplane.registry.encryption import read_registry_key
from extauthz.audit.chain import Head
from extauthz.v1 import audit_pb2 as pb
from tests.e2e.light_upstream import LightUpstream
from tests.e2e.stack import Stack

SERVER = "taken/light"
REGISTRY = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: taken}}
spec: {{}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: taken, name: light}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{port}/mcp"}}]}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: taken, name: callers}}
spec: {{role: caller, subjects: [{{kind: User, name: local/caller}}]}}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: taken, name: rules}}
spec:
  cedar: |
    permit (principal in Role::"taken/caller", action, resource in Namespace::"taken");
"""
_PAGE = 2_000


@dataclass(kw_only=True)
class Load:
    """Calls under way. `answered` were answered with 200, `refused` with anything else, or not at all."""

    answered: int = 0
    refused: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)


@contextlib.asynccontextmanager
async def calls_without_end(stack: Stack, *, workers: int = 4, pause_seconds: float = 0.01) -> AsyncIterator[Load]:
    """Tool calls, each with an argument of its own, until the block ends."""
    load, stop = Load(), asyncio.Event()
    token = stack.token("caller", server=SERVER, seconds=7200)

    async def work() -> None:
        while not stop.is_set():
            try:
                answer = await stack.call(SERVER, "echo", {"text": f"call {next(load.numbers)}"}, access_token=token)
            except (aiohttp.ClientError, TimeoutError):
                load.refused += 1
            else:
                load.answered += answer.status == 200
                load.refused += answer.status != 200
            await asyncio.sleep(pause_seconds)

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    try:
        yield load
    finally:
        stop.set()
        await asyncio.gather(*tasks)


@contextlib.contextmanager
def record_of(stack: Stack) -> Iterator[AuditStore]:
    """The record of a deployment, read beside its control plane."""
    key = read_registry_key(stack.data_dir / "registry.key")
    store = AuditStore(open_audit_database(audit_database_url("", f"sqlite:///{stack.data_dir / 'registry.db'}")), key)
    try:
        yield store
    finally:
        store.close()


class RecordedCalls:
    """What the record has of calls that were allowed; read on each time it is asked."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self._position = 0
        self._digests: Counter[str] = Counter()

    def missing(self, upstream: LightUpstream) -> set[str]:
        """Calls that reached the upstream and are not on the record."""
        reached = {_digest(params["arguments"]) for params in list(upstream.calls)}
        self._read_on()
        return reached - self._digests.keys()

    def twice(self) -> list[str]:
        """Calls that are on the record more than once."""
        return [digest for digest, count in self._digests.items() if count > 1]

    def _read_on(self) -> None:
        for row in _rows(self._store, self._position):
            self._position = row.position
            if row.event == "tool_call" and row.decision == "allow" and row.mcp_server == SERVER:
                self._digests[self._store.opened(row).arguments_digest] += 1


def assert_whole(store: AuditStore) -> None:
    """Positions have no gap, and every writer's chain is one from its first record on."""
    heads: dict[str, Head] = {}
    for number, row in enumerate(_rows(store), 1):
        assert row.position == number
        batch = pb.ShipBatch(writer_id=row.writer_id, first_sequence=row.sequence, records=[row.payload])
        links, fault = links_behind(heads.get(row.writer_id, Head(row.writer_id)), batch)
        assert not fault, fault
        heads[row.writer_id] = Head(row.writer_id, row.sequence, links[0].record_hash)


def _rows(store: AuditStore, position: int = 0) -> Iterator[StoredRecord]:
    while rows := store.rows(position, _PAGE):
        yield from rows
        position = rows[-1].position


def _digest(arguments: object) -> str:
    text = json.dumps(arguments, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
