"""Handshakes and sessions of legacy clients, streams, and what is told of changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.functional.aggregator_world import CRM, DESK, AggregatorWorld, Events, Registry, Server, aggregator_world, item, virtual

CRM_SERVER = Server("crm", resources=("note://one",))
ITEMS = [item("tool", "search"), item("tool", "update"), item("resource", "note://one")]
REGISTRY = Registry(servers=(CRM_SERVER,), virtual=(virtual("demo/crm", items=ITEMS, title="Desk", instructions="Be kind."),))
ANN_ONLY_READS = """
permit (principal == User::"local/ann", action, resource == Tool::"demo/crm/search");
"""


@pytest.mark.parametrize(
    ("wanted", "given"),
    [("2025-03-26", "2025-03-26"), ("2025-06-18", "2025-06-18"), ("2025-11-25", "2025-11-25"), ("2024-11-05", "2025-11-25")],
)
async def test_every_legacy_version_is_spoken(tmp_path: Path, wanted: str, given: str) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        _, said = await world.initialize(protocolVersion=wanted)

        assert said["protocolVersion"] == given
        assert said["serverInfo"]["title"] == "Desk"
        assert said["instructions"] == "Be kind."
        assert said["capabilities"]["tools"] == {"listChanged": True}
        assert said["capabilities"]["resources"] == {"listChanged": True, "subscribe": True}
        assert "logging" in said["capabilities"]


async def test_modern_clients_are_told_what_there_is(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        result = (await world.ask("server/discover")).result

        assert "2026-07-28" in result["supportedVersions"]
        assert result["cacheScope"] == "private"
        assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "demo/desk"
        assert "logging" not in result["capabilities"]


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "nonsense"])
async def test_a_method_that_the_era_does_not_have_is_404_for_modern_clients(tmp_path: Path, method: str) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        answer = await world.ask(method)

        assert (answer.status, answer.error["code"]) == (404, -32601)


async def test_ping_and_log_levels_are_answered_here(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        session, _ = await world.initialize()

        assert (await world.legacy({"id": 1, "method": "ping"}, session=session)).result == {}
        assert (await world.legacy({"id": 2, "method": "logging/setLevel", "params": {"level": "debug"}}, session=session)).result == {}
        wrong = await world.legacy({"id": 3, "method": "logging/setLevel", "params": {"level": "loud"}}, session=session)
        assert (wrong.status, wrong.error["code"]) == (200, -32602)


def changed_letter(session: str) -> str:
    return session[:40] + ("A" if session[40] != "A" else "B") + session[41:]


@pytest.mark.parametrize("spoil", [changed_letter, lambda s: s[:-3], lambda s: "lga1_", lambda s: s + "AAAA"])
async def test_a_session_that_was_not_made_here_is_none(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        session, _ = await world.initialize()

        answer = await world.legacy({"id": 1, "method": "ping"}, session=spoil(session))

        assert (answer.status, answer.error["code"]) == (404, 40401)


async def test_a_stolen_session_is_none(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        session, _ = await world.initialize(who="ann")

        for message, path, who in (({"id": 1, "method": "ping"}, DESK, "bob"), ({"id": 1, "method": "ping"}, CRM, "ann")):
            assert (await world.legacy(message, session=session, path=path, who=who)).status == 404
        assert (await world.legacy(None, http="DELETE", session=session, who="bob")).status == 404
        assert (await world.legacy({"id": 1, "method": "ping"}, session=session)).status == 200


async def test_a_session_ends_when_its_client_says_so(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        session, _ = await world.initialize()

        assert (await world.legacy(None, http="DELETE", session=session)).status == 200
        assert (await world.legacy({"id": 1, "method": "ping"}, session=session)).status == 404


async def test_another_aggregator_goes_on_with_a_session(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as one, aggregator_world(tmp_path, REGISTRY, name="two") as two:
        session, _ = await one.initialize()

        answer = await two.legacy({"id": 1, "method": "tools/list"}, session=session)

        assert [tool["name"] for tool in answer.result["tools"]] == ["search", "update"]


async def legacy_member(request: web.Request, message: dict[str, Any]) -> web.StreamResponse | dict[str, Any]:
    if message.get("method") == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "m", "version": "1"}}
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers={"mcp-session-id": "upstream-1"})
    if request.method != "POST" or "id" not in message:
        return web.Response(status=405 if request.method == "GET" else 202)
    found = {"type": "text", "text": request.headers.get("mcp-session-id", "none")}
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [found]}})


async def test_the_sessions_of_legacy_members_are_sealed_in_it(tmp_path: Path) -> None:
    registry = Registry(servers=(Server("crm", eras=("legacy",)),), virtual=(virtual("demo/crm", items=ITEMS[:2]),))
    members = {"crm": legacy_member}
    async with (
        aggregator_world(tmp_path, registry, members=members) as one,
        aggregator_world(tmp_path, registry, members=members, name="two") as two,
    ):
        session, _ = await one.initialize()
        call = {"id": 1, "method": "tools/call", "params": {"name": "search", "arguments": {}}}
        answer = await two.legacy(call, session=session)

        assert answer.result["content"][0]["text"] == "upstream-1"
        assert [message.get("method") for _, message in two.asked].count("initialize") == 0


async def listening(world: AggregatorWorld, session: str) -> Any:
    return world.open_legacy(None, http="GET", session=session, headers={"accept": "text/event-stream"})


async def test_a_legacy_client_hears_of_changes_of_its_own_view(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        session, _ = await world.initialize()
        async with await listening(world, session) as response:
            assert response.status == 200
            world.publish(Registry(servers=REGISTRY.servers, virtual=REGISTRY.virtual, cedar=ANN_ONLY_READS))

            events = Events(response)
            methods = {(await events.next())["method"] for _ in range(2)}

        assert methods == {"notifications/tools/list_changed", "notifications/resources/list_changed"}


async def test_a_stream_ends_with_its_front(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        session, _ = await world.initialize()
        async with await listening(world, session) as response:
            world.publish(Registry(servers=REGISTRY.servers))

            await Events(response).ended()


async def test_a_get_stream_needs_a_session(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        assert (await world.legacy(None, http="GET")).status == 404


LISTEN = {"notifications": {"toolsListChanged": True}}


async def test_a_modern_subscription_is_acknowledged_first_and_everything_is_tagged(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world, world.open("subscriptions/listen", LISTEN, request_id="sub") as response:
        events = Events(response)
        acknowledged = await events.next()
        world.publish(Registry(servers=REGISTRY.servers, virtual=REGISTRY.virtual, cedar=ANN_ONLY_READS))
        changed = await events.next()

        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert acknowledged["params"]["notifications"] == {"toolsListChanged": True}
        assert changed["method"] == "notifications/tools/list_changed"
        for told in (acknowledged, changed):
            assert told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "sub"


async def announcing(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
    """A modern member with news of a resource."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    tag = {"_meta": {"io.modelcontextprotocol/subscriptionId": message["id"]}}
    agreed = {"notifications": message["params"]["notifications"], **tag}
    for method, params in (
        ("notifications/subscriptions/acknowledged", agreed),
        ("notifications/resources/updated", {"uri": "note://one", **tag}),
    ):
        await response.write(f"data: {json.dumps({'jsonrpc': '2.0', 'method': method, 'params': params})}\n\n".encode())
    await asyncio.Event().wait()
    return response


