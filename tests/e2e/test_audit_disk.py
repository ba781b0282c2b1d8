"""A deployment whose audit disk is full: strict namespaces make no call, available ones go on, and the record says what is missing."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Answer, Stack, eventually, modern_headers, modern_request, running_stack
from tests.e2e.upstream import running_module

CALLS = 25


def documents(namespace: str, port: int) -> str:
    """A server that everybody of a group may call."""
    return f"""
apiVersion: legation/v1
kind: Namespace
metadata: {{name: {namespace}}}
spec: {{}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: {namespace}, name: light}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{port}/mcp"}}]}}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: {namespace}, name: all}}
spec: {{cedar: 'permit (principal in Group::"local/all", action, resource in Namespace::"{namespace}");'}}
---
"""


AVAILABLE = """
apiVersion: legation/v1
kind: AuditPolicy
metadata: {namespace: open, name: default}
spec: {mode: available, arguments: {keep: full}}
"""


@pytest.fixture
def audit_disk(tmp_path: Path) -> Iterator[Path]:
    """Eight MiB, where the deployment keeps its log."""
    place = tmp_path / "deployment" / "audit"
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


async def call(stack: Stack, namespace: str) -> Answer:
    """`echo` at the namespace's server."""
    token = stack.token("ann", server=f"{namespace}/light", groups=("all",))
    headers = {**modern_headers("tools/call", "echo"), "authorization": f"Bearer {token}"}
    body = modern_request("tools/call", {"name": "echo", "arguments": {"text": "hello"}})
    return await stack.request("POST", f"/servers/{namespace}/light/mcp", json_body=body, headers=headers)


async def recorded(stack: Stack, query: str) -> list[dict[str, Any]]:
    answer = await stack.api("GET", f"/v1/audit?limit=1000&{query}")
    assert answer.status == 200, answer.text
    items: list[dict[str, Any]] = answer.json["items"]
    return items


async def test_a_full_disk_stops_strict_namespaces_only_and_what_it_cost_is_told(tmp_path: Path, audit_disk: Path) -> None:
    async with running_module("bench.upstream") as port, running_stack(tmp_path) as stack:
        await stack.apply(documents("closed", port) + documents("open", port) + AVAILABLE)
        for server in ("closed/light", "open/light"):
            await stack.accept(server)
        assert [(await call(stack, namespace)).status for namespace in ("closed", "open")] == [200, 200]

        filler = audit_disk / "filler"
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=512"], capture_output=True, check=False)  # noqa: ASYNC221

        async def is_refused() -> Answer | None:
            answer = await call(stack, "closed")
            return answer if answer.status != 200 else None

        refused = await eventually(is_refused, what="a refusal of the strict namespace")
        error = refused.json["error"]
        assert (refused.status, error["code"], error["data"]["reason"]) == (503, 50301, "audit_unavailable")
        assert error["message"] == "The decision could not be recorded, so the call is not made."
        assert [(await call(stack, "open")).status for _ in range(CALLS)] == [200] * CALLS

        async def is_said() -> bool:
            return "calls without a record" in (stack.data_dir / "logs" / "authorizer.log").read_text()

        await eventually(is_said, what="the authorizer's log says it")
        filler.unlink()

        async def is_served() -> bool:
            return (await call(stack, "closed")).status == 200

        await eventually(is_served, what="the strict namespace is served again")

        async def all_is_told() -> Counter[str] | None:
            lost: Counter[str] = Counter()
            for item in await recorded(stack, "event=alarm"):
                if item["reason"] in {"record_lost", "refused_unrecorded"}:
                    lost[f"{item['reason']} {item['namespace']}"] += item["alarm"]["lost"]
            calls = await recorded(stack, "event=tool_call&namespace=open")
            is_complete = len(calls) + lost["record_lost open"] == CALLS + 1 and lost["refused_unrecorded closed"]
            return lost if is_complete else None

        lost = await eventually(all_is_told, what="each call of the open namespace is recorded, or told as lost")
        assert lost["record_lost open"] > 0
        assert set(lost) == {"record_lost open", "refused_unrecorded closed"}
        newest = (await recorded(stack, "event=tool_call&namespace=open"))[-1]
        assert (newest["principal"]["id"], newest["arguments_json"], newest["arguments_kept"]) == ("local/ann", '{"text":"hello"}', "full")
