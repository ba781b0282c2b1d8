"""Envoy's log of what it refused by itself: every line on the record, once if nothing breaks, at least once if something does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

import pytest

from controlplane import edge_log
from extauthz.audit.edge_line import EDGE_REASONS, parse_edge_line
from extauthz.audit.edge_reader import EdgeLogReader
from extauthz.audit.envoy_line import MAX_LINE_BYTES
from extauthz.audit.line_reader import CHUNK_BYTES
from extauthz.audit.outcome import outcome_log_beside
from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord
from extauthz.audit.wal import AuditLog
from extauthz.errors import AuditError
from tests.wal import written_records

NOW = 1_790_000_000


def line(**fields: object) -> bytes:
    """A line as Envoy writes it."""
    usual = {
        "address": "127.0.0.1",
        "at": f"{NOW}.000123",
        "bytes": 0,
        "closed": None,
        "details": "http1.codec_error",
        "flags": "DPE",
        "method": "POST",
        "path": "/servers/demo/crm/mcp",
        "protocol": "HTTP/1.1",
        "request": "a-b",
        "status": 400,
        "user_agent": "curl",
    }
    return json.dumps(usual | fields).encode()


def parsed(**fields: object) -> AuditRecord:
    record = parse_edge_line(line(**fields), decision_id="d")
    assert record is not None
    return record


def test_a_line_becomes_an_edge_rejected_record() -> None:
    record = parsed(bytes=12)

    assert (record.event, record.decision, record.reason) == (AuditEvent.EDGE_REJECTED, AuditDecision.DENY, "http_malformed")
    assert (record.namespace, record.mcp_server, record.path) == ("demo", "crm", "/servers/demo/crm/mcp")
    assert (record.http_method, record.http_status, record.body_bytes) == ("POST", 400, 12)
    assert (record.downstream_address, record.user_agent, record.envoy_request_id) == ("127.0.0.1", "curl", "a-b")
    assert record.at_unix_us == NOW * 1_000_000 + 123
    assert record.sentence.endswith("Envoy: http1.codec_error")
    assert record.principal is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"details": "http1.headers_too_large", "status": 431}, "headers_too_large"),
        ({"details": "http2.too_many_headers", "status": 0}, "headers_too_large"),
        ({"details": "http2.outbound_frames_flood", "status": 0}, "http_flood"),
        ({"details": "low_version", "status": 426}, "http_version_refused"),
        ({"details": "upgrade_failed", "flags": "-", "status": 403}, "upgrade_refused"),
        ({"details": "route_not_found", "flags": "NR", "method": "CONNECT", "path": None, "status": 404}, "connect_refused"),
        ({"details": "path_normalization_failed", "flags": "-"}, "path_refused"),
        ({"details": "direct_response", "flags": "-", "status": 400}, "path_refused"),
        ({"details": "direct_response", "flags": "-", "status": 404}, "not_found"),
        ({"details": "direct_response", "flags": "-", "status": 508}, "loop_detected"),
        ({"details": "via_upstream", "flags": "-", "status": 415}, "content_type_refused"),
        ({"details": "request_payload_too_large", "flags": "-", "status": 413}, "body_too_large"),
        ({"details": "request_overall_timeout", "flags": "-", "status": 408}, "request_timeout"),
        ({"details": "local_rate_limited", "flags": "RL", "status": 429}, "rate_limited"),
        ({"details": "overload", "flags": "OM", "status": 503}, "gateway_overloaded"),
        ({"details": "ext_authz_error", "flags": "UAEX", "status": 503}, "authorizer_unavailable"),
        ({"details": "", "flags": "DPE", "status": 0}, "http_malformed"),
        ({"details": "something_new", "flags": "-", "status": 500}, "gateway_error"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_why_envoy_refused_becomes_a_stable_reason(fields: dict[str, object], reason: str) -> None:
    record = parsed(**fields)

    assert record.reason == reason
    assert record.sentence.startswith(EDGE_REASONS[reason])


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "/v1/status", "details": "via_upstream", "flags": "-", "status": 401},
        {"path": "/healthz", "details": "upstream_reset_before_response_started", "flags": "UF", "status": 503},
        {"path": "/v1", "details": "via_upstream", "flags": "-", "status": 404},
        {"path": "/v1/status", "details": "http2.remote_reset", "flags": "DR", "status": 401},
    ],
)
def test_what_the_api_answered_or_could_not_is_no_refusal_of_the_edge(fields: dict[str, object]) -> None:
    assert parse_edge_line(line(**fields), decision_id="d") is None


def test_a_refusal_on_a_path_of_the_api_is_recorded() -> None:
    assert parsed(path="/v1/status", details="upgrade_failed", flags="-", status=403).reason == "upgrade_refused"


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        b"{}x",
        b'"text"',
        line(extra="x"),
        line(status="400"),
        line(status=True),
        line(method=7),
        line(at="yesterday"),
        line(at=f"{NOW}.1"),
        b'{"method":"GET",' + line()[1:],
        b"\xff" + line(),
        line(path="x" * MAX_LINE_BYTES),
        b"[" * 10_000,
    ],
    ids=lambda value: value[:20].decode("latin-1"),
)
def test_anything_but_the_object_that_envoy_was_asked_for_is_refused(bad: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse_edge_line(bad, decision_id="d")


def test_what_a_stranger_chose_cannot_break_out_of_the_record() -> None:
    hostile = 'a"b\r\n{"decision":"allow"}\x1b[31m\u202e\u2028%DYNAMIC_METADATA%\x00'

    record = parsed(user_agent=hostile, path=f"/x{hostile}?access_token=secret", method="PO\nST", details=hostile)

    for text in (record.user_agent, record.path, record.method, record.sentence):
        assert text.isprintable()
    assert "secret" not in record.path
    assert len(parsed(user_agent="x" * 4000).user_agent) == 200


@contextlib.asynccontextmanager
async def reading(tmp_path: Path, **options: float):
    """A reader of `tmp_path/edge.jsonl` over a real write-ahead log."""
    audit = AuditLog(directory=tmp_path / "audit", writer_id="w")
    audit.open()
    position = tmp_path / "audit" / "position.json"
    try:
        yield EdgeLogReader(file=tmp_path / "edge.jsonl", position_file=position, log=audit, **options), audit
    finally:
        audit.close()


async def read_all(reader: EdgeLogReader) -> None:
    while await reader.read_on():
        pass


def recorded(tmp_path: Path) -> list[dict[str, object]]:
    return written_records(tmp_path / "audit")


def write(file: Path, *paths: str) -> None:
    with file.open("ab") as opened:
        for path in paths:
            opened.write(line(path=path) + b"\n")


def paths(tmp_path: Path) -> list[object]:
    return [record.get("path", record["reason"]) for record in recorded(tmp_path)]


async def test_every_line_is_put_on_the_record_once_and_a_new_reader_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    file = tmp_path / "edge.jsonl"
    write(file, "/1", "/2")
    async with reading(tmp_path) as (reader, audit):
        await read_all(reader)
        write(file, "/3")
        await read_all(reader)
        write(file, "/4")
        other = EdgeLogReader(file=file, position_file=tmp_path / "audit" / "position.json", log=audit)
        await read_all(other)

    assert paths(tmp_path) == ["/1", "/2", "/3", "/4"]
    assert {record["event"] for record in recorded(tmp_path)} == {"edge_rejected"}


async def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    file, whole = tmp_path / "edge.jsonl", line(path="/1") + b"\n"
    file.write_bytes(whole[:40])
    async with reading(tmp_path) as (reader, _):
        assert not await reader.read_on()
        file.write_bytes(whole)
        await read_all(reader)

    assert paths(tmp_path) == ["/1"]


async def test_nothing_is_lost_or_doubled_when_the_file_is_turned_over(tmp_path: Path) -> None:
    file = tmp_path / "edge.jsonl"
    write(file, "/1")
    async with reading(tmp_path) as (reader, _):
        await read_all(reader)
        write(file, "/2")
        file.rename(tmp_path / "edge.jsonl.1")
        write(tmp_path / "edge.jsonl.1", "/3")  # Envoy has not opened the new one yet
        await read_all(reader)
        write(tmp_path / "edge.jsonl.1", "/4")
        write(file, "/5")
        await read_all(reader)
        write(file, "/6")
        await read_all(reader)

    assert paths(tmp_path) == ["/1", "/2", "/3", "/4", "/5", "/6"]


async def test_a_file_that_was_turned_over_unread_is_a_gap_on_the_record(tmp_path: Path) -> None:
    file = tmp_path / "edge.jsonl"
    write(file, "/1")
    async with reading(tmp_path) as (reader, _):
        await read_all(reader)
        file.unlink()
        write(tmp_path / "edge.jsonl.1", "/3")
        write(file, "/4")
        await read_all(reader)

    assert paths(tmp_path) == ["/1", "/3", "/4", "edge_log_gap"]


async def test_a_file_that_was_cut_short_is_read_again_and_is_a_gap(tmp_path: Path) -> None:
    file = tmp_path / "edge.jsonl"
    write(file, "/1", "/2")
    async with reading(tmp_path) as (reader, _):
        await read_all(reader)
        file.write_bytes(line(path="/3") + b"\n")
        await read_all(reader)

    assert paths(tmp_path) == ["/1", "/2", "/3", "edge_log_gap"]


async def test_a_line_that_cannot_be_read_is_on_the_record_and_holds_up_nobody(tmp_path: Path) -> None:
    file = tmp_path / "edge.jsonl"
    file.write_bytes(b"nonsense\n" + line(path="/1") + b"\n" + b"x" * (CHUNK_BYTES + 10) + b"\n" + line(path="/2") + b"\n")
    async with reading(tmp_path) as (reader, _):
        await read_all(reader)

    assert [one for one in paths(tmp_path) if one in ("/1", "/2")] == ["/1", "/2"]
    assert "edge_line_unreadable" in paths(tmp_path)


async def test_a_flood_is_counted_exactly_and_not_stored(tmp_path: Path) -> None:
    write(tmp_path / "edge.jsonl", *(f"/{number}" for number in range(3000)))
    async with reading(tmp_path, per_second=0.0, burst=5.0) as (reader, _):
        await read_all(reader)

    records = recorded(tmp_path)
    singly = [record for record in records if "path" in record]
    assert len(singly) == 5
    assert sum(int(str(record.get("suppressed", 0))) for record in records) == 3000 - 5


async def test_a_refusal_whose_sender_resets_the_stream_is_still_one(tmp_path: Path) -> None:
    """Who probes could otherwise do so unseen: headers and a reset in one packet, and Envoy names only the reset."""
    reset = [line(details="http2.remote_reset", flags="DR", status=status, path="/probe") for status in (404, 400)]
    (tmp_path / "edge.jsonl").write_text("".join(json.dumps(json.loads(each), separators=(",", ":")) + "\n" for each in reset))

    async with reading(tmp_path) as (reader, _):
        await read_all(reader)

    assert [record["reason"] for record in recorded(tmp_path)] == ["not_found", "http_malformed"]


async def test_neither_cancelled_requests_nor_answers_of_the_api_count_as_refusals(tmp_path: Path) -> None:
    compact = {"separators": (",", ":")}
    cancelled = json.dumps(json.loads(line(details="http2.remote_reset", flags="DR", status=0)), **compact)
    answered = json.dumps(json.loads(line(path="/v1/status", details="via_upstream", flags="-", status=401)), **compact)
    (tmp_path / "edge.jsonl").write_text(f"{cancelled}\n{answered}\n" * 100)
    write(tmp_path / "edge.jsonl", "/1", "/2")
    async with reading(tmp_path, per_second=0.0, burst=1.0) as (reader, _):
        await read_all(reader)

    assert paths(tmp_path) == ["/1", "suppressed"]
    assert recorded(tmp_path)[1]["suppressed"] == 1


def test_a_reset_for_a_reason_is_a_refusal() -> None:
    assert parsed(details="http2.too_many_headers", flags="DR", status=0, path=None).reason == "headers_too_large"
    assert parsed(details="http2.unexpected_underscore", flags="DR", status=0, path=None).reason == "http_malformed"


class _Full:
    """A log whose disk is full until told otherwise."""

    def __init__(self, log: AuditLog) -> None:
        self.full = True
        self._log = log

    async def append(self, record: AuditRecord) -> None:
        if self.full:
            raise AuditError("the disk is full")
        await self._log.append(record)


async def test_lines_wait_while_the_record_cannot_be_written(tmp_path: Path) -> None:
    write(tmp_path / "edge.jsonl", "/1", "/2")
    async with reading(tmp_path) as (_, audit):
        log = _Full(audit)
        reader = EdgeLogReader(file=tmp_path / "edge.jsonl", position_file=tmp_path / "position.json", log=log)
        with pytest.raises(AuditError):
            await reader.read_on()
        assert not (tmp_path / "position.json").exists()
        log.full = False
        await read_all(reader)

    assert paths(tmp_path) == ["/1", "/2"]


async def test_a_line_that_is_read_twice_after_a_crash_keeps_its_decision_id(tmp_path: Path) -> None:
    write(tmp_path / "edge.jsonl", "/1", "/2")
    async with reading(tmp_path) as (reader, audit):
        await read_all(reader)
        (tmp_path / "audit" / "position.json").unlink()  # the crash came before the position was written
        again = EdgeLogReader(file=tmp_path / "edge.jsonl", position_file=tmp_path / "audit" / "position.json", log=audit)
        await read_all(again)

    ids = [str(record["decision_id"]) for record in recorded(tmp_path)]
    assert len(ids) == 4
    assert len(set(ids)) == 2


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - files have no event to wait for
            await asyncio.sleep(0.02)


async def test_two_readers_of_one_file_take_turns(tmp_path: Path) -> None:
    write(tmp_path / "edge.jsonl", "/1")
    async with reading(tmp_path) as (first, audit):
        second = EdgeLogReader(file=tmp_path / "edge.jsonl", position_file=tmp_path / "audit" / "position.json", log=audit)
        tasks = [asyncio.create_task(reader.run()) for reader in (first, second)]
        try:
            await until((tmp_path / "audit" / "position.json").exists)
            tasks[0].cancel()
            await asyncio.gather(tasks[0], return_exceptions=True)
            write(tmp_path / "edge.jsonl", "/2")
            await until(lambda: len(recorded(tmp_path)) == 2)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    assert paths(tmp_path) == ["/1", "/2"]


@contextlib.contextmanager
def admin(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    """An admin interface that answers one request."""
    asked: list[bytes] = []
    with socket(AF_UNIX, SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        thread.join(10)


def test_a_log_that_is_large_is_turned_over_and_envoy_opens_a_new_one(tmp_path: Path) -> None:
    file, name = tmp_path / "edge.jsonl", tmp_path / "a.sock"
    file.write_bytes(b"x" * 101)

    with admin(name, b"HTTP/1.1 200 OK\r\n\r\nOK\n") as asked:
        assert edge_log.turn_over(file, name, max_bytes=100)

    assert asked[0].startswith(b"POST /reopen_logs HTTP/1.1\r\n")
    assert edge_log.previous_log(file).read_bytes() == b"x" * 101
    assert file.read_bytes() == b""
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_small_log_stays_and_a_refusing_envoy_is_an_error(tmp_path: Path) -> None:
    file, name = tmp_path / "edge.jsonl", tmp_path / "a.sock"
    file.write_bytes(b"x" * 100)

    assert not edge_log.turn_over(file, name, max_bytes=100)
    with admin(name, b"HTTP/1.1 503 no\r\n\r\n"), pytest.raises(ConnectionError):
        edge_log.turn_over(file, name, max_bytes=99)


def test_an_envoy_that_could_not_be_told_of_the_new_log_is_told_at_the_next_look(tmp_path: Path) -> None:
    """It goes on writing into the file that was renamed, which nobody would look at again."""
    file, name = tmp_path / "edge.jsonl", tmp_path / "a.sock"
    file.write_bytes(b"x" * 101)
    with pytest.raises(OSError):
        edge_log.turn_over(file, name, max_bytes=100)
    assert not edge_log.turn_over(file, name, max_bytes=100), "nothing was written since"
    later = file.stat().st_mtime_ns + 1_000_000_000
    edge_log.previous_log(file).write_bytes(b"x" * 500)
    os.utime(edge_log.previous_log(file), ns=(later, later))

    with admin(name, b"HTTP/1.1 200 OK\r\n\r\nOK\n") as asked:
        assert not edge_log.turn_over(file, name, max_bytes=100)

    assert asked[0].startswith(b"POST /reopen_logs HTTP/1.1\r\n")
    assert edge_log.previous_log(file).stat().st_size == 500
    os.utime(edge_log.previous_log(file), ns=(0, 0))
    assert not edge_log.turn_over(file, name, max_bytes=100), "it was told"


def test_who_keeps_the_files_small_and_who_reads_them_mean_the_same_files() -> None:
    assert edge_log.logs_of(Path("/var/edge.jsonl")) == (Path("/var/edge.jsonl"), outcome_log_beside(Path("/var/edge.jsonl")))


def test_both_files_are_turned_over(tmp_path: Path) -> None:
    file, name = tmp_path / "edge.jsonl", tmp_path / "a.sock"
    edge_log.prepare(file)
    (tmp_path / "outcome.jsonl").write_bytes(b"x" * 11)

    with admin(name, b"HTTP/1.1 200 OK\r\n\r\nOK\n") as asked:
        assert edge_log.turn_over(file, name, max_bytes=10)

    assert (tmp_path / "outcome.jsonl.1").read_bytes() == b"x" * 11
    assert (tmp_path / "outcome.jsonl").stat().st_mode & 0o777 == 0o600
    assert asked
