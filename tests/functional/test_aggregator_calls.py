"""Calls through a front: names and arguments of members, what comes on the way, errors, and what may be taken back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from extauthz.audit.outcome import ANSWER_HEADER
from tests.functional.aggregator_world import CRM, Events, Registry, Server, aggregator_world, item, virtual

CRM_SERVER = Server("crm", prompts=("greet",), resources=("note://one",), templates=("note://{id}",), eras=("modern",))
ITEMS = [
    item("tool", "find", own_name="search"),
    item("tool", "update", input_defaults={"limit": 5, "text": "nothing"}, hidden_arguments=["limit"]),
    item("prompt", "hello", own_name="greet"),
    item("resource", "m.demo.crm+note://one", own_name="note://one"),
    item("resource_template", "m.demo.crm+note://{id}", own_name="note://{id}"),
]
REGISTRY = Registry(servers=(CRM_SERVER,), virtual=(virtual("demo/crm", items=ITEMS, prefixes=("m.demo.crm+",)),))
TEXT = {"content": [{"type": "text", "text": "done"}]}


def answering(**result: Any) -> Any:
    async def member(_request: web.Request, _message: dict[str, Any]) -> dict[str, Any]:
        return result

    return member


def params_of(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message["params"].items() if name != "_meta"}


async def test_a_renamed_tool_is_called_by_its_own_name(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": answering(**TEXT)}) as world:
        answer = await world.ask("tools/call", {"name": "find", "arguments": {"text": "x"}})

        assert answer.result["content"] == TEXT["content"]
        assert params_of(world.asked[0][1]) == {"name": "search", "arguments": {"text": "x"}}


async def test_defaults_are_filled_in_and_hidden_arguments_are_ours(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": answering(**TEXT)}) as world:
        await world.ask("tools/call", {"name": "update", "arguments": {"text": "mine"}})
        refused = await world.ask("tools/call", {"name": "update", "arguments": {"limit": 6}})

        assert params_of(world.asked[0][1])["arguments"] == {"limit": 5, "text": "mine"}
        assert (refused.status, refused.error["code"], len(world.asked)) == (400, -32602, 1)


async def test_uris_are_those_of_the_client_on_the_way_back(tmp_path: Path) -> None:
    contents = [{"uri": "note://7", "text": "seven"}]
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": answering(contents=contents)}) as world:
        answer = await world.ask("resources/read", {"uri": "m.demo.crm+note://7"})

        assert params_of(world.asked[0][1]) == {"uri": "note://7"}
        assert answer.result["contents"] == [{"uri": "m.demo.crm+note://7", "text": "seven"}]


async def test_links_and_embedded_resources_of_results_lead_back(tmp_path: Path) -> None:
    content = [
        {"type": "resource_link", "uri": "note://one", "name": "n"},
        {"type": "resource", "resource": {"uri": "note://2", "text": ""}},
    ]
    messages = [{"role": "user", "content": {"type": "resource", "resource": {"uri": "note://3", "text": ""}}}]
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": answering(content=content, messages=messages)}) as world:
        called = await world.ask("tools/call", {"name": "find", "arguments": {}})
        prompted = await world.ask("prompts/get", {"name": "hello"})

        assert [called.result["content"][0]["uri"], called.result["content"][1]["resource"]["uri"]] == [
            "m.demo.crm+note://one",
            "m.demo.crm+note://2",
        ]
        assert prompted.result["messages"][0]["content"]["resource"]["uri"] == "m.demo.crm+note://3"
        assert params_of(world.asked[-1][1]) == {"name": "greet"}


async def test_tasks_are_found_again_at_their_member(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": answering(resultType="task", taskId="t1", status="working")}) as world:
        begun = await world.ask("tools/call", {"name": "find", "arguments": {}})
        await world.ask("tasks/get", {"taskId": begun.result["taskId"]})
        unknown = await world.ask("tasks/get", {"taskId": "demo/other+t1"})

        assert begun.result["taskId"] == "demo/crm+t1"
        assert params_of(world.asked[1][1]) == {"taskId": "t1"}
        assert (unknown.status, unknown.error["code"]) == (403, 40300)


async def test_completion_is_asked_for_by_the_members_names(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": answering(completion={"values": ["ann"]})}) as world:
        argument = {"argument": {"name": "id", "value": "a"}}
        await world.ask("completion/complete", {"ref": {"type": "ref/prompt", "name": "hello"}, **argument})
        await world.ask("completion/complete", {"ref": {"type": "ref/resource", "uri": "m.demo.crm+note://{id}"}, **argument})

        assert [params_of(message)["ref"] for _, message in world.asked] == [
            {"type": "ref/prompt", "name": "greet"},
            {"type": "ref/resource", "uri": "note://{id}"},
        ]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "search", "arguments": {}}),
        ("prompts/get", {"name": "greet"}),
        ("resources/read", {"uri": "note://one"}),
        ("resources/read", {"uri": "m.demo.other+note://one"}),
    ],
)
async def test_what_is_not_offered_under_this_name_is_not_there(tmp_path: Path, method: str, params: dict[str, Any]) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        answer = await world.ask(method, params)

        assert (answer.status, answer.error["code"], world.asked) == (403, 40300, [])


async def test_a_member_that_is_away_is_an_error_that_says_so(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        modern = await world.ask("tools/call", {"name": "find", "arguments": {}})
        session, _ = await world.initialize()
        legacy = await world.legacy({"id": 2, "method": "tools/call", "params": {"name": "find", "arguments": {}}}, session=session)

        assert (modern.status, modern.error["code"]) == (502, 50200)
        assert (legacy.status, legacy.error["code"]) == (200, 50200), "other statuses end sessions of older SDKs"


async def streaming(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
    """A notification, then the result."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    token = message["params"]["_meta"]["progressToken"]
    told = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}}
    for each in (told, {"jsonrpc": "2.0", "id": message["id"], "result": {"resultType": "complete", **TEXT}}):
        await response.write(f"event: message\ndata: {json.dumps(each)}\n\n".encode())
    return response


