"""Names of a virtual server on the real stack: nobody takes one that was accepted, and a pinned version stays what it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack, eventually, modern_headers, modern_request, running_stack
from tests.e2e.test_catalog import POLICIES, SERVER, ChangingServer

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(900)]

MARKET = "virtual/shop/market"
STATUS = "/v1/namespaces/shop/virtual-servers/market"
DENIED = 40300


@asynccontextmanager
async def market(tmp_path: Path) -> AsyncIterator[tuple[Stack, ChangingServer, ChangingServer]]:
    """Two servers of a namespace, read every second: `stall`, which announces nothing yet, and `till`, whose `look` was accepted."""
    async with ChangingServer().running() as stall, ChangingServer().running() as till:
        till.announce("look", readOnlyHint=True)
        environ = {"LEGATION_PROBE_INTERVAL_SECONDS": "1"}
        async with running_stack(tmp_path, environ=environ) as stack:
            await stack.apply(till.documents.removesuffix(POLICIES) + "---\n" + _server("stall", stall) + POLICIES)
            await stack.accept(SERVER)
            yield stack, stall, till


def _server(name: str, upstream: ChangingServer) -> str:
    spec = f"{{endpoints: [{{url: 'http://127.0.0.1:{upstream.port}/mcp'}}]}}"
    return f"apiVersion: legation/v1\nkind: McpServer\nmetadata: {{namespace: shop, name: {name}}}\nspec: {spec}\n"


def _virtual(*members: str) -> str:
    listed = "".join(f"    - {member}\n" for member in members)
    return f"apiVersion: legation/v1\nkind: VirtualServer\nmetadata: {{namespace: shop, name: market}}\nspec:\n  members:\n{listed}"


async def ask(stack: Stack, method: str, **params: Any) -> Any:
    """The message that the virtual server answers to a reader."""
    token = stack.token("ann", server=MARKET, groups=("readers",))
    headers = modern_headers(method, str(params.get("name", ""))) | {"authorization": f"Bearer {token}"}
    answer = await stack.request("POST", f"/{MARKET}/mcp", json_body=modern_request(method, params), headers=headers)
    return answer.message


async def listed(stack: Stack) -> list[str]:
    answer = await ask(stack, "tools/list")
    return [tool["name"] for tool in answer["result"]["tools"]] if "result" in answer else []


async def withheld(stack: Stack, wanted: set[tuple[str, str]]) -> None:
    """Wait until exactly these (own name, reason) are withheld, at every node."""

    async def there() -> bool:
        status = (await stack.api("GET", STATUS)).json["status"]
        return {(each["ownName"], each["reason"]) for each in status["withheld"]} == wanted

    await eventually(there, seconds=120, what=f"{wanted} being withheld")
    await stack.programmed((await stack.api("GET", "/v1/status")).json["revision"])


async def test_a_member_that_announces_an_accepted_name_does_not_get_its_calls(tmp_path: Path) -> None:
    async with market(tmp_path) as (stack, stall, till):
        await stack.apply(_virtual("{server: stall, include: ['*']}", "{server: till, include: ['*']}"))
        before = await listed(stack)

        stall.announce("look", readOnlyHint=True)
        stall.announce("Look", readOnlyHint=True)
        await withheld(stack, {("look", "conflict"), ("Look", "conflict")})
        after = await listed(stack)
        called = await ask(stack, "tools/call", name="look", arguments={})
        lookalike = await ask(stack, "tools/call", name="Look", arguments={})

    assert before == after == ["look"]
    assert called["result"]["content"][0]["text"] == "done"
    assert till.methods.count("tools/call") == 1
    assert "tools/call" not in stall.methods
    assert lookalike["error"]["code"] == DENIED


async def test_what_differs_from_the_pinned_version_is_not_offered_until_the_pin_is_moved(tmp_path: Path) -> None:
    async with market(tmp_path) as (stack, _, till):
        digest = (await stack.api("GET", f"/v1/namespaces/shop/mcp-servers/{SERVER.split('/')[1]}/tools")).json["digest"]
        await stack.apply(_virtual(f"{{server: till, include: ['*'], version: '{digest}'}}"))
        before = await listed(stack)

        till.announce("look", readOnlyHint=True)  # in other words
        await withheld(stack, {("look", "version")})
        during = await listed(stack)
        called = await ask(stack, "tools/call", name="look", arguments={})
        single = await stack.call(SERVER, "look", access_token=stack.token("ann", server=SERVER, groups=("readers",)))

        status = (await stack.api("GET", STATUS)).json["status"]
        await stack.apply(_virtual(f"{{server: till, include: ['*'], version: '{status['members'][0]['version']}'}}"))
        after = await listed(stack)

    assert before == after == ["look"]
    assert during == []
    assert "error" in called
    assert single.status == 200, single.text