async def test_news_of_a_members_resource_reach_a_modern_client_by_its_own_uri(tmp_path: Path) -> None:
    items = [item("resource", "m.demo.crm+note://one", own_name="note://one")]
    registry = Registry(servers=REGISTRY.servers, virtual=(virtual("demo/crm", items=items, prefixes=("m.demo.crm+",)),))
    wanted = {"notifications": {"resourceSubscriptions": ["m.demo.crm+note://one"]}}
    async with (
        aggregator_world(tmp_path, registry, members={"crm": announcing}) as world,
        world.open("subscriptions/listen", wanted) as response,
    ):
        events = Events(response)
        acknowledged, updated = await events.next(), await events.next()

        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert acknowledged["params"]["notifications"] == {"resourceSubscriptions": ["m.demo.crm+note://one"]}
        assert updated["params"]["uri"] == "m.demo.crm+note://one"
        assert updated["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == 1


async def test_a_member_that_is_away_is_missing_in_the_acknowledgement_only(tmp_path: Path) -> None:
    wanted = {"notifications": {"toolsListChanged": True, "resourceSubscriptions": ["note://one"]}}
    async with aggregator_world(tmp_path, REGISTRY) as world, world.open("subscriptions/listen", wanted) as response:
        acknowledged = await Events(response).next()

        assert acknowledged["params"]["notifications"] == {"toolsListChanged": True}


async def test_streams_end_in_order_when_the_process_stops(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world, world.open("subscriptions/listen", LISTEN, request_id=9) as response:
        events = Events(response)
        await events.next()
        world.endpoint.listening.stopping.set()

        assert (await events.next())["result"]["resultType"] == "complete"
