"""Keeps the catalog true: reads every McpServer's definitions when it appears or changes, when it announces that a list changed, and
again every interval.

Where we are: `registry.store` committed a revision, `xds` programmed it; the prober (principal `system/prober`) now asks the
server through Envoy's egress listener (`remote_reader`) and hands what it announced to the registry, where it waits beside
the accepted definitions until an operator accepts it. Nothing is ever accepted here. Servers that announce changes are listened to
(`announcement_stream`), a bounded number at once, each for as long as a stream lasts; how often one can make us read it is bounded too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from controlplane.registry.probe import DefinitionStore, ProbeResult
from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import Entry, RegistryState

_log = structlog.get_logger(__name__)
_FIRST_RETRY_SECONDS = 0.25
_ROLLOUT_SECONDS = 5.0
_LONG_STREAM_SECONDS = 60.0
_FIRST_STREAM_PAUSE_SECONDS = 1.0
_LONGEST_STREAM_PAUSE_SECONDS = 3600.0
_MIN_PROVOKED_SECONDS = 5.0
_LISTS = ("tools", "prompts", "resources")
_GONE = "the definition reader ended while it was reading"


class ReaderGoneError(Exception):
    """The reader itself ended: says nothing about the server, which is read again."""


class DefinitionReader(Protocol):
    """Reads one server (by id, `namespace/name`); says failures in the result. Raises `ReaderGoneError` for its own only."""

    async def read(self, server_id: str) -> ProbeResult:
        """Everything the server announces."""
        ...

    async def watch(self, server_id: str, *, era: str, lists: Sequence[str], heard: Callable[[], None]) -> None:
        """Open one stream of announcements and return when it ended, or there is none. `heard`: it stands, or a list changed."""
        ...


class Pace:
    """When a server may have the reading that it provokes: never soon after another one, and ever later while it goes on provoking."""

    def __init__(self, *, longest_seconds: float) -> None:
        self._longest = longest_seconds
        self._shortest = min(_MIN_PROVOKED_SECONDS, longest_seconds)
        self._pause = 0.0
        self._read_at = float("-inf")

    def was_read(self, now: float) -> None:
        """A reading ended, whoever had asked for it."""
        self._read_at = now

    def turn(self, now: float) -> float:
        """When the reading may begin that the server provoked now; to be asked once for each reading."""
        was_quiet = now - self._read_at > 2 * max(self._pause, self._shortest)
        self._pause = self._shortest if was_quiet else min(max(self._shortest, 2 * self._pause), self._longest)
        return max(now, self._read_at + self._pause)


@dataclass(slots=True)
class _Target:
    """One server that is read again and again, until it changes or goes."""

    entry: Entry[McpServerSpec]
    revision: int
    pace: Pace
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    asked: bool = False
    heard: bool = False
    announces: asyncio.Event = field(default_factory=asyncio.Event)
    era: str = ""
    lists: tuple[str, ...] = ()  # those whose changes it announces
    tasks: tuple[asyncio.Task[None], ...] = ()

    def ask(self) -> None:
        """An operator wants a reading now."""
        self.asked = True
        self.woken.set()

    def hear(self) -> None:
        """The server says that something changed, or may have, while nobody listened."""
        self.heard = True
        self.woken.set()

    def learn(self, result: ProbeResult) -> None:
        """Keep what a reading shows about how the server announces changes."""
        if result.error:
            return
        self.era = result.era
        self.lists = tuple(name for name in _LISTS if _announces(result.capabilities.get(name)))
        if self.lists:
            self.announces.set()
        else:
            self.announces.clear()


class Prober:
    """Reads all servers of the registry, each in its own rhythm, at most `concurrency` at once, and listens to at most `watched`.

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
        watched: int = 0,
    ) -> None:
        self._reader = reader
        self._store = store
        self._programmed = programmed
        self._interval_seconds = interval_seconds
        self._slots = asyncio.Semaphore(concurrency)
        self._streams = asyncio.Semaphore(watched) if watched > 0 else None  # fair: who waits longest is next when a stream ends
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
            pace = Pace(longest_seconds=self._interval_seconds)
            target = self._targets[uid] = _Target(entry=entry, revision=state.revision, pace=pace)
            target.tasks = (asyncio.create_task(self._follow(target), name=f"probe {entry.id}"),)
            if self._streams is not None:
                target.tasks += (asyncio.create_task(self._watch(target, self._streams), name=f"watch {entry.id}"),)

    def probe_now(self, uid: str) -> bool:
        """Read a server again at once (an operator asked); whether it is one that is read at all.

        A reading that is under way may have seen what was before: another one follows it.
        """
        target = self._targets.get(uid)
        if target is not None:
            target.ask()
        return target is not None

    async def stop(self) -> None:
        """End all readings, for good."""
        self._stopped = True
        tasks = [task for target in self._targets.values() for task in target.tasks]
        for uid in list(self._targets):
            self._forget(uid)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, uid: str) -> None:
        target = self._targets.pop(uid, None)
        for task in target.tasks if target is not None else ():
            task.cancel()

    async def _follow(self, target: _Target) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ROLLOUT_SECONDS):  # in 3.11 `wait_for` forgets a cancellation when what it waits for comes too
                await self._programmed(target.revision)
        failures = 0
        last_error = ""
        loop = asyncio.get_running_loop()
        while True:
            asked = target.asked
            target.asked = target.heard = False
            error = await self._probe(target, "" if asked else last_error)  # who asked is told, also the same again
            target.pace.was_read(loop.time())
            failures = failures + 1 if error else 0
            last_error = error
            pause = min(self._interval_seconds, _FIRST_RETRY_SECONDS * 2 ** min(failures, 20)) if error else self._interval_seconds
            await _rest(target, loop.time() + pause)

    async def _watch(self, target: _Target, streams: asyncio.Semaphore) -> None:
        """Listen to the server whenever it is known to announce; streams that do not last are opened ever more rarely."""
        loop = asyncio.get_running_loop()
        short = 0
        while True:
            await target.announces.wait()
            async with streams:
                began = loop.time()
                try:
                    await self._reader.watch(target.entry.id, era=target.era, lists=target.lists, heard=target.hear)
                except ReaderGoneError:
                    _log.warning("the definition reader ended while it was listening", server=target.entry.id)
                except Exception:  # noqa: BLE001 - a fault of ours leaves the interval, which does without
                    _log.exception("an MCP server could not be listened to", server=target.entry.id)
                lasted = loop.time() - began
            short = 0 if lasted >= _LONG_STREAM_SECONDS else short + 1
            await asyncio.sleep(min(_FIRST_STREAM_PAUSE_SECONDS * 2 ** min(short, 20), _LONGEST_STREAM_PAUSE_SECONDS))

    async def _probe(self, target: _Target, last_error: str) -> str:
        """One reading, recorded; the error it ended with, empty when it went well. The same error twice is recorded once."""
        entry = target.entry
        try:
            async with self._slots:
                result = await self._reader.read(entry.id)
            target.learn(result)
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


async def _rest(target: _Target, until: float) -> None:
    """Until that time, or until an operator asks, or the server said that something changed and it is its turn."""
    loop = asyncio.get_running_loop()
    has_turn = False
    while not target.asked:
        if target.heard and not has_turn:
            has_turn, until = True, min(until, target.pace.turn(loop.time()))
        target.woken.clear()
        try:
            async with asyncio.timeout_at(until):  # in 3.11 `wait_for` forgets a cancellation when what it waits for comes too
                await target.woken.wait()
        except TimeoutError:
            return


def _announces(capability: object) -> bool:
    return isinstance(capability, Mapping) and capability.get("listChanged") is True
