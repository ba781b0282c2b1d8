"""Telemetry on the whole product: one call is one trace, what is counted reaches a real Prometheus, and dashboards have something to show.

The tree of `docs/observability.md` is the one that is compared here.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from tests.e2e.prometheus import need, running_prometheus
from tests.e2e.stack import PATIENCE_SECONDS, ROOT, Stack, eventually, modern_headers, modern_request, running_stack
from tests.e2e.test_virtual_servers import DESK, DESK_DOCUMENT, POLICY, SERVERS
from tests.e2e.upstream import running_module
from tests.observability_files import OBSERVABILITY, expressions
from tests.otlp_receiver import ReceivedSpan, Receiver, otlp_receiver
from tests.pki import TestAuthority
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

SPANS_OF_A_CALL = 10
OF_THE_CLIENT = ("a" * 32, "b" * 16)
SECRET_HEADER = "receiver-key-" + "7" * 16
CHECK = "async envoy.service.auth.v3.Authorization.Check egress"


@dataclass(kw_only=True)
class Observed:
    """A running stack, its receiver of OTLP, and where each process answers Prometheus."""

    stack: Stack
    receiver: Receiver
    targets: list[str]
    docs: asyncio.Event  # set: the member `docs` goes away

    async def call(
        self, tool: str, arguments: dict[str, Any], *, trace_id: str, sampled: bool = True, who: str = "ann", mode: str = "2026-07-28"
    ) -> Any:
        """One call through the virtual server by the SDK's client, in a trace of its own."""
        token = self.stack.token(who, server=DESK, groups=("staff",) if who == "ann" else ())
        async with (
            create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http_client,
            Client(streamable_http_client(self.stack.endpoint(DESK), http_client=http_client), mode=mode) as client,
        ):
            await client.list_tools()  # the client asks for them by itself otherwise, within the trace
            http_client.headers["traceparent"] = f"00-{trace_id}-{secrets.token_hex(8)}-{'01' if sampled else '00'}"
            try:
                return await client.call_tool(tool, arguments, meta={"traceparent": f"00-{OF_THE_CLIENT[0]}-{OF_THE_CLIENT[1]}-01"})
            except MCPError as error:  # raised in here it would come out in a group
                failed = error
        raise failed

    async def spans(self, trace_id: str, count: int = SPANS_OF_A_CALL) -> list[ReceivedSpan]:
        """The spans of a trace, once so many have come."""

        async def come() -> list[ReceivedSpan]:
            found = self.receiver.trace(trace_id)
            return found if len(found) >= count else []

        try:
            return list(await eventually(come, what=f"{count} spans of a trace"))
        except AssertionError as error:
            tree = "\n".join(self.receiver.tree(trace_id))
            raise AssertionError(f"{error}; there are only\n{tree}") from error


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def observed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Observed]:
    directory = tmp_path_factory.mktemp("telemetry")
    headers = directory / "headers"
    headers.write_text(f"# of the receiver\nx-key: {SECRET_HEADER}\n")
    first = free_port()
    leave, left = asyncio.Event(), asyncio.Event()
    member = "tests.e2e.desk_member"
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def run_docs() -> None:
        async with running_module(member, "--name", "docs") as port:
            ready.set_result(port)
            await leave.wait()
        left.set()

    async with otlp_receiver() as receiver, running_module(member, "--name", "crm") as crm:
        serving = asyncio.create_task(run_docs())
        environ = {
            "LEGATION_OTLP_ENDPOINT": receiver.endpoint,
            "LEGATION_OTLP_HEADERS_FILE": str(headers),
            "LEGATION_OTLP_LOGS": "true",
            "LEGATION_METRICS_LISTEN": f"127.0.0.1:{first}",
        }
        async with running_stack(directory, environ=environ) as stack:
            await stack.apply(SERVERS.format(crm=crm, docs=await ready) + POLICY)
            await stack.accept("demo/crm")
            await stack.accept("demo/docs")
            await stack.apply(DESK_DOCUMENT)
            targets = [f"127.0.0.1:{first + number}" for number in range(3)]
            yield Observed(stack=stack, receiver=receiver, targets=targets, docs=leave)
        leave.set()
        await serving
    assert left.is_set()


