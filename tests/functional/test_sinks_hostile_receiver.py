"""Receivers of records that are hostile: they hold up nobody but their own sink."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from controlplane.audit.sinks.receiver.receiver import DeliveryError
from controlplane.audit.sinks.receiver.syslog import SyslogReceiver
from controlplane.audit.sinks.sent_record import SentRecord
from controlplane.audit.sinks.settings import TlsMaterial
from controlplane.registry.audit_sink_spec import SyslogSinkSpec
from extauthz.address import AddressRules

RECORD = SentRecord(position=1, writer_id="w-1-1", sequence=1, at_unix_us=1, event="tool_call", decision="allow", document={})


@contextlib.contextmanager
def talkative() -> Iterator[int]:
    """A server that takes everything and goes on talking for ever; its port."""
    ended = threading.Event()

    def talk(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while not ended.wait(0.02):
                connection.sendall(b".")

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()


def receiver(port: int, seconds: float) -> SyslogReceiver:
    spec = SyslogSinkSpec.model_validate({"address": f"127.0.0.1:{port}", "transport": "tcp"})
    return SyslogReceiver(spec, rules=AddressRules(("127.0.0.0/8",)), tls=TlsMaterial(), timeout_seconds=seconds)


async def test_a_receiver_that_never_ends_is_given_up():
    with talkative() as port:
        one = receiver(port, 0.3)
        async with asyncio.timeout(60):
            with pytest.raises(DeliveryError, match="in time"):
                await one.send([RECORD])
        await one.close()


async def test_many_receivers_that_hang_take_no_thread_from_anybody_else():
    with talkative() as port:
        many = [receiver(port, 60.0) for _ in range(40)]
        sending = [asyncio.create_task(one.send([RECORD])) for one in many]
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(lambda: 1) == 1  # as the record's database is asked
        assert not any(task.done() for task in sending)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        for one in many:
            await one.close()
