"""What happens when a process dies, hangs, or comes back; and how soon a policy edit counts."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.light_upstream import LightUpstream, light_upstream, tool
from tests.e2e.stack import PATIENCE_SECONDS, Stack, eventually, running_stack
from tests.e2e.traffic import constant_traffic

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

SERVER = "frail/light"
CHECK_TIMEOUT = {"LEGATION_CHECK_TIMEOUT_MS": "3000"}  # short, for the authorizer that hangs
CONTROL_PLANE, AUTHORIZER, ENVOY = "controlplane", "extauthz", "envoy"
REGISTRY = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: frail}}
spec: {{}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: frail, name: light}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{port}/mcp"}}]}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: frail, name: callers}}
spec: {{role: caller, subjects: [{{kind: User, name: local/caller}}]}}
"""
POLICY = """
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: frail, name: rules}}
spec:
  cedar: |
    permit (principal in Role::"frail/caller", action in [Action::"tools/list"], resource in Namespace::"frail");
    {effect} (principal in Role::"frail/caller", action == Action::"tools/call", resource == Tool::"frail/light/echo");
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[LightUpstream]:
    async with light_upstream([tool("echo", annotations={"readOnlyHint": True}, text="string")]) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, upstream: LightUpstream) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("failures"), environ=CHECK_TIMEOUT) as running:
        await running.apply(REGISTRY.format(port=upstream.port))
        await running.accept(SERVER)
        await running.apply(POLICY.format(effect="permit"))
        yield running


def access_token(stack: Stack) -> str:
    return stack.token("caller", server=SERVER, seconds=3600)


async def _serving(stack: Stack, token: str) -> bool:
    return (await stack.call(SERVER, "echo", access_token=token)).status == 200


async def test_killing_the_control_plane_loses_no_call_and_edits_go_on_after_it_is_back(stack: Stack, upstream: LightUpstream) -> None:
    async with constant_traffic(stack, {SERVER}, subject="caller") as traffic:
        await asyncio.sleep(0.5)
        killed = stack.children()[CONTROL_PLANE]
        os.kill(killed, signal.SIGKILL)

        async def back() -> bool:
            return stack.children().get(CONTROL_PLANE, killed) != killed and (await stack.request("GET", "/readyz")).status == 200

        await eventually(back, interval=0.1, what="the control plane")
        await traffic.more_than(50)

    assert traffic.failures == []
    await stack.apply(POLICY.format(effect="permit") + "    // edited after the restart\n")
    assert await _serving(stack, access_token(stack))


async def test_a_killed_authorizer_means_503_and_nothing_reaches_an_upstream_until_it_is_back(
    stack: Stack, upstream: LightUpstream
) -> None:
    token = access_token(stack)
    killed = stack.children()[AUTHORIZER]
    os.kill(killed, signal.SIGKILL)

    refused, reached = 0, len(upstream.calls)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        answer = await stack.call(SERVER, "echo", access_token=token)
        if answer.status == 200:
            break
        refused += 1
        assert answer.status == 503
        assert answer.json["error"]["code"] == 50300
        assert answer.json["jsonrpc"] == "2.0"
        assert len(upstream.calls) == reached
        await asyncio.sleep(0.01)

    assert refused > 0
    assert len(upstream.calls) == reached + 1


async def test_a_hanging_authorizer_means_503_while_it_hangs_and_nothing_reaches_an_upstream(stack: Stack, upstream: LightUpstream) -> None:
    token = access_token(stack)
    hanging = stack.children()[AUTHORIZER]
    reached = len(upstream.calls)
    os.kill(hanging, signal.SIGSTOP)
    try:
        answer = await stack.call(SERVER, "echo", access_token=token)
    finally:
        os.kill(hanging, signal.SIGCONT)

    assert answer.status == 503
    assert answer.json["error"]["code"] == 50300
    assert len(upstream.calls) == reached
    await eventually(lambda: _serving(stack, token), what="the authorizer")


async def test_a_killed_envoy_comes_back_with_everything(stack: Stack, upstream: LightUpstream) -> None:
    killed = stack.children()[ENVOY]
    os.kill(killed, signal.SIGKILL)
    token = access_token(stack)

    async def back() -> bool:
        try:
            return stack.children().get(ENVOY, killed) != killed and await _serving(stack, token)
        except OSError:
            return False

    await eventually(back, interval=0.1, what="Envoy")


async def test_a_policy_edit_changes_the_next_decision(stack: Stack) -> None:
    token = access_token(stack)
    times = []
    for effect, wanted in (("forbid", 403), ("permit", 200)) * 3:
        started = time.monotonic()
        await stack.apply(POLICY.format(effect=effect), wait=False)
        while (await stack.call(SERVER, "echo", access_token=token)).status != wanted:
            assert time.monotonic() - started < PATIENCE_SECONDS
        times.append(time.monotonic() - started)
    print(f"from a policy edit to the first decision by it: {min(times) * 1000:.0f} to {max(times) * 1000:.0f} ms")

    for effect, wanted in (("forbid", 403), ("permit", 200)):
        await stack.apply(POLICY.format(effect=effect))  # programmed, as every node says
        assert (await stack.call(SERVER, "echo", access_token=token)).status == wanted
