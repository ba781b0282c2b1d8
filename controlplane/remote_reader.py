"""The definition reader in a process of its own (`reader_process`): what servers announce is parsed where no registry key is.

Next: `prober` uses this as its `DefinitionReader`. Requests and answers are lines of JSON on the child's standard input and output:
each reading is sent its signed context, and comes back definition by definition, so that no line is long. A child that dies is
started again by the next reading. Its imports (a second of CPU) and its work leave the control plane's interpreter alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE
from asyncio.subprocess import Process as Running
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import structlog

from controlplane.launch import launched
from controlplane.prober import ReaderGoneError
from controlplane.registry.probe import ProbedDefinition, ProbeResult, ReadingLimits
from extauthz.transport import LinkIdentity

_log = structlog.get_logger(__name__)
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_LINE_FACTOR = 8
"""How much longer than its canonical form a definition may be as a line: escapes, and what stands around it."""
_STOP_SECONDS = 2.0
_SLACK_SECONDS = 15.0
"""How much longer than a reading may take we wait for its answer: the first one waits for imports."""


@dataclass(slots=True)
class _Reading:
    """One reading under way: its definitions so far, and who waits for the whole."""

    done: asyncio.Future[ProbeResult]
    definitions: list[ProbedDefinition] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Stream:
    """One server that is listened to: who waits for the end, and who is told."""

    done: asyncio.Future[None]
    heard: Callable[[], None]


class RemoteReader:
    """A `DefinitionReader` whose work happens in a child process. `sign` makes the signed context of one reading or stream."""

    def __init__(
        self, *, egress_address: str, sign: Callable[[str], str], link: LinkIdentity | None = None, limits: ReadingLimits | None = None
    ) -> None:
        self._limits = limits or ReadingLimits()
        self._sign = sign
        self._configuration = {
            "egress_address": egress_address,
            "limits": asdict(self._limits),
            "link": _link_members(link or LinkIdentity()),
        }
        self._child: Running | None = None
        self._listening: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._readings: dict[int, _Reading] = {}
        self._streams: dict[int, _Stream] = {}
        self._count = 0

    async def __aenter__(self) -> RemoteReader:
        """Starts the child at once: its imports take longer than a first reading."""
        with contextlib.suppress(ReaderGoneError):  # it is tried again by the first reading
            await self._running()
        return self

    async def __aexit__(self, *_: object) -> None:
        """The end of its standard input ends the child; what it was reading is cancelled."""
        for waited_for in self._under_way():
            waited_for.cancel()
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
            try:
                await asyncio.wait_for(self._child.wait(), _STOP_SECONDS)
            except TimeoutError:
                self._child.kill()
        if self._listening is not None:
            await self._listening

    async def read(self, server_id: str) -> ProbeResult:
        """Read one server; cancelling here cancels there. Raises `ReaderGoneError` when the child dies meanwhile."""
        child = await self._running()
        self._count += 1
        number = self._count
        reading = self._readings[number] = _Reading(done=asyncio.get_running_loop().create_future())
        try:
            await self._send(child, {"id": number, "server": server_id, "context": self._sign(server_id)})
            async with asyncio.timeout(self._limits.seconds + _SLACK_SECONDS):
                return await reading.done
        except TimeoutError as error:  # it is stuck in something that does not let its own deadline through
            child.kill()
            raise ReaderGoneError from error
        except asyncio.CancelledError:
            with contextlib.suppress(ReaderGoneError):
                await self._send(child, {"id": number, "cancel": True})
            raise
        finally:
            del self._readings[number]

    async def watch(self, server_id: str, *, era: str, lists: Sequence[str], heard: Callable[[], None]) -> None:
        """Listen to one server, until its stream ended; cancelling here cancels there. Raises `ReaderGoneError` like `read`."""
        child = await self._running()
        self._count += 1
        number = self._count
        stream = self._streams[number] = _Stream(done=asyncio.get_running_loop().create_future(), heard=heard)
        watched = {"era": era, "lists": list(lists)}
        try:
            await self._send(child, {"id": number, "server": server_id, "context": self._sign(server_id), "watch": watched})
            await stream.done
        except asyncio.CancelledError:
            with contextlib.suppress(ReaderGoneError):
                await self._send(child, {"id": number, "cancel": True})
            raise
        finally:
            del self._streams[number]

    def _under_way(self) -> list[asyncio.Future[Any]]:
        return [*(reading.done for reading in self._readings.values()), *(stream.done for stream in self._streams.values())]

    async def _running(self) -> Running:
        """The child, started if there is none."""
        async with self._starting:
            if self._child is None or self._listening is None or self._listening.done():
                self._child = await asyncio.create_subprocess_exec(
                    *launched((sys.executable, "-P", "-m", "controlplane.reader_process")),
                    stdin=PIPE,
                    stdout=PIPE,
                    env={name: os.environ[name] for name in _INHERITED if name in os.environ},
                    limit=self._limits.max_definition_bytes * _LINE_FACTOR,
                    start_new_session=True,  # whoever stops our session leaves it to us to end our child
                )
                self._listening = asyncio.create_task(self._listen(self._child), name="definition reader")
                await self._send(self._child, self._configuration)
            return self._child

    async def _send(self, child: Running, message: Mapping[str, object]) -> None:
        if child.stdin is None or child.stdin.is_closing():
            raise ReaderGoneError
        try:
            child.stdin.write(json.dumps(message).encode() + b"\n")
            await child.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise ReaderGoneError from error

    async def _listen(self, child: Running) -> None:
        """Take what the child says until it ends; then nobody waits for it any more."""
        fault = ""
        try:
            while child.stdout is not None and (line := await child.stdout.readline()):
                self._take(json.loads(line))
        except (ValueError, LookupError, TypeError) as error:  # not what our child says: do not listen to it any longer
            fault = f"{type(error).__name__}: {error}"
        if fault:
            child.kill()
        returncode = await child.wait()
        if returncode or fault:
            _log.error("the definition reader ended", returncode=returncode, fault=fault)
        for waited_for in self._under_way():
            if not waited_for.done():
                waited_for.set_exception(ReaderGoneError())

    def _take(self, message: Mapping[str, Any]) -> None:
        stream = self._streams.get(message["id"])
        if stream is not None and not stream.done.done():
            if "ended" in message:
                stream.done.set_result(None)
            elif "heard" in message:
                stream.heard()
            return
        reading = self._readings.get(message["id"])
        if reading is None or reading.done.done():
            return  # cancelled meanwhile
        if "definition" in message:
            reading.definitions.append(ProbedDefinition(**message["definition"]))
            return
        members = message["result"]
        own = {"at": datetime.fromisoformat(members["at"]), "skipped": tuple(members["skipped"]), "definitions": tuple(reading.definitions)}
        reading.done.set_result(ProbeResult(**{**members, **own}))


def _link_members(link: LinkIdentity) -> dict[str, object]:
    files = {"cert_file": link.cert_file, "key_file": link.key_file, "ca_file": link.ca_file}
    return {name: str(file) for name, file in files.items() if file is not None} | {"insecure": link.insecure}
