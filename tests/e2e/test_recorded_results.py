"""Answers of tools on the record of a running deployment: whatever way a call takes, before the client has the answer, and no more of it
than the AuditPolicy says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controlplane.registry.encryption import read_registry_key
from tests.e2e.answering_member import API_KEY, EMAIL, RESULT, answering_member
from tests.e2e.record_load import assert_whole, record_of
from tests.e2e.stack import LEGATION, Answer, Stack, eventually, modern_headers, modern_request, running_stack
from tests.wal import written_records

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(600)]

LEGACY = "2025-11-25"
NAMESPACE = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: {namespace}}}
spec: {{}}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: {namespace}, name: all}}
spec: {{cedar: 'permit (principal in Group::"local/all", action, resource in Namespace::"{namespace}");'}}
---
apiVersion: legation/v1
kind: AuditPolicy
metadata: {{namespace: {namespace}, name: default}}
spec:
  mode: {mode}
  results:
    rules:
      - {{tools: [full, failing, refusing], path: "$", keep: full}}
      - {{tools: [redacted], path: "$", keep: redacted}}
      - {{tools: [hashed], path: "$", keep: hashed}}
---
"""
SERVER = """
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: {namespace}, name: {name}}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{port}/mcp"}}]}}
---
"""
VIRTUAL = """
apiVersion: legation/v1
kind: VirtualServer
metadata: {namespace: shop, name: desk}
spec: {members: [{server: new}, {server: old}], conflicts: prefix, defaultVisibility: allow}
"""
SHOWN = {"customer": "Ann Jones", "email": EMAIL, "password": {"$secret": "string"}, "key": {"$secret": "string"}}


async def set_up(stack: Stack, documents: str, *servers: str) -> None:
    """Apply, have the tools accepted, and wait until the eras of the servers are known."""
    await stack.apply(documents)
    for server in servers:
        await stack.accept(server)


async def call(stack: Stack, place: str, tool: str, *, caller: str = "ann") -> Answer:
    """`tools/call` of a modern client."""
    headers = {**modern_headers("tools/call", tool), **authorization(stack, place, caller)}
    body = modern_request("tools/call", {"name": tool, "arguments": {}})
    return await stack.request("POST", path_of(place), json_body=body, headers=headers)


async def call_legacy(stack: Stack, place: str, tool: str) -> tuple[str, Answer]:
    """`initialize` and `tools/call` of a legacy client; its session and the answer."""
    client = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
    opened = await say_legacy(stack, place, "initialize", client)
    assert opened.status == 200, opened.text
    session_id = opened.headers.get("mcp-session-id", "")
    return session_id, await say_legacy(stack, place, "tools/call", {"name": tool, "arguments": {}}, session_id)


async def say_legacy(stack: Stack, place: str, method: str, params: Any, session_id: str = "") -> Answer:
    """One request of a legacy client."""
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": LEGACY, **authorization(stack, place, "ann")}
    headers |= {"mcp-session-id": session_id} if session_id else {}
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return await stack.request("POST", path_of(place), json_body=message, headers=headers)


def authorization(stack: Stack, place: str, caller: str) -> dict[str, str]:
    return {"authorization": f"Bearer {stack.token(caller, server=place, groups=('all',))}"}


def path_of(place: str) -> str:
    return f"/{place}/mcp" if place.startswith("virtual/") else f"/servers/{place}/mcp"


async def records(stack: Stack, query: str) -> list[dict[str, Any]]:
    answer = await stack.api("GET", f"/v1/audit?limit=1000&{query}")
    assert answer.status == 200, answer.text
    items: list[dict[str, Any]] = answer.json["items"]
    return items


async def last_call(stack: Stack, tool: str, *, server: str) -> dict[str, Any]:
    """The decision about the newest call that a client made of a tool, with all that belongs to it."""
    decisions = [item for item in await records(stack, f"event=tool_call&tool={tool}&server={server}") if "parent_decision_id" not in item]
    answer = await stack.api("GET", f"/v1/audit/decision?decision_id={decisions[-1]['decision_id']}")
    assert answer.status == 200, answer.text
    shown: dict[str, Any] = answer.json["items"][0]
    return shown