def only(spans: list[ReceivedSpan], service: str, name: str, **attributes: Any) -> ReceivedSpan:
    """The one span of a service with this name and these attributes."""
    wanted = {key.replace("_", "."): value for key, value in attributes.items()}
    found = [span for span in spans if (span.service, span.name) == (service, name) and wanted.items() <= span.attributes.items()]
    assert len(found) == 1, [(span.service, span.name, span.attributes) for span in spans]
    return found[0]


async def test_one_call_through_a_virtual_server_is_one_tree_of_spans(observed: Observed) -> None:
    trace_id = secrets.token_hex(16)

    result = await observed.call("find_customer", {"text": "x"}, trace_id=trace_id)
    await observed.spans(trace_id)

    assert result.content[0].text == "crm search x 10"
    assert observed.receiver.tree(trace_id) == documented_tree()


def documented_tree() -> list[str]:
    """What docs/observability.md shows, without its remarks."""
    text = (ROOT / "docs" / "observability.md").read_text()
    block = re.search(r"```\n(legation-envoy server POST ingress.*?)```", text, re.DOTALL)
    assert block is not None
    return [line.split("  #")[0].rstrip() for line in block[1].splitlines()]


async def test_each_span_says_what_its_process_knows(observed: Observed) -> None:
    trace_id = secrets.token_hex(16)

    await observed.call("find_customer", {"text": "x"}, trace_id=trace_id)
    spans = await observed.spans(trace_id)

    outer = only(spans, "legation-authorizer", "tools/call search", legation_listener="ingress")
    inner = only(spans, "legation-authorizer", "tools/call search", legation_listener="egress")
    common = {
        "mcp.method.name": "tools/call",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "search",
        "mcp.protocol.version": "2026-07-28",
        "legation.decision": "allow",
        "legation.namespace": "demo",
        "legation.server": "crm",
        "legation.virtual_server": "demo/desk",
        "legation.principal.kind": "User",
        "legation.effect": "read",
        "legation.era": "modern",
    }
    assert common.items() <= outer.attributes.items()
    assert common.items() <= inner.attributes.items()
    assert (outer.attributes["legation.lane"], inner.attributes["legation.lane"]) == ("aggregate", "direct")
    assert inner.attributes["legation.decision.parent_id"] == outer.attributes["legation.decision.id"]
    assert outer.attributes["legation.revision"] > 0
    served = only(spans, "legation-aggregator", "tools/call find_customer")
    called = only(spans, "legation-aggregator", "tools/call search")
    assert (served.kind, called.kind) == ("server", "client")
    assert served.attributes["legation.decision.id"] == outer.attributes["legation.decision.id"]
    assert (called.attributes["legation.namespace"], called.attributes["legation.server"]) == ("demo", "crm")
    assert {span.service for span in spans if span.links == (OF_THE_CLIENT,)} == {"legation-authorizer", "legation-aggregator"}
    doors = [span for span in spans if span.name in {"POST ingress", "POST egress"}]
    decisions = [outer.attributes["legation.decision.id"], inner.attributes["legation.decision.id"]]
    assert sorted(span.attributes["legation.decision.id"] for span in doors) == sorted(decisions)
    assert not [span for span in spans if span.error]
    assert all(span.start_ns <= span.end_ns for span in spans)


async def test_a_legacy_clients_call_is_the_same_tree(observed: Observed) -> None:
    trace_id = secrets.token_hex(16)

    await observed.call("find_customer", {"text": "x"}, trace_id=trace_id, mode="legacy")

    async def come() -> bool:
        return documented_tree() == subtree(observed.receiver, trace_id)

    await eventually(come, what=f"the tree of a legacy call, {observed.receiver.tree(trace_id)}")


def subtree(receiver: Receiver, trace_id: str) -> list[str]:
    """The tree below the request whose decision is about a call; the end of the session is in the same trace."""
    lines = receiver.tree(trace_id)
    roots = [number for number, line in enumerate(lines) if not line.startswith(" ")]
    trees = [lines[begin:end] for begin, end in zip(roots, [*roots[1:], len(lines)], strict=True)]
    return next((tree for tree in trees if any("tools/call" in line for line in tree)), [])


