"""Keeps the catalog true: reads every McpServer's definitions when it appears or changes, and again every interval.

Where we are: `registry.store` committed a revision, `xds` programmed it; the prober (principal `system/prober`) now asks the
server through Envoy's egress listener (`definition_reader`) and hands what it announced to the registry, where it waits beside
the accepted definitions until an operator accepts it. Nothing is ever accepted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from controlplane.registry.probe import DefinitionStore, ProbeResult
from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import Entry, RegistryState

if TYPE_CHECKING:
    from controlplane.definition_reader import EgressReader

_log = structlog.get_logger(__name__)
_FIRST_RETRY_SECONDS = 0.25
_ROLLOUT_SECONDS = 5.0
_IMPORT_AFTER_SECONDS = 1.0
_CANCELLATIONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingLimits:
    """How much of one server is read before the reading fails."""

    seconds: float = 20.0
    max_bytes: int = 16 * 1024 * 1024
    max_definition_bytes: int = 64 * 1024
    max_definitions: int = 5000
    max_pages: int = 200


class DefinitionReader(Protocol):
    """Reads one server (by id, `namespace/name`); says failures in the result and never raises for them."""

    async def read(self, server_id: str) -> ProbeResult:
        """Everything the server announces."""
        ...


class ReaderThread:
    """The SDK's client on an event loop of its own, so that neither its import nor a huge answer stalls the control plane."""

    def __init__(
        self,
        *,
        egress_address: str,
        sign: Callable[[str], str],
        limits: ReadingLimits | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._make: Callable[[], EgressReader] = lambda: _make_reader(egress_address, sign, limits or ReadingLimits(), ssl_context)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="definition-reader", daemon=True)
        self._reader: EgressReader | None = None

    async def __aenter__(self) -> ReaderThread:
        self._thread.start()
        self._loop.call_soon_threadsafe(self._loop.call_later, _IMPORT_AFTER_SECONDS, self._ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        await asyncio.to_thread(self._thread.join, 5.0)
        if not self._thread.is_alive():
            self._loop.close()

    async def read(self, server_id: str) -> ProbeResult:
        """Read in the other thread; cancelling here cancels there."""
        reading: Future[ProbeResult] = asyncio.run_coroutine_threadsafe(self._read(server_id), self._loop)
        return await asyncio.wrap_future(reading)

    async def _read(self, server_id: str) -> ProbeResult:
        return await self._ready().read(server_id)

    def _ready(self) -> EgressReader:
        """The reader; made a moment after the start, so that the first server of a registry does not wait for the import."""
        if self._reader is None:
            self._reader = self._make()
        return self._reader

    async def _end(self) -> None:
        """Cancel until everything has ended: what runs inside the SDK's task groups may survive one cancellation."""
        pending = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
        for _ in range(_CANCELLATIONS):
            if not pending:
                break
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
        self._loop.call_soon(self._loop.stop)


def _make_reader(
    egress_address: str, sign: Callable[[str], str], limits: ReadingLimits, ssl_context: ssl.SSLContext | None
) -> EgressReader:
    from controlplane.definition_reader import EgressReader  # noqa: PLC0415 - imports the SDK: 1.2 s

    for name in ("mcp", "client", "httpx2"):  # the SDK logs what servers send; a failed reading is reported by us, once
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return EgressReader(egress_address=egress_address, sign=sign, limits=limits, ssl_context=ssl_context)


@dataclass(slots=True)
class _Target:
    """One server that is read again and again, until it changes or goes."""

    entry: Entry[McpServerSpec]
    revision: int
    again: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Prober:
    """Reads all servers of the registry, each in its own rhythm, at most `concurrency` at once.

    `programmed(revision)` returns when gateways and authorizers have that revision; a first reading waits for it (bounded).
    """

    def __init__(
        self,
        *,
        reader: DefinitionReader,
        store: DefinitionStore,
        programmed: Callable[[int], Awaitable[object]],
        interval_seconds: float,
        concurrency: int = 8,
    ) -> None:
        self._reader = reader
        self._store = store
        self._programmed = programmed
        self._interval_seconds = interval_seconds
        self._slots = asyncio.Semaphore(concurrency)
        self._targets: dict[str, _Target] = {}
        self._stopped = False

    def update(self, state: RegistryState) -> None:
        """Follow a new revision: read what is new or changed now, forget what is gone or suspended."""
        if self._stopped:
            return
        wanted = {entry.uid: entry for entry in state.mcp_servers.values() if not entry.spec.suspended}
        for uid in self._targets.keys() - wanted.keys():
            self._forget(uid)
        for uid, entry in wanted.items():
            known = self._targets.get(uid)
            if known is not None and known.entry.spec == entry.spec:
                continue
            self._forget(uid)
            target = self._targets[uid] = _Target(entry=entry, revision=state.revision)
            target.task = asyncio.get_running_loop().create_task(self._follow(target), name=f"probe {entry.id}")

    def probe_now(self, uid: str) -> None:
        """Read a server again at once (an operator asked)."""
        target = self._targets.get(uid)
        if target is not None:
            target.again.set()

    async def stop(self) -> None:
        """End all readings, for good."""
        self._stopped = True
        tasks = [target.task for target in self._targets.values() if target.task is not None]
        for uid in list(self._targets):
            self._forget(uid)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, uid: str) -> None:
        target = self._targets.pop(uid, None)
        if target is not None and target.task is not None:
            target.task.cancel()

    async def _follow(self, target: _Target) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._programmed(target.revision), _ROLLOUT_SECONDS)
        failures = 0
        last_error = ""
        while True:
            async with self._slots:
                error = await self._probe(target.entry, last_error)
            failures = failures + 1 if error else 0
            last_error = error
            pause = min(self._interval_seconds, _FIRST_RETRY_SECONDS * 2 ** min(failures, 20)) if error else self._interval_seconds
            target.again.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(target.again.wait(), pause)

    async def _probe(self, entry: Entry[McpServerSpec], last_error: str) -> str:
        """One reading, recorded; the error it ended with, empty when it went well. The same error twice is recorded once."""
        try:
            result = await self._reader.read(entry.id)
            if result.error and result.error == last_error:
                return result.error
            revision = await self._store.record_probe(entry.uid, result)
        except Exception:  # noqa: BLE001 - a fault of ours must not end the readings of this server, nor the control plane
            _log.exception("a reading could not be recorded", server=entry.id)
            return "the reading could not be recorded"
        if result.error:
            _log.warning("an MCP server could not be read", server=entry.id, error=result.error)
        elif revision is not None:
            _log.info("definitions changed", server=entry.id, definitions=len(result.definitions), revision=revision)
        return result.error