@contextlib.asynccontextmanager
async def shop(directory: Path):
    """A deployment with a server of each era and one of both."""
    async with (
        answering_member("modern") as new,
        answering_member("legacy") as old,
        answering_member() as both,
        running_stack(directory) as stack,
    ):
        ports = {"new": new[1], "old": old[1], "both": both[1]}
        servers = "".join(SERVER.format(namespace="shop", name=name, port=port) for name, port in ports.items())
        await set_up(stack, NAMESPACE.format(namespace="shop", mode="strict") + servers, *(f"shop/{name}" for name in ports))
        await stack.apply(VIRTUAL)
        yield stack, {"new": new[0], "old": old[0], "both": both[0]}


async def test_whatever_way_a_call_takes_its_answer_is_on_the_record_before_the_client_has_it(tmp_path: Path) -> None:
    async with shop(tmp_path) as (stack, members):
        # modern clients: directly, at a virtual server, and at a server of the other era
        for place, tool, server in (
            ("shop/new", "full", "shop/new"),
            ("shop/both", "full", "shop/both"),
            ("virtual/shop/desk", "full", "shop/new"),
            ("virtual/shop/desk", "old_full", "shop/old"),
            ("shop/old", "full", "shop/old"),
        ):
            answer = await call(stack, place, tool)
            assert answer.status == 200, (place, answer.text)
            assert answer.message["result"]["structuredContent"] == RESULT["structuredContent"]  # the client gets it as it is
            shown = await last_call(stack, "full", server=server)
            assert (shown["lane"], shown["result_kept"], shown["result"]["reason"]) == ("aggregate", "full", "answered"), place
            assert shown["result"]["result_kept"] == "full"
            kept = json.loads(shown["result"]["result_json"])
            assert (kept["structuredContent"], kept["content"]) == (SHOWN, RESULT["content"]), place
            inner = [item for item in shown["inner"] if item["event"] == "tool_call"]
            assert [(item["mcp_server"], item["tool"]) for item in inner] == [(server.partition("/")[2], "full")]
            assert not inner[0].keys() & {"result", "result_kept"}  # the answer belongs to the decision about the client's call

        # legacy clients: bridged, and where the server speaks their era
        for server in ("shop/new", "shop/both", "shop/old"):
            session_id, answer = await call_legacy(stack, server, "full")
            assert session_id.startswith("lga1_")
            assert answer.message["result"]["structuredContent"] == RESULT["structuredContent"], answer.text
            shown = await last_call(stack, "full", server=server)
            assert (shown["era"], shown["lane"], shown["result"]["reason"]) == ("legacy", "aggregate", "answered")
            assert json.loads(shown["result"]["result_json"])["structuredContent"] == SHOWN
            ended = await stack.request("DELETE", path_of(server), headers={"mcp-session-id": session_id, **_legacy_headers(stack, server)})
            assert ended.status == 200

        # what is not wanted goes as ever, and leaves nothing
        assert (await call(stack, "shop/new", "nothing")).status == 200
        shown = await last_call(stack, "nothing", server="shop/new")
        assert (shown["lane"], "result" in shown, "result_kept" in shown, shown["inner"]) == ("direct", False, False, [])
        assert {member.calls.count("nothing") for member in members.values()} == {0, 1}

        # records of answers by themselves are shown only when they are asked for
        assert all(item["event"] != "result" for item in await records(stack, ""))
        results = await records(stack, "event=result")
        assert len(results) == 8
        assert {item["mcp_server"] for item in results} == {"new", "old", "both"}
        assert {item.get("exposed_name", "") for item in results} == {"", "full", "old_full"}
        assert {item["principal"]["id"] for item in results} == {"local/ann"}


