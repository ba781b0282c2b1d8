"""Everything that reaches an upstream, counted and kept: a TCP proxy in front of each flavour, which is what is registered.

A test that says "nothing reached it" means the count of connections and bytes here, not what a server cared to log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

KEPT_BYTES = 64 * 1024 * 1024


@dataclass(kw_only=True)
class Recorder:
    """What has arrived at one upstream since it was started."""

    name: str
    port: int = 0
    connections: int = 0
    received_bytes: int = 0
    received: bytearray = field(default_factory=bytearray, repr=False)

    def take(self, data: bytes) -> None:
        """Count and keep."""
        self.received_bytes += len(data)
        self.received += data
        if len(self.received) > KEPT_BYTES:
            raise AssertionError("the suite sends more than a recorder keeps")


@contextlib.asynccontextmanager
async def recording(name: str, port: int) -> AsyncIterator[Recorder]:
    """Record what is sent to `port` of the loopback by who connects to the recorder's own port."""
    recorder = Recorder(name=name)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recorder.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with contextlib.suppress(OSError):
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_pass_on(reader, upstream_writer, recorder), _pass_on(upstream_reader, writer, None))
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    recorder.port = server.sockets[0].getsockname()[1]
    try:
        yield recorder
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recorder: Recorder | None) -> None:
    try:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                if recorder is not None:
                    recorder.take(data)
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()
