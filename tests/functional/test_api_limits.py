"""What the API refuses before it costs anything, how many writes run at once, and that no answer fails after a commit."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.api.problems import ApiError
from controlplane.api.routes import items_response, json_bytes
from controlplane.api.write_slots import WriteSlots
from controlplane.database import open_database, sqlite_url
from controlplane.registry.manifest import MAX_ERRORS_OF_DOCUMENT
from controlplane.registry.models import ENTRY
from tests.functional.api import DEMO, YAML, Api, binding, running_api

CRM = "/v1/namespaces/demo/mcp-servers/crm"
LONE = "\ud800"
ELSEWHERE = {"apiVersion": "legation/v1", "spec": {"endpoints": [{"url": "https://elsewhere.example.com/"}], "description": "moved"}}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        assert (await running.apply(DEMO + binding("demo", "viewers", "legation:viewer", "vera"))).status == 200
        yield running


async def _never_ending() -> AsyncIterator[bytes]:
    yield b"apiVersion: legation/v1\n"
    await asyncio.sleep(3600)


async def test_who_is_nobody_or_may_write_nothing_is_refused_before_the_body_is_read(api: Api):
    async def status(method: str, path: str, token: str) -> int:
        answer = await asyncio.wait_for(api.call(method, path, token=token, headers=YAML | {"If-Match": "*"}, data=_never_ending()), 60)
        return answer.status

    viewer = api.token("vera")

    assert await status("POST", "/v1/apply", "") == 401
    assert await status("POST", "/v1/apply", "nonsense") == 401
    assert await status("POST", "/v1/apply", viewer) == 403
    assert await status("PUT", CRM, viewer) == 403


async def test_the_api_answers_others_while_a_manifest_of_faults_is_read(api: Api):
    server = {"apiVersion": "legation/v1", "kind": "McpServer", "metadata": {"namespace": "demo", "name": "x"}}
    faulty = json.dumps(server | {"spec": {f"key{number}": 1 for number in range(1000)}})

    started = time.monotonic()
    applied, *health = await asyncio.gather(api.apply(faulty), *(api.call("GET", "/healthz", token="") for _ in range(5)))

    print(f"all answered after {time.monotonic() - started:.2f} s")
    assert applied.status == 422
    assert len(applied.body["errors"]) == MAX_ERRORS_OF_DOCUMENT + 1
    assert {answer.status for answer in health} == {200}


async def test_one_operator_holds_a_part_of_the_slots_and_others_the_rest():
    slots = WriteSlots(at_once=3, of_one_operator=2)
    working: list[str] = []
    release = asyncio.Event()

    async def write(operator: str) -> None:
        async with slots.admitted(operator), slots.working(operator):
            working.append(operator)
            await release.wait()

    tasks = [asyncio.create_task(write(operator)) for operator in ("greedy",) * 10 + ("modest",)]
    await asyncio.sleep(0.01)
    held = sorted(working)
    release.set()
    await asyncio.gather(*tasks)

    assert held == ["greedy", "greedy", "modest"]
    assert len(working) == 11


async def test_who_waits_with_too_many_writes_is_told_to_wait():
    slots = WriteSlots(admitted_of_one_operator=2)

    async with slots.admitted("greedy"), slots.admitted("greedy"), slots.admitted("modest"):
        with pytest.raises(ApiError) as refused:
            async with slots.admitted("greedy"):
                pass
    async with slots.admitted("greedy"):
        pass

    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})


async def test_writes_run_four_at_a_time_and_reads_go_on(api: Api, monkeypatch: pytest.MonkeyPatch):
    running, most, release = [0], [0], threading.Event()
    real = api.service.apply

    def slow(*arguments: Any, **options: Any) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        release.wait(60)
        running[0] -= 1
        return real(*arguments, **options)

    monkeypatch.setattr(api.service, "apply", slow)
    editors = [binding("demo", f"editor-{n}", "legation:editor", f"editor-{n}") for n in range(3)]
    release.set()
    assert (await api.apply("".join(editors))).status == 200
    release.clear()

    writes = [asyncio.create_task(api.apply(DEMO, query="?dry_run=true", token=api.token(f"editor-{n % 3}"))) for n in range(9)]
    await asyncio.sleep(0.3)
    listed = await asyncio.wait_for(api.call("GET", "/v1/mcp-servers"), 60)
    release.set()
    await asyncio.gather(*writes)

    assert listed.status == 200
    assert most[0] <= 4


@pytest.mark.parametrize("kind", ["labels", "annotations"])
async def test_half_a_surrogate_pair_is_refused_and_lists_stay_whole(api: Api, kind: str):
    document = (await api.call("GET", CRM)).body
    spoiled = document | {"metadata": {"namespace": "demo", "name": "crm", kind: {"a": LONE}}}
    body = json.dumps(spoiled).encode()

    put = await api.call("PUT", CRM, headers={"If-Match": "*", "Content-Type": "application/json"}, data=body)
    applied = await api.call("POST", "/v1/apply", headers={"Content-Type": "application/json"}, data=body)
    listed = await api.call("GET", "/v1/mcp-servers")

    assert (put.status, applied.status, listed.status) == (400, 422, 200)
    assert "surrogate" in put.body["detail"]
    assert "surrogate" in applied.body["errors"][0]["message"]
    assert api.live.state.revision == 2


async def test_a_damaged_row_is_shown_as_such_and_hides_no_other(api: Api):
    await api.apply(DEMO.replace("name: crm}\nspec: {endpoints", "name: other}\nspec: {endpoints"))
    engine = open_database(sqlite_url(api.deployment.database_file))
    with engine.begin() as connection:
        connection.execute(ENTRY.update().where(ENTRY.c.name == "crm", ENTRY.c.kind == "McpServer").values(labels=["not a mapping"]))
        connection.execute(ENTRY.update().where(ENTRY.c.name == "other").values(annotations={"a": LONE}))
    engine.dispose()

    listed = await api.call("GET", "/v1/mcp-servers")
    one = await api.call("GET", CRM)

    assert (listed.status, one.status) == (200, 200)
    conditions = {item["metadata"]["name"]: item["status"]["conditions"][0] for item in listed.body["items"]}
    assert (conditions["crm"]["type"], conditions["crm"]["status"]) == ("Readable", "False")
    assert conditions["other"]["type"] == "Probed"


@pytest.mark.parametrize("broken", ["_result", "written_document"])
async def test_an_answer_that_cannot_be_made_changes_nothing(api: Api, monkeypatch: pytest.MonkeyPatch, broken: str):
    def fail(*_: object) -> object:
        raise RuntimeError("no answer")

    before = api.live.state.revision
    monkeypatch.setattr(f"controlplane.registry.service.{broken}", fail)
    document = ELSEWHERE

    answer = await api.call("PUT", CRM, headers={"If-Match": "*"}, json=document)

    assert answer.status == 500
    assert api.live.refresh().revision == before


async def test_the_answer_of_a_put_is_what_a_read_gives(api: Api):
    document = ELSEWHERE

    created = await api.call("PUT", CRM.replace("crm", "fresh"), json=document)
    replaced = await api.call("PUT", CRM, headers={"If-Match": "*"}, json=document)
    read = await api.call("GET", CRM)

    assert (created.status, replaced.status) == (201, 200)
    assert replaced.body == read.body
    assert replaced.headers["ETag"] == read.headers["ETag"]


async def test_a_reason_for_the_history_must_be_text(api: Api):
    host, port = api.client.host, api.client.port
    head = f"POST /v1/apply?message=a%1Bb HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.token()}\r\n".encode()
    raw = head.replace(b"%1B", b"\xff") + b"Content-Type: application/yaml\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    escaped = await api.apply(DEMO, query="?message=a%1Bb")
    answered = await asyncio.to_thread(_exchange, host, port, raw)

    assert (escaped.status, escaped.body["detail"]) == (400, "?message holds the control character U+001B")
    assert answered.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400", b"HTTP/1.1 422"))


def _exchange(host: str, port: int | None, raw: bytes) -> bytes:
    with socket.create_connection((host, port or 0), 5) as connection:
        connection.sendall(raw)
        return connection.recv(4096)


def test_text_that_cannot_be_encoded_is_escaped_and_the_rest_is_not():
    assert json_bytes({"a": "ä"}) == '{"a":"ä"}'.encode()
    assert json_bytes({"a": LONE}) == b'{"a":"\\ud800"}'
    assert (
        items_response([{"a": "ä"}, {"a": LONE}], {"revision": 3}).body
        == '{"items":[{"a":"ä"},'.encode() + b'{"a":"\\ud800"}],"revision":3}'
    )
    assert items_response([], {"revision": 3}).body == b'{"items":[],"revision":3}'
