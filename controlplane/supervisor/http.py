"""The few HTTP requests that a supervisor makes, on asyncio's streams: is the gateway ready and where, has Envoy drained."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

_MAX_BYTES = 65536


async def get_readiness(port: int) -> tuple[int, str]:
    """Status and body of `/readyz` at the gateway; status 0 while nobody answers."""
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            return await _exchange(reader, writer, "GET", "/readyz", f"127.0.0.1:{port}")
    except (OSError, TimeoutError, ValueError) as error:
        return 0, str(error) or type(error).__name__


async def get_gateway_url(api_socket: Path) -> str:
    """The gateway's base URL as `/readyz` of the control plane itself says it, once everything is ready; empty until then."""
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_unix_connection(str(api_socket))
            status, body = await _exchange(reader, writer, "GET", "/readyz", "localhost")
        return str(json.loads(body)["gateway_url"]) if status == 200 else ""
    except (OSError, TimeoutError, ValueError, KeyError):
        return ""


async def is_listening(port: int) -> bool:
    """Whether somebody takes connections at a port of the loopback."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def drain_envoy(admin_socket: Path, *, seconds: float) -> None:
    """Ask Envoy to take no new requests, and wait until those under way have ended or the time is up."""
    try:
        async with asyncio.timeout(seconds):
            await _admin(admin_socket, "POST", "/drain_listeners?graceful&skip_exit")
            while await _active_requests(admin_socket) > 0:  # noqa: ASYNC110 - Envoy has no event to wait for
                await asyncio.sleep(0.05)
    except (OSError, TimeoutError, ValueError):
        return  # it is stopped anyway


async def _active_requests(admin_socket: Path) -> int:
    _, body = await _admin(admin_socket, "GET", "/stats?filter=^http%5C..*downstream_rq_active$")
    return sum(int(number) for name, number in re.findall(r"^(\S+): (\d+)$", body, re.MULTILINE) if ".admin." not in name)


async def _admin(admin_socket: Path, method: str, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_unix_connection(str(admin_socket))
    return await _exchange(reader, writer, method, path, "localhost")


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, host: str) -> tuple[int, str]:
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        answer = b""
        while len(answer) < _MAX_BYTES and (chunk := await reader.read(_MAX_BYTES)):
            answer += chunk
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1] if b" " in head else 0), body.decode(errors="replace")
