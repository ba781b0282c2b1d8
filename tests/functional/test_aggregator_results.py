"""Answers of tools at the aggregator: on the record before the client has them, or withheld, or said to be lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web

from aggregator.recording import Recording
from aggregator.upstream.room import AnswerRoom
from extauthz.audit.loss import Losses
from extauthz.audit.record import AuditRecord
from extauthz.errors import AuditError
from extauthz.v1 import registry_pb2 as pb
from tests.functional.aggregator_world import CRM, DESK, AggregatorWorld, Registry, Server, aggregator_world, item, virtual

KEEP_FULL = pb.AuditContentRule(servers=["*"], keep=pb.AUDIT_KEEP_FULL)


class Log:
    """What is recorded; holds it up while `open` is not set, and fails while `fault` says why."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []
        self.coming = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.fault = ""

    async def append(self, record: AuditRecord) -> None:
        self.coming.set()
        await self.open.wait()
        if self.fault:
            raise AuditError(self.fault)
        self.records.append(record)


def policy(*rules: pb.AuditContentRule, mode: pb.AuditMode = pb.AUDIT_MODE_STRICT, namespace: str = "demo") -> pb.AuditPolicy:
    content = pb.AuditContent(keep=pb.AUDIT_KEEP_OFF, rules=rules)
    return pb.AuditPolicy(namespace=namespace, name="default", mode=mode, results=content)


@contextlib.asynccontextmanager
async def recording_world(
    directory: Path, *rules: pb.AuditContentRule, member: Any, **more: Any
) -> AsyncIterator[tuple[AggregatorWorld, Log]]:
    log = Log()
    policies, front, server = more.pop("policies", ()), more.pop("front", {}), more.pop("server", {})
    servers = (Server("crm", tools=("search", "update"), **server),)
    items = [item("tool", "find", own_name="search"), item("tool", "update")]
    registry = Registry(
        servers=servers,
        virtual=(virtual("demo/crm", items=items, prefixes=("m.crm+",), **front),),
        audit_policies=policies or (policy(*rules or (KEEP_FULL,), **more),),
    )
    recording = Recording(Losses(log, log))
    async with aggregator_world(directory, registry, members={"crm": member}, recording=recording) as world:
        yield world, log


async def answering(_request: web.Request, message: dict[str, Any]) -> dict[str, Any]:
    if message["method"] == "tools/call":
        return {"content": [{"type": "resource_link", "uri": "crm://1", "name": "one"}], "structuredContent": {"name": "Ann"}}
    return {"taskId": "t-1", "status": "working"}


async def search(world: AggregatorWorld, path: str = DESK, **more: Any) -> Any:
    name = "find" if path == DESK else "search"
    return await world.ask("tools/call", {"name": name, "arguments": {"text": "a", "limit": 1}}, path=path, **more)


async def test_no_client_has_an_answer_before_it_is_recorded(tmp_path: Path) -> None:
    async with recording_world(tmp_path, member=answering) as (world, log):
        log.open.clear()
        asking = asyncio.create_task(search(world))
        await asyncio.wait_for(log.coming.wait(), 60)
        assert not asking.done()
        log.open.set()
        answer = await asking

        (record,) = log.records
        assert json.loads(record.result_json) == answer.result  # as the client gets it: with the URIs of the virtual server
        assert record.result_json.count("m.crm+crm://1") == 1
        assert (record.decision_id, record.event.value, record.reason, record.needed) == ("d-1", "result", "answered", True)
        assert (record.namespace, record.mcp_server, record.tool, record.exposed_name) == ("demo", "crm", "search", "find")
        assert (record.virtual_server, record.method, record.era, record.effect) == ("demo/desk", "tools/call", "modern", "write")
        assert record.principal is not None
        assert (record.principal.id, record.downstream_address) == ("local/ann", "192.0.2.7")


async def test_a_single_server_has_no_virtual_server_on_its_records(tmp_path: Path) -> None:
    async with recording_world(tmp_path, member=answering) as (world, log):
        assert (await search(world, CRM)).status == 200

        assert [(record.virtual_server, record.exposed_name, record.tool) for record in log.records] == [("", "", "search")]


async def test_nothing_is_recorded_of_what_nobody_wants(tmp_path: Path) -> None:
    only_search = pb.AuditContentRule(servers=["demo/crm"], tools=["search"], keep=pb.AUDIT_KEEP_FULL)
    async with recording_world(tmp_path, only_search, member=answering) as (world, log):
        answer = await world.ask("tools/call", {"name": "update", "arguments": {"text": "a", "limit": 1}})

        assert (answer.status, log.records) == (200, [])


