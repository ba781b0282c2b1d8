"""Virtual servers in mode `search`, over real HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiohttp import web

from tests.functional.aggregator_world import Registry, Server, aggregator_world, item, virtual

CRM_SERVER = Server("crm", tools=("search", "update", "cancel_invoice"), eras=("modern",))
ITEMS = [item("tool", "search"), item("tool", "void_invoice", own_name="cancel_invoice"), item("tool", "update")]
REGISTRY = Registry(servers=(CRM_SERVER,), virtual=(virtual("demo/crm", items=ITEMS, mode="search"),))


async def echoing(_request: web.Request, message: dict[str, Any]) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": message["params"]["name"]}]}


async def test_two_tools_are_listed_instead_of_all(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        modern = await world.ask("tools/list")
        session, said = await world.initialize()
        legacy = await world.legacy({"id": 1, "method": "tools/list"}, session=session)

        for answer in (modern, legacy):
            assert [tool["name"] for tool in answer.result["tools"]] == ["find_tool", "call_tool"]
        assert said["capabilities"]["tools"] == {"listChanged": False}


async def test_what_was_found_can_be_called(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": echoing}) as world:
        found = await world.ask("tools/call", {"name": "find_tool", "arguments": {"query": "cancel an invoice"}})
        name = found.result["structuredContent"]["tools"][0]["name"]
        called = await world.ask("tools/call", {"name": "call_tool", "arguments": {"name": name, "arguments": {"text": "x"}}})

        assert name == "void_invoice"
        assert called.result["content"][0]["text"] == "cancel_invoice"


async def test_nobody_finds_what_is_not_theirs(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        search = {"name": "find_tool", "arguments": {"query": "void_invoice"}}
        found = await world.ask("tools/call", search, who="bob")

        assert "void_invoice" not in found.text


async def test_wrong_words_are_a_result_that_a_model_reads(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        answer = await world.ask("tools/call", {"name": "find_tool", "arguments": {"query": ""}})

        assert answer.result["isError"] is True