async def test_what_an_answer_means_is_told_to_envoy(tmp_path: Path) -> None:
    """In a header that goes no further (`controlplane.xds.resources.route`)."""
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": answering(**TEXT)}) as world:
        called = await world.ask("tools/call", {"name": "find", "arguments": {"text": "x"}})
        listed = await world.ask("tools/list")
        unknown = await world.ask("tools/call", {"name": "search", "arguments": {}})
        nowhere = await world.ask("tools/list", path="/virtual/demo/none/mcp")
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": answering(**TEXT, isError=True)}) as world:
        failed = await world.ask("tools/call", {"name": "find", "arguments": {"text": "x"}})

    told = [answer.headers[ANSWER_HEADER] for answer in (called, listed, unknown, nowhere, failed)]
    assert told == ["result", "result", "error=40300", "error=40400", "tool_error"]


async def test_progress_comes_before_the_result_on_one_stream(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": streaming}) as world:
        answer = await world.ask("tools/call", {"name": "find", "arguments": {}}, request_id="r1", meta={"progressToken": "p"})

        progress, result = answer.messages
        assert (progress["method"], progress["params"]["progressToken"]) == ("notifications/progress", "p")
        assert (result["id"], result["result"]["content"]) == ("r1", TEXT["content"])


class Hanging:
    """A member that never answers, and knows when it was left."""

    def __init__(self) -> None:
        self.came, self.left = asyncio.Event(), asyncio.Event()

    async def __call__(self, request: web.Request, message: dict[str, Any]) -> web.StreamResponse | dict[str, Any]:
        if message.get("method") != "tools/call":
            return web.Response(status=202)
        self.came.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()
        return {}


async def test_a_modern_client_that_goes_away_takes_its_call_back(tmp_path: Path) -> None:
    hanging = Hanging()
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": hanging}) as world:
        waiting = asyncio.create_task(world.ask("tools/call", {"name": "find", "arguments": {}}))
        await hanging.came.wait()
        waiting.cancel()

        async with asyncio.timeout(60):
            await hanging.left.wait()


async def test_a_legacy_client_takes_its_call_back_by_saying_so(tmp_path: Path) -> None:
    hanging = Hanging()
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": hanging}) as world:
        session, _ = await world.initialize()
        call = {"id": 7, "method": "tools/call", "params": {"name": "find", "arguments": {}}}
        waiting = asyncio.create_task(world.legacy(call, session=session))
        await hanging.came.wait()

        told = await world.legacy({"method": "notifications/cancelled", "params": {"requestId": 7}}, session=session)

        assert told.status == 202
        assert (await waiting).error["code"] == 49900
        async with asyncio.timeout(60):
            await hanging.left.wait()


async def test_somebody_else_cannot_cancel_it(tmp_path: Path) -> None:
    hanging = Hanging()
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": hanging}) as world:
        session, _ = await world.initialize()
        other, _ = await world.initialize()
        call = {"id": 7, "method": "tools/call", "params": {"name": "find", "arguments": {}}}
        waiting = asyncio.create_task(world.legacy(call, session=session))
        await hanging.came.wait()

        await world.legacy({"method": "notifications/cancelled", "params": {"requestId": 7}}, session=other)
        await world.legacy({"method": "notifications/cancelled", "params": {"requestId": 7}}, session=other, who="bob")

        assert not waiting.done()
        assert not hanging.left.is_set()
        waiting.cancel()


async def asking(request: web.Request, message: dict[str, Any]) -> web.StreamResponse | dict[str, Any]:
    """A modern member that needs to know something first."""
    if "inputResponses" not in message["params"]:
        question = {
            "method": "elicitation/create",
            "params": {"mode": "form", "message": "Who?", "requestedSchema": {"type": "object", "properties": {}}},
        }
        return {"resultType": "input_required", "inputRequests": {"who": question}, "requestState": "s1"}
    return {"content": [{"type": "text", "text": json.dumps(message["params"]["inputResponses"])}]}


async def test_a_question_of_a_member_reaches_a_modern_client_as_it_is(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": asking}) as world:
        can = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}}
        first = await world.ask("tools/call", {"name": "find", "arguments": {}}, meta=can)
        again = {"requestState": first.result["requestState"], "inputResponses": {"who": {"action": "accept", "content": {}}}}
        second = await world.ask("tools/call", {"name": "find", "arguments": {}, **again}, meta=can)

        assert first.result["resultType"] == "input_required"
        assert json.loads(second.result["content"][0]["text"]) == again["inputResponses"]


