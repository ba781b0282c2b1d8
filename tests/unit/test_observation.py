"""What the authorizer tells telemetry of a decision, and what it keeps to itself."""

from __future__ import annotations

import asyncio
import json

import pytest

from extauthz.catalog.server import Effect
from extauthz.check_input import CheckInput
from extauthz.decision import Decider, Decision
from extauthz.door import Door
from extauthz.errors import AuthenticationError, Reason
from extauthz.observation import Observation
from extauthz.telemetry import metric_name
from extauthz.telemetry.metric import Metric, MetricRegistry
from extauthz.telemetry.process import Telemetry
from extauthz.telemetry.span import Span, SpanKind, Tracer
from tests.unit.test_decision import Audit, Credentials, Policies, State, call

ENVOY = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CLIENT = "00-0af7651916cd43dd8448eb211c80319c-1111111111111111-01"


class World:
    """A decider and what telemetry was told."""

    def __init__(self, *permitted: str, audit: Audit | None = None, state: State | None = None) -> None:
        self.spans: list[Span] = []
        self.metrics = MetricRegistry()
        self.audit = audit or Audit()
        policies = Policies(*permitted)
        self.observation = Observation(Telemetry(tracer=Tracer(ratio=1.0, ended=self.spans.append), metrics=self.metrics))
        self.decider = Decider(
            state=state or State(policies),
            door=Door(gateway_url="https://gw.example"),
            credentials=Credentials(),
            audit=self.audit,
            timeout_ms=60_000,
            observation=self.observation,
        )

    async def decide(self, check: CheckInput) -> Decision:
        return await self.decider.decide(check)

    def numbers(self, metric: Metric) -> dict[tuple[str, ...], float]:
        """What is above zero."""
        sample = next(sample for sample in self.metrics.samples() if sample.metric is metric)
        return {labels: value for labels, value in sample.numbers.items() if value}


async def test_a_decision_is_a_server_span_below_envoys_question_and_not_below_what_the_client_sent() -> None:
    world = World("update")

    await world.decide(call(traceparent=ENVOY, headers={"traceparent": [CLIENT]}))

    (span,) = world.spans
    assert (span.name, span.kind, span.parent_span_id) == ("tools/call update", SpanKind.SERVER, "b7ad6b7169203331")
    assert span.error is None
    assert world.audit.records[0].trace_id == span.context.trace_id


async def test_without_a_question_that_says_so_the_header_is_the_parent() -> None:
    world = World("update")

    await world.decide(call(headers={"traceparent": [CLIENT]}))

    assert world.spans[0].parent_span_id == "1" * 16


async def test_what_the_client_names_in_the_body_is_linked() -> None:
    world, check = World("update"), call(traceparent=ENVOY)
    message = json.loads(check.body)
    message["params"]["_meta"] = {"traceparent": CLIENT}
    changed = call(traceparent=ENVOY, body=json.dumps(message).encode())

    await world.decide(changed)

    assert [link.span_id for link in world.spans[0].links] == ["1" * 16]


async def test_attributes_say_what_was_decided_and_nothing_of_the_caller_or_the_arguments() -> None:
    world = World("update")

    decision = await world.decide(call(traceparent=ENVOY, modern=True))

    attributes = world.spans[0].attributes
    assert attributes["legation.decision.id"] == decision.decision_id
    assert {
        "legation.decision": "allow", "legation.namespace": "demo", "legation.server": "crm", "legation.lane": "direct",
        "legation.effect": Effect.WRITE.value, "legation.principal.kind": "User", "legation.revision": 42,
        "gen_ai.tool.name": "update", "gen_ai.operation.name": "execute_tool", "mcp.method.name": "tools/call", "jsonrpc.request.id": "q1",
    }.items() <= attributes.items()  # fmt: skip
    for secret in ("s3cret", "ann", "okta", "marketing", "10.0.0.9", "Bearer"):
        assert secret not in repr(attributes), secret


