"""Lists of virtual servers and of single ones: what whom is shown, in pages, whatever becomes of members."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.functional.aggregator_world import CRM, DESK, AggregatorWorld, Registry, Server, aggregator_world, item, virtual

CRM_SERVER = Server("crm", prompts=("greet",), resources=("note://one",), templates=("note://{id}",))
DOCS = Server("docs", tools=("search",), resources=("note://one",))
DESK_ITEMS = [
    item("tool", "find", own_name="search", title="Find", description="finds", annotations={"readOnlyHint": True}),
    item("tool", "update", input_defaults={"limit": 5}, hidden_arguments=["limit"]),
    item("tool", "docs_search", 1, "search", input_defaults={"limit": 3}),
    item("prompt", "greet"),
    item("resource", "m.demo.crm+note://one", own_name="note://one"),
    item("resource_template", "m.demo.crm+note://{id}", own_name="note://{id}"),
    item("resource", "note://one", 1),
]
PREFIXES = ("m.demo.crm+", "")
REGISTRY = Registry(
    servers=(CRM_SERVER, DOCS), virtual=(virtual("demo/crm", "demo/docs", items=DESK_ITEMS, prefixes=PREFIXES, title="Desk"),)
)


def names(answer: Any, member: str = "tools", key: str = "name") -> list[str]:
    return [each[key] for each in answer.result[member]]


async def test_a_list_shows_names_and_texts_as_the_virtual_server_has_them(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        answer = await world.ask("tools/list")

        assert answer.status == 200
        found, update, searched = answer.result["tools"]
        assert (found["name"], found["title"], found["description"]) == ("find", "Find", "finds")
        assert found["annotations"] == {"readOnlyHint": True}
        assert set(update["inputSchema"]["properties"]) == {"text"}
        assert update["inputSchema"]["required"] == ["text"]
        assert searched["inputSchema"]["properties"]["limit"] == {"type": "integer", "default": 3}
        assert searched["inputSchema"]["required"] == ["text"]
        assert {key: answer.result[key] for key in ("resultType", "cacheScope")} == {"resultType": "complete", "cacheScope": "private"}
        assert answer.result["ttlMs"] >= 0
        assert not world.asked, "no member is asked for a list"


async def test_resources_and_templates_have_the_uris_that_lead_back(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        assert names(await world.ask("resources/list"), "resources", "uri") == ["m.demo.crm+note://one", "note://one"]
        assert names(await world.ask("resources/templates/list"), "resourceTemplates", "uriTemplate") == ["m.demo.crm+note://{id}"]
        assert names(await world.ask("prompts/list"), "prompts") == ["greet"]


async def test_everybody_is_shown_their_own_view(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        assert names(await world.ask("tools/list", who="ann")) == ["find", "update", "docs_search"]
        assert names(await world.ask("tools/list", who="bob")) == ["find"], "policies follow the identity, not the name"
        assert names(await world.ask("tools/list", who="eve")) == []


async def test_a_single_server_is_listed_by_the_same_rules(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        assert names(await world.ask("tools/list", path=CRM)) == ["search", "update"]
        assert names(await world.ask("tools/list", path=CRM, who="bob")) == ["search"]
        assert names(await world.ask("resources/list", path=CRM), "resources", "uri") == ["note://one"]


async def test_legacy_clients_get_their_own_form(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        session, _ = await world.initialize()

        answer = await world.legacy({"id": 1, "method": "tools/list"}, session=session)

        assert set(answer.result) == {"tools"}


MANY = Server("many", tools=tuple(f"t{number:04}" for number in range(2500)))
MANY_REGISTRY = Registry(servers=(MANY,), virtual=(virtual("demo/many", items=[item("tool", name) for name in MANY.tools]),))


async def pages(world: AggregatorWorld, **more: Any) -> list[list[str]]:
    found, cursor = [], None
    while True:
        answer = await world.ask("tools/list", {"cursor": cursor} if cursor else {}, **more)
        found.append(names(answer))
        cursor = answer.result.get("nextCursor")
        if cursor is None:
            return found


async def test_a_long_list_comes_in_pages_in_a_stable_order(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, MANY_REGISTRY) as world:
        found = await pages(world)

        assert [len(page) for page in found] == [1000, 1000, 500]
        assert [name for page in found for name in page] == list(MANY.tools)


async def test_a_cursor_outlives_revisions_that_change_nothing_of_the_list(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, MANY_REGISTRY) as world:
        cursor = (await world.ask("tools/list")).result["nextCursor"]
        world.publish(Registry(servers=(MANY, Server("other")), virtual=MANY_REGISTRY.virtual))

        assert names(await world.ask("tools/list", {"cursor": cursor}))[0] == "t1000"


@pytest.mark.parametrize("who", ["ann", "bob"])
async def test_a_cursor_of_a_list_that_has_changed_is_refused_in_words(tmp_path: Path, who: str) -> None:
    async with aggregator_world(tmp_path, MANY_REGISTRY) as world:
        cursor = (await world.ask("tools/list")).result["nextCursor"]
        if who == "ann":
            world.publish(Registry(servers=(Server("many", tools=MANY.tools, description="changed"),), virtual=MANY_REGISTRY.virtual))

        answer = await world.ask("tools/list", {"cursor": cursor}, who=who)

        assert (answer.status, answer.error["code"], answer.error["data"]["reason"]) == (400, -32602, "cursor_stale")


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", 7, "A" * 400])
async def test_a_cursor_that_was_not_made_here_is_refused(tmp_path: Path, cursor: Any) -> None:
    async with aggregator_world(tmp_path, MANY_REGISTRY) as world:
        answer = await world.ask("tools/list", {"cursor": cursor})

        assert (answer.status, answer.error["code"], answer.error["data"]["reason"]) == (400, -32602, "cursor_unknown")


DEAD = Server("docs", tools=("search",), fault="it does not answer", read_seconds_ago=5000)
NEVER_READ = Server("docs", tools=(), fault="it does not answer", read_seconds_ago=None)
TWO_ITEMS = [item("tool", "update"), item("tool", "search", 1)]


def with_member(docs: Server, **more: Any) -> Registry:
    items = TWO_ITEMS if docs.tools else TWO_ITEMS[:1]
    return Registry(servers=(CRM_SERVER, docs), virtual=(virtual("demo/crm", "demo/docs", items=items, **more),))


@pytest.mark.parametrize("dead", [DEAD, NEVER_READ])
async def test_a_member_that_cannot_be_had_is_missing_and_the_client_is_told(tmp_path: Path, dead: Server) -> None:
    async with aggregator_world(tmp_path, with_member(dead)) as world:
        answer = await world.ask("tools/list")

        assert names(answer) == ["update"]
        assert answer.result["_meta"]["io.legation/members"]["demo/docs"]["status"] == "unavailable"
        assert "does not answer" not in answer.text, "why it failed is for operators"


async def test_what_a_member_had_is_listed_for_a_while(tmp_path: Path) -> None:
    docs = Server("docs", tools=("search",), fault="it does not answer", read_seconds_ago=30)
    async with aggregator_world(tmp_path, with_member(docs)) as world:
        answer = await world.ask("tools/list")

        assert names(answer) == ["update", "search"]
        assert answer.result["_meta"]["io.legation/members"]["demo/docs"]["status"] == "stale"


async def test_a_strict_virtual_server_lists_everything_or_nothing(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, with_member(DEAD, strict=True)) as world:
        answer = await world.ask("tools/list")

        assert (answer.status, answer.error["data"]["reason"]) == (502, "member_unavailable")
        assert list(answer.error["data"]["members"]) == ["demo/docs"]


async def test_nobody_is_told_of_members_that_do_not_exist_for_them(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, with_member(DEAD)) as world:
        answer = await world.ask("tools/list", who="bob")

        assert "demo/docs" not in answer.text


async def test_a_context_is_good_at_its_own_path_only(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        answer = await world.ask("tools/list", path=DESK, context=world.context(CRM, "ann"))

        assert (answer.status, answer.error["data"]["reason"]) == (404, "server_not_found")


@pytest.mark.parametrize("context", ["", "nonsense", "a.b"])
async def test_without_a_context_nothing_is_answered(tmp_path: Path, context: str) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        answer = await world.ask("tools/list", headers={"legation-context": context or "x"})

        assert (answer.status, answer.error["data"]["reason"]) == (401, "egress_context_invalid")


async def test_a_list_is_of_the_revision_that_the_decision_was_made_at(tmp_path: Path) -> None:
    """The authorizer may have switched a moment earlier."""
    async with aggregator_world(tmp_path, Registry(servers=(Server("crm"),))) as world:
        world.revision += 1
        context = world.context(DESK, "ann")
        world.revision -= 1
        async with world.open("tools/list", context=context) as _:
            pass  # waited in vain: there is no such front yet

        waiting = asyncio.create_task(world.ask("tools/list", context=context))
        await asyncio.sleep(0)
        world.publish(REGISTRY)

        assert names(await waiting) == ["find", "update", "docs_search"]