async def test_a_legacy_client_is_asked_on_the_stream_of_its_call(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": asking}) as world:
        session, _ = await world.initialize(capabilities={"elicitation": {}})
        call = {"id": 7, "method": "tools/call", "params": {"name": "find", "arguments": {}}}
        async with world.open_legacy(call, session=session) as response:
            events = Events(response)
            question = await events.next()
            answer = {"id": question["id"], "result": {"action": "accept", "content": {"name": "Ann"}}}
            stolen = await world.legacy(answer, session=session, who="bob")
            given = await world.legacy(answer, session=session)
            result = await events.next()

        assert question["method"] == "elicitation/create"
        assert (stolen.status, given.status) == (404, 202)
        assert "Ann" in result["result"]["content"][0]["text"]


async def test_a_single_server_of_the_other_era_is_served_by_its_own_names(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": answering(**TEXT)}) as world:
        session, said = await world.initialize(path=CRM)
        call = {"id": 1, "method": "tools/call", "params": {"name": "search", "arguments": {}}}
        answer = await world.legacy(call, session=session, path=CRM)

        assert said["serverInfo"] == {"name": "crm", "version": "3"}
        assert answer.result["content"] == TEXT["content"]
        assert "resultType" not in answer.result


async def test_a_legacy_client_that_leaves_while_it_is_asked_holds_nobody_up(tmp_path: Path) -> None:
    """Its going away is no cancellation in that era; its question has no answer any more."""
    async with aggregator_world(tmp_path, REGISTRY, members={"crm": asking}) as world:
        session, _ = await world.initialize(capabilities={"elicitation": {}})
        call = {"id": 7, "method": "tools/call", "params": {"name": "find", "arguments": {}}}
        async with world.open_legacy(call, session=session) as response:
            await Events(response).next()

        async with asyncio.timeout(60):
            while world.endpoint._questions._waiting or world.endpoint._going_on:  # noqa: ASYNC110 - until its going away is seen
                await asyncio.sleep(0.01)

        assert len(world.asked) == 1


async def test_a_list_comes_to_legacy_clients_as_a_stream_of_one_event(tmp_path: Path) -> None:
    async with aggregator_world(tmp_path, REGISTRY) as world:
        session, _ = await world.initialize()
        streamed = await world.legacy({"id": 1, "method": "tools/list"}, session=session)
        plain = await world.legacy({"id": 1, "method": "tools/list"}, session=session, headers={"accept": "application/json"})

        assert streamed.headers["content-type"] == "text/event-stream"
        assert plain.headers["content-type"].startswith("application/json")
        assert streamed.result == plain.result