async def test_a_denial_is_no_error_and_its_tool_is_named_only_if_it_is_one() -> None:
    world = World()

    await world.decide(call("update", traceparent=ENVOY))
    await world.decide(call("eyJhbGciOiJub25lIn0.my-own-token", traceparent=ENVOY))

    known, unknown = world.spans
    assert (known.name, known.attributes["legation.denial.reason"]) == ("tools/call update", "no_matching_permit")
    assert (unknown.name, unknown.attributes["legation.denial.reason"]) == ("tools/call", "tool_unknown")
    assert [span.error for span in world.spans] == [None, None]
    assert "eyJ" not in repr(unknown.attributes)
    assert world.numbers(metric_name.DENIALS) == {("no_matching_permit",): 1, ("tool_unknown",): 1}
    assert world.numbers(metric_name.TOOL_CALLS) == {("deny", "demo", "crm", "update"): 1}


@pytest.mark.parametrize(("request_id", "told"), [(7, "7"), ("abc", "abc"), ("x" * 100, ""), ("eyJhbGciOiJub25lIn0.e30", "")])
async def test_an_id_that_may_be_something_else_is_not_told(request_id: object, told: str) -> None:
    world, check = World("update"), call(traceparent=ENVOY)
    body = json.dumps({**json.loads(check.body), "id": request_id}).encode()

    await world.decide(call(traceparent=ENVOY, body=body))

    assert world.spans[0].attributes["jsonrpc.request.id"] == told


async def test_a_failure_of_ours_is_an_error() -> None:
    world = World("update", audit=Audit(broken=True))

    await world.decide(call(traceparent=ENVOY))

    (span,) = world.spans
    assert (span.error, span.attributes["error.type"], span.attributes["legation.decision"]) == ("audit_unavailable", "50301", "error")
    assert world.numbers(metric_name.DECISIONS) == {("error", "tools/call", "demo", "crm"): 1}


async def test_what_strangers_make_up_is_counted_under_no_name() -> None:
    state = State(Policies(), error=AuthenticationError(Reason.ACCESS_TOKEN_INVALID, "no"))
    world = World(state=state)

    for number in range(50):
        await world.decide(call(traceparent=ENVOY, path=f"/servers/made/up-{number}/mcp"))

    assert world.numbers(metric_name.DECISIONS) == {("deny", "", "", ""): 50}


async def test_metadata_of_places_that_are_made_up_is_counted_under_no_name() -> None:
    world = World()

    for kind in ("servers", "virtual"):
        for number in range(10):
            path = f"/.well-known/oauth-protected-resource/{kind}/made/up-{number}/mcp"
            await world.decide(call(http_method="GET", path=path, body=b"", headers={}, traceparent=ENVOY))

    assert world.numbers(metric_name.DECISIONS) == {("allow", "", "", ""): 20}
    assert "made" not in repr([(span.name, span.attributes) for span in world.spans])


async def test_a_decision_that_is_abandoned_ends_its_span_once() -> None:
    class Slow(Audit):
        waited = asyncio.Event()

        async def append(self, record: object) -> None:
            if not self.waited.is_set():
                self.waited.set()
                await asyncio.Event().wait()

    audit = Slow()
    world = World("update", audit=audit)
    deciding = asyncio.create_task(world.decide(call(traceparent=ENVOY)))
    await audit.waited.wait()
    deciding.cancel()
    await asyncio.gather(deciding, return_exceptions=True)

    assert [span.attributes["legation.denial.reason"] for span in world.spans] == ["decision_too_late"]


async def test_every_reason_is_counted_from_zero_so_that_its_first_time_is_an_increase() -> None:
    world = World()

    sample = next(sample for sample in world.metrics.samples() if sample.metric is metric_name.DENIALS)

    assert set(sample.numbers) == {(reason.value,) for reason in Reason if reason is not Reason.ALLOWED}


async def test_telemetry_that_fails_stops_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("update")
    monkeypatch.setattr("extauthz.observation.describe", lambda *_: 1 / 0)

    decision = await world.decide(call(traceparent=ENVOY))

    assert decision.passage is not None
