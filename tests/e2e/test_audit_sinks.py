"""A whole deployment sends its record on: to a file and to a receiver that refuses some of it; the command line tells and repairs."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.light_upstream import light_upstream, tool
from tests.e2e.record_load import REGISTRY, SERVER
from tests.e2e.stack import Stack, eventually, running_stack
from tests.sink_receivers import POISON, ElasticCluster

pytestmark = pytest.mark.envoy

SINKS = """
apiVersion: legation/v1
kind: AuditSink
metadata: {{namespace: system, name: files}}
spec: {{file: {{}}, outcomes: joined, batch: {{seconds: 1}}}}
---
apiVersion: legation/v1
kind: AuditSink
metadata: {{namespace: taken, name: elastic}}
spec:
  elastic: {{url: "{url}", dataStream: logs-legation.audit-default, apiKey: {{value: {key}}}}}
  filter: {{events: [tool_call]}}
  batch: {{seconds: 1}}
"""


async def legation(stack: Stack, *arguments: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "legation"),
        *("--data-dir", str(stack.data_dir), *arguments, "-o", "json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_records_of_calls_reach_files_and_receivers(tmp_path: Path) -> None:
    cluster = ElasticCluster()
    tools = [tool("echo", text="string"), tool(POISON, text="string")]
    async with light_upstream(tools) as upstream, cluster.listening(), running_stack(tmp_path) as stack:
        await stack.apply(REGISTRY.format(port=upstream.port))
        await stack.accept(SERVER)
        await stack.apply(SINKS.format(url=cluster.url, key=cluster.API_KEY))
        token = stack.token("caller", server=SERVER)
        for name in ("echo", POISON, "echo"):
            assert (await stack.call(SERVER, name, {"text": "hello"}, access_token=token)).status == 200

        async def sinks() -> dict[str, Any]:
            return {item["sink"]: item for item in (await legation(stack, "audit", "sinks"))["items"]}

        async def delivered() -> bool:
            found = await sinks()
            return len(cluster.kept) == 2 and found["taken/elastic"]["dead_letters"] == 1

        await eventually(delivered, interval=0.5, what="two documents and a dead letter")
        (letter,) = (await legation(stack, "audit", "dead-letters", "taken/elastic"))["items"]
        assert (letter["event"], letter["resend"]) == ("tool_call", False)
        assert "document_parsing_exception" in letter["fault"]
        assert (await legation(stack, "audit", "dead-letters", "taken/elastic", "--drop", "--yes")) == {"records": 1}
        assert (await sinks())["taken/elastic"]["dead_letters"] == 0

        file = stack.data_dir / "audit-export" / "system" / "files" / "audit.jsonl"

        def lines() -> list[dict[str, Any]]:
            return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

        async def written() -> bool:
            calls = [line for line in lines() if line["event"] == "tool_call"]
            dropped = [line for line in lines() if line["event"] == "change" and line["change"]["op"] == "dead_letters_dropped"]
            return len(calls) == 3 and all(call.get("outcome") for call in calls) and len(dropped) == 1

        await eventually(written, interval=0.2, what="three calls with their outcomes, and who dropped what")
        assert [line["position"] for line in lines()] == sorted(line["position"] for line in lines())
        calls = [line for line in lines() if line["event"] == "tool_call"]
        assert {call["principal"]["id"] for call in calls} == {"local/caller"}
        assert {call["outcome"]["http_status"] for call in calls} == {200}
        documents: list[Any] = list(cluster.documents.values())
        assert {document["event"]["id"] for document in documents} == {call["id"] for call in calls if call["tool"] == "echo"}
        assert ElasticCluster.API_KEY not in stack.log_file.read_text()
