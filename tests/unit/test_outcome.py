"""How requests ended: what Envoy tells, by either way, as records; each decision's once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest

from extauthz.audit.envoy_line import MAX_LINE_BYTES
from extauthz.audit.outcome import OUTCOME_REASONS, answer_outcome, outcome_of_entry
from extauthz.audit.outcome_line import OutcomeLogReader, parse_outcome_line
from extauthz.audit.outcome_log import OutcomeLog
from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord
from extauthz.errors import AuditError, ConfigurationError
from extauthz.outcome_service import SERVICE, OutcomeService
from extauthz.wire import accesslog_pb2 as wire
from tests.ports import free_port
from tests.unit.xds_world import GATEWAY

NOW = 1_790_000_000
ABOUT = {"namespace": "demo", "mcp_server": "crm", "virtual_server": "demo/desk"}
ID = "q83jv93jfkls93jfkls93A"


def entry(decision_id: str = ID, *, verdict: str = "allow", status: int = 200, **flags: bool) -> wire.HTTPAccessLogEntry:
    told = wire.HTTPAccessLogEntry()
    common = told.common_properties
    common.start_time.FromSeconds(NOW)
    common.time_to_first_upstream_rx_byte.FromMicroseconds(1000)
    common.time_to_last_downstream_tx_byte.FromMicroseconds(1500)
    common.duration.FromMicroseconds(1400)
    common.upstream_remote_address.socket_address.address = "2001:db8::1"
    common.upstream_remote_address.socket_address.port_value = 9101
    common.upstream_cluster = "mcp-1"
    common.upstream_request_attempt_count = 2
    decided = common.metadata.filter_metadata["envoy.filters.http.ext_authz"].fields
    for name, value in {"verdict": verdict, "decision_id": decision_id, "revision": "12", **ABOUT}.items():
        decided[name].string_value = value
    for name, value in flags.items():
        setattr(common.response_flags, name, value)
    told.request.request_body_bytes = 300
    told.response.response_code.value = status
    told.response.response_body_bytes = 1000
    told.response.response_code_details = "via_upstream"
    return told


def with_answer(answer: str) -> wire.HTTPAccessLogEntry:
    told = entry()
    told.common_properties.metadata.filter_metadata["legation.answer"].fields["outcome"].string_value = answer
    return told


def record_of(told: wire.HTTPAccessLogEntry) -> AuditRecord:
    record = outcome_of_entry(told)
    assert record is not None
    return record


def line(**fields: object) -> bytes:
    """A line as Envoy writes it."""
    usual = {
        "address": "127.0.0.1:9101",
        "answer": None,
        "at": f"{NOW}.000123",
        "attempts": 1,
        "cluster": "mcp-1",
        "decision": ID,
        "details": "via_upstream",
        "duration": 1519,
        "failure": None,
        "first": 1435,
        "flags": "-",
        "namespace": "demo",
        "received": 300,
        "revision": "12",
        "sent": 1000,
        "server": "crm",
        "status": 200,
        "virtual": None,
        "whole": 1,
    }
    return json.dumps(usual | fields).encode()


def test_an_entry_becomes_an_outcome() -> None:
    record = record_of(entry())

    assert (record.event, record.decision, record.reason) == (AuditEvent.OUTCOME, AuditDecision.ALLOW, "completed")
    assert (record.decision_id, record.revision, record.at_unix_us) == (ID, 12, NOW * 1_000_000 + 1500)
    assert (record.namespace, record.mcp_server, record.virtual_server) == ("demo", "crm", "demo/desk")
    outcome = record.outcome
    assert outcome is not None
    assert (outcome.http_status, outcome.request_bytes, outcome.response_bytes, outcome.upstream_attempts) == (200, 300, 1000, 2)
    assert (outcome.duration_us, outcome.first_byte_us, outcome.cluster) == (1500, 1000, "mcp-1")
    assert (outcome.upstream_address, outcome.source) == ("[2001:db8::1]:9101", "grpc")


def test_a_line_becomes_the_same() -> None:
    record = parse_outcome_line(line(flags="UF,URX", status=503, failure="refused"))

    assert (record.decision_id, record.reason, record.at_unix_us) == (ID, "upstream_unreachable", NOW * 1_000_000 + 123 + 1519)
    assert (record.namespace, record.mcp_server, record.virtual_server, record.revision) == ("demo", "crm", "", 12)
    outcome = record.outcome
    assert outcome is not None
    assert (outcome.http_status, outcome.response_flags, outcome.upstream_failure, outcome.source) == (503, "UF,URX", "refused", "file")
    assert (outcome.duration_us, outcome.first_byte_us, outcome.request_bytes, outcome.response_bytes) == (1519, 1435, 300, 1000)


@pytest.mark.parametrize(
    ("flags", "status", "reason"),
    [
        ((), 200, "completed"),
        ((), 404, "answered_with_error"),
        ((), 0, "answered_with_error"),
        (("upstream_request_timeout",), 504, "time_limit"),
        (("upstream_max_stream_duration_reached",), 200, "time_limit"),
        (("downstream_connection_termination",), 0, "client_gone"),
        (("downstream_remote_reset",), 200, "client_gone"),
        (("upstream_connection_failure", "upstream_retry_limit_exceeded"), 503, "upstream_unreachable"),
        (("upstream_overflow",), 503, "upstream_unreachable"),
        (("upstream_connection_termination",), 200, "upstream_failed"),
        (("upstream_remote_reset",), 200, "upstream_failed"),
    ],
)
def test_how_it_ended_is_one_word(flags: tuple[str, ...], status: int, reason: str) -> None:
    assert record_of(entry(status=status, **dict.fromkeys(flags, True))).reason == reason
    assert reason in OUTCOME_REASONS


@pytest.mark.parametrize(
    ("code", "failed", "told"),
    [(None, False, "result"), (None, True, "tool_error"), (-32602, False, "error=-32602"), (10**30, False, "error=0")],
)
def test_what_an_answer_meant_comes_as_an_aggregator_says_it(code: int | None, failed: bool, told: str) -> None:
    assert answer_outcome(error_code=code, tool_error=failed) == told

    outcome = record_of(with_answer(told)).outcome
    assert outcome is not None
    assert (outcome.rpc_error_code, outcome.tool_error) == (told.partition("=")[2], failed)


def test_refusals_and_entries_of_what_has_not_ended_are_none() -> None:
    assert outcome_of_entry(entry(verdict="deny")) is None
    assert outcome_of_entry(wire.HTTPAccessLogEntry()) is None
    going_on = entry()
    going_on.common_properties.intermediate_log_entry = True
    assert outcome_of_entry(going_on) is None


@pytest.mark.parametrize(
    "told", [entry(""), entry("a b"), entry("x" * 65), entry("a\nb"), with_answer("error="), with_answer("ok"), with_answer("error=1 ")]
)
def test_what_our_envoys_do_not_send_is_refused(told: wire.HTTPAccessLogEntry) -> None:
    with pytest.raises(ValueError):
        outcome_of_entry(told)


def test_an_entry_without_a_time_is_refused() -> None:
    told = entry()
    told.common_properties.start_time.Clear()
    told.common_properties.time_to_last_downstream_tx_byte.Clear()
    told.common_properties.duration.Clear()
    with pytest.raises(ValueError):
        outcome_of_entry(told)


def test_texts_are_bounded_and_printable() -> None:
    told = entry()
    told.common_properties.upstream_transport_failure_reason = "a\x1b[31m" + "x" * 500
    told.response.response_code_details = "b\n" * 500

    outcome = record_of(told).outcome
    assert outcome is not None
    assert len(outcome.upstream_failure) == 200
    assert outcome.upstream_failure.isprintable()
    assert outcome.response_code_details.isprintable()


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        b"nonsense",
        b"\xff",
        line(more=1),
        line(status="200"),
        line(status=True),
        line(sent=-1),
        line(sent=2**63),
        line(decision=None),
        line(decision="a b"),
        line(at="now"),
        line(at=None),
        line(answer="?"),
        line(flags=1),
        line()[:-1] + b',"status":200}',
        line(details="x" * MAX_LINE_BYTES),
        b"[" * 5000,
    ],
    ids=lambda value: value[:20].decode("latin-1"),
)
def test_a_line_that_is_not_the_one_object_is_refused(bad: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse_outcome_line(bad)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outcome_log": "syslog"}, "LEGATION_OUTCOME_LOG must be one of grpc, file, both, none"),
        ({"outcome_log": "file", "edge_log": ""}, "needs LEGATION_EDGE_LOG_FILE"),
        ({"outcome_log": "both", "edge_log": ""}, "needs LEGATION_EDGE_LOG_FILE"),
    ],
)
def test_a_way_to_tell_outcomes_that_cannot_be_stops_the_start(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(GATEWAY, **changes)


class Kept:
    """A log that keeps what it is given; full while `full`."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []
        self.full = False

    async def append(self, record: AuditRecord) -> None:
        if self.full:
            raise AuditError("the disk is full")
        self.records.append(record)

    def append_later(self, record: AuditRecord) -> bool:
        if not self.full:
            self.records.append(record)
        return not self.full

    @property
    def ids(self) -> list[str]:
        return [record.decision_id for record in self.records]


