"""Keeps the catalog true: reads every McpServer's definitions when it appears or changes, and again every interval.

Where we are: `registry.store` committed a revision, `xds` programmed it; the prober (principal `system/prober`) now asks the
server through Envoy's egress listener (`remote_reader`) and hands what it announced to the registry, where it waits beside
the accepted definitions until an operator accepts it. Nothing is ever accepted here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from controlplane.registry.probe import DefinitionStore, ProbeResult
from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import Entry, RegistryState

_log = structlog.get_logger(__name__)
_FIRST_RETRY_SECONDS = 0.25
_ROLLOUT_SECONDS = 5.0
_GONE = "the definition reader ended while it was reading"


class ReaderGoneError(Exception):
    """The reader itself ended: says nothing about the server, which is read again."""


class DefinitionReader(Protocol):
    """Reads one server (by id, `namespace/name`); says failures in the result. Raises `ReaderGoneError` for its own only."""

    async def read(self, server_id: str) -> ProbeResult:
        """Everything the server announces."""
        ...


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
            if known is not None and (known.entry.spec is entry.spec or known.entry.spec == entry.spec):
                continue
            self._forget(uid)
            target = self._targets[uid] = _Target(entry=entry, revision=state.revision)
            target.task = asyncio.get_running_loop().create_task(self._follow(target), name=f"probe {entry.id}")

    def probe_now(self, uid: str) -> bool:
        """Read a server again at once (an operator asked); whether it is one that is read at all.

        A reading that is under way may have seen what was before: another one follows it.
        """
        target = self._targets.get(uid)
        if target is not None:
            target.again.set()
        return target is not None

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
            async with asyncio.timeout(_ROLLOUT_SECONDS):  # in 3.11 `wait_for` forgets a cancellation when what it waits for comes too
                await self._programmed(target.revision)
        failures = 0
        last_error = ""
        while True:
            asked = target.again.is_set()
            target.again.clear()
            error = await self._probe(target.entry, "" if asked else last_error)  # who asked is told, also the same again
            failures = failures + 1 if error else 0
            last_error = error
            pause = min(self._interval_seconds, _FIRST_RETRY_SECONDS * 2 ** min(failures, 20)) if error else self._interval_seconds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await target.again.wait()

    async def _probe(self, entry: Entry[McpServerSpec], last_error: str) -> str:
        """One reading, recorded; the error it ended with, empty when it went well. The same error twice is recorded once."""
        try:
            async with self._slots:
                result = await self._reader.read(entry.id)
            if result.error and result.error == last_error:
                return result.error
            revision = await self._store.record_probe(entry.uid, result)
        except ReaderGoneError:
            _log.warning(_GONE, server=entry.id)
            return _GONE
        except Exception:  # noqa: BLE001 - a fault of ours must not end the readings of this server, nor the control plane
            _log.exception("a reading could not be recorded", server=entry.id)
            return "the reading could not be recorded"
        if result.error:
            _log.warning("an MCP server could not be read", server=entry.id, error=result.error)
        elif revision is not None:
            _log.info("definitions changed", server=entry.id, definitions=len(result.definitions), revision=revision)
        return result.error
