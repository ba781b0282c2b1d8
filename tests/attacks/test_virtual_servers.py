"""Attacks on virtual servers: names, arguments, tasks and URIs that are of somebody else, and contexts that nobody signed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from controlplane.registry.encryption import read_registry_key
from controlplane.xds.authorizer_resources import make_context_keys
from extauthz.egress_context import EgressContext, sign_egress_context, signing_key
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.runtime import deployment_of
from extauthz.state import context_keys_from_messages
from tests.attacks.wire import RawAnswer, request_bytes
from tests.attacks.world import MODERN, World, ran
from tests.e2e.stack import eventually

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

DESK = "virtual/attack/desk"
MEMBER = "/servers/attack/python/mcp"
DOCUMENT = """
apiVersion: legation/v1
kind: VirtualServer
metadata: {namespace: attack, name: desk}
spec:
  conflicts: priority
  members:
    - server: python
      include: [safe, barred, weigh]
      prompts: [greet]
      resources: ["test://open"]
      overrides:
        safe: {name: harmless}
        weigh: {inputDefaults: {owner: us}, hiddenArguments: [owner]}
    - server: hidden/python
      include: [evil]
"""
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
DENIED, INVALID = ("no_matching_permit", 40300, 403), ("invalid_params", -32602, 400)

ATTACKS: dict[str, tuple[str, dict[str, Any], tuple[str, int, int]]] = {
    "the-own-name-of-a-renamed-tool": ("tools/call", {"name": "safe"}, DENIED),
    "a-tool-that-is-not-offered": ("tools/call", {"name": "mirrored"}, DENIED),
    "a-tool-of-a-member-that-the-caller-cannot-see": ("tools/call", {"name": "evil"}, DENIED),
    "a-tool-by-its-identity": ("tools/call", {"name": "attack/python/safe"}, DENIED),
    "a-tool-of-search-where-nothing-is-searched": ("tools/call", {"name": "call_tool", "arguments": {"name": "harmless"}}, DENIED),
    "a-hidden-argument": ("tools/call", {"name": "weigh", "arguments": {"amount": 1, "owner": "me"}}, INVALID),
    "a-hidden-argument-in-another-case": ("tools/call", {"name": "weigh", "arguments": {"amount": 1, "OWNER": "me"}}, INVALID),
    "an-argument-beyond-the-policy": ("tools/call", {"name": "weigh", "arguments": {"amount": 101}}, DENIED),
    "a-prompt-that-is-not-offered": ("prompts/get", {"name": "gr\u00fc\u00dfe"}, DENIED),
    "a-resource-that-is-not-offered": ("resources/read", {"uri": "test://closed"}, DENIED),
    "a-resource-by-the-prefix-of-another-member": ("resources/read", {"uri": "m.hidden.python+test://open"}, DENIED),
    "a-task-of-no-member": ("tasks/get", {"taskId": "attack/small+1"}, DENIED),
    "a-task-of-a-member-without-permit": ("tasks/get", {"taskId": "attack/python+1"}, DENIED),
    "a-subscription-to-a-resource-of-nobody": (
        "subscriptions/listen",
        {"notifications": {"resourceSubscriptions": ["test://closed"]}},
        DENIED,
    ),
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="package", autouse=True)
async def _desk(world: World) -> AsyncIterator[None]:
    await world.stack.apply(DOCUMENT)
    yield
    answer = await world.stack.api("DELETE", "/v1/namespaces/attack/virtual-servers/desk", headers={"if-match": "*"})
    assert answer.status == 200, answer.text


def message(method: str, params: dict[str, Any]) -> bytes:
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, "_meta": META}}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


async def send(
    world: World, method: str, params: dict[str, Any], *, path: str = f"/{DESK}/mcp", subject: str = "caller", **headers: str
) -> RawAnswer:
    body = message(method, params)
    token = world.stack.token(subject, server=DESK, seconds=3600)
    world.secrets.add("access token for the desk", token)
    given = world.headers(version=MODERN, token=token) + [
        ("mcp-method", method),
        ("connection", "close"),
        ("content-length", str(len(body))),
    ]
    name = params.get("name") or params.get("uri") or params.get("taskId")
    if name and method in {"tools/call", "prompts/get", "resources/read", "tasks/get"}:
        given.append(("mcp-name", world.header_value(name)))
    given += [(header.replace("_", "-"), value) for header, value in headers.items()]
    return await world.send(request_bytes("POST", path, [pair for pair in given if pair[1]], body))


@pytest.mark.parametrize("name", ATTACKS)
async def test_what_is_somebody_elses_is_refused_before_anybody_is_asked(world: World, name: str) -> None:
    method, params, (reason, code, status) = ATTACKS[name]
    mark = await world.mark()

    answer = await send(world, method, params)

    (event,) = await world.events_after(mark)
    world.nothing_reached_upstreams(mark)
    assert (answer.status, answer.error["code"], answer.error["data"]["reason"]) == (status, code, reason)
    assert (event["decision"], event["virtual_server"]) == ("deny", "attack/desk")


async def test_the_honest_twins_pass(world: World) -> None:
    mark = await world.mark()

    renamed = await send(world, "tools/call", {"name": "harmless", "arguments": {"text": "x"}})
    hidden = await send(world, "tools/call", {"name": "weigh", "arguments": {"amount": 3}})

    assert (renamed.status, ran(renamed)["name"]) == (200, "safe"), renamed
    assert (hidden.status, ran(hidden)["arguments"]["owner"]) == (200, "us"), hidden
    events = await world.events_after(mark, at_least=4)
    calls = [event for event in events if event["event"] == "tool_call"]
    outer = [event for event in calls if "parent_decision_id" not in event]
    assert [(event["tool"], event["exposed_name"]) for event in outer] == [("safe", "harmless"), ("weigh", "weigh")]
    assert {event["parent_decision_id"] for event in calls if "parent_decision_id" in event} == {event["decision_id"] for event in outer}
    assert {event["decision"] for event in events} == {"allow"}


@pytest.mark.parametrize("headers", [
    {"legation_context": "eyJhIjoxfQ.AAAA"},
    {"x_legation_lane": "aggregate", "x_legation_cluster": "legation-aggregator"},
    {"x_legation_affinity": "a" * 64},
])  # fmt: skip
async def test_headers_of_ours_from_a_client_change_nothing(world: World, headers: dict[str, str]) -> None:
    mark = await world.mark()

    refused = await send(world, "tools/call", {"name": "evil"}, **headers)

    assert refused.error["data"]["reason"] == "no_matching_permit"
    world.nothing_reached_upstreams(mark)


async def test_a_context_without_a_token_is_nobody(world: World) -> None:
    body = message("tools/list", {})
    headers = [("host", world.host), ("content-type", "application/json"), ("mcp-protocol-version", MODERN), ("mcp-method", "tools/list")]
    headers += [("legation-context", "eyJhIjoxfQ.AAAA"), ("connection", "close"), ("content-length", str(len(body)))]

    answer = await world.send(request_bytes("POST", f"/{DESK}/mcp", headers, body))

    assert (answer.status, answer.error["data"]["reason"]) == (401, "access_token_missing")
    assert f"/.well-known/oauth-protected-resource/{DESK}/mcp" in answer.header("www-authenticate")


def context_of(world: World, **changes: Any) -> str:
    """A context as an authorizer signs it when it lets the caller through to the desk; an aggregator that was broken into holds such."""
    key_file = deployment_of(world.stack.data_dir).encryption_key_file
    keys = context_keys_from_messages(make_context_keys(read_registry_key(key_file), datetime.now(UTC)))
    key = signing_key(keys, time.time())
    assert key is not None
    caller = Principal(
        kind=PrincipalKind.USER, id="local/caller", provider="local", subject="caller", issuer="", expires_at_unix=time.time() + 300
    )
    values: dict[str, Any] = {"decision_id": "outer", "principal": caller, "mcp_server_id": "", "virtual_server_id": "attack/desk"}
    values |= {"revision": 1, "expires_at_unix": time.time() + 300, "caller_era": "modern", "caller_address": "127.0.0.1"}
    context = sign_egress_context(EgressContext(**values | changes), key)
    world.secrets.add("a signed context", context)
    return context


async def call_inside(world: World, context: str, name: str, path: str = MEMBER, **arguments: Any) -> httpx2.Response:
    """At the egress listener, as our own processes do."""
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream", "mcp-protocol-version": MODERN}
    headers |= {"mcp-method": "tools/call", "mcp-name": name, "legation-context": context}
    body = message("tools/call", {"name": name, "arguments": arguments})
    transport = httpx2.AsyncHTTPTransport(uds=str(deployment_of(world.stack.data_dir).egress_socket))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as egress:
        return await egress.post(path, content=body, headers=headers)


async def test_who_holds_a_context_gets_what_its_caller_may_use_there_and_nothing_else(world: World) -> None:
    context, hidden = context_of(world), "/servers/hidden/python/mcp"
    elsewhere, old = context_of(world, virtual_server_id="attack/none"), context_of(world, expires_at_unix=time.time() - 1)
    good = await call_inside(world, context, "safe", text="x")
    mark = await world.mark()
    refusals = {
        "forged": await call_inside(world, context[:-2] + "AA", "safe"),
        "too old": await call_inside(world, old, "safe"),
        "for everything": await call_inside(world, context_of(world, virtual_server_id=""), "safe"),
        "another virtual server": await call_inside(world, elsewhere, "safe"),
        "no member": await call_inside(world, context, "safe", "/servers/attack/small/mcp"),
        "a member that the caller cannot see": await call_inside(world, context, "evil", hidden),
        "not offered": await call_inside(world, context, "mirrored"),
        "forbidden": await call_inside(world, context, "barred"),
        "the exposed name": await call_inside(world, context, "harmless"),
        "a hidden argument": await call_inside(world, context, "weigh", amount=1, owner="me"),
        "beyond the policy": await call_inside(world, context, "weigh", amount=101, owner="us"),
        "a loop": await call_inside(world, context, "harmless", f"/{DESK}/mcp"),
    }

    assert good.status_code == 200
    assert {why: answer.status_code for why, answer in refusals.items() if answer.status_code not in {401, 403, 404}} == {}
    world.nothing_reached_upstreams(mark)
    events = await world.events_after(mark, at_least=len(refusals))
    assert {event["decision"] for event in events} == {"deny"}


async def test_a_token_for_the_virtual_server_is_for_no_member_and_the_other_way_round(world: World) -> None:
    at_member = await send(world, "tools/call", {"name": "safe"}, path=world.path())
    body = message("tools/list", {})
    headers = world.headers(version=MODERN) + [("mcp-method", "tools/list"), ("connection", "close"), ("content-length", str(len(body)))]
    at_desk = await world.send(request_bytes("POST", f"/{DESK}/mcp", headers, body))

    assert (at_member.status, at_desk.status) == (401, 401)
    assert at_member.error["data"]["reason"] == at_desk.error["data"]["reason"] == "audience_mismatch"


async def test_a_virtual_server_is_not_there_for_who_has_nothing_in_it(world: World) -> None:
    stranger = await send(world, "tools/list", {}, subject="stranger")
    token = world.stack.token("stranger", server="virtual/attack/none", seconds=3600)
    world.secrets.add("access token of a stranger", token)
    body = message("tools/list", {})
    headers = world.headers(version=MODERN, token=token) + [
        ("mcp-method", "tools/list"),
        ("connection", "close"),
        ("content-length", str(len(body))),
    ]
    unknown = await world.send(request_bytes("POST", "/virtual/attack/none/mcp", headers, body))

    assert (stranger.status, unknown.status) == (404, 404)
    assert stranger.error["message"] == unknown.error["message"]
    assert stranger.error["data"].keys() == unknown.error["data"].keys()


async def test_what_is_listed_is_what_may_be_called(world: World) -> None:
    async def listed() -> bool:
        answer = await send(world, "tools/list", {})
        return answer.status == 200 and {tool["name"] for tool in answer.json["result"]["tools"]} == {"harmless", "weigh"}

    await eventually(listed, what="the list of the desk")


async def test_a_member_that_is_removed_is_gone_at_once(world: World) -> None:
    assert (await send(world, "tools/call", {"name": "harmless"})).status == 200
    await world.stack.apply(
        DOCUMENT.replace("include: [safe, barred, weigh]", "include: [barred, weigh]").replace("        safe: {name: harmless}\n", "")
    )
    mark = await world.mark()

    gone = await send(world, "tools/call", {"name": "harmless"})

    world.nothing_reached_upstreams(mark)
    assert gone.error["data"]["reason"] == "no_matching_permit"
    await world.stack.apply(DOCUMENT)
