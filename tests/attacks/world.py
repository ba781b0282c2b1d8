"""One running deployment for the whole attack suite: real Envoy, authorizer and control plane, recording upstreams behind them.

    before = await world.mark()
    answer = await world.send(world.call_bytes("python", body))
    await world.refused(before, answer, status=400, reason="parse_error", code=-32700)

A caller (`world.token()`) may call `safe`, `mirrored`, `weigh` up to an amount of 100; may get the prompts `greet` and `grüße` and
read `test://open` and `test://ä`. `barred` is permitted and forbidden. Everything else is not permitted. The server `hidden/python`
exists, and not for this caller.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.attacks.documents import NAMESPACE, policies, registry
from tests.attacks.leaks import Secrets
from tests.attacks.upstreams.flavours import running_flavours
from tests.attacks.upstreams.recorder import Recorder
from tests.attacks.wire import (
    H2Connection,
    Headers,
    RawAnswer,
    RawConnection,
    body_of,
    h2_connection,
    raw_connection,
    request_bytes,
    send_raw,
)
from tests.e2e.stack import Stack, eventually, running_stack

MODERN = "2026-07-28"
LEGACY = ("2025-03-26", "2025-06-18", "2025-11-25")
CALLER = "caller"


NO_REQUESTS = frozenset({"alarm", "anomaly", "change"})
"""Events that are no answers to requests."""


@dataclass(kw_only=True)
class Mark:
    """A moment: how far the audit was, and what every upstream had received."""

    cursor: str
    received: Mapping[str, tuple[int, int]]


@dataclass(kw_only=True)
class World:
    """The deployment, its upstreams, and what tests ask of both."""

    stack: Stack
    upstreams: dict[str, Recorder]
    missing: dict[str, str]
    secrets: Secrets
    _tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    _cursor: str = ""

    # sending

    @property
    def port(self) -> int:
        """The TCP port where Envoy listens."""
        return int(self.stack.gateway_url.rsplit(":", 1)[1])

    @property
    def host(self) -> str:
        """The Host header of the gateway."""
        return f"127.0.0.1:{self.port}"

    def server(self, flavour: str = "python") -> str:
        """`namespace/name` of the server of a flavour."""
        return flavour if "/" in flavour else f"{NAMESPACE}/{flavour}"

    def path(self, flavour: str = "python") -> str:
        """The path of a server at the gateway."""
        return f"/servers/{self.server(flavour)}/mcp"

    def token(self, flavour: str = "python", *, subject: str = CALLER, **claims: Any) -> str:
        """An access token for the server of a flavour; with claims a new one."""
        key = (self.server(flavour), subject)
        if claims or key not in self._tokens:
            token = self.stack.token(subject, server=self.server(flavour), **{"seconds": 7200, **claims})
            self.secrets.add(f"access token of {subject}", token)
            if claims:
                return token
            self._tokens[key] = token
        return self._tokens[key]

    def canary(self, what: str = "canary", *, upstreams_may: bool = False, record_may: bool = False) -> str:
        """A text to put where nobody may see it, or only the upstream, or sealed in the record: found in any log, the suite fails."""
        text = f"canary-{secrets.token_hex(8)}"
        self.secrets.add(what, text, upstreams_may=upstreams_may, record_may=record_may)
        return text

    def headers(self, flavour: str = "python", *, version: str | None = None, token: str | None = None) -> list[tuple[str, str]]:
        """Host, token, content type and, when given, the protocol version: what every honest request has."""
        given = [
            ("host", self.host),
            ("authorization", f"Bearer {self.token(flavour) if token is None else token}"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ]
        return given + ([("mcp-protocol-version", version)] if version else [])

    @staticmethod
    def header_value(text: str) -> str:
        """The text as honest clients write it into a header: as it is, or behind the sentinel."""
        plain = text.isascii() and text.isprintable() and text == text.strip()
        return text if plain else "=?base64?" + base64.b64encode(text.encode()).decode() + "?="

    def post_bytes(
        self, body: bytes, *, flavour: str = "python", headers: Iterable[tuple[str, str | bytes]] | None = None, length: int | None = None
    ) -> bytes:
        """A POST of exactly this body to a server; `headers` replace those of `World.headers`."""
        given = list(self.headers(flavour) if headers is None else headers)
        return request_bytes("POST", self.path(flavour), [*given, ("content-length", str(len(body) if length is None else length))], body)

    async def send(self, data: bytes | Sequence[bytes], *, seconds: float = 30.0) -> RawAnswer:
        """Exactly these bytes on a new connection to Envoy; the answer has status 0 when Envoy just closes."""
        return await send_raw(self.port, data, seconds=seconds)

    async def post(self, body: bytes, *, flavour: str = "python", headers: Iterable[tuple[str, str | bytes]] | None = None) -> RawAnswer:
        """`send` of `post_bytes`."""
        return await self.send(self.post_bytes(body, flavour=flavour, headers=headers))

    async def post_directly(self, flavour: str, body: bytes, headers: Iterable[tuple[str, str | bytes]] = ()) -> RawAnswer:
        """The same body to the upstream itself, past the gateway: what would happen if it were let through."""
        port = self.upstreams[flavour].port
        given = [("host", f"127.0.0.1:{port}"), ("content-type", "application/json"), ("accept", "application/json, text/event-stream")]
        names = {name.lower() for name, _ in headers}
        given = [pair for pair in given if pair[0] not in names]
        return await send_raw(port, request_bytes("POST", "/mcp", [*given, *headers, ("content-length", str(len(body)))], body))

    def connection(self) -> contextlib.AbstractAsyncContextManager[RawConnection]:
        """A bare connection to Envoy."""
        return raw_connection(self.port)

    def h2(self) -> contextlib.AbstractAsyncContextManager[H2Connection]:
        """An HTTP/2 connection to Envoy."""
        return h2_connection(self.port)

    def h2_headers(self, headers: Headers, *, method: str = "POST", path: str = "", flavour: str = "python") -> list[tuple[str, str]]:
        """The pseudo-headers of HTTP/2 before `headers`; a Host among them becomes :authority."""
        authority = next((value for name, value in headers if name == "host"), self.host)
        pseudo = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path or self.path(flavour))]
        return pseudo + [pair for pair in headers if pair[0] != "host"]

    async def h2_post(self, body: bytes, *, flavour: str = "python", headers: Headers | None = None) -> RawAnswer:
        """A POST of exactly this body over HTTP/2."""
        given = self.h2_headers(self.headers(flavour) if headers is None else headers, flavour=flavour)
        async with self.h2() as connection:
            return await connection.request(given, body)

    # looking

    async def mark(self) -> Mark:
        """This moment. Everything that is on the record so far is behind it."""
        await self._events()
        return Mark(cursor=self._cursor, received={name: (r.connections, r.received_bytes) for name, r in self.upstreams.items()})

    async def settle(self) -> None:
        """Wait until everything that Envoy refused by itself so far is on the record: one more such request, and its event."""
        await self._events()
        for _ in range(5):  # in a flood it may have been counted only
            path = f"//settled-{secrets.token_hex(4)}"
            await self.send(f"GET {path} HTTP/1.1\r\nhost: {self.host}\r\nconnection: close\r\n\r\n".encode())
            for _ in range(100):
                if any(event.get("path") == path for event in await self._events()):
                    return
                await asyncio.sleep(0.2)
        raise AssertionError("what Envoy refused does not come onto the record")

    async def events_after(self, mark: Mark, *, at_least: int = 1, seconds: float = 60.0) -> list[dict[str, Any]]:
        """The audit events since `mark`, oldest first; waits until there are `at_least` so many (edge events come late)."""
        assert mark.cursor, "a mark is made by `mark`"
        self._cursor = mark.cursor
        found: list[dict[str, Any]] = []

        async def enough() -> bool:
            found.extend(await self._events())
            return len(found) >= at_least

        await eventually(enough, seconds=seconds, what=f"{at_least} audit events; there are {found}")
        return found

    async def the_event(self, mark: Mark, reason: str) -> dict[str, Any]:
        """The one event since `mark`; it has this reason."""
        events = await self.events_after(mark)
        assert [event["reason"] for event in events] == [reason], events
        return events[0]

    def received_since(self, mark: Mark) -> dict[str, tuple[int, int]]:
        """By flavour: connections and bytes that arrived since `mark`, only where there are any."""
        now = {name: (r.connections, r.received_bytes) for name, r in self.upstreams.items()}
        return {
            name: (connections - mark.received[name][0], size - mark.received[name][1])
            for name, (connections, size) in now.items()
            if (connections, size) != mark.received[name]
        }

    def bytes_since(self, mark: Mark, flavour: str) -> bytes:
        """Exactly what one upstream received since `mark`."""
        return bytes(self.upstreams[flavour].received[mark.received[flavour][1] :])

    def nothing_reached_upstreams(self, mark: Mark) -> None:
        """Not one byte and not one connection, at any flavour, since `mark`."""
        assert self.received_since(mark) == {}

    async def refused(
        self,
        mark: Mark,
        answer: RawAnswer,
        *,
        status: int,
        reason: str,
        code: int | None = None,
        request_id: object = None,
        edge: bool = False,
    ) -> dict[str, Any]:
        """A refusal: status, JSON-RPC error with code and id, one audit event with the reason, nothing upstream. Gives the event.

        `edge`: Envoy itself refused; its answer cannot name the event.
        """
        event = await self.the_event(mark, reason)
        self.nothing_reached_upstreams(mark)
        assert answer.status == status, (answer, event)
        if code is not None:
            error = answer.error
            assert (error["code"], error["data"]["reason"]) == (code, reason), answer.body
            assert answer.json["id"] == request_id, answer.body
            assert type(answer.json["id"]) is type(request_id), answer.body
            assert edge or error["data"]["decision_id"] == event["decision_id"]
            assert answer.header("content-type") == "application/json"
        assert event["decision"] == "deny"
        assert (event["event"] == "edge_rejected") is edge
        return event

    async def passed(self, mark: Mark, answer: RawAnswer, *, body: bytes, flavour: str = "python") -> dict[str, Any]:
        """A pass: 200, the upstream received this body byte for byte and nobody else anything. Gives what the upstream says it ran."""
        await self.the_event(mark, "allowed")
        upstream = flavour if flavour in self.upstreams else "python"  # which serves the small server too
        assert answer.status in {200, 202}, answer
        assert self.received_since(mark).keys() == {upstream}
        assert body_of(self.bytes_since(mark, upstream)) == body
        return ran(answer)

    async def _events(self) -> list[dict[str, Any]]:
        """What is new behind the cursor, which moves on; readings of the prober are not events of the suite."""
        found: list[dict[str, Any]] = []
        while True:
            answer = await self.stack.api("GET", f"/v1/audit?limit=1000&after={self._cursor}")
            assert answer.status == 200, answer.text
            self._cursor = answer.json["next"]
            items = answer.json["items"]
            asked = [event for event in items if event["event"] not in NO_REQUESTS]
            found += [event for event in asked if event.get("principal", {}).get("id") != "system/prober"]
            if len(items) < 1000:
                return found


def ran(answer: RawAnswer) -> dict[str, Any]:
    """What an upstream says it ran: `{"flavour", "method", "name", "arguments"}`; nothing for an empty or another answer."""
    text = answer.body.decode()
    if "text/event-stream" in answer.header("content-type"):
        text = next((line[5:] for line in text.splitlines() if line.startswith("data:") and '"result"' in line), "")
    try:
        found: dict[str, Any] = json.loads(json.loads(text)["result"]["content"][0]["text"])
    except (ValueError, KeyError, IndexError, TypeError):
        return {}
    return found


@contextlib.asynccontextmanager
async def running_world(directory: Path) -> AsyncIterator[World]:
    """Start everything; at the end scan whatever was written for the secrets of the suite."""
    kept = Secrets()
    credential = f"upstream-{secrets.token_hex(16)}"
    kept.add("upstream credential", credential, upstreams_may=True)
    async with running_flavours() as (upstreams, missing):
        environ = {"LEGATION_PROBE_INTERVAL_SECONDS": "86400", "LEGATION_LOG_LEVEL": "debug"}  # no secret stands there either
        async with running_stack(directory, environ=environ) as stack:
            await stack.apply(registry(upstreams, credential))
            servers = [*upstreams, "small"]
            await asyncio.gather(*(stack.accept(f"{NAMESPACE}/{name}") for name in servers), stack.accept("hidden/python"))
            await stack.apply(policies(servers))
            kept.add("administrator's token", stack.admin_headers()["authorization"].removeprefix("Bearer "))
            yield World(stack=stack, upstreams=upstreams, missing=missing, secrets=kept)
        kept.look_below(directory)
        kept.look_at_upstreams(upstreams.values())