async def test_an_error_is_an_answer_too(tmp_path: Path) -> None:
    async def refusing(_request: web.Request, message: dict[str, Any]) -> web.Response:
        error = {"code": -32005, "message": "no such customer", "data": {"password": "x"}}
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error})

    async with recording_world(tmp_path, member=refusing) as (world, log):
        answer = await search(world)

        assert answer.error["code"] == -32005
        (record,) = log.records
        assert record.result is not None
        assert (record.reason, record.result.rpc_error_code, record.result.tool_error) == ("rpc_error", "-32005", False)
        assert json.loads(record.result_json) == {
            "code": -32005,
            "message": "no such customer",
            "data": {"password": {"$secret": "string"}},
        }


async def test_strict_withholds_what_cannot_be_recorded_and_says_that_the_call_was_made(tmp_path: Path) -> None:
    async with recording_world(tmp_path, member=answering) as (world, log):
        log.fault = "the disk is full"
        answer = await search(world)

        assert (answer.status, answer.error["code"]) == (502, 50209)
        assert answer.error["data"] == {"reason": "result_withheld", "decision_id": "d-1", "retryable": False}
        assert "Ann" not in answer.text
        assert "the disk is full" not in answer.text
        assert len(world.asked) == 1


async def test_a_stream_that_has_begun_ends_with_the_error(tmp_path: Path) -> None:
    async def telling(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        progress = {"progressToken": message["params"]["_meta"]["progressToken"], "progress": 1}
        for said in (
            {"jsonrpc": "2.0", "method": "notifications/progress", "params": progress},
            {
                "jsonrpc": "2.0",
                "id": message["id"],
                "result": {"resultType": "complete", "content": [], "structuredContent": {"name": "Ann"}},
            },
        ):
            await response.write(f"data: {json.dumps(said)}\n\n".encode())
        return response

    async with recording_world(tmp_path, member=telling) as (world, log):
        log.fault = "the disk is full"
        answer = await search(world, meta={"progressToken": "p"})

        assert [one.get("method", "error" in one) for one in answer.messages] == ["notifications/progress", True]
        assert (answer.error["code"], "Ann" in answer.text) == (50209, False)


async def test_an_answer_for_which_there_is_no_room_is_told_and_recorded(tmp_path: Path) -> None:
    async def talkative(_request: web.Request, _message: dict[str, Any]) -> dict[str, Any]:
        return {"content": [{"type": "text", "text": "x" * 100_000}]}

    async with recording_world(tmp_path, member=talkative) as (world, log):
        room = world.endpoint._upstream._channel.room = AnswerRoom(1_000_000)  # type: ignore[attr-defined]
        log.open.clear()
        first = asyncio.create_task(search(world))
        await asyncio.wait_for(log.coming.wait(), 60)
        assert room.used_bytes > 400_000  # as long as its client waits for it
        second = asyncio.create_task(search(world))
        log.coming.clear()
        await asyncio.wait_for(log.coming.wait(), 60)
        log.open.set()

        refused = await second
        assert (refused.status, refused.error["code"], refused.error["data"]) == (
            503,
            50307,
            {"reason": "answers_too_large", "retryable": False},
        )
        assert (await first).status == 200
        assert (await search(world)).status == 200
        assert room.used_bytes == 0
        codes = [record.result.rpc_error_code for record in log.records if record.result is not None]
        assert sorted(codes) == ["", "", "50307"]


async def test_available_passes_on_what_cannot_be_recorded_and_counts_it(tmp_path: Path) -> None:
    async with recording_world(tmp_path, member=answering, mode=pb.AUDIT_MODE_AVAILABLE) as (world, log):
        log.fault = "the disk is full"
        answer = await search(world, CRM)
        assert answer.result["structuredContent"] == {"name": "Ann"}
        log.fault = ""
        losses = world.endpoint._recording._log
        await losses.flush()  # type: ignore[attr-defined]

        (alarm,) = log.records
        assert (alarm.reason, alarm.namespace, alarm.alarm is not None and alarm.alarm.lost) == ("result_lost", "demo", 1)


async def test_at_a_virtual_server_either_namespace_makes_it_strict(tmp_path: Path) -> None:
    policies = (policy(KEEP_FULL, mode=pb.AUDIT_MODE_AVAILABLE), policy(mode=pb.AUDIT_MODE_STRICT, namespace="desks"))
    async with recording_world(tmp_path, member=answering, policies=policies, front={"namespace": "desks"}) as (world, log):
        log.fault = "the disk is full"

        assert (await search(world, "/servers/demo/crm/mcp")).status == 200
        withheld = await world.ask("tools/call", {"name": "find", "arguments": {"text": "a", "limit": 1}}, path="/virtual/desks/desk/mcp")
        assert withheld.error["code"] == 50209


async def test_an_aggregator_without_a_log_withholds_what_is_wanted(tmp_path: Path) -> None:
    registry = Registry(audit_policies=(policy(KEEP_FULL),))
    async with aggregator_world(tmp_path, registry, members={"crm": answering}) as world:
        assert (await search(world, CRM)).error["code"] == 50209


async def test_no_call_is_made_at_a_revision_that_does_not_say_what_is_to_be_kept(tmp_path: Path) -> None:
    async with recording_world(tmp_path, member=answering, policies=(policy(),)) as (world, log):
        ahead = world.context(CRM, "ann", revision=world.revision + 1, recorded=True)
        answer = await search(world, CRM, context=ahead)

        assert (answer.status, answer.error["data"]["reason"]) == (503, "not_ready")
        assert (world.asked, log.records) == ([], [])


async def test_a_decision_that_says_so_has_a_record_of_the_answer_also_when_the_policy_has_just_ended(tmp_path: Path) -> None:
    async with recording_world(tmp_path, member=answering, policies=(policy(),)) as (world, log):
        answer = await search(world, CRM, context=world.context(CRM, "ann", recorded=True))

        assert answer.status == 200
        assert [(r.reason, r.result_kept, r.result_json, r.result_digest) for r in log.records] == [("answered", "off", "", "")]


async def test_questions_and_tasks_are_answers_and_what_a_task_brings_is_one(tmp_path: Path) -> None:
    async def member(_request: web.Request, message: dict[str, Any]) -> dict[str, Any]:
        if message["method"] != "tools/call":
            return {"taskId": "t-1", "status": "completed", "result": {"content": [{"type": "text", "text": "done"}]}}
        if message["params"]["name"] == "search":
            return {"resultType": "input_required", "inputRequests": {"a": {"method": "roots/list"}}, "requestState": "s"}
        return {"resultType": "task", "taskId": "t-1", "status": "working"}

    async with recording_world(tmp_path, member=member) as (world, log):
        await search(world, CRM)
        await world.ask("tools/call", {"name": "update", "arguments": {"text": "a", "limit": 1}}, path=CRM)
        await world.ask("tasks/get", {"taskId": "t-1"}, path=CRM)

        assert [record.reason for record in log.records] == ["input_required", "task_begun", "answered"]
        assert (log.records[2].method, log.records[2].tool, "done" in log.records[2].result_json) == ("tasks/get", "", True)


async def test_of_a_task_of_some_tool_nothing_is_kept_but_that_there_was_an_answer(tmp_path: Path) -> None:
    only_search = pb.AuditContentRule(servers=["demo/crm"], tools=["search"], keep=pb.AUDIT_KEEP_FULL)
    async with recording_world(tmp_path, only_search, member=answering) as (world, log):
        await world.ask("tasks/get", {"taskId": "t-1"}, path=CRM)

        assert [(r.result_kept, r.result_json, r.result_digest) for r in log.records] == [("off", "", "")]


async def test_an_answer_that_comes_after_a_legacy_client_has_gone_is_recorded_and_a_call_that_was_taken_back_has_none(
    tmp_path: Path,
) -> None:
    called, go = asyncio.Event(), asyncio.Event()

    async def slow(_request: web.Request, message: dict[str, Any]) -> dict[str, Any]:
        if message["method"] != "tools/call":
            return {}
        called.set()
        await go.wait()
        return {"content": []}

    async with recording_world(tmp_path, member=slow, server={"eras": ("modern",)}) as (world, log):
        taken_back = asyncio.create_task(search(world, CRM))
        await asyncio.wait_for(called.wait(), 60)
        taken_back.cancel()
        await asyncio.gather(taken_back, return_exceptions=True)

        called.clear()
        session, _ = await world.initialize(path=CRM)
        call = {"id": 5, "method": "tools/call", "params": {"name": "search", "arguments": {"text": "a", "limit": 1}}}
        leaving = asyncio.create_task(world.legacy(call, session=session, path=CRM))
        await asyncio.wait_for(called.wait(), 60)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert log.records == []
        go.set()
        async with asyncio.timeout(60):
            while not log.records:
                await log.coming.wait()
                await asyncio.sleep(0)

        assert [(record.era, record.reason, record.request_id_json) for record in log.records] == [("legacy", "answered", "5")]
