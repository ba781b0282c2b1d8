"""Number 82, sessions: an id is good for the caller, the OAuth client and the server that it was made for, and for nobody else.

The server behind the gateway is the official SDK's: past the gateway it takes its ids from anybody who has them.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from controlplane.registry.encryption import read_registry_key
from controlplane.xds.authorizer_resources import make_context_keys
from extauthz.catalog.server import McpServer
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.session import bind_session, open_session, seal_session, session_digest
from extauthz.state import ContextKey, context_keys_from_messages
from tests.attacks.case import LEGACY_CALL
from tests.attacks.wire import RawAnswer, request_bytes
from tests.attacks.world import CALLER, MODERN, World, ran

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

VERSION = "2025-11-25"
INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "attacks", "version": "1"}},
    }
).encode()
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A legacy client with its token, and how it sends."""

    world: World
    subject: str = CALLER
    flavour: str = "sdk"
    claims: Mapping[str, Any] = field(default_factory=dict)

    def headers(self, *session_ids: str, version: str = VERSION) -> list[tuple[str, str]]:
        token = self.world.token(self.flavour, subject=self.subject, **self.claims)
        given = self.world.headers(self.flavour, version=version, token=token)
        return given + [("mcp-session-id", session_id) for session_id in session_ids]

    async def post(self, *session_ids: str, body: bytes = LEGACY_CALL) -> RawAnswer:
        return await self.world.post(body, flavour=self.flavour, headers=self.headers(*session_ids))

    async def bodiless(self, method: str, *session_ids: str) -> RawAnswer:
        head = [pair for pair in self.headers(*session_ids) if pair[0] != "content-type"]
        return await self.world.send(request_bytes(method, self.world.path(self.flavour), head))

    async def opened(self) -> str:
        """The id of a new session."""
        answer = await self.post(body=INITIALIZE)
        assert answer.status == 200, answer
        session_id = answer.header("mcp-session-id")
        assert session_id, answer
        assert (await self.post(session_id, body=INITIALIZED)).status == 202
        return session_id


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the deployment holds and nobody else should: its keys, and what it says about the caller's binding."""

    keys: tuple[ContextKey, ...]
    mcp_server: McpServer
    principal: Principal

    def seal(self, envelope: str, *, at: float | None = None, **changes: Any) -> str:
        binding = bind_session(replace(self.principal, **changes), self.mcp_server, "ingress")
        return seal_session(envelope, binding, self.keys, time.time() if at is None else at)

    def open(self, session_id: str) -> str:
        return open_session(
            session_id, bind_session(self.principal, self.mcp_server, "ingress"), self.keys, time.time(), max_age_seconds=86_400
        )


@pytest.fixture
def caller(world: World) -> Caller:
    if "sdk" not in world.upstreams:
        pytest.skip(world.missing["sdk"])
    return Caller(world=world)


