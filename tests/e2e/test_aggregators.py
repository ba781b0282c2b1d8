"""More than one aggregator, and members that are dead or hang, on the whole product."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from controlplane.supervisor import plan
from controlplane.supervisor.supervisor import Supervisor, UpOptions
from extauthz.runtime import deployment_of
from tests.e2e.envoy_world import upstream
from tests.e2e.stack import PATIENT, ROOT, Stack, eventually, free_port, modern_headers, modern_request
from tests.e2e.test_virtual_servers import DESK, DESK_DOCUMENT, POLICY, SERVERS
from tests.e2e.upstream import running_module

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(600)]

CALLERS = tuple(f"caller-{number}" for number in range(16))
"""So many that each of two aggregators has some of them."""
WIDE = """
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: demo, name: dead}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{dead}/mcp"}}]}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: demo, name: hanging}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{hanging}/mcp"}}]}}
---
apiVersion: legation/v1
kind: VirtualServer
metadata: {{namespace: demo, name: wide}}
spec:
  defaultVisibility: allow
  members: [{{server: dead}}, {{server: crm}}, {{server: hanging}}]
"""


@dataclass(kw_only=True)
class Pair:
    """A deployment with two aggregators."""

    stack: Stack
    supervisor: Supervisor

    def kill_one(self) -> None:
        """For good: nothing starts it again."""
        self.supervisor._children[plan.AGGREGATOR].kill()

    def headers(self, who: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.stack.token(who, server=DESK, groups=('staff',))}"}

    async def legacy(self, who: str, message: dict[str, Any], session: str = "") -> Any:
        headers = {"accept": "application/json, text/event-stream", **self.headers(who)}
        if session:
            headers |= {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
        return await self.stack.request("POST", f"/{DESK}/mcp", json_body={"jsonrpc": "2.0", **message}, headers=headers)


@contextlib.asynccontextmanager
async def pair_of_aggregators(directory: Path) -> AsyncIterator[Pair]:
    port = free_port()
    deployment = deployment_of(directory / "deployment")
    deployment.create()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")} | PATIENT
    options = UpOptions(data_dir=deployment.data_dir, gateway_port=port)
    said: list[str] = []
    supervisor = Supervisor(deployment, options, environ=environ, say=said.append)
    other = f"unix:{deployment.runtime_dir}/second.sock"
    settings = supervisor._settings
    settings["LEGATION_AGGREGATOR_ADDRESSES"] += f",{other}"
    serving = asyncio.create_task(supervisor.run())
    second = plan.child_environ(environ, {**settings, "LEGATION_AGGREGATOR_LISTEN": other, "LEGATION_NODE_ID": "second"})
    await eventually(_exists(deployment.ads_socket), what="discovery")
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "aggregator", env=second, cwd=ROOT)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        stack = Stack(
            data_dir=deployment.data_dir,
            gateway_url=f"http://127.0.0.1:{port}",
            process=process,
            session=session,
            log_file=directory / "up.log",
        )

        async def both() -> bool:
            assert not serving.done(), said
            with contextlib.suppress(aiohttp.ClientError):
                nodes = (await stack.api("GET", "/v1/nodes")).json["items"]
                return sum(node["kind"] == "aggregator" and node["connected"] for node in nodes) == 2
            return False

        try:
            await eventually(both, seconds=180, interval=0.2, what="two aggregators")
            yield Pair(stack=stack, supervisor=supervisor)
        finally:
            supervisor._stop.set()
            await serving
            if process.returncode is None:
                process.kill()
            await process.wait()


def _exists(path: Path) -> Any:
    async def exists() -> bool:
        return path.exists()

    return exists


async def test_when_one_aggregator_dies_the_other_goes_on_with_its_sessions(tmp_path: Path) -> None:
    member = "tests.e2e.desk_member"
    async with (
        running_module(member, "--name", "crm") as crm,
        running_module(member, "--name", "docs") as docs,
        pair_of_aggregators(tmp_path) as pair,
    ):
        stack = pair.stack
        await stack.apply(SERVERS.format(crm=crm, docs=docs) + POLICY)
        await stack.accept("demo/crm")
        await stack.accept("demo/docs")
        await stack.apply(DESK_DOCUMENT)
        sessions = {}
        for who in CALLERS:
            said = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            answer = await pair.legacy(who, {"id": 0, "method": "initialize", "params": said})
            assert answer.status == 200, answer.text
            sessions[who] = answer.headers["mcp-session-id"]
        call = {"id": 7, "method": "tools/call", "params": {"name": "slow", "arguments": {"seconds": 600}}}
        in_flight = [asyncio.create_task(pair.legacy(who, call, sessions[who])) for who in CALLERS]

        async def under_way() -> bool:
            items = (await stack.api("GET", "/v1/audit?tool=slow&limit=500")).json["items"]
            return len([item for item in items if item.get("parent_decision_id") and item["decision"] == "allow"]) >= len(CALLERS)

        await eventually(under_way, interval=0.2, what="the calls at the member")
        pair.kill_one()
        done, others = await asyncio.wait(in_flight, timeout=60, return_when=asyncio.FIRST_COMPLETED)

        # a call in flight says whether it may be made again
        lost = [task.result() for task in done]
        assert {answer.status for answer in lost} == {502}, [answer.text for answer in lost]
        assert {answer.json["error"]["data"]["reason"] for answer in lost} == {"aggregator_lost"}
        assert {answer.json["error"]["data"]["retryable"] for answer in lost} == {False}
        # every session lives on
        search = {"id": 8, "method": "tools/call", "params": {"name": "find_customer", "arguments": {"text": "x"}}}
        answers = [await pair.legacy(who, search, sessions[who]) for who in CALLERS]
        assert {answer.message["result"]["content"][0]["text"] for answer in answers} == {"crm search x 10"}
        stolen = await pair.legacy(CALLERS[0], search, sessions[CALLERS[1]])
        assert stolen.status == 404
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def test_without_any_aggregator_lists_are_503_and_direct_calls_go_on(tmp_path: Path) -> None:
    member = "tests.e2e.desk_member"
    async with running_module(member, "--name", "crm") as crm, pair_of_aggregators(tmp_path) as pair:
        stack = pair.stack
        await stack.apply(SERVERS.format(crm=crm, docs=crm) + POLICY)
        await stack.accept("demo/crm")
        token = stack.token("ann", server="demo/crm", groups=("staff",))
        pair.kill_one()
        stack.process.kill()
        await stack.process.wait()

        headers = modern_headers("tools/list") | {"authorization": f"Bearer {token}"}
        listed = await stack.request("POST", "/servers/demo/crm/mcp", json_body=modern_request("tools/list", {}), headers=headers)
        called = await stack.call("demo/crm", "search", {"text": "x"}, access_token=token)

        assert (listed.status, listed.json["error"]["data"]) == (503, {"reason": "aggregator_unavailable", "retryable": True})
        assert called.message["result"]["content"][0]["text"] == "crm search x 10"
        assert (await stack.request("GET", "/readyz")).status == 200


async def test_a_dead_and_a_hanging_member_neither_empty_nor_delay_a_list(tmp_path: Path) -> None:
    hung = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        hung.set()
        await asyncio.Event().wait()
        return web.Response()

    async with (
        upstream(hang) as hanging,
        running_module("tests.e2e.desk_member", "--name", "crm") as crm,
        pair_of_aggregators(tmp_path) as pair,
    ):
        stack = pair.stack
        await stack.apply(SERVERS.format(crm=crm, docs=crm) + POLICY)
        await stack.accept("demo/crm")
        await stack.apply(WIDE.format(dead=free_port(), hanging=hanging))
        await asyncio.wait_for(hung.wait(), 60)
        token = stack.token("ann", server="virtual/demo/wide", groups=("staff",))
        headers = modern_headers("tools/list") | {"authorization": f"Bearer {token}"}

        answer = await stack.request("POST", "/virtual/demo/wide/mcp", json_body=modern_request("tools/list", {}), headers=headers)

        result = answer.message["result"]
        assert {tool["name"] for tool in result["tools"]} == {"search", "update", "slow"}
        outcomes = result["_meta"]["io.legation/members"]
        assert {name: outcome["status"] for name, outcome in outcomes.items()} == {
            "demo/dead": "unavailable",
            "demo/hanging": "unavailable",
        }
