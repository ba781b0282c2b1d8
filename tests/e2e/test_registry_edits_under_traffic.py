"""Two hundred registry edits while calls go on: no call to a server that exists fails, and a removed one is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.light_upstream import light_upstream
from tests.e2e.stack import Stack, eventually, modern_headers, modern_request, running_stack
from tests.e2e.traffic import constant_traffic

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(900)]

ACCESS = """
apiVersion: legation/v1
kind: Namespace
metadata: {name: busy}
spec: {}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: busy, name: callers}
spec: {role: caller, subjects: [{kind: User, name: local/caller}]}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: busy, name: everything}
spec:
  cedar: |
    permit (principal in Role::"busy/caller", action, resource in Namespace::"busy");
"""
STABLE = 4
ROUNDS = 40  # of five edits each


def server_document(name: str, port: int) -> str:
    """One MCP server at a port of the loopback."""
    return f"""
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: busy, name: {name}}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{port}/mcp"}}]}}
"""


async def test_200_edits_under_traffic_lose_no_call(tmp_path: Path) -> None:
    async with light_upstream() as first, light_upstream() as second, running_stack(tmp_path) as stack:
        ports = (first.port, second.port)
        stable = [f"stable-{number}" for number in range(STABLE)]
        await stack.apply(ACCESS + "".join("---" + server_document(name, first.port) for name in stable))
        edits = 0
        async with constant_traffic(stack, {f"busy/{name}" for name in stable}, subject="caller") as traffic:
            for number in range(ROUNDS):
                come_and_go = f"guest-{number % 7}"
                # add one, wait until it is programmed, call it
                await _programmed_for_callers(stack, await stack.apply(server_document(come_and_go, ports[number % 2]), wait=False))
                traffic.servers.add(f"busy/{come_and_go}")
                # change three addresses while calls go on, without waiting
                for name in (stable[number % STABLE], stable[(number + 1) % STABLE], come_and_go):
                    await stack.apply(server_document(name, ports[(number + 1) % 2]), wait=False)
                # remove the guest once nobody is on the way to it
                traffic.servers.discard(f"busy/{come_and_go}")
                await traffic.settle(f"busy/{come_and_go}")
                await _programmed_for_callers(stack, await _delete(stack, come_and_go))
                assert await _status_of(stack, come_and_go) == 404
                edits += 5
            await traffic.more_than(500)

        assert edits == 200
        assert traffic.failures == []
        assert await _every_node_has_the_newest_revision(stack)


async def _programmed_for_callers(stack: Stack, revision: int) -> None:
    """Wait until every authorizer decides by `revision`; the last Envoy stage only takes away what nobody uses any more."""

    async def acknowledged() -> bool:
        programmed = (await stack.api("GET", f"/v1/revisions/{revision}")).json["programmed"]["authorizer"]
        return bool(programmed[0] == programmed[1] > 0)

    await eventually(acknowledged, interval=0.01, what=f"revision {revision} at the authorizer")


async def _delete(stack: Stack, name: str) -> int:
    answer = await stack.api("DELETE", f"/v1/namespaces/busy/mcp-servers/{name}", headers={"if-match": "*"})
    assert answer.status in {200, 204}, answer.text
    newest = (await stack.api("GET", "/v1/status")).json["revision"]
    return int(newest)


async def _status_of(stack: Stack, name: str) -> int:
    server = f"busy/{name}"
    headers = modern_headers("tools/list") | {"authorization": f"Bearer {stack.token('caller', server=server)}"}
    return (await stack.request("POST", f"/servers/{server}/mcp", json_body=modern_request("tools/list", {}), headers=headers)).status


async def _every_node_has_the_newest_revision(stack: Stack) -> bool:
    async def synced() -> bool:
        nodes = (await stack.api("GET", "/v1/nodes")).json
        states = [(node["kind"], node["state"], node["revision"]) for node in nodes["items"] if node["connected"]]
        assert not [node for node in nodes["items"] if node["state"] == "NACK"], nodes
        return {kind for kind, _, _ in states} == {"aggregator", "authorizer", "envoy"} and all(
            state == "SYNCED" and revision == nodes["revision"] for _, state, revision in states
        )

    return bool(await eventually(synced, interval=0.1, what="every node at the newest revision"))
