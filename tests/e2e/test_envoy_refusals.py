"""What people and programs read when Envoy refuses by itself, and what it writes down: slow, too many, nothing here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controlplane import edge_log
from extauthz.audit.edge_line import parse_edge_line
from tests.e2e.envoy_world import EnvoyWorld, deny, envoy_world, free_port, server_entry, state_of

pytestmark = pytest.mark.envoy

PATH = "/servers/demo/crm/mcp"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[EnvoyWorld]:
    entry = server_entry("crm", f"http://127.0.0.1:{free_port()}/mcp")
    async with envoy_world(tmp_path, state_of(1, entry), request_timeout_seconds=2, requests_per_second=10) as world:
        world.answer = world.allow_by_path
        yield world


def error_of(body: bytes) -> tuple[int, str]:
    message = json.loads(body)
    assert (message["jsonrpc"], message["id"]) == ("2.0", None)
    return message["error"]["code"], message["error"]["data"]["reason"]


async def answered(world: EnvoyWorld, data: bytes) -> tuple[int, bytes]:
    """Send these bytes and nothing more; status and body of what comes until Envoy closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


async def logged(world: EnvoyWorld, count: int) -> list[Any]:
    """The refusals that Envoy wrote down, once there are so many."""
    async with asyncio.timeout(60):
        while True:
            lines = world.deployment.edge_log_file.read_bytes().splitlines()
            if len(lines) >= count:
                return [parse_edge_line(line, decision_id="d") for line in lines]
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "data",
    [
        f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\nx-slow: ".encode(),
        f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{".encode(),
    ],
    ids=["header", "body"],
)
async def test_a_client_that_sends_too_slowly_is_a_408(world: EnvoyWorld, data: bytes) -> None:
    status, body = await answered(world, data)

    assert status == 408
    assert error_of(body) == (40800, "request_timeout")
    assert [record.reason for record in await logged(world, 1)] == ["request_timeout"]
    assert world.checks == []


async def test_too_many_requests_are_told_when_to_try_again(world: EnvoyWorld) -> None:
    world.answer = lambda _request: deny(403, "{}")
    answers = [await world.post() for _ in range(60)]

    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert {error_of(answer.body) for answer in refused} == {(42900, "rate_limited")}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert {record.reason for record in await logged(world, len(refused))} == {"rate_limited"}


async def test_without_the_authorizer_the_answer_says_when_to_try_again_and_is_written_down(world: EnvoyWorld) -> None:
    await world.stop_authorizer()

    answer = await world.post()

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert error_of(answer.body) == (50300, "authorizer_unavailable")
    (record,) = await logged(world, 1)
    assert (record.reason, record.decision.value, record.mcp_server) == ("authorizer_unavailable", "error", "crm")


@pytest.mark.parametrize("accept", ["text/html,application/xhtml+xml", "*/*", ""])
async def test_people_who_ask_for_nothing_get_a_sentence(world: EnvoyWorld, accept: str) -> None:
    answer = await world.request("GET", "/", headers={"accept": accept})

    assert answer.status == 404
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.body.decode() == "There is nothing here. MCP servers are at /servers/NAMESPACE/NAME/mcp.\n"


@pytest.mark.parametrize(("path", "accept"), [("/elsewhere", "application/json"), ("/v1/status", "*/*")])
async def test_programs_get_a_problem(world: EnvoyWorld, path: str, accept: str) -> None:
    answer = await world.request("GET", path, headers={"accept": accept})

    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body)["status"] == answer.status


async def test_a_denial_is_not_a_refusal_of_the_edge(world: EnvoyWorld) -> None:
    for status in (401, 403, 404, 503):
        world.answer = lambda _request, status=status: deny(status, "{}")
        await world.post()
    await world.request("GET", "/nothing")

    assert [record.path for record in await logged(world, 1)] == ["/nothing"]


async def test_envoy_goes_on_in_a_new_file_when_its_log_is_turned_over(world: EnvoyWorld) -> None:
    file = world.deployment.edge_log_file
    await world.request("GET", "/before")
    await logged(world, 1)

    assert await asyncio.to_thread(edge_log.turn_over, file, world.deployment.envoy_admin_socket, 1)
    await world.request("GET", "/after")

    assert [record.path for record in await logged(world, 1)] == ["/after"]
    assert b'"/before"' in edge_log.previous_log(file).read_bytes()
    assert file.stat().st_mode & 0o077 == 0
