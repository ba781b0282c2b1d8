"""A load generator: raw HTTP/1.1 over keep-alive connections, closed loop or at a fixed rate; prints one line of JSON.

At a fixed rate a latency is counted from when the call was due, not from when it was sent: a stall is not hidden.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast

import uvloop


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run saw. Latencies in milliseconds."""

    calls: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def calls_per_second(self) -> float:
        return self.calls / self.seconds if self.seconds else 0.0


class Caller(asyncio.Protocol):
    """One connection, one call at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(b"")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._waiting is None:
            return
        head = self._buffer[:end].lower()
        start = head.find(b"content-length:")
        length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        if len(self._buffer) >= end + 4 + length:
            answer, self._buffer = self._buffer, b""
            self._waiting.set_result(answer)

    async def call(self, request: bytes) -> bytes:
        """Send one request, give its whole answer; empty when the connection broke."""
        assert self._transport is not None
        if self._transport.is_closing():
            return b""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting


def request_bytes(*, path: str, host: str, headers: dict[str, str], body: bytes) -> bytes:
    """One POST."""
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def load(*, port: int, request: bytes, connections: int, seconds: float, rate: float, warm_up: int = 50) -> Outcome:
    """Call for `seconds`; `rate` 0 = as fast as answers come."""
    loop = asyncio.get_running_loop()
    callers = [(await loop.create_connection(Caller, "127.0.0.1", port))[1] for _ in range(connections)]
    for number in range(warm_up):
        await callers[number % connections].call(request)
    latencies: list[float] = []
    failed = 0
    started = time.perf_counter()
    until = started + seconds

    async def drive(caller: Caller, index: int) -> None:
        nonlocal failed
        due = started + index / rate if rate else 0.0
        while (now := time.perf_counter()) < until:
            if rate:
                if due >= until:
                    return
                if due > now:
                    await asyncio.sleep(due - now)
            begun = due if rate else now
            answer = await caller.call(request)
            latencies.append(time.perf_counter() - begun)
            failed += not answer.startswith(b"HTTP/1.1 200")
            if not answer:
                return
            due += connections / rate if rate else 0.0

    await asyncio.gather(*(drive(caller, index) for index, caller in enumerate(callers)))
    elapsed = time.perf_counter() - started
    latencies.sort()
    return Outcome(
        calls=len(latencies),
        failed=failed,
        seconds=elapsed,
        p50_ms=1000 * percentile(latencies, 0.50),
        p99_ms=1000 * percentile(latencies, 0.99),
    )


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of an ordered list lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def main() -> None:
    """Read `{port, request, connections, seconds, rate}` as JSON from standard input, print the outcome as JSON."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    wanted = json.load(sys.stdin)
    wanted["request"] = wanted["request"].encode()
    print(json.dumps(asdict(uvloop.run(load(**wanted)))))


if __name__ == "__main__":
    main()
