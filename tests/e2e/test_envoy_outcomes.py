"""How requests end, as the real Envoy tells it over gRPC and in the file: one outcome per request that was let pass."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from extauthz.audit.outcome import ANSWER_HEADER, outcome_log_beside
from extauthz.audit.outcome_line import OutcomeLogReader
from extauthz.audit.outcome_log import OutcomeLog
from extauthz.audit.record import AuditEvent, AuditRecord
from extauthz.outcome_service import OutcomeService
from extauthz.wire import auth_pb2 as wire
from tests.e2e.envoy_world import PATIENCE_SECONDS, EnvoyWorld, Response, allow, deny, envoy_world, server_entry, state_of, upstream
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

GRPC, FILE = "grpc", "file"


class Outcomes:
    """The record of this test: outcomes by decision, awaited."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []
        self._arrived = asyncio.Event()

    def append_later(self, record: AuditRecord) -> bool:
        self.records.append(record)
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()
        return True

    async def append(self, record: AuditRecord) -> None:
        self.append_later(record)

    async def of(self, decision_id: str) -> AuditRecord:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := [each for each in self.records if each.decision_id == decision_id]):
                await self._arrived.wait()
        assert len(found) == 1
        return found[0]


class Arrivals:
    """How many slow calls have reached the upstream."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = asyncio.Condition()

    async def add(self) -> None:
        async with self._changed:
            self._count += 1
            self._changed.notify_all()

    async def next(self, before: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: self._count > before)

    def __int__(self) -> int:
        return self._count


class OutcomeWorld:
    """An Envoy whose authorizer gives each request the next decision id."""

    def __init__(self, world: EnvoyWorld, outcomes: Outcomes, service: OutcomeService, arrivals: Arrivals) -> None:
        self.envoy, self.outcomes, self.service, self.arrivals = world, outcomes, service, arrivals
        self.decisions = 0
        self.headers: dict[str, str] = {}
        self.lane = "direct"
        world.answer = self._answer

    @property
    def decision_id(self) -> str:
        return f"decision-{self.decisions}"

    def _answer(self, request: wire.CheckRequest) -> wire.CheckResponse:
        self.decisions += 1
        name = request.attributes.request.http.path.split("/")[3]
        server = self.envoy.servers.get(f"demo/{name}")
        if server is None:
            response = deny(404, "{}")
        else:
            cluster = "legation-aggregator" if self.lane == "aggregate" else server.cluster
            response = allow(cluster, lane=self.lane, path=server.path, headers=self.headers)
        response.dynamic_metadata.fields["decision_id"].string_value = self.decision_id
        for member, value in {"revision": "7", "namespace": "demo", "mcp_server": name}.items():
            response.dynamic_metadata.fields[member].string_value = value
        return response

    async def post(self, server: str, lane: str = "direct", body: bytes = b"{}", **headers: str) -> Response:
        self.lane, self.headers = lane, {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.envoy.request("POST", f"/servers/demo/{server}/mcp", data=body)

    async def last(self) -> AuditRecord:
        return await self.outcomes.of(self.decision_id)


async def _upstream(arrivals: Arrivals, request: web.Request) -> web.StreamResponse:
    wanted = request.headers.get("x-test", "")
    if wanted == "slow":
        await arrivals.add()
        await asyncio.sleep(3.0)
    if wanted == "cut":
        assert request.transport is not None
        request.transport.close()
    if wanted == "500":
        return web.Response(status=500, text="broken")
    if wanted == "stream":
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for number in range(20):
            await answer.write(b"data: %d\n\n" % number)
            await asyncio.sleep(0.01)
        return answer
    if wanted == "endless":
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b": .\n\n")
                await asyncio.sleep(0.05)
        return answer
    headers = {ANSWER_HEADER: wanted} if wanted.startswith(("error", "tool", "result")) else {}
    return web.Response(body=b"x" * 1000, headers=headers)


@contextlib.asynccontextmanager
async def outcome_world(directory: Path, outcome_log: str) -> AsyncIterator[OutcomeWorld]:
    arrivals = Arrivals()
    async with upstream(partial(_upstream, arrivals)) as port:
        entries = [server_entry("crm", f"http://127.0.0.1:{port}/mcp"), server_entry("gone", f"http://127.0.0.1:{free_port()}/mcp")]
        addresses = (f"127.0.0.1:{port}",)
        async with envoy_world(directory, state_of(1, *entries), outcome_log=outcome_log, aggregator_addresses=addresses) as world:
            outcomes = Outcomes()
            service = OutcomeService(OutcomeLog(outcomes))
            await world.start_processor(service.handler())
            yield OutcomeWorld(world, outcomes, service, arrivals)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OutcomeWorld]:
    async with outcome_world(tmp_path_factory.mktemp("outcomes"), "both") as world:
        yield world


async def test_a_call_that_was_passed_on_has_its_outcome(world: OutcomeWorld) -> None:
    answer = await world.post("crm", body=b"y" * 300)

    assert answer.status == 200
    record = await world.last()
    outcome = record.outcome
    assert outcome is not None
    assert (record.event, record.reason, record.revision) == (AuditEvent.OUTCOME, "completed", 7)
    assert (record.namespace, record.mcp_server) == ("demo", "crm")
    assert (outcome.http_status, outcome.request_bytes, outcome.response_bytes, outcome.source) == (200, 300, 1000, "grpc")
    assert outcome.upstream_address.startswith("127.0.0.1:")
    assert outcome.cluster.startswith("mcp-")
    assert 0 < outcome.first_byte_us <= outcome.duration_us
    assert (outcome.response_flags, outcome.response_code_details, outcome.upstream_attempts) == ("", "via_upstream", 1)
    assert (outcome.rpc_error_code, outcome.tool_error) == ("", False)


async def test_a_server_that_is_not_there_is_said_so(world: OutcomeWorld) -> None:
    answer = await world.post("gone")

    assert answer.status == 502
    record = await world.last()
    assert record.outcome is not None
    assert (record.reason, record.outcome.http_status) == ("upstream_unreachable", 502)
    assert "UF" in record.outcome.response_flags.split(",")
    assert record.outcome.upstream_failure


async def test_a_call_over_its_time_is_said_so(world: OutcomeWorld) -> None:
    answer = await world.post("crm", x_test="slow", x_envoy_upstream_rq_timeout_ms="1000")

    assert answer.status == 504
    record = await world.last()
    assert record.outcome is not None
    assert (record.reason, record.outcome.http_status, record.outcome.response_flags) == ("time_limit", 504, "UT")
    assert record.outcome.duration_us >= 900_000  # by a timer of its own
    assert record.outcome.first_byte_us == 0


async def test_an_upstream_that_breaks_off_is_said_so(world: OutcomeWorld) -> None:
    answer = await world.post("crm", x_test="cut")

    assert answer.status in {502, 503}
    record = await world.last()
    assert record.outcome is not None
    assert (record.reason, record.outcome.response_flags) == ("upstream_failed", "UC")


async def test_an_answer_of_failure_is_one(world: OutcomeWorld) -> None:
    await world.post("crm", x_test="500")

    record = await world.last()
    assert record.outcome is not None
    assert (record.reason, record.outcome.http_status, record.outcome.response_flags) == ("answered_with_error", 500, "")


async def test_a_client_that_goes_away_is_said_so(world: OutcomeWorld) -> None:
    before = int(world.arrivals)
    waiting = asyncio.create_task(world.post("crm", x_test="slow"))
    await world.arrivals.next(before)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting

    record = await world.last()
    assert record.outcome is not None
    assert (record.reason, record.outcome.http_status) == ("client_gone", 0)


async def test_a_stream_has_its_outcome_when_it_ends(world: OutcomeWorld) -> None:
    answer = await world.post("crm", lane="stream", x_test="stream")

    assert answer.status == 200
    record = await world.last()
    assert record.outcome is not None
    assert (record.reason, record.outcome.response_bytes) == ("completed", len(answer.body))
    assert record.outcome.first_byte_us < record.outcome.duration_us


async def test_a_stream_that_its_client_leaves_has_its_outcome_then(world: OutcomeWorld) -> None:
    world.lane, world.headers = "stream", {"x-test": "endless"}
    async with world.envoy.session.post(f"http://127.0.0.1:{world.envoy.port}/servers/demo/crm/mcp", data=b"{}") as response:
        await response.content.readany()
        assert all(record.decision_id != world.decision_id for record in world.outcomes.records)
        response.close()

    record = await world.last()
    assert record.outcome is not None
    assert (record.reason, record.outcome.http_status) == ("client_gone", 200)
    assert record.outcome.response_bytes > 0


@pytest.mark.parametrize(
    ("told", "code", "tool_error"), [("error=-32602", "-32602", False), ("tool_error", "", True), ("result", "", False)]
)
async def test_what_an_aggregators_answer_meant_is_noted_and_does_not_reach_the_client(
    world: OutcomeWorld, told: str, code: str, tool_error: bool
) -> None:
    answer = await world.post("crm", lane="aggregate", x_test=told)

    assert answer.status == 200
    assert ANSWER_HEADER not in answer.headers
    record = await world.last()
    assert record.outcome is not None
    assert (record.outcome.rpc_error_code, record.outcome.tool_error) == (code, tool_error)
    assert record.outcome.cluster == "legation-aggregator"


async def test_a_server_says_nothing_of_that_kind_about_itself(world: OutcomeWorld) -> None:
    answer = await world.post("crm", x_test="tool_error")

    assert ANSWER_HEADER not in answer.headers
    record = await world.last()
    assert record.outcome is not None
    assert not record.outcome.tool_error


async def test_a_refusal_has_no_outcome(world: OutcomeWorld) -> None:
    assert (await world.post("nobody")).status == 404
    refused = world.decision_id

    await world.post("crm")
    await world.last()  # what ended later has arrived
    assert all(record.decision_id != refused for record in world.outcomes.records)


async def test_the_file_says_the_same(world: OutcomeWorld) -> None:
    await world.post("crm", body=b"y" * 300)
    told = await world.last()
    assert told.outcome is not None

    line = await _line_of(outcome_log_beside(world.envoy.deployment.edge_log_file), world.decision_id)

    assert (line["status"], line["received"], line["sent"]) == (200, 300, 1000)


async def test_an_authorizer_that_was_away_is_told_again(tmp_path: Path) -> None:
    """What ends meanwhile is told to nobody: the control plane finds it to be missing."""
    async with outcome_world(tmp_path, "grpc") as world:
        await world.post("crm")
        await world.last()
        await world.envoy.stop_processor()
        await world.post("crm")
        await world.envoy.start_processor(world.service.handler())

        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(world.outcomes.records) < 3:
                await world.post("crm")  # the connection is made again after a moment
                await asyncio.sleep(0.3)


async def test_what_the_file_says_is_read_after_a_restart_and_once(tmp_path: Path) -> None:
    """The authorizer is away while calls end: gRPC loses that, the file does not."""
    async with outcome_world(tmp_path, "file") as world:
        log = world.outcomes
        reader = partial(
            OutcomeLogReader,
            file=outcome_log_beside(world.envoy.deployment.edge_log_file),
            position_file=tmp_path / "outcome-position.json",
            log=log,
        )
        async with following(reader(outcomes=OutcomeLog(log))):
            await world.post("crm", body=b"y" * 300)
            first = await world.last()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (tmp_path / "outcome-position.json").exists():  # noqa: ASYNC110 - written a moment later
                    await asyncio.sleep(0.01)
        await world.post("gone")
        await world.post("crm", lane="aggregate", x_test="error=-32602")
        missed = [f"decision-{number}" for number in (2, 3)]
        assert [record.decision_id for record in log.records] == ["decision-1"]

        async with following(reader(outcomes=OutcomeLog(log))):
            unreachable, failed = [await log.of(decision_id) for decision_id in missed]

    assert first.outcome is not None
    assert (first.namespace, first.mcp_server, first.revision) == ("demo", "crm", 7)
    assert (first.outcome.source, first.outcome.http_status, first.outcome.request_bytes) == ("file", 200, 300)
    assert 0 < first.outcome.first_byte_us <= first.outcome.duration_us
    assert unreachable.reason == "upstream_unreachable"
    assert failed.outcome is not None
    assert failed.outcome.rpc_error_code == "-32602"
    assert len(log.records) == 3


@contextlib.asynccontextmanager
async def following(reader: OutcomeLogReader) -> AsyncIterator[None]:
    task = asyncio.create_task(reader.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _line_of(file: Path, decision_id: str) -> dict[str, object]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for line in _lines(file):
                if line["decision"] == decision_id:
                    return line
            await asyncio.sleep(0.05)


def _lines(file: Path) -> Iterable[dict[str, object]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []
