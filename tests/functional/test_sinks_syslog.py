"""Syslog sinks with real servers, rsyslog and syslog-ng, over TLS and through connections that break: nothing is lost."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.sink_world import SinkWorld, sink_world
from tests.functional.syslog_servers import KINDS, SyslogServer, settled, syslog_server
from tests.pki import TestAuthority
from tests.ports import free_port
from tests.sink_receivers import CuttingProxy

pytestmark = pytest.mark.external
HOSTILE = 'a\nb\r\nc\0d|e=f\\g"h]i\u202ej\u2028k\x1b[31m é 漢 😀 <14>1 - - - - - -'


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SinkWorld]:
    with sink_world(tmp_path) as world:
        yield world


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SyslogServer]:
    with syslog_server(request.param, tmp_path / "server") as server:
        yield server


def syslog_spec(world: SinkWorld, authority: TestAuthority, port: int, **more: Any) -> dict[str, Any]:
    (world.secrets_dir / "system" / "ca.pem").write_bytes(authority.pem)
    return {"syslog": {"address": f"127.0.0.1:{port}", "tls": {"caFile": "ca.pem"}, **more}}


def ids_of(messages: list[dict[str, Any]]) -> Counter[str]:
    """By the `id` of their structured data, as the server tells it."""
    return Counter(found[1] for message in messages if (found := re.search(r'id="([^"]+)"', message["data"])))


async def test_nothing_is_lost_when_connections_break_at_random(world: SinkWorld, server: SyslogServer) -> None:
    ids = world.fill()
    says_its_end = server.kind != "rsyslog-gtls"  # then an end that the proxy makes up is told from the server's

    async with CuttingProxy(server.port, seed=4, cuts=0.4, ends=says_its_end).listening() as proxy, world.delivering():
        uid = world.apply(**syslog_spec(world, server.authority, proxy.port))
        await world.delivered(uid)
    messages = await settled(server, len(ids))

    found = ids_of(messages)
    assert set(found) == set(ids)
    assert sum(proxy.cut.values()) > 0
    print(f"{len(ids)} records, {proxy.connections} connections, cut {dict(proxy.cut)}, {sum(found.values()) - len(ids)} copies")
    assert world.dead(uid) == []


async def test_nothing_is_lost_when_the_server_restarts(world: SinkWorld, tmp_path: Path) -> None:
    port, authority, found = 0, TestAuthority(), Counter[str]()
    with syslog_server("syslog-ng", tmp_path / "first") as first:
        port, authority = first.port, first.authority
        async with world.delivering():
            uid = world.apply(**syslog_spec(world, authority, port))
            ids = world.fill(500)
            await world.delivered(uid)
            found += ids_of(await settled(first, 500))
    async with world.delivering():
        ids += world.fill(500)
        await world.until(lambda: world.cursor(uid)[1], "the fault is not shown")
        with syslog_server("syslog-ng", tmp_path / "second") as second:
            world.apply(**syslog_spec(world, second.authority, second.port))
            await world.delivered(uid)
            found += ids_of(await settled(second, 500))

    assert set(found) == set(ids)


@pytest.mark.parametrize("message_format", ["json", "cef", "leef", "text"])
async def test_hostile_values_end_no_message_and_begin_none(world: SinkWorld, server: SyslogServer, message_format: str) -> None:
    texts = dict.fromkeys(("tool", "path", "user_agent", "sentence", "reason", "namespace", "arguments_json", "prompt"), HOSTILE)
    ids = world.write([texts, {"arguments_json": "x" * 100_000, "tool": "long"}, {"tool": "plain"}])

    async with world.delivering():
        uid = world.apply(**syslog_spec(world, server.authority, server.port, format=message_format, appName="gate"))
        await world.delivered(uid)
    messages = await settled(server, len(ids))

    assert ids_of(messages) == dict.fromkeys(ids, 1)
    assert {(message["program"], message["msgid"]) for message in messages} == {("gate", "tool_call")}
    assert len(messages) == len(ids)
    if message_format == "json":
        said = json.loads(messages[0]["message"])
        assert {name: said[name] for name in texts} == texts
        assert json.loads(messages[1]["message"])["truncated"] == ["arguments_json"]


async def test_a_certificate_that_is_not_of_the_authority_is_refused(world: SinkWorld, tmp_path: Path) -> None:
    with syslog_server("syslog-ng", tmp_path / "server") as server:
        world.fill(3)
        async with world.delivering():
            uid = world.apply(**syslog_spec(world, TestAuthority("another"), server.port))
            await world.until(lambda: "certificate" in world.cursor(uid)[1], "the fault is not shown")

            assert world.cursor(uid)[0] == 0
            assert server.received() == []


class SilentEnd:
    """A server of TLS that ends connections as somebody on the way would: it reads, forgets, and ends without close_notify.

    `honest`: connections without messages, and every other one with messages, are ended in order.
    """

    def __init__(self, directory: Path) -> None:
        self.authority, self.port, self.bytes_forgotten = TestAuthority(), free_port(), 0
        directory.mkdir()
        issued = self.authority.issue("127.0.0.1")
        issued.write(directory, "server")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(directory / "server.crt", directory / "server.key")
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.taken = bytearray()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        forgets = True
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as secured:
                    content = bytearray()
                    while part := secured.recv(65536):
                        content += part
                    if content and forgets:
                        self.bytes_forgotten += len(content)
                        forgets = False
                        secured.shutdown(socket.SHUT_RDWR)
                        continue
                    forgets = bool(content)
                    self.taken += content
                    secured.unwrap()
            except (ssl.SSLError, OSError):
                continue


async def test_an_end_that_the_server_did_not_say_is_no_receipt(world: SinkWorld, tmp_path: Path) -> None:
    server = SilentEnd(tmp_path / "silent")
    ids = world.fill(250)
    try:
        async with world.delivering():
            uid = world.apply(**syslog_spec(world, server.authority, server.port))
            await world.delivered(uid)
    finally:
        server.close()

    assert server.bytes_forgotten > 0
    assert set(re.findall(r' id="([^"]+)"', server.taken.decode())) == set(ids)


async def test_plain_tcp_counts_a_batch_when_the_receiver_has_read_to_its_end(world: SinkWorld) -> None:
    port, taken, cut = free_port(), bytearray(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        content = await reader.read(-1) if cut >= 3 else await reader.read(2000)
        if cut < 3:
            cut += 1
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            taken.extend(content)
        writer.close()

    ids = world.fill(300)
    async with await asyncio.start_server(serve, "127.0.0.1", port), world.delivering():
        uid = world.apply(syslog={"address": f"127.0.0.1:{port}", "transport": "tcp"})
        await world.delivered(uid)

    assert cut == 3
    assert re.findall(r' id="([^"]+)"', taken.decode()) == ids