async def test_an_outcome_that_comes_by_both_ways_is_written_once(tmp_path: Path) -> None:
    kept = Kept()
    outcomes = OutcomeLog(kept)
    (tmp_path / "outcome.jsonl").write_bytes(line() + b"\n" + line(decision="another") + b"\n")
    reader = OutcomeLogReader(file=tmp_path / "outcome.jsonl", position_file=tmp_path / "p.json", log=kept, outcomes=outcomes)

    outcomes.put([record_of(entry())])
    while await reader.read_on():
        pass
    outcomes.put([record_of(entry("another"))])

    assert kept.ids == [ID, "another"]


async def test_only_the_latest_are_remembered() -> None:
    outcomes = OutcomeLog(kept := Kept(), remembered=2)

    for decision_id in ("one", "two", "three", "two", "one"):
        outcomes.put([record_of(entry(decision_id))])

    assert kept.ids == ["one", "two", "three", "one"]


async def test_a_full_log_holds_up_nobody_and_the_outcome_may_come_again() -> None:
    outcomes = OutcomeLog(kept := Kept())
    kept.full = True
    outcomes.put([record_of(entry())])
    kept.full = False

    outcomes.put([record_of(entry())])

    assert kept.ids == [ID]


async def test_lines_wait_while_the_record_cannot_be_written(tmp_path: Path) -> None:
    kept = Kept()
    (tmp_path / "outcome.jsonl").write_bytes(line() + b"\n")
    reader = OutcomeLogReader(file=tmp_path / "outcome.jsonl", position_file=tmp_path / "p.json", log=kept, outcomes=OutcomeLog(kept))
    kept.full = True
    with pytest.raises(AuditError):
        await reader.read_on()
    kept.full = False

    while await reader.read_on():
        pass

    assert kept.ids == [ID]