async def test_a_call_that_needs_no_aggregator_is_a_short_tree(observed: Observed) -> None:
    trace_id = secrets.token_hex(16)
    token = observed.stack.token("ann", server="demo/crm", groups=("staff",))
    headers = {**modern_headers("tools/call", "search"), "authorization": f"Bearer {token}"}
    headers["traceparent"] = f"00-{trace_id}-{'d' * 16}-01"
    body = modern_request("tools/call", {"name": "search", "arguments": {"text": "x"}})

    answer = await observed.stack.request("POST", "/servers/demo/crm/mcp", json_body=body, headers=headers)
    spans = await observed.spans(trace_id, 4)

    assert answer.status == 200, answer.text
    assert observed.receiver.tree(trace_id) == [*documented_tree()[:3], documented_tree()[3]]
    assert {span.parent_span_id for span in spans if span.name == "POST ingress"} == {"d" * 16}


async def test_the_record_of_a_call_names_its_trace(observed: Observed) -> None:
    trace_id = secrets.token_hex(16)

    await observed.call("find_customer", {"text": "x"}, trace_id=trace_id)
    spans = await observed.spans(trace_id)

    outer = only(spans, "legation-authorizer", "tools/call search", legation_listener="ingress")
    decision_id = outer.attributes["legation.decision.id"]

    async def recorded() -> Any:
        answer = await observed.stack.api("GET", "/v1/audit?limit=100")
        assert answer.status == 200, answer.text
        return [item for item in answer.json["items"] if item.get("decision_id") == decision_id and item.get("trace_id") == trace_id]

    await eventually(recorded, what="the record of the call")


async def test_no_span_holds_anything_of_the_caller_or_of_the_call_itself(observed: Observed) -> None:
    trace_id, marker = secrets.token_hex(16), f"marker-{secrets.token_hex(6)}"

    await observed.call("find_customer", {"text": marker}, trace_id=trace_id)
    spans = await observed.spans(trace_id)

    told = repr([(span.name, span.attributes) for span in spans])
    for secret in (marker, "ann", "staff", "Bearer", "eyJ", "python-httpx"):
        assert secret not in told, secret
    assert {span.attributes.get("peer.address", "-") for span in spans} == {"-"}
    assert {span.attributes["http.url"].count("/") for span in spans if "http.url" in span.attributes} == {2}


async def test_a_denied_call_says_why_and_is_no_error(observed: Observed) -> None:
    trace_id = secrets.token_hex(16)

    with pytest.raises(MCPError):
        await observed.call("update", {"text": "x"}, trace_id=trace_id, who="bob")
    spans = await observed.spans(trace_id, 3)

    denied = next(span for span in spans if span.service == "legation-authorizer")
    assert denied.attributes["legation.decision"] == "deny"
    assert denied.attributes["legation.denial.reason"] == "no_matching_permit"
    assert denied.attributes["rpc.response.status_code"] == "40300"
    assert denied.error is None
    assert "error.type" not in denied.attributes


async def test_a_tool_that_says_it_failed_is_an_error_of_that_kind(observed: Observed) -> None:
    trace_id = secrets.token_hex(16)

    result = await observed.call("find_customer", {"text": 7, "limit": "no number"}, trace_id=trace_id)
    spans = await observed.spans(trace_id)

    assert result.is_error
    served = only(spans, "legation-aggregator", "tools/call find_customer")
    assert (served.attributes["error.type"], served.error) == ("tool_error", "tool_error")


async def test_a_trace_that_the_caller_does_not_keep_is_kept_by_nobody(observed: Observed) -> None:
    unwanted, wanted = secrets.token_hex(16), secrets.token_hex(16)

    await observed.call("find_customer", {"text": "x"}, trace_id=unwanted, sampled=False)
    await observed.call("find_customer", {"text": "x"}, trace_id=wanted)
    await observed.spans(wanted)

    assert not observed.receiver.trace(unwanted)


async def test_operators_requests_are_traced_by_their_route(observed: Observed) -> None:
    trace_id = secrets.token_hex(16)

    await observed.stack.api("GET", "/v1/namespaces/demo/mcp-servers/crm", headers={"traceparent": f"00-{trace_id}-{'c' * 16}-01"})
    spans = await observed.spans(trace_id, 3)

    served = next(span for span in spans if span.service == "legation-control-plane")
    assert (served.kind, served.attributes["http.response.status_code"]) == ("server", 200)
    assert served.name == f"GET {served.attributes['http.route']}"
    assert "crm" not in served.attributes["http.route"]