def _legacy_headers(stack: Stack, place: str) -> dict[str, str]:
    return {"mcp-protocol-version": LEGACY, **authorization(stack, place, "ann")}


async def test_no_more_of_an_answer_is_kept_than_the_policy_says_and_a_person_can_be_erased(tmp_path: Path) -> None:
    async with shop(tmp_path) as (stack, _):
        kept = {}
        for tool in ("full", "redacted", "hashed", "failing", "refusing"):
            answer = await call(stack, "shop/new", tool)
            assert answer.status == 200, answer.text
            kept[tool] = (await last_call(stack, tool, server="shop/new"))["result"]
        assert {tool: result["result_kept"] for tool, result in kept.items()} == dict.fromkeys(("full", "failing", "refusing"), "full") | {
            "redacted": "redacted",
            "hashed": "hashed",
        }
        redacted = json.loads(kept["redacted"]["result_json"])["structuredContent"]
        assert redacted["email"] == {"$redacted": "string", "length": len(EMAIL)}
        assert "result_json" not in kept["hashed"]
        assert kept["hashed"]["result_digest"] == kept["full"]["result_digest"]
        assert kept["full"]["result_digest"].startswith("sha256:")
        assert kept["redacted"]["result_digest"] != kept["full"]["result_digest"]  # of what is left
        assert (kept["failing"]["reason"], kept["failing"]["tool_error"]) == ("tool_error", True)
        assert (kept["refusing"]["reason"], kept["refusing"]["rpc_error_code"]) == ("rpc_error", "-32050")
        assert json.loads(kept["refusing"]["result_json"]) == {"code": -32050, "message": f"no customer {EMAIL}"}

        # what a credential looks like is nowhere, and what is personal stands nowhere in the open
        for path in stack.data_dir.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert API_KEY.encode() not in content, path
            assert b"hunter2-of-ann" not in content, path
            assert EMAIL.encode() not in content, path

        command = [
            str(LEGATION),
            "audit",
            "show",
            kept_id(await last_call(stack, "full", server="shop/new")),
            "--data-dir",
            str(stack.data_dir),
        ]
        shown = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True, timeout=60)
        assert "result: answered, kept full" in shown.stdout
        assert EMAIL in shown.stdout

        erased = await stack.api("POST", "/v1/audit/erase", json_body={"principal": "local/ann"})
        assert erased.status == 200, erased.text
        gone = (await last_call(stack, "full", server="shop/new"))["result"]
        assert gone == {"at": kept["full"]["at"], "reason": "answered", "result_kept": "full", "erased": True}
        with record_of(stack) as store:
            await asyncio.to_thread(assert_whole, store)


def kept_id(record: dict[str, Any]) -> str:
    return str(record["decision_id"])


