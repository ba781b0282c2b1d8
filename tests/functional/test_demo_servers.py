"""The sample MCP servers of the demo, asked by the official SDK's client, in process and as processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from mcp import Client

from controlplane.demo.crm import build_crm
from controlplane.demo.engineering_db import build_engineering_db
from tests.ports import free_port


async def test_the_crm_announces_one_tool_of_each_effect():
    async with Client(build_crm()) as mcp_client:
        tools = {tool.name: tool.annotations for tool in (await mcp_client.list_tools()).tools}

    assert set(tools) == {"search_contacts", "update_contact", "delete_contact"}
    assert tools["search_contacts"].read_only_hint is True
    assert (tools["update_contact"].destructive_hint, tools["update_contact"].idempotent_hint) == (False, True)
    assert tools["delete_contact"].destructive_hint is True


async def test_the_crm_has_a_prompt_a_resource_and_a_resource_template():
    async with Client(build_crm()) as mcp_client:
        prompts = [prompt.name for prompt in (await mcp_client.list_prompts()).prompts]
        resources = [str(resource.uri) for resource in (await mcp_client.list_resources()).resources]
        templates = [template.uri_template for template in (await mcp_client.list_resource_templates()).resource_templates]

    assert prompts == ["follow_up"]
    assert resources == ["crm://stages"]
    assert templates == ["crm://contacts/{contact_id}"]


async def test_a_contact_is_found_changed_and_deleted():
    async with Client(build_crm()) as mcp_client:
        updated = await mcp_client.call_tool("update_contact", {"contact_id": "c-1003", "stage": "trial"})
        found = await mcp_client.call_tool("search_contacts", {"text": "aoi"})
        await mcp_client.call_tool("delete_contact", {"contact_id": "c-1003"})
        gone = await mcp_client.call_tool("search_contacts", {"text": "aoi"})

    assert updated.structured_content["stage"] == "trial"
    assert [contact["id"] for contact in found.structured_content["result"]] == ["c-1003"]
    assert gone.structured_content == {"result": []}


async def test_an_unknown_contact_is_a_tool_error():
    async with Client(build_crm()) as mcp_client:
        result = await mcp_client.call_tool("update_contact", {"contact_id": "c-9", "stage": "trial"})

    assert result.is_error
    assert "there is no contact c-9" in result.content[0].text


@pytest.mark.parametrize("sql", ["DROP TABLE services", "DELETE FROM services", "PRAGMA writable_schema = 1", "ATTACH ':memory:' AS other"])
async def test_query_only_reads(sql):
    async with Client(build_engineering_db()) as mcp_client:
        refused = await mcp_client.call_tool("query", {"sql": sql})
        rows = await mcp_client.call_tool("query", {"sql": "SELECT count(*) AS n FROM services"})

    assert refused.is_error
    assert rows.structured_content == {"result": [{"n": 3}]}


async def test_an_endless_query_is_interrupted():
    sql = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t"
    async with Client(build_engineering_db()) as mcp_client:
        result = await mcp_client.call_tool("query", {"sql": sql})

    assert result.is_error


async def test_a_dropped_table_is_gone():
    async with Client(build_engineering_db()) as mcp_client:
        await mcp_client.call_tool("drop_table", {"table": "incidents"})
        result = await mcp_client.call_tool("query", {"sql": "SELECT * FROM incidents"})

    assert result.is_error


@asynccontextmanager
async def _process(module: str) -> AsyncIterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", module, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: ASYNC220 - a test may block
    try:
        for _ in range(1200):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                break
        yield f"http://127.0.0.1:{port}/mcp", process
    finally:
        process.kill()
        process.communicate()


async def test_both_eras_are_served_on_one_url_and_sigterm_ends_it_in_silence():
    async with _process("controlplane.demo.crm") as (url, process):
        spoken = []
        for mode in ("legacy", "auto", "2026-07-28"):
            async with Client(url, mode=mode) as mcp_client:
                await mcp_client.list_tools()
                spoken.append(mcp_client.protocol_version)
        process.terminate()
        out, err = process.communicate(timeout=60)

    assert spoken == ["2025-11-25", "2026-07-28", "2026-07-28"]
    assert (out, err) == (b"", b"")