async def test_log_lines_reach_the_receiver_and_our_requests_carry_its_key(observed: Observed) -> None:
    async def told() -> bool:
        return any("listening" in line.body.string_value for line in observed.receiver.lines)

    await eventually(told, what="a log line")
    assert SECRET_HEADER in {metadata.get("x-key") for metadata in observed.receiver.metadata}
    for file in (observed.stack.data_dir / "logs").iterdir():
        assert SECRET_HEADER not in file.read_text()


async def test_every_process_answers_prometheus_and_nothing_else(observed: Observed) -> None:
    async with aiohttp.ClientSession() as session:
        for target in observed.targets:
            async with session.get(f"http://{target}/metrics") as response:
                assert (response.status, response.content_type) == (200, "text/plain")
                assert "process_cpu_time_seconds_total" in await response.text()
            for method, path, status in (("GET", "/", 404), ("POST", "/metrics", 405)):
                async with session.request(method, f"http://{target}{path}") as response:
                    assert response.status == status


@pytest.mark.external
async def test_a_real_prometheus_scrapes_it_and_every_panel_of_the_dashboards_shows_something(observed: Observed, tmp_path: Path) -> None:
    need("prometheus")
    config = OBSERVABILITY / "prometheus.yaml"
    async with running_prometheus(tmp_path, config, observed.targets) as prometheus:

        async def scraped() -> bool:
            try:
                return len(await prometheus.query('up{job="legation"} == 1')) == len(observed.targets)
            except aiohttp.ClientError:
                return False

        await eventually(scraped, what="three processes in Prometheus")
        observed.docs.set()
        await eventually(lambda: fails(observed, "search", {"text": "x"}), what="a member that is away")
        await eventually(lambda: fails(observed, "update", {"text": "x"}, who="bob"), what="a denial")
        await observed.call("find_customer", {"text": 7, "limit": "no number"}, trace_id=secrets.token_hex(16))
        panels = expressions()
        assert len(panels) > 30
        for title, expression in panels:

            async def shown(expression: str = expression) -> bool:
                return bool(await prometheus.query(expression))

            await eventually(shown, seconds=PATIENCE_SECONDS, interval=0.5, what=f"panel {title!r}: {expression}")
        rules = await (await prometheus.session.get(f"{prometheus.url}/api/v1/rules")).json()
        healthy = {rule["name"] for group in rules["data"]["groups"] for rule in group["rules"] if rule["health"] != "err"}
        assert len(healthy) == (OBSERVABILITY / "alerts.yaml").read_text().count("- alert:")


async def test_a_receiver_with_tls_is_reached_by_envoy_and_by_us(tmp_path: Path) -> None:
    authority, stranger = TestAuthority(), TestAuthority("stranger")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    issued, foreign = authority.issue("127.0.0.1"), stranger.issue("127.0.0.1")
    good = grpc.ssl_server_credentials([(issued.key_pem, issued.chain_pem)])
    bad = grpc.ssl_server_credentials([(foreign.key_pem, foreign.chain_pem)])

    async with otlp_receiver(credentials=good) as receiver, otlp_receiver(credentials=bad) as impostor:
        for number, (place, expected) in enumerate(((impostor, set()), (receiver, {"legation-envoy", "legation-control-plane"}))):
            directory = tmp_path / str(number)
            directory.mkdir()
            environ = {"LEGATION_OTLP_ENDPOINT": place.endpoint, "LEGATION_OTLP_CA_FILE": str(tmp_path / "ca.pem")}
            async with running_stack(directory, environ=environ) as stack:

                async def told(stack: Stack = stack, place: Receiver = place, expected: set[str] = expected) -> bool:
                    assert (await stack.api("GET", "/v1/nodes")).status == 200
                    return {span.service for span in place.spans} >= expected

                await eventually(told, interval=0.2, what="spans by TLS")
                if place is impostor:
                    log = stack.data_dir / "logs" / "control-plane.log"
                    await eventually(lambda log=log: says(log, "telemetry is not delivered"), what="a word about it")
    assert not impostor.spans


async def says(log: Path, words: str) -> bool:
    return words in log.read_text()


async def fails(observed: Observed, tool: str, arguments: dict[str, Any], *, who: str = "ann") -> bool:
    """Whether the call ends in an error of JSON-RPC."""
    try:
        await observed.call(tool, arguments, trace_id=secrets.token_hex(16), who=who)
    except MCPError:
        return True
    return False
