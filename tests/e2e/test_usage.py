"""Usage on the whole product: calls of every kind, by callers with labels, counted by the running control plane, with their cost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.stack import LEGATION, Stack, eventually, modern_headers, modern_request, running_stack
from tests.e2e.test_virtual_servers import DESK, DESK_DOCUMENT, POLICY, SERVERS
from tests.e2e.upstream import running_module

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

COSTS = """
---
apiVersion: legation/v1
kind: CostModel
metadata: {namespace: demo, name: prices}
spec:
  currency: EUR
  prices:
    - {servers: [crm], tools: [search], per: call, price: "0.1"}
    - {servers: [crm], tools: [update], per: kilobyte, price: "0.001"}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    member = "tests.e2e.desk_member"
    async with (
        running_module(member, "--name", "crm") as crm,
        running_module(member, "--name", "docs") as docs,
        running_stack(tmp_path_factory.mktemp("usage")) as running,
    ):
        await running.apply(SERVERS.format(crm=crm, docs=docs) + POLICY + COSTS)
        await running.accept("demo/crm")
        await running.accept("demo/docs")
        await running.apply(DESK_DOCUMENT)
        provider = (await running.api("GET", "/v1/namespaces/system/identity-providers/local")).json
        provider["spec"]["mapping"] = {"labels": {"team": "team", "project": "/employment/project"}}
        put = await running.api("PUT", "/v1/namespaces/system/identity-providers/local", json_body=provider, headers={"if-match": "*"})
        assert put.status == 200, put.text
        await running.apply(COSTS)
        yield running


async def call(stack: Stack, server: str, tool: str, *, team: str, who: str = "ann", **arguments: Any) -> None:
    groups = ("staff",) if who == "ann" else ()
    token = stack.token(who, server=server, groups=groups, team=team, employment={"project": "alpha"})
    body = modern_request("tools/call", {"name": tool, "arguments": {"text": "x", **arguments}})
    headers = modern_headers("tools/call", tool) | {"authorization": f"Bearer {token}"}
    path = stack.endpoint(server).removeprefix(stack.gateway_url)
    answer = await stack.request("POST", path, json_body=body, headers=headers)
    assert answer.status in (200, 403), answer.text


async def usage(stack: Stack, by: str, **query: str) -> dict[tuple[str, ...], dict[str, Any]]:
    text = "&".join(f"{name}={value}" for name, value in {"by": by, "from": "24h", **query}.items())
    answer = await stack.api("GET", f"/v1/usage?{text}")
    assert answer.status == 200, answer.text
    return {tuple(item[name] for name in by.split(",")): item for item in answer.json["items"]}


async def counted(stack: Stack, total: int, **query: str) -> None:
    """Wait until so many calls are counted, and each of them has ended."""

    async def all_there() -> bool:
        found = await usage(stack, "outcome", **query)
        return sum(item["calls"] for item in found.values()) == total and ("open",) not in found

    await eventually(all_there, interval=0.2, what=f"{total} counted calls")


async def test_calls_are_counted_by_team_and_tool_with_their_cost(stack: Stack) -> None:
    for _ in range(3):
        await call(stack, "demo/crm", "search", team="sales")
    await call(stack, "demo/crm", "update", team="dev", stage="customer")
    await call(stack, "demo/docs", "search", team="dev")
    await call(stack, "demo/crm", "update", team="dev", who="bob")  # denied

    await counted(stack, 6)

    found = await usage(stack, "team,project,server,tool,outcome")
    calls = {key: item["calls"] for key, item in found.items()}
    assert calls == {
        ("sales", "alpha", "demo/crm", "search", "ok"): 3,
        ("dev", "alpha", "demo/crm", "update", "ok"): 1,
        ("dev", "alpha", "demo/docs", "search", "ok"): 1,
        ("dev", "alpha", "demo/crm", "update", "denied"): 1,
    }
    assert found["sales", "alpha", "demo/crm", "search", "ok"]["costs"] == {"EUR": "0.3"}
    update = found["dev", "alpha", "demo/crm", "update", "ok"]
    size = update["request_bytes"] + update["response_bytes"]
    assert size > 0
    assert Decimal(update["costs"]["EUR"]) == Decimal("0.001") * size / 1000
    assert update["duration_us"] > 0
    assert {who for (who,) in await usage(stack, "user")} == {"local/ann", "local/bob"}


async def test_a_renamed_tool_of_a_virtual_server_is_counted_once_with_the_labels_of_its_caller(stack: Stack) -> None:
    await call(stack, DESK, "find_customer", team="desk")

    async def there() -> bool:
        found = await usage(stack, "team,outcome", server="virtual/demo/desk")
        return ("desk", "open") not in found and ("desk", "ok") in found

    await eventually(there, interval=0.2)
    found = await usage(stack, "team,server,tool,virtual_server,outcome", server="virtual/demo/desk")
    assert {key: (item["calls"], item["costs"]) for key, item in found.items()} == {
        ("desk", "demo/crm", "search", "demo/desk", "ok"): (1, {"EUR": "0.1"})
    }


async def test_nothing_is_counted_twice_when_the_control_plane_is_killed(stack: Stack) -> None:
    before = sum(item["calls"] for item in (await usage(stack, "outcome", server="demo/crm")).values())
    for number in range(20):
        await call(stack, "demo/crm", "search", team="killed")
        if number == 10:
            pid = stack.children()["controlplane"]
            os.kill(pid, signal.SIGKILL)

    async def again() -> bool:
        return (await stack.request("GET", "/readyz")).status == 200 and stack.children().get("controlplane", pid) != pid

    await eventually(again, interval=0.2, what="a new control plane")
    await counted(stack, before + 20, server="demo/crm")

    assert (await usage(stack, "team"))["killed",]["costs"] == {"EUR": "2"}


async def test_the_command_line_tells_the_same_and_charges_the_month(stack: Stack) -> None:
    async def legation(*args: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(LEGATION), "usage", "--data-dir", str(stack.data_dir), *args, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out.decode()

    report = json.loads(await legation("--by", "team", "-o", "json"))
    month = json.loads(await legation("--month", f"{datetime.now(UTC):%Y-%m}", "-o", "json"))
    table = await legation("--by", "team,tool")

    assert {item["team"] for item in report["items"]} == {"sales", "dev", "desk", "killed"}
    assert {item["team"]: item["amounts"]["EUR"] for item in month["items"] if item["team"] in ("sales", "killed")} == {
        "sales": "0.30",
        "killed": "2.00",
    }
    assert "find_customer" not in table