@pytest_asyncio.fixture(loop_scope="package")
async def held(world: World, caller: Caller) -> Held:
    key = read_registry_key(world.stack.data_dir / "registry.key")
    before = await world.mark()
    await caller.post(body=b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    (event,) = await world.events_after(before)
    asked = event["principal"]
    return Held(
        keys=context_keys_from_messages(make_context_keys(key, datetime.now(UTC))),
        mcp_server=McpServer(uid=event["mcp_server_uid"], namespace="attack", name="sdk", cluster="", path=""),
        principal=Principal(
            kind=PrincipalKind(asked["kind"]),
            id=asked["id"],
            provider=asked["provider"],
            subject=asked["subject"],
            issuer=asked["issuer"],
            oauth_client_id=asked.get("oauth_client_id", ""),
            actor=asked.get("actor", ""),
        ),
    )


async def refused(world: World, send: Callable[[], Awaitable[RawAnswer]], *, why: str, request_id: object = 7) -> dict[str, Any]:
    """The one answer that sessions are refused with, whatever the true reason `why`, which only the record has."""
    before = await world.mark()
    answer = await send()
    event = await world.the_event(before, why)
    world.nothing_reached_upstreams(before)
    assert answer.status == 404, answer
    assert (answer.error["code"], answer.error["data"]["reason"]) == (40401, "session_unknown")
    assert answer.error["message"] == "This session is unknown here or has ended. Start a new one with initialize."
    assert answer.json["id"] == request_id
    assert (event["decision"], event["http_status"]) == ("deny", 404)
    return event


async def test_82_the_owner_goes_on_with_a_session(world: World, caller: Caller) -> None:
    session_id = await caller.opened()
    before = await world.mark()

    answer = await caller.post(session_id)

    event = await world.the_event(before, "allowed")
    assert ran(answer)["name"] == "safe"
    assert event["session_digest"] == session_digest(session_id)
    received = world.bytes_since(before, "sdk")
    assert session_id.encode() not in received
    assert received.lower().count(b"mcp-session-id") == 1


async def test_82_no_answer_tells_the_servers_own_id(world: World, caller: Caller, held: Held) -> None:
    """The SDK's server repeats its id in every answer."""
    answer = await caller.post(body=INITIALIZE)
    session_id = answer.header("mcp-session-id")
    _, _, encoded = held.open(session_id).partition(";UV:")
    raw = base64.b64decode(encoded).decode()

    following = [await caller.post(session_id, body=body) for body in (INITIALIZED, LEGACY_CALL)]

    directly = await world.post_directly("sdk", LEGACY_CALL, [("mcp-session-id", raw), ("mcp-protocol-version", VERSION)])
    assert directly.header("mcp-session-id") == raw  # past the gateway: the id is true, and repeated
    assert ran(directly)["name"] == "safe"  # and good for anybody
    for told in (answer, *following):
        assert raw not in str(told.headers) + told.body.decode()
        assert encoded not in str(told.headers)
    assert all("mcp-session-id" not in told.headers for told in following)


@pytest.mark.parametrize(
    ("thief", "why"),
    [
        ({"subject": "colleague"}, "session_foreign"),
        ({"claims": {"client_id": "another-client"}}, "session_foreign"),
        ({"claims": {"azp": "another-client"}}, "session_foreign"),
        ({"flavour": "python"}, "session_foreign"),
        ({"flavour": "small"}, "session_foreign"),
    ],
    ids=["82-another-caller", "82-another-client", "82-another-azp", "82-another-server", "82-another-server-at-the-same-address"],
)
async def test_82_a_stolen_session_id_is_refused(world: World, caller: Caller, thief: dict[str, Any], why: str) -> None:
    session_id = await caller.opened()
    other = replace(caller, **thief)

    event = await refused(world, lambda: other.post(session_id), why=why)

    assert event["session_digest"] == session_digest(session_id)
    assert ran(await caller.post(session_id))["name"] == "safe"  # it still is its owner's


async def test_82_who_may_not_see_the_server_learns_nothing_of_its_sessions(world: World, caller: Caller) -> None:
    session_id = await caller.opened()
    before = await world.mark()

    answer = await replace(caller, subject="stranger").post(session_id)

    await world.refused(before, answer, status=404, reason="server_not_found", code=40400, request_id=7)


async def test_82_streams_and_ends_of_somebody_elses_session_are_refused(world: World, caller: Caller) -> None:
    session_id = await caller.opened()
    thief = replace(caller, subject="colleague")

    for method in ("GET", "DELETE"):
        await refused(world, partial(thief.bodiless, method, session_id), why="session_foreign", request_id=None)

    assert ran(await caller.post(session_id))["name"] == "safe"
    assert (await caller.bodiless("DELETE", session_id)).status == 200
    assert (await caller.post(session_id)).status == 404  # the server's own: it has ended


async def test_82_guessed_and_made_up_ids_are_refused(world: World, caller: Caller, held: Held) -> None:
    session_id = await caller.opened()
    envelope = held.open(session_id)
    raw = base64.b64decode(envelope.partition(";UV:")[2]).decode()
    made_up = [
        raw,  # true, and of this caller
        envelope,
        "00000000000000000000000000000000",
        "lgs1_",
        "lgs1_" + "A" * 300,
        "lgs1_" + base64.urlsafe_b64encode(envelope.encode()).decode().rstrip("="),
        session_id + "A",
        session_id[:-1],
        session_id.upper(),
        f"{session_id};UV:{session_id}",
        f"{session_id}, {session_id}",
        "lgs1_" + "A" * 20_000,
        seal_session(envelope, bind_session(held.principal, held.mcp_server, "ingress"), (_own_key(held.keys[1]),), time.time()),
    ]
    for guess in made_up:
        await refused(world, partial(caller.post, guess), why="session_unknown")


def _own_key(key: ContextKey) -> ContextKey:
    """The attacker's key of the same name."""
    return replace(key, key=b"a" * 32)


async def test_82_a_bit_flipped_at_any_byte_is_refused(world: World, caller: Caller) -> None:
    session_id = await caller.opened()
    before = await world.mark()
    changed = [session_id[:index] + chr(ord(character) ^ 1) + session_id[index + 1 :] for index, character in enumerate(session_id)]

    answers = [await caller.post(each) for each in changed]

    assert {(answer.status, answer.error["data"]["reason"]) for answer in answers} == {(404, "session_unknown")}
    world.nothing_reached_upstreams(before)
    events = await world.events_after(before, at_least=len(changed))
    assert [event["reason"] for event in events] == ["session_unknown"] * len(changed)


async def test_82_an_expired_session_is_refused(world: World, caller: Caller, held: Held) -> None:
    envelope = held.open(await caller.opened())
    assert ran(await caller.post(held.seal(envelope)))["name"] == "safe"  # what the test seals is as good as what the gateway sealed

    await refused(world, lambda: caller.post(held.seal(envelope, at=time.time() - 86_401)), why="session_expired")
    await refused(world, lambda: caller.post(held.seal(envelope, at=time.time() + 3600)), why="session_unknown")


async def test_82_a_session_of_a_server_that_was_replaced_is_refused(world: World, caller: Caller, held: Held) -> None:
    envelope = held.open(await caller.opened())
    before_it_was_replaced = replace(held, mcp_server=replace(held.mcp_server, uid="uid-of-its-former-life"))

    await refused(world, lambda: caller.post(before_it_was_replaced.seal(envelope)), why="session_foreign")


async def test_82_any_authorizer_with_the_key_opens_what_another_sealed(caller: Caller, held: Held) -> None:
    """Sealed by the running authorizer, opened here with keys derived anew; sealed here, opened there."""
    envelope = held.open(await caller.opened())

    assert ran(await caller.post(held.seal(envelope)))["name"] == "safe"


async def test_82_fixation_a_client_cannot_choose_the_id(world: World, caller: Caller) -> None:
    """Neither does `initialize` take one along, nor does the id of an attacker's session open for the victim."""
    attackers = await replace(caller, subject="colleague").opened()

    await refused(world, partial(caller.post, "chosen-by-the-attacker", body=INITIALIZE), why="session_unknown", request_id=1)
    await refused(world, partial(caller.post, attackers, body=INITIALIZE), why="session_foreign", request_id=1)

    assert await caller.opened() != attackers


async def test_82_an_id_in_the_query_or_in_another_header_is_none(world: World, caller: Caller) -> None:
    session_id = await caller.opened()
    before = await world.mark()
    path = f"{world.path('sdk')}?mcp-session-id={session_id}&sessionId={session_id}"
    head = [*caller.headers(), ("x-mcp-session-id", session_id), ("x-session-id", session_id), ("content-length", str(len(LEGACY_CALL)))]

    answer = await world.send(request_bytes("POST", path, head, LEGACY_CALL))

    assert answer.status == 400  # the server's own: there is no session in this request
    received = world.bytes_since(before, "sdk")
    assert b"\r\nmcp-session-id" not in received.lower()
    assert received.startswith(b"POST /mcp HTTP/1.1\r\n")


async def test_82_two_headers_are_refused(world: World, caller: Caller) -> None:
    session_id = await caller.opened()
    for pair in ((session_id, session_id), (session_id, "other"), ("other", session_id), (session_id, "")):
        before = await world.mark()

        answer = await caller.post(*pair)

        await world.refused(before, answer, status=400, reason="header_repeated")


async def test_82_a_modern_request_has_no_session(world: World, caller: Caller) -> None:
    """Not even with a valid id: it is removed, and the request stands alone."""
    session_id = await caller.opened()
    meta = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
    body = json.dumps(
        {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "safe", "arguments": {}, "_meta": meta}}
    ).encode()
    before = await world.mark()

    for each in (session_id, "made-up"):
        headers = [*caller.headers(each, version=MODERN), ("mcp-method", "tools/call"), ("mcp-name", "safe")]
        assert ran(await world.post(body, flavour="sdk", headers=headers))["name"] == "safe"

    assert b"mcp-session-id" not in world.bytes_since(before, "sdk").lower()


async def test_82_headers_of_ours_from_outside_change_nothing(world: World, caller: Caller) -> None:
    session_id = await caller.opened()
    forged = [("x-legation-session", "lgs1_forged"), ("x-legation-lane", "inspect"), ("x-legation-cluster", "legation-processor")]
    before = await world.mark()

    answer = await world.post(LEGACY_CALL, flavour="sdk", headers=[*caller.headers(session_id), *forged])

    assert ran(answer)["name"] == "safe"
    assert b"x-legation" not in world.bytes_since(before, "sdk").lower()


async def test_82_neither_id_is_written_anywhere(world: World, caller: Caller, held: Held) -> None:
    session_id = await caller.opened()
    raw = base64.b64decode(held.open(session_id).partition(";UV:")[2]).decode()
    world.secrets.add("sealed session id", session_id)
    world.secrets.add("session id of the MCP server", raw, upstreams_may=True)

    await caller.post(session_id)
    await replace(caller, subject="colleague").post(session_id)
    await caller.post(raw)
    # the search for secrets is at the end of the suite (`running_world`)
