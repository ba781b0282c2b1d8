"""Virtual servers on the whole product, used by the SDK's client in every mode: lists, calls, and what happens when things change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.types import PromptReference, ResourceTemplateReference

from tests.e2e.stack import Stack, eventually, modern_headers, modern_request, running_stack
from tests.e2e.upstream import running_module

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

MODES = ("legacy", "auto", "2026-07-28")
DESK = "virtual/demo/desk"
SERVERS = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: demo}}
spec: {{description: fixtures}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: demo, name: crm}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{crm}/mcp"}}]}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: demo, name: docs}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{docs}/mcp"}}]}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: demo, name: staff}}
spec:
  role: staff
  subjects: [{{kind: Group, name: local/staff}}]
"""
POLICY = """
---
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: demo, name: staff}
spec:
  cedar: |
    permit (principal in Role::"demo/staff", action, resource in Namespace::"demo");
    permit (principal == User::"local/bob", action == Action::"tools/call", resource == Tool::"demo/crm/search");
"""
DESK_DOCUMENT = """
---
apiVersion: legation/v1
kind: VirtualServer
metadata: {namespace: demo, name: desk}
spec:
  title: Desk
  instructions: Find first.
  members:
    - server: crm
      include: ["*"]
      prompts: ["*"]
      resources: ["*"]
      overrides:
        search: {name: find_customer, description: finds a customer}
        update: {inputDefaults: {stage: customer}, hiddenArguments: [stage]}
    - server: docs
      include: [search]
      resources: ["*"]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    directory = tmp_path_factory.mktemp("virtual")
    member = "tests.e2e.desk_member"
    async with (
        running_module(member, "--name", "crm") as crm,
        running_module(member, "--name", "docs") as docs,
        running_stack(directory) as running,
    ):
        await running.apply(SERVERS.format(crm=crm, docs=docs) + POLICY)
        await running.accept("demo/crm")
        await running.accept("demo/docs")
        await running.apply(DESK_DOCUMENT)
        yield running


@contextlib.asynccontextmanager
async def client_of(stack: Stack, mode: str, *, who: str = "ann", server: str = DESK) -> AsyncIterator[Client]:
    token = stack.token(who, server=server, groups=("staff",) if who == "ann" else ())
    async with (
        create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http_client,
        Client(streamable_http_client(stack.endpoint(server), http_client=http_client), mode=mode) as client,
    ):
        yield client


def text_of(result: Any) -> str:
    return str(result.content[0].text)


@pytest.mark.parametrize("mode", MODES)
async def test_every_client_uses_everything_that_is_offered(stack: Stack, mode: str) -> None:
    async with client_of(stack, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"find_customer", "update", "slow", "search"}
        assert set(tools["update"].input_schema["properties"]) == {"text"}

        assert text_of(await client.call_tool("find_customer", {"text": "x"})) == "crm search x 10"
        assert text_of(await client.call_tool("search", {"text": "x", "limit": 2})) == "docs search x 2"
        assert text_of(await client.call_tool("update", {"text": "x"})) == "crm update x customer"

        resources = {str(each.uri) for each in (await client.list_resources()).resources}
        assert resources == {"m.demo.crm+note://one", "m.demo.docs+note://one"}
        read = await client.read_resource("m.demo.docs+note://one")
        assert (str(read.contents[0].uri), read.contents[0].text) == ("m.demo.docs+note://one", "docs one")
        templates = {each.uri_template for each in (await client.list_resource_templates()).resource_templates}
        assert templates == {"m.demo.crm+note://by/{id}", "m.demo.docs+note://by/{id}"}
        assert (await client.read_resource("m.demo.crm+note://by/7")).contents[0].text == "crm note 7"

        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["greet"]
        assert (await client.get_prompt("greet", {"who": "ann"})).messages[0].content.text == "crm greets ann"
        argument = {"name": "id", "value": "7"}
        of_prompt = await client.complete(PromptReference(type="ref/prompt", name="greet"), argument)
        of_template = await client.complete(ResourceTemplateReference(type="ref/resource", uri="m.demo.docs+note://by/{id}"), argument)
        assert (of_prompt.completion.values, of_template.completion.values) == (["crm ref/prompt"], ["docs ref/resource"])


@pytest.mark.parametrize("mode", MODES)
async def test_a_hidden_argument_is_refused_when_it_is_given(stack: Stack, mode: str) -> None:
    async with client_of(stack, mode) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("update", {"text": "x", "stage": "mine"})

        assert refused.value.error.code == -32602


@pytest.mark.parametrize("mode", MODES)
async def test_who_may_do_little_sees_little_and_calls_nothing_else(stack: Stack, mode: str) -> None:
    async with client_of(stack, mode, who="bob") as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["find_customer"]
        assert text_of(await client.call_tool("find_customer", {"text": "x"})) == "crm search x 10"
        for name in ("update", "search", "no_such_tool"):
            with pytest.raises(MCPError) as denied:
                await client.call_tool(name, {"text": "x"})
            assert denied.value.error.code == 40300, name


async def test_a_stranger_finds_no_such_server(stack: Stack) -> None:
    token = stack.token("eve", server=DESK)
    headers = modern_headers("tools/list") | {"authorization": f"Bearer {token}"}
    there = await stack.request("POST", "/virtual/demo/desk/mcp", json_body=modern_request("tools/list", {}), headers=headers)
    token = stack.token("eve", server="virtual/demo/none")
    headers = modern_headers("tools/list") | {"authorization": f"Bearer {token}"}
    nowhere = await stack.request("POST", "/virtual/demo/none/mcp", json_body=modern_request("tools/list", {}), headers=headers)

    assert there.status == nowhere.status == 404
    assert there.json["error"]["code"] == nowhere.json["error"]["code"]


@pytest.mark.parametrize("mode", MODES)
async def test_single_servers_are_listed_by_the_same_rules(stack: Stack, mode: str) -> None:
    async with client_of(stack, mode, who="bob", server="demo/crm") as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["search"]
        assert text_of(await client.call_tool("search", {"text": "x"})) == "crm search x 10"


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_tool_that_is_taken_away_is_gone_in_the_same_session(stack: Stack, mode: str) -> None:
    forbid = """
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: demo, name: taken}
spec:
  cedar: |
    forbid (principal, action == Action::"tools/call", resource == Tool::"demo/crm/search");
