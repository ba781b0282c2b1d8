"""Each combination of a client's era and a member's era does everything, against the real SDK server."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from aggregator.call import Call, RpcError
from aggregator.upstream.bridge import Bridge
from extauthz.mcp.era import Era
from tests.functional.upstream_server import Watched, make_server
from tests.functional.upstream_world import (
    ANSWERS,
    PATIENCE_SECONDS,
    Front,
    RecordingReply,
    bridge_to,
    client_of,
    member_of,
    running_front,
    running_sdk,
    text_of,
    tool_call,
)

COMBINATIONS = [("modern", "modern"), ("modern", "legacy"), ("legacy", "modern"), ("legacy", "legacy")]
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),  # what the older era has is deprecated in the newer
]


@pytest.fixture
def short_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as directory:
        yield Path(directory)


@dataclass
class World:
    bridge: Bridge
    front: Front
    watched: Watched


@pytest.fixture
async def world(short_directory: Path) -> AsyncIterator[World]:
    watched = Watched()
    async with (
        running_sdk(make_server(watched), short_directory) as member,
        running_front(short_directory, member) as front,
        bridge_to(front) as bridge,
    ):
        yield World(bridge, front, watched)


async def within(awaitable):
    return await asyncio.wait_for(awaitable, PATIENCE_SECONDS)


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
async def test_a_tool_is_called_and_answers_in_the_clients_era(world, client_era, member_era):
    client, member = client_of(client_era), member_of(member_era)

    result = await world.bridge.call(tool_call(client, member, "echo", {"text": "hi", "region": "bär "}), RecordingReply())

    assert text_of(result) == "echo hibär "
    assert result.get("resultType") == ("complete" if client_era == "modern" else None)
    assert ("initialize" in world.front.methods()) == (member_era == "legacy")


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
async def test_a_failed_tool_and_an_error_of_the_server_are_told_as_they_are(world, client_era, member_era):
    client, member = client_of(client_era), member_of(member_era)

    failed = await world.bridge.call(tool_call(client, member, "broken"), RecordingReply())
    with pytest.raises(RpcError) as refused:
        await world.bridge.call(tool_call(client, member, "refused"), RecordingReply())

    assert failed["isError"] is True
    assert (refused.value.code, refused.value.message, refused.value.data) == (-32050, "not today", {"why": "it is sunday"})


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
async def test_prompts_resources_and_completion_go_through(world, client_era, member_era):
    client, member = client_of(client_era), member_of(member_era)

    async def ask(method, params):
        return await world.bridge.call(Call(client=client, member=member, method=method, params=params), RecordingReply())

    prompt = await ask("prompts/get", {"name": "greet", "arguments": {"name": "Ann"}})
    read = await ask("resources/read", {"uri": "test://one"})
    completed = await ask(
        "completion/complete", {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "name", "value": "pa"}}
    )

    assert prompt["messages"][0]["content"]["text"] == "Greet Ann."
    assert read["contents"][0]["text"] == "the content of one"
    assert completed["completion"]["values"] == ["paris", "park"]
    assert ("ttlMs" in read, "cacheScope" in read) == ((True, True) if client_era == "modern" else (False, False))


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
async def test_a_resource_that_is_not_there_is_told_in_the_code_of_the_era(world, client_era, member_era):
    client, member = client_of(client_era), member_of(member_era)

    with pytest.raises(RpcError) as error:
        await world.bridge.call(
            Call(client=client, member=member, method="resources/read", params={"uri": "test://none"}), RecordingReply()
        )

    assert error.value.code in ({-32602} if client_era == "modern" else {-32602, -32002})


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
async def test_progress_comes_with_the_clients_own_token(world, client_era, member_era):
    reply = RecordingReply()
    call = tool_call(client_of(client_era), member_of(member_era), "steps", _meta={"progressToken": 7})

    result = await world.bridge.call(call, reply)

    assert text_of(result) == "stepped"
    assert [(method, params["progressToken"], params["progress"]) for method, params in reply.notified] == [
        ("notifications/progress", 7, step) for step in (1, 2, 3)
    ]


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
async def test_nobody_gets_progress_without_a_token(world, client_era, member_era):
    reply = RecordingReply()

    await world.bridge.call(tool_call(client_of(client_era), member_of(member_era), "steps"), reply)

    assert reply.notified == []


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
@pytest.mark.parametrize(("level", "lines"), [("", 0), ("error", 1), ("debug", 3)])
async def test_log_messages_come_from_the_level_that_was_asked_for(world, client_era, member_era, level, lines):
    reply = RecordingReply()
    client = client_of(client_era, log_level=level)

    await world.bridge.call(tool_call(client, member_of(member_era), "logs"), reply)

    told = [params["level"] for method, params in reply.notified if method == "notifications/message"]
    if (client_era, level) == ("legacy", ""):
        assert told == (["debug", "info", "error"] if member_era == "legacy" else ["info", "error"])
    elif (client_era, member_era) == ("legacy", "legacy"):
        assert world.watched.levels == [level]  # the member filters, this one does not
    else:
        assert told == ["debug", "info", "error"][3 - lines :]


@pytest.mark.parametrize("client_era", ["modern", "legacy"])
@pytest.mark.parametrize("member_era", ["modern", "legacy"])
async def test_a_call_that_is_cancelled_is_cancelled_at_the_member(world, client_era, member_era):
    call = tool_call(client_of(client_era), member_of(member_era), "hang")

    task = asyncio.create_task(world.bridge.call(call, RecordingReply()))
    await within(world.watched.started.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await within(world.watched.cancelled.wait())
    assert ("notifications/cancelled" in world.front.methods()) == (member_era == "legacy")


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ("legacy_elicit", "accept {'name': 'Ann'}"),
        ("legacy_sample", "model: it"),
        ("legacy_roots", "roots: file:///home/ann"),
        ("legacy_elicit_twice", "{'name': 'Ann'} {'name': 'Ann'}"),
    ],
)
async def test_a_legacy_member_asks_a_legacy_client(world, tool, said):
    reply, streamed = RecordingReply(), RecordingReply()
    client, member = client_of("legacy"), member_of("legacy")
    listening = asyncio.create_task(world.bridge.listen(client, member, {}, streamed))
    await world.front.until("GET")

    result = await within(world.bridge.call(tool_call(client, member, tool), reply))

    assert text_of(result) == said
    assert reply.asked or streamed.asked
    listening.cancel()


async def test_a_legacy_member_asks_on_its_stream(world):
    reply, streamed = RecordingReply(), RecordingReply()
    client, member = client_of("legacy"), member_of("legacy")
    listening = asyncio.create_task(world.bridge.listen(client, member, {}, streamed))
    await world.front.until("GET")

    result = await within(world.bridge.call(tool_call(client, member, "legacy_elicit_on_stream"), reply))

    assert text_of(result) == "accept {'name': 'Ann'}"
    assert [method for _, method, _ in streamed.asked] == ["elicitation/create"]
    assert reply.asked == []
    listening.cancel()


async def test_a_client_that_refuses_a_question_is_told_to_the_legacy_member(world):
    reply = RecordingReply(lambda method, params: {"error": {"code": -1, "message": "no"}})

    with pytest.raises(RpcError) as told_back:
        await within(world.bridge.call(tool_call(client_of("legacy"), member_of("legacy"), "legacy_elicit"), reply))

    assert (told_back.value.code, told_back.value.message) == (-1, "no")  # this server answers with what it was told


async def test_a_client_that_cannot_be_asked_is_not_asked(world):
    reply = RecordingReply()
    client = client_of("legacy", capabilities={})

    with pytest.raises(RpcError) as legacy:
        await within(world.bridge.call(tool_call(client, member_of("legacy"), "legacy_elicit"), reply))
    with pytest.raises(RpcError) as modern:
        await within(world.bridge.call(tool_call(client, member_of("modern", name="other"), "modern_endless"), reply))

    assert legacy.value.message == "The client did not say that it can do this."
    assert "elicitation/create" in modern.value.message or modern.value.code == -32021
    assert reply.asked == []


@pytest.mark.parametrize(
    ("tool", "method", "said"),
    [
        ("legacy_elicit", "elicitation/create", "accept {'name': 'Ann'}"),
        ("legacy_elicit_on_stream", "elicitation/create", "accept {'name': 'Ann'}"),
        ("legacy_sample", "sampling/createMessage", "model: it"),
        ("legacy_roots", "roots/list", "roots: file:///home/ann"),
    ],
)
async def test_a_question_of_a_legacy_member_becomes_input_required(world, tool, method, said):
    client, member = client_of("modern"), member_of("legacy")

    asked = await within(world.bridge.call(tool_call(client, member, tool), RecordingReply()))
    assert asked["resultType"] == "input_required"
    (key,) = asked["inputRequests"]
    assert asked["inputRequests"][key]["method"] == method
    answered = await within(world.bridge.call(tool_call(client, member, tool, **answers_to(asked)), RecordingReply()))

    assert (answered["resultType"], text_of(answered)) == ("complete", said)
    assert world.front.methods().count("tools/call") == 1


def answers_to(asked):
    responses = {key: ANSWERS[one["method"]] for key, one in asked["inputRequests"].items()}
    return {"inputResponses": responses, "requestState": asked["requestState"]}


async def test_a_legacy_member_asks_a_modern_client_in_several_rounds_and_progress_goes_on(world):
    client, member, reply = client_of("modern"), member_of("legacy"), RecordingReply()

    first = await within(world.bridge.call(tool_call(client, member, "legacy_elicit_twice"), RecordingReply()))
    second = await within(world.bridge.call(tool_call(client, member, "legacy_elicit_twice", **answers_to(first)), RecordingReply()))
    third = await within(world.bridge.call(tool_call(client, member, "legacy_elicit_twice", **answers_to(second)), RecordingReply()))
    again = await within(world.bridge.call(tool_call(client, member, "legacy_elicit", _meta={"progressToken": "a"}), reply))
    retried = tool_call(client, member, "legacy_elicit", _meta={"progressToken": "b"}, **answers_to(again))
    await within(world.bridge.call(retried, reply))

    assert text_of(third) == "{'name': 'Ann'} {'name': 'Ann'}"
    assert first["requestState"] != second["requestState"]
    assert [params["progressToken"] for _, params in reply.notified] == ["b"]


async def test_an_answer_that_is_missing_is_asked_for_again(world):
    client, member = client_of("modern"), member_of("legacy")
    first = await within(world.bridge.call(tool_call(client, member, "legacy_elicit"), RecordingReply()))

    empty = tool_call(client, member, "legacy_elicit", inputResponses={}, requestState=first["requestState"])
    second = await within(world.bridge.call(empty, RecordingReply()))

    assert second["inputRequests"] == first["inputRequests"]
    assert second["requestState"] != first["requestState"]


@pytest.mark.parametrize("thief", ["another caller", "another tool", "other arguments", "used before", "invented"])
async def test_a_state_is_good_for_its_caller_and_its_request_once(world, thief):
    client, member = client_of("modern"), member_of("legacy")
    asked = await within(world.bridge.call(tool_call(client, member, "legacy_elicit"), RecordingReply()))
    answers = answers_to(asked)
    stolen = tool_call(client, member, "legacy_elicit", **answers)
    if thief == "another caller":
        stolen = replace(stolen, client=client_of("modern", who="mallory"))
    elif thief == "another tool":
        stolen = tool_call(client, member, "legacy_sample", **answers)
    elif thief == "other arguments":
        stolen = tool_call(client, member, "legacy_elicit", {"after": "!"}, **answers)
    elif thief == "used before":
        await within(world.bridge.call(stolen, RecordingReply()))
    else:
        stolen = tool_call(client, member, "legacy_elicit", inputResponses={}, requestState="lgq1_invented")

    with pytest.raises(RpcError) as error:
        await within(world.bridge.call(stolen, RecordingReply()))

    assert (error.value.code, error.value.data["reason"]) == (40402, "request_state_unknown")
    if thief != "used before":  # the rightful owner still has it
        answered = await within(world.bridge.call(tool_call(client, member, "legacy_elicit", **answers), RecordingReply()))
        assert text_of(answered) == "accept {'name': 'Ann'}"


async def test_a_modern_member_asks_a_legacy_client_everything_at_once(world):
    reply = RecordingReply()

    result = await within(world.bridge.call(tool_call(client_of("legacy"), member_of("modern"), "modern_questions"), reply))

    assert text_of(result) == "accept Ann; it; file:///home/ann"
    assert {method for _, method, _ in reply.asked} == {"elicitation/create", "sampling/createMessage", "roots/list"}
    assert all(len(token) <= 200 for token, _, _ in reply.asked)


async def test_a_modern_member_that_asks_for_ever_is_stopped(world):
    with pytest.raises(RpcError) as error:
        await within(world.bridge.call(tool_call(client_of("legacy"), member_of("modern"), "modern_endless"), RecordingReply()))

    assert "again and again" in error.value.message


async def test_input_required_passes_between_modern_ones_unchanged(world):
    client, member = client_of("modern"), member_of("modern")

    asked = await world.bridge.call(tool_call(client, member, "modern_questions"), RecordingReply())
    answered = await world.bridge.call(tool_call(client, member, "modern_questions", **answers_to(asked)), RecordingReply())

    assert (asked["resultType"], set(asked["inputRequests"])) == ("input_required", {"who", "model", "roots"})
    assert text_of(answered) == "accept Ann; it; file:///home/ann"


@pytest.mark.parametrize("member_era", ["modern", "legacy"])
async def test_a_modern_client_listens(world, member_era):
    client, member, reply = client_of("modern"), member_of(member_era), RecordingReply()

    wanted = {"resourceSubscriptions": ["test://one"]}
    listening = asyncio.create_task(world.bridge.listen(client, member, wanted, reply))
    await reply.until(lambda: bool(reply.notified))
    await world.bridge.call(tool_call(client, member, "touch"), RecordingReply())
    await reply.until(lambda: len(reply.notified) > 1)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)

    first, *others = reply.notified
    assert first == ("notifications/subscriptions/acknowledged", {"notifications": wanted})
    assert {(method, params["uri"]) for method, params in others} == {("notifications/resources/updated", "test://one")}
    if member_era == "legacy":
        await world.front.until("DELETE")


@pytest.mark.parametrize("member_era", ["modern", "legacy"])
async def test_a_legacy_client_subscribes_and_unsubscribes(world, member_era):
    client, member, reply = client_of("legacy"), member_of(member_era), RecordingReply()

    async def ask(method):
        await within(world.bridge.call(Call(client=client, member=member, method=method, params={"uri": "test://one"}), RecordingReply()))

    listening = asyncio.create_task(world.bridge.listen(client, member, {}, reply))
    if member_era == "legacy":
        await world.front.until("GET")
    await ask("resources/subscribe")
    await world.bridge.call(tool_call(client, member, "touch"), RecordingReply())
    await reply.until(lambda: bool(reply.notified))
    await ask("resources/unsubscribe")
    listening.cancel()

    assert {(method, params["uri"]) for method, params in reply.notified} == {("notifications/resources/updated", "test://one")}
    assert world.watched.subscribed == []


async def test_what_changed_while_a_legacy_client_had_no_stream_is_told_when_it_has_one(world):
    client, member, reply = client_of("legacy"), member_of("modern"), RecordingReply()
    subscribe = Call(client=client, member=member, method="resources/subscribe", params={"uri": "test://one"})

    await within(world.bridge.call(subscribe, RecordingReply()))
    await world.bridge.call(tool_call(client, member, "touch"), RecordingReply())
    listening = asyncio.create_task(world.bridge.listen(client, member, {}, reply))
    await reply.until(lambda: bool(reply.notified))
    listening.cancel()

    assert reply.notified == [("notifications/resources/updated", {"uri": "test://one"})]


async def test_a_link_is_a_text_for_clients_that_do_not_know_links(world):
    old, newer = client_of("legacy", protocol_version="2025-03-26"), client_of("legacy", who="bob", protocol_version="2025-06-18")

    for era in ("legacy", "modern"):
        for_old = await world.bridge.call(tool_call(old, member_of(era), "link"), RecordingReply())
        for_newer = await world.bridge.call(tool_call(newer, member_of(era), "link"), RecordingReply())

        assert for_old["content"] == [{"type": "text", "text": "one test://one"}]
        assert for_newer["content"][0]["type"] == "resource_link"


@pytest.mark.parametrize(("client_era", "method"), [("modern", "tasks/update"), ("legacy", "tasks/result")])
async def test_what_the_other_era_does_not_have_is_said(world, client_era, method):
    member = member_of("legacy" if client_era == "modern" else "modern")

    with pytest.raises(RpcError) as error:
        await world.bridge.call(Call(client=client_of(client_era), member=member, method=method, params={"taskId": "1"}), RecordingReply())

    assert (error.value.code, error.value.data["reason"]) == (-32601, "not_bridged")


async def test_a_member_of_both_eras_is_spoken_to_in_the_clients(world):
    for era in Era:
        for member in (member_of("modern", "legacy", name=f"both-{era}"), member_of(name=f"unknown-{era}")):
            world.front.seen.clear()
            await world.bridge.call(tool_call(client_of(era), member, "echo", {"text": "x"}), RecordingReply())

            assert ("initialize" in world.front.methods()) == (era is Era.LEGACY)
