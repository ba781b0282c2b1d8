"""`python -m controlplane.reader_process`: reads MCP servers for the control plane that started it (`remote_reader`).

The first line of standard input is the configuration, each further one a reading, a stream to listen to, or a cancellation; the end
of the input ends the process. Standard output carries answers only: whatever a library prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import ssl
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from extauthz.quick_import import quick_imports

with quick_imports():
    from controlplane.definition_reader import EgressReader
    from controlplane.registry.probe import ReadingLimits

_MAX_REQUEST_BYTES = 1 << 20
_TELLING_SECONDS = 1.0
"""However often a server announces a change: not more often is it told."""


class ReaderProcess:
    """Readings under way, each a task that writes its definitions and then its result, and streams that are listened to."""

    def __init__(self, configuration: Mapping[str, Any], answers: asyncio.StreamWriter) -> None:
        address = configuration["egress_address"]
        self._contexts: dict[str, str] = {}
        self._reader = EgressReader(
            egress_address=address,
            sign=lambda server_id: self._contexts[server_id],
            limits=ReadingLimits(**configuration["limits"]),
            ssl_context=_ssl_context(configuration["link"], address),
        )
        self._answers = answers
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def take(self, request: Mapping[str, Any]) -> None:
        """Begin a reading or a stream, or end one."""
        number = request["id"]
        if request.get("cancel"):
            if (task := self._tasks.get(number)) is not None:
                task.cancel()
            return
        self._contexts[request["server"]] = request["context"]
        watched = request.get("watch")
        work = self._read(number, request["server"]) if watched is None else self._watch(number, request["server"], watched)
        task = self._tasks[number] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _read(self, number: int, server_id: str) -> None:
        result = await self._reader.read(server_id)
        for one in result.definitions:
            definition = {"kind": one.kind, "name": one.name, "digest": one.digest, "document": one.document}
            await self._answer({"id": number, "definition": definition})
        members = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "definitions"}
        members["at"] = result.at.isoformat()
        await self._answer({"id": number, "result": members})

    async def _watch(self, number: int, server_id: str, watched: Mapping[str, Any]) -> None:
        news = asyncio.Event()
        telling = asyncio.create_task(self._tell(number, news))
        with contextlib.suppress(Exception):  # whatever a server provokes ends its stream, and nothing else
            try:
                await self._reader.watch(server_id, era=watched["era"], lists=watched["lists"], heard=news.set)
            finally:
                telling.cancel()
        if news.is_set():
            await self._answer({"id": number, "heard": True})
        await self._answer({"id": number, "ended": True})

    async def _tell(self, number: int, news: asyncio.Event) -> None:
        while True:
            await news.wait()
            news.clear()
            await self._answer({"id": number, "heard": True})
            await asyncio.sleep(_TELLING_SECONDS)

    async def _answer(self, message: Mapping[str, object]) -> None:
        self._answers.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        await self._answers.drain()


def _ssl_context(link: Mapping[str, Any], address: str) -> ssl.SSLContext | None:
    if address.startswith("unix:"):
        return None
    from extauthz.transport import LinkIdentity  # noqa: PLC0415 - with gRPC, which one machine does not need here

    files = {name: Path(value) for name, value in link.items() if name != "insecure"}
    return LinkIdentity(**files, insecure=link["insecure"]).client_ssl_context(address)


async def _serve(requests: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
    process = ReaderProcess(json.loads(await requests.readline()), answers)
    while line := await requests.readline():
        process.take(json.loads(line))


async def _serve_standard_streams(answers_descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    requests = asyncio.StreamReader(limit=_MAX_REQUEST_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(answers_descriptor, "wb"))
    await _serve(requests, asyncio.StreamWriter(transport, protocol, None, loop))
    os._exit(0)  # what runs inside the SDK's task groups may survive a cancellation, and nobody waits for it


def main() -> int:
    """Run until the input ends; nothing waits for what is being read then."""
    answers_descriptor = os.dup(1)
    os.dup2(2, 1)
    for name in ("mcp", "client", "httpx2"):  # the SDK logs what servers send; a failed reading is reported by the prober, once
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        asyncio.run(_serve_standard_streams(answers_descriptor))
    return 0


if __name__ == "__main__":
    sys.exit(main())
