"""Virtual servers in mode `search`, over real HTTP."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aggregator.search.sentence_model import SentenceModel
from tests.functional.aggregator_world import Registry, Server, aggregator_world, item, virtual
from tests.unit.sentence_model import small_model

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


class Reader:
    """A sentence model that reads nothing before it is let, and notes what it read."""

    def __init__(self, model: SentenceModel) -> None:
        self.pieces = model.pieces
        self.let = threading.Event()
        self.read: list[str] = []
        self._model = model

    def token_vectors(self, text: str) -> Any:
        self.read.append(text)
        assert self.let.wait(60)
        return self._model.token_vectors(text)


async def find(world: Any, query: str) -> list[str]:
    answer = await world.ask("tools/call", {"name": "find_tool", "arguments": {"query": query}})
    return [tool["name"] for tool in answer.result["structuredContent"]["tools"]]


async def test_nobody_waits_while_the_sentence_model_reads_definitions_and_then_it_is_asked(tmp_path: Path) -> None:
    reader: Any = Reader(small_model(tmp_path))
    async with aggregator_world(tmp_path, REGISTRY, search_model=reader) as world:
        by_words = await find(world, "cancel an invoice")
        assert by_words == ["void_invoice"]
        assert "cancel an invoice" not in reader.read

        reader.let.set()
        async with asyncio.timeout(60):
            while "cancel an invoice" not in reader.read:
                assert set(await find(world, "cancel an invoice")) == set(by_words)
        assert len(reader.read) == len(set(reader.read)) + reader.read.count("cancel an invoice") - 1


@pytest.mark.parametrize("fails_at", ["definitions", "request"])
async def test_a_sentence_model_that_fails_leaves_words(tmp_path: Path, fails_at: str) -> None:
    class Broken(Reader):
        def token_vectors(self, text: str) -> Any:
            self.read.append(text)
            if fails_at == "definitions" or text == "cancel an invoice":
                raise MemoryError
            return self._model.token_vectors(text)

    broken: Any = Broken(small_model(tmp_path))
    async with aggregator_world(tmp_path, REGISTRY, search_model=broken) as world, asyncio.timeout(60):
        while fails_at == "request" and "cancel an invoice" not in broken.read:
            assert await find(world, "cancel an invoice") == ["void_invoice"]
        for _ in range(5):
            assert await find(world, "cancel an invoice") == ["void_invoice"]
        assert broken.read
