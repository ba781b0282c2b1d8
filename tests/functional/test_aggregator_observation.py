"""What the aggregator tells telemetry of requests and of calls of members, by how they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aggregator.observation import Observation
from extauthz.telemetry import metric_name
from extauthz.telemetry.metric import Metric, MetricRegistry
from extauthz.telemetry.process import Telemetry
from extauthz.telemetry.span import Span, SpanKind, Tracer
from tests.functional.aggregator_world import CRM, Member, aggregator_world
from tests.functional.test_aggregator_calls import REGISTRY, TEXT, answering

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNKEPT = PARENT[:-1] + "0"
FIND = ("tools/call", {"name": "find", "arguments": {"text": "s3cret", "limit": 1}})


class Told:
    """An observation and what it was told."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics = MetricRegistry()
        self.observation = Observation(Telemetry(tracer=Tracer(ratio=1.0, ended=self.spans.append), metrics=self.metrics))

    def one(self, kind: SpanKind) -> Span:
        (found,) = [span for span in self.spans if span.kind is kind]
        return found

    def labels(self, metric: Metric) -> list[tuple[str, ...]]:
        sample = next(sample for sample in self.metrics.samples() if sample.metric is metric)
        return [*sample.numbers, *sample.distributions]


def failing(code: int, status: int = 200) -> Member:
    async def member(_request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": {"code": code, "message": "no"}}, status=status)

    return member


async def test_a_call_is_a_server_span_and_below_it_a_client_span_whose_context_goes_on(tmp_path: Path) -> None:
    told, seen = Told(), []

    async def member(request: web.Request, _message: dict[str, Any]) -> dict[str, Any]:
        seen.append(request.headers["traceparent"])
        return TEXT

    async with aggregator_world(tmp_path, REGISTRY, members={"crm": member}, observation=told.observation) as world:
        await world.ask(*FIND, headers={"traceparent": PARENT}, meta={"traceparent": PARENT.replace("b7", "c8")})

    served, called = told.one(SpanKind.SERVER), told.one(SpanKind.CLIENT)
    assert (served.name, called.name) == ("tools/call find", "tools/call search")
    assert (served.context.trace_id, served.parent_span_id) == (PARENT[3:35], PARENT[36:52])
    assert called.parent_span_id == served.context.span_id
    assert seen == [called.context.traceparent]
    assert [link.span_id for link in served.links] == [PARENT[36:52].replace("b7", "c8")]
    assert "s3cret" not in repr((served.attributes, called.attributes))
    assert "local/ann" not in repr((served.attributes, called.attributes))
    assert told.labels(metric_name.SERVER_DURATION) == [("tools/call", "")]
    assert told.labels(metric_name.CLIENT_DURATION) == [("tools/call", "demo", "crm", "")]
    assert not told.labels(metric_name.UPSTREAM_FAILURES)


@pytest.mark.parametrize(
    ("member", "of_server", "of_client"),
    [
        (answering(**TEXT, isError=True), "tool_error", ""),
        (failing(-32603), "-32603", "-32603"),
        (failing(-32602), "", "-32602"),
        (failing(50200, 502), "50200", "50200"),
    ],
)
async def test_how_it_ended_is_told_as_the_conventions_say(tmp_path: Path, member: Member, of_server: str, of_client: str) -> None:
    told = Told()

    async with aggregator_world(tmp_path, REGISTRY, members={"crm": member}, observation=told.observation) as world:
        await world.ask(*FIND, headers={"traceparent": PARENT})

    served, called = told.one(SpanKind.SERVER), told.one(SpanKind.CLIENT)
    assert (served.attributes["error.type"], called.attributes["error.type"]) == (of_server, of_client)
    assert (served.error, called.error) == (of_server or None, of_client or None)
    assert told.labels(metric_name.UPSTREAM_FAILURES) == ([("demo", "crm", of_client)] if of_client else [])


async def test_what_is_not_offered_is_no_error_of_ours_and_its_name_is_not_told(tmp_path: Path) -> None:
    told = Told()

    async with aggregator_world(tmp_path, REGISTRY, observation=told.observation) as world:
        await world.ask("tools/list", headers={"traceparent": PARENT}, path="/virtual/demo/none/mcp")
        await world.ask("prompts/get", {"name": "none"}, headers={"traceparent": PARENT})

    assert [span.error for span in told.spans] == [None, None]


async def test_names_that_are_made_up_are_told_by_no_span(tmp_path: Path) -> None:
    told = Told()

    async with aggregator_world(tmp_path, REGISTRY, members={"crm": failing(-32602)}, observation=told.observation) as world:
        await world.ask("prompts/get", {"name": "hello"}, headers={"traceparent": PARENT})
        await world.ask("prompts/get", {"name": "made-up"}, headers={"traceparent": PARENT}, path=CRM)
        await world.ask("tools/call", {"name": "made-up", "arguments": {}}, headers={"traceparent": PARENT}, path=CRM)

    assert [span.name for span in told.spans] == ["prompts/get greet", "prompts/get hello", *["prompts/get"] * 2, *["tools/call"] * 2]
    assert "made-up" not in repr([(span.name, span.attributes) for span in told.spans])


async def test_a_trace_that_is_not_kept_goes_on_as_one_and_is_counted(tmp_path: Path) -> None:
    told, seen = Told(), []

    async def member(request: web.Request, _message: dict[str, Any]) -> dict[str, Any]:
        seen.append(request.headers["traceparent"])
        return TEXT

    async with aggregator_world(tmp_path, REGISTRY, members={"crm": member}, observation=told.observation) as world:
        await world.ask(*FIND, headers={"traceparent": UNKEPT})

    assert not told.spans
    assert seen[0].startswith(UNKEPT[:35])
    assert seen[0].endswith("-00")
    assert told.labels(metric_name.CLIENT_DURATION) == [("tools/call", "demo", "crm", "")]


async def test_requests_on_one_connection_do_not_inherit_each_others_trace(tmp_path: Path) -> None:
    told = Told()

    async with aggregator_world(tmp_path, REGISTRY, members={"crm": answering(**TEXT)}, observation=told.observation) as world:
        await world.ask("tools/list", headers={"traceparent": PARENT})
        await world.ask("tools/list")

    first, second = told.spans
    assert first.context.trace_id != second.context.trace_id
    assert second.parent_span_id == ""


async def test_without_telemetry_members_get_no_header_of_it(tmp_path: Path) -> None:
    seen = []

    async def member(request: web.Request, _message: dict[str, Any]) -> dict[str, Any]:
        seen.append("traceparent" in request.headers)
        return TEXT

    async with aggregator_world(tmp_path, REGISTRY, members={"crm": member}) as world:
        await world.ask(*FIND, headers={"traceparent": PARENT})

    assert seen == [False]