async def test_lines_that_cannot_be_read_are_on_the_record_up_to_a_rate(tmp_path: Path) -> None:
    kept = Kept()
    (tmp_path / "outcome.jsonl").write_bytes(b"nonsense\n" * 1000 + line() + b"\n")
    reader = OutcomeLogReader(file=tmp_path / "outcome.jsonl", position_file=tmp_path / "p.json", log=kept, outcomes=OutcomeLog(kept))

    while await reader.read_on():
        pass

    reasons = [record.reason for record in kept.records]
    assert reasons[-1] == "completed"
    assert 20 <= reasons.count("edge_line_unreadable") < 1000


async def test_the_service_takes_streams_and_ends_them_when_it_leaves() -> None:
    kept = Kept()
    service = OutcomeService(OutcomeLog(kept))
    server, port = grpc.aio.server(), free_port()
    server.add_generic_rpc_handlers((service.handler(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_unary(
            f"/{SERVICE}/StreamAccessLogs",
            request_serializer=wire.StreamAccessLogsMessage.SerializeToString,
            response_deserializer=wire.StreamAccessLogsResponse.FromString,
        )()
        message = wire.StreamAccessLogsMessage()
        message.http_logs.log_entry.extend([entry("one"), entry("a b"), entry("denied", verdict="deny"), entry("two")])
        await call.write(message)
        async with asyncio.timeout(60):
            while len(kept.ids) < 2:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        service.leave()
        async with asyncio.timeout(60):
            assert await call == wire.StreamAccessLogsResponse()
    await server.stop(0)

    assert kept.ids == ["one", "two"]
