"""The lane `aggregate` on the real Envoy: what reaches an aggregator, which one, and what clients get of its answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from extauthz.wire import auth_pb2 as wire
from tests.e2e.envoy_world import EnvoyWorld, allow, envoy_world, server_entry, state_of, upstream

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

PATH = "/virtual/demo/desk/mcp"


def _aggregator(name: str) -> Any:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/readyz":
            return web.Response()
        status = int(request.headers.get("x-test", "200"))
        told = {"by": name, "path": request.path_qs, "headers": {key.lower(): value for key, value in request.headers.items()}}
        headers = {"mcp-session-id": "lga1_x", "set-cookie": "a=b", "legation-context": "leaked", "x-legation-affinity": "leaked"}
        return web.json_response(told, status=status, headers=headers)

    return answer


def to_aggregator(affinity: str = "a") -> Any:
    def answer(_request: wire.CheckRequest) -> wire.CheckResponse:
        headers = {"legation-context": "signed", "x-legation-affinity": affinity}
        return allow("legation-aggregator", lane="aggregate", path=PATH, headers=headers)

    return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EnvoyWorld]:
    async with upstream(_aggregator("one")) as one, upstream(_aggregator("two")) as two:
        state = state_of(1, server_entry("crm", f"http://127.0.0.1:{one}/mcp"))
        addresses = (f"127.0.0.1:{one}", f"127.0.0.1:{two}")
        async with envoy_world(tmp_path_factory.mktemp("aggregate"), state, aggregator_addresses=addresses) as running:
            yield running


async def test_an_aggregator_gets_the_signed_context_and_no_copy_of_a_client(world: EnvoyWorld) -> None:
    world.answer = to_aggregator()

    forged = {"legation-context": "forged", "x-legation-affinity": "forged", "authorization": "Bearer t", "cookie": "c=d"}
    told = json.loads((await world.post(PATH, headers=forged)).body)

    assert told["path"] == PATH
    assert told["headers"]["legation-context"] == "signed"
    assert told["headers"]["x-legation-affinity"] == "a"
    assert not told["headers"].keys() & {"authorization", "cookie", "x-legation-lane", "x-legation-cluster"}


async def test_on_other_lanes_nobody_gets_the_context(world: EnvoyWorld) -> None:
    server = world.servers["demo/crm"]
    world.answer = lambda _request: allow(
        server.cluster, path=server.path, headers={"legation-context": "signed", "x-legation-affinity": "a"}
    )

    told = json.loads((await world.post()).body)

    assert not told["headers"].keys() & {"legation-context", "x-legation-affinity"}


async def test_the_aggregators_session_reaches_the_client_and_nothing_that_is_ours(world: EnvoyWorld) -> None:
    world.answer = to_aggregator()

    answer = await world.post(PATH)

    assert answer.headers["mcp-session-id"] == "lga1_x"
    assert not {name.lower() for name in answer.headers} & {"set-cookie", "legation-context", "x-legation-affinity"}


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 502, 503])
async def test_an_aggregator_refuses_in_our_name(world: EnvoyWorld, status: int) -> None:
    world.answer = to_aggregator()

    answer = await world.post(PATH, headers={"x-test": str(status)})

    assert answer.status == status
    assert b'"by"' in answer.body


async def test_one_caller_meets_one_aggregator_and_many_are_spread(world: EnvoyWorld) -> None:
    met: dict[str, set[str]] = {}
    for caller in (f"caller-{number}" for number in range(32)):
        world.answer = to_aggregator(caller)
        met[caller] = {json.loads((await world.post(PATH)).body)["by"] for _ in range(3)}

    assert all(len(names) == 1 for names in met.values())
    assert set().union(*met.values()) == {"one", "two"}


async def test_without_an_aggregator_the_answer_says_that_it_may_be_tried_again(tmp_path: Path) -> None:
    state = state_of(1, server_entry("crm", "http://127.0.0.1:9/mcp"))
    async with envoy_world(tmp_path, state) as world:
        world.answer = to_aggregator()

        answer = await world.post(PATH)

        assert answer.status == 503
        assert json.loads(answer.body)["error"]["data"] == {"reason": "aggregator_unavailable", "retryable": True}
        assert answer.headers["retry-after"] == "1"


async def test_virtual_servers_are_governed_like_all_others(world: EnvoyWorld) -> None:
    """No path of them leads anywhere without the authorizer, and loops are refused before it."""
    world.checks.clear()
    world.answer = lambda _request: allow("legation-aggregator", lane="", path=PATH)

    nowhere = await world.post(PATH)
    looped = await world.post(PATH, headers={"cdn-loop": world.links.gateway(1, 1).loop_name})

    assert nowhere.status == 404
    assert looped.status == 508
    assert len(world.checks) == 1
