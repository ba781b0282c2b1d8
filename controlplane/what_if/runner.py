"""Runs replays, each in a process of its own (`what_if.process`), and hands on what it says, line by line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from controlplane.launch import launched
from controlplane.what_if.question import Question

_MAX_LINE_BYTES = 64 * 1024 * 1024
_AT_ONCE = 2


class ReplayBusyError(Exception):
    """As many replays run as may run at once."""


class ReplayFailedError(Exception):
    """The process ended without a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySources:
    """Where a replay reads."""

    database_url: str
    audit_database_url: str
    encryption_key_file: Path


class ReplayRunner:
    """Starts replays. At most two run at once; cancelling ends one."""

    def __init__(self, sources: ReplaySources) -> None:
        self._sources = sources
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def answers(self, question: Question) -> AsyncIterator[bytes]:
        """Lines of JSON, as the process says them: `progress`, and at last `result` or `error`.

        Raises `ReplayBusyError` before the first line, and `ReplayFailedError` when the process died.
        """
        if self._free.locked():
            raise ReplayBusyError
        async with self._free:
            command = launched((sys.executable, "-P", "-m", "controlplane.what_if.process"))
            child = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=_MAX_LINE_BYTES)
            try:
                assert child.stdin is not None  # noqa: S101 - asked for above
                assert child.stdout is not None  # noqa: S101
                child.stdin.write(self._asked(question))
                await child.stdin.drain()
                line = b""
                while more := await child.stdout.readline():
                    line = more
                    yield line
                if not line.startswith((b'{"result"', b'{"error"')):
                    raise ReplayFailedError
            finally:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()

    def _asked(self, question: Question) -> bytes:
        asked = {
            "database_url": self._sources.database_url,
            "audit_database_url": self._sources.audit_database_url,
            "encryption_key_file": str(self._sources.encryption_key_file),
            "question": question.to_json(),
        }
        return json.dumps(asked).encode() + b"\n"