async def test_an_answer_that_cannot_be_recorded_is_withheld_where_that_is_strict_and_counted_where_it_is_not(tmp_path: Path) -> None:
    blocked = tmp_path / "deployment" / "audit-aggregator"
    blocked.parent.mkdir(mode=0o700)
    blocked.write_text("not a directory")
    async with answering_member() as (member, port), running_stack(tmp_path) as stack:
        documents = "".join(
            NAMESPACE.format(namespace=mode, mode=mode) + SERVER.format(namespace=mode, name="desk", port=port)
            for mode in ("strict", "available")
        )
        await set_up(stack, documents, "strict/desk", "available/desk")

        withheld = await call(stack, "strict/desk", "full")
        error = withheld.json["error"]
        assert (withheld.status, error["code"], error["data"]["reason"]) == (502, 50209, "result_withheld")
        assert error["message"] == "The call was made, and its answer is withheld, because it cannot be recorded."
        assert error["data"]["retryable"] is False
        assert EMAIL not in withheld.text
        assert member.calls == ["full"]
        _, legacy = await call_legacy(stack, "strict/desk", "refusing")
        assert (legacy.status, legacy.message["error"]["code"]) == (200, 50209)
        assert "ended with an error, which is withheld" in legacy.message["error"]["message"]
        passed = await call(stack, "available/desk", "full")
        assert (passed.status, passed.message["result"]["structuredContent"]) == (200, RESULT["structuredContent"])
        assert (await call(stack, "strict/desk", "nothing")).status == 200  # nothing is wanted of it

        async def ended() -> dict[str, Any] | None:
            shown = await last_call(stack, "full", server="strict/desk")
            return shown if "outcome" in shown else None

        shown = await eventually(ended, what="the outcome of the call whose answer was withheld")
        assert (shown["result_kept"], "result" in shown, shown["outcome"]["rpc_error_code"]) == ("full", False, "50209")

        blocked.unlink()
        again = await call(stack, "strict/desk", "full")
        assert again.status == 200, again.text

        async def told() -> dict[str, int]:
            lost: Counter[str] = Counter()
            for item in await records(stack, "event=alarm"):
                lost[f"{item['reason']} {item.get('namespace', '')}"] += int(item["alarm"].get("lost", 0))
            return dict(lost) if len(lost) == 2 else {}

        assert await eventually(told, what="both alarms") == {"result_withheld strict": 2, "result_lost available": 1}
        assert len(await records(stack, "event=result")) == 1


async def test_what_the_clients_of_a_killed_aggregator_got_is_on_the_record_and_nothing_is_lost_without_a_control_plane(
    tmp_path: Path,
) -> None:
    async with answering_member("modern") as (_, port), running_stack(tmp_path) as stack:
        documents = NAMESPACE.format(namespace="shop", mode="strict") + SERVER.format(namespace="shop", name="new", port=port)
        await set_up(stack, documents, "shop/new")
        answered: list[str] = []
        stop = asyncio.Event()

        async def calling() -> None:
            while not stop.is_set():
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, json.JSONDecodeError):
                    answer = await call(stack, "shop/new", "full")
                    if answer.status == 200:
                        answered.append(answer.headers["x-legation-decision-id"])
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(calling()) for _ in range(3)]
        for role in ("aggregator", "controlplane", "aggregator"):
            await _answered_more(answered, 30)
            killed = stack.children()[role]
            os.kill(killed, signal.SIGKILL)

            async def another(role: str = role, killed: int = killed) -> bool:
                return stack.children().get(role, killed) != killed

            await eventually(another, interval=0.05, what=f"another {role}")
        await _answered_more(answered, 30)
        stop.set()
        await asyncio.gather(*tasks)

        async def all_are_there() -> bool:
            with contextlib.suppress(aiohttp.ClientError, AssertionError):
                return set(answered) <= await recorded_results(stack)
            return False

        await eventually(all_are_there, seconds=120, interval=0.5, what="the record of every answer that a client got")
        with record_of(stack) as store:
            await asyncio.to_thread(assert_whole, store)
            results = Counter(row.decision_id for row in store.rows(0, 100_000) if row.event == "result")
            writers = {row.writer_id for row in store.rows(0, 100_000) if row.event == "result"}
        assert max(results.values()) == 1
        assert len(writers) == 3
        left = written_records(stack.data_dir / "audit-aggregator", read_registry_key(stack.data_dir / "registry.key"))
        assert {record["event"] for record in left} <= {"result", "alarm"}


async def recorded_results(stack: Stack) -> set[str]:
    """The decisions of which the record has the answer, as far as pages lead back."""
    found: set[str] = set()
    before = ""
    while True:
        answer = await stack.api("GET", f"/v1/audit?limit=1000&event=result&before={before}")
        assert answer.status == 200, answer.text
        found |= {item["decision_id"] for item in answer.json["items"]}
        before = answer.json["earlier"]
        if not before:
            return found


async def _answered_more(answered: list[str], count: int) -> None:
    before = len(answered)

    async def more() -> bool:
        return len(answered) >= before + count

    await eventually(more, seconds=120, what="calls")