"""
    async with client_of(stack, mode) as client:
        assert text_of(await client.call_tool("find_customer", {"text": "x"})) == "crm search x 10"
        await stack.apply(forbid)
        try:
            with pytest.raises(MCPError) as denied:
                await client.call_tool("find_customer", {"text": "x"})
            names = {tool.name for tool in (await client.list_tools()).tools}
        finally:
            answer = await stack.api("DELETE", "/v1/namespaces/demo/policy-sets/taken", headers={"if-match": "*"})
            await stack.programmed(int(answer.json["revision"]))

        assert denied.value.error.code == 40300
        assert names == {"update", "slow", "search"}


async def test_a_legacy_client_hears_when_its_tools_change(stack: Stack) -> None:
    heard = asyncio.Event()

    async def on_message(message: Any) -> None:
        if "tools/list_changed" in str(getattr(message, "method", "")) or "ToolListChanged" in type(message).__name__:
            heard.set()

    token = stack.token("ann", server=DESK, groups=("staff",))
    async with (
        create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http_client,
        Client(streamable_http_client(stack.endpoint(DESK), http_client=http_client), mode="legacy", message_handler=on_message) as client,
    ):
        await client.list_tools()
        for round_number in range(20):
            document = DESK_DOCUMENT.replace("finds a customer", f"finds a customer {round_number}")
            await stack.apply(document)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), 5)
                break

        assert heard.is_set()
        assert (await client.list_tools()).tools


async def test_a_suspended_virtual_server_says_so(stack: Stack) -> None:
    await stack.apply(DESK_DOCUMENT.replace("title: Desk", "suspended: true"))
    try:
        token = stack.token("ann", server=DESK, groups=("staff",))
        headers = modern_headers("tools/list") | {"authorization": f"Bearer {token}"}
        answer = await stack.request("POST", "/virtual/demo/desk/mcp", json_body=modern_request("tools/list", {}), headers=headers)
    finally:
        await stack.apply(DESK_DOCUMENT)

    assert answer.status == 403
    assert answer.json["error"]["data"]["reason"] == "server_suspended"


async def test_what_was_called_is_on_the_record_by_both_names(stack: Stack) -> None:
    async with client_of(stack, "2026-07-28") as client:
        await client.call_tool("find_customer", {"text": "recorded"})

    async def recorded() -> list[dict[str, Any]]:
        items = (await stack.api("GET", "/v1/audit?tool=find_customer&limit=200")).json["items"]
        return [item for item in items if item.get("exposed_name") == "find_customer" and item["principal"]["id"] == "local/ann"]

    found = await eventually(recorded, what="the record")
    assert {item["tool"] for item in found} == {"search"}
    assert {item["virtual_server"] for item in found} == {"demo/desk"}


SEARCHED = """
apiVersion: legation/v1
kind: VirtualServer
metadata: {namespace: demo, name: searched}
spec:
  mode: search
  defaultVisibility: allow
  conflicts: prefix
  members: [{server: crm}, {server: docs}]
"""


@pytest.mark.parametrize("mode", MODES)
async def test_a_searched_server_finds_and_calls_what_the_caller_may_use(stack: Stack, mode: str) -> None:
    await stack.apply(SEARCHED)
    server = "virtual/demo/searched"
    async with client_of(stack, mode, server=server) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["find_tool", "call_tool"]
        found = await client.call_tool("find_tool", {"query": "search"})
        name = found.structured_content["tools"][0]["name"]
        called = await client.call_tool("call_tool", {"name": name, "arguments": {"text": "x"}})
        assert text_of(called).endswith("search x 10")
    async with client_of(stack, mode, server=server, who="bob") as client:
        of_bob = await client.call_tool("find_tool", {"query": "update"})
        assert "update" not in {tool["name"] for tool in of_bob.structured_content["tools"]}
        with pytest.raises(MCPError) as denied:
            await client.call_tool("call_tool", {"name": "update", "arguments": {"text": "x", "stage": "y"}})
        assert denied.value.error.code == 40300


async def test_a_modern_client_hears_of_what_changes_its_own_view(stack: Stack) -> None:
    async with client_of(stack, "2026-07-28") as client, client.listen(tools_list_changed=True) as subscription:
        await stack.apply(DESK_DOCUMENT.replace("finds a customer", "finds somebody"))
        try:
            async with asyncio.timeout(60):
                async for event in subscription:
                    assert type(event).__name__ == "ToolsListChanged"
                    break
        finally:
            await stack.apply(DESK_DOCUMENT)


async def test_a_uri_that_nobody_offers_is_not_found(stack: Stack) -> None:
    async with client_of(stack, "2026-07-28") as client:
        with pytest.raises(MCPError) as missing:
            await client.read_resource("m.demo.crm+note://nowhere")
    async with client_of(stack, "2026-07-28", who="bob") as client:
        with pytest.raises(MCPError) as denied:
            await client.read_resource("m.demo.crm+note://nowhere")

    assert missing.value.error.code == -32602
    assert denied.value.error.code == 40300
