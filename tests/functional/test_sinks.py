"""Sinks whose receivers fail at random: no record is lost, and what is sent twice has the same id. `make soak` sends more."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.audit.models import AUDIT_RECORD
from extauthz.v1 import audit_pb2 as pb
from tests.functional.sink_world import POISON, RECORDS, SinkWorld, sink_world
from tests.sink_receivers import Chaos, ElasticCluster, HttpReceiver, OtlpCollector, S3Bucket, SentinelEndpoint, SplunkCollector


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SinkWorld]:
    with sink_world(tmp_path) as world:
        yield world


def splunk_spec(url: str, **more: Any) -> dict[str, Any]:
    return {"splunkHec": {"url": url, "token": {"value": SplunkCollector.TOKEN}, "index": "legation", **more}}


def elastic_spec(url: str) -> dict[str, Any]:
    return {"elastic": {"url": url, "dataStream": "logs-legation.audit-default", "apiKey": {"value": ElasticCluster.API_KEY}}}


def sentinel_spec(url: str) -> dict[str, Any]:
    sentinel = SentinelEndpoint
    who = {"tenantId": sentinel.TENANT, "clientId": sentinel.CLIENT, "clientSecret": {"value": sentinel.SECRET}, "authority": url}
    return {"sentinel": {"endpoint": url, "ruleId": sentinel.RULE, "stream": sentinel.STREAM, **who}}


def otlp_spec(url: str) -> dict[str, Any]:
    return {"otlp": {"endpoint": f"{url}/v1/logs", "headers": {"x-api-key": {"value": "otlp-secret"}}}}


def receiver_of(name: str, chaos: Chaos | None) -> tuple[HttpReceiver, Any]:
    match name:
        case "splunk":
            return SplunkCollector(chaos, loses=0.1 if chaos else 0.0), splunk_spec
        case "elastic":
            return ElasticCluster(chaos, throttles_items=0.02 if chaos else 0.0), elastic_spec
        case "sentinel":
            return SentinelEndpoint(chaos), sentinel_spec
        case _:
            return OtlpCollector(chaos), otlp_spec


HTTP = ("splunk", "elastic", "sentinel", "otlp")


@pytest.mark.parametrize("name", HTTP)
async def test_nothing_is_lost_when_the_receiver_fails_at_random(world: SinkWorld, name: str) -> None:
    receiver, spec_of = receiver_of(name, Chaos(seed=7))
    ids = world.fill()

    async with receiver.listening(), world.delivering():
        uid = world.apply(**spec_of(receiver.url))
        await world.delivered(uid)

    assert set(receiver.kept) == set(ids)
    assert world.dead(uid) == []
    assert receiver.faults == []
    assert sum(receiver.chaos.happened.values()) > 0
    copies, chaos = sum(receiver.kept.values()) - len(ids), dict(receiver.chaos.happened)
    print(f"{name}: {len(ids)} records, {receiver.requests} requests, {copies} copies, {chaos}")


async def test_elasticsearch_keeps_each_record_once_however_often_it_is_sent(world: SinkWorld) -> None:
    cluster = ElasticCluster(Chaos(seed=3, cut_after=0.3))
    ids = world.fill()

    async with cluster.listening(), world.delivering():
        await world.delivered(world.apply(**elastic_spec(cluster.url)))

    assert cluster.conflicts > 0
    assert cluster.kept == dict.fromkeys(ids, 1)


@pytest.mark.parametrize("name", HTTP)
async def test_a_record_that_is_refused_for_good_is_a_dead_letter_and_the_others_arrive(world: SinkWorld, name: str) -> None:
    receiver, spec_of = receiver_of(name, None)
    good = world.fill(120)
    bad = world.write([{"tool": POISON}])
    more = world.fill(120)

    async with receiver.listening(), world.delivering() as sinks:
        uid = world.apply(**spec_of(receiver.url))
        await world.delivered(uid)

        assert world.dead(uid) == bad
        assert set(receiver.kept) == set(good + more)
        expected = [(1, 240, 0)]
        measured = lambda: [(found.dead, found.delivered, found.lag_records) for found in sinks.statistics()]  # noqa: E731
        await world.until(lambda: measured() == expected, "statistics do not say so")


@pytest.mark.parametrize("records", [1, 300])
async def test_a_receiver_that_is_away_holds_back_nothing_but_itself(world: SinkWorld, records: int) -> None:
    here, away = OtlpCollector(), OtlpCollector()
    away.is_away = True

    async with here.listening(), away.listening(), world.delivering() as sinks:
        reached, held = world.apply("here", **otlp_spec(here.url)), world.apply("away", **otlp_spec(away.url))
        ids = world.fill(records)
        await world.delivered(reached)
        await world.until(lambda: world.cursor(held)[1], "the fault is not shown")

        assert set(here.kept) == set(ids)
        assert world.cursor(held) == (0, "answered 503")
        faulty = {"system/here": False, "system/away": True}
        await world.until(lambda: {found.sink: found.is_faulty for found in sinks.statistics()} == faulty, "statistics do not say so")

        away.is_away = False
        await world.delivered(held)

    assert set(away.kept) == set(ids)
    assert world.cursor(held)[1] == ""


async def test_a_sink_that_is_set_up_wrongly_loses_nothing_and_says_what_is_wrong(world: SinkWorld) -> None:
    splunk, elastic = SplunkCollector(), ElasticCluster()
    elastic.missing_index = True
    ids = world.fill(50)

    async with splunk.listening(), elastic.listening(), world.delivering():
        wrong_index = world.apply("index", **splunk_spec(splunk.url, index="nowhere"))
        wrong_token = world.apply("token", splunkHec={"url": splunk.url, "token": {"value": "wrong"}})
        no_index = world.apply("missing", **elastic_spec(elastic.url))
        for uid, fault in ((wrong_index, "Incorrect index"), (wrong_token, "Invalid token"), (no_index, "index_not_found")):
            await world.until(lambda uid=uid, fault=fault: fault in world.cursor(uid)[1], f"{fault} is not shown")
            assert (world.cursor(uid)[0], world.dead(uid)) == (0, [])
        elastic.missing_index = False
        world.apply("index", **splunk_spec(splunk.url))
        await world.delivered(no_index)
        await world.delivered(wrong_index)

    assert set(elastic.kept) == set(splunk.kept) == set(ids)


async def test_a_receiver_that_refuses_everything_makes_few_dead_letters(world: SinkWorld) -> None:
    collector = OtlpCollector()
    ids = world.fill(300, tool=POISON)

    async with collector.listening(), world.delivering():
        uid = world.apply(**otlp_spec(collector.url))
        await world.until(lambda: "refuses every record" in world.cursor(uid)[1], "that it refuses everything is not shown")
        assert len(world.dead(uid)) <= len(ids)
        assert world.cursor(uid)[0] == 0


async def test_dead_letters_are_sent_once_more_or_dropped(world: SinkWorld) -> None:
    cluster = ElasticCluster()
    uid = world.apply(**elastic_spec("http://127.0.0.1:9"))
    name = f"sink/{uid}"
    bad = world.write([{"tool": POISON}, {"tool": POISON}, {"tool": "fine"}])

    async with cluster.listening(), world.delivering():
        world.apply(elastic={**elastic_spec(cluster.url)["elastic"]})
        await world.delivered(uid)
        assert world.dead(uid) == bad[:2]

        assert world.dead_letters.drop(name, [2]) == 1
        world.dead_letters.resend(name, [])
        await world.until(lambda: not world.dead_letters.wanted(name, 10), "it is not sent once more")
        assert world.dead(uid) == bad[:1]  # refused again

        cluster.handle = _kind(cluster)  # type: ignore[method-assign]
        world.dead_letters.resend(name, [])
        await world.until(lambda: not world.dead(uid), "it is not delivered")

    assert set(cluster.kept) == {bad[0], bad[2]}


def _kind(cluster: ElasticCluster) -> Any:
    """A cluster whose mapping was repaired."""
    before = cluster._item

    def item(action: dict[str, dict[str, str]], line: bytes) -> dict[str, dict[str, object]]:
        return before(action, line.replace(POISON.encode(), b"cured"))

    cluster._item = item  # type: ignore[method-assign]
    return type(cluster).handle.__get__(cluster)


async def test_a_restart_at_any_moment_loses_nothing(world: SinkWorld) -> None:
    receivers = [OtlpCollector(Chaos(seed=5)), SplunkCollector(Chaos(seed=6), loses=0.1)]
    specs = [otlp_spec, splunk_spec]
    ids = world.fill()
    async with receivers[0].listening(), receivers[1].listening():
        uids = [world.apply(f"r{n}", **spec(r.url)) for n, (r, spec) in enumerate(zip(receivers, specs, strict=True))]
        for _ in range(10):
            async with world.delivering():
                await asyncio.sleep(receivers[0].chaos.random.random() / 2)
        async with world.delivering():
            for uid in uids:
                await world.delivered(uid)

    for receiver in receivers:
        assert set(receiver.kept) == set(ids)


async def test_files_hold_each_record_once_through_restarts_and_rotation(world: SinkWorld) -> None:
    ids = world.fill(arguments_json='{"text": "' + "x" * 2000 + '"}')
    uid = world.apply(file={"rotateMiB": 1})
    for _ in range(8):
        async with world.delivering():
            await asyncio.sleep(0.15)
        current = world.export_dir / "system" / "siem" / "audit.jsonl"
        if current.exists():  # a crash in the middle of a line, and before the receipt was noted
            with current.open("ab") as file:
                file.write(b'{"id":"half a li')
    ids += world.fill(1)
    async with world.delivering():
        await world.delivered(uid)

    lines = world.lines()
    assert [line["id"] for line in lines] == ids
    assert [line["position"] for line in lines] == list(range(1, len(ids) + 1))
    assert len(world.files()) > 1
    assert {oct(path.stat().st_mode & 0o777) for path in world.files()} == {"0o600"}


async def test_a_file_that_was_written_but_not_noted_is_not_written_again(world: SinkWorld) -> None:
    ids = world.fill(50)
    uid = world.apply(file={})
    async with world.delivering():
        await world.delivered(uid)
    with world.store.transaction() as connection:
        world.store.advance(connection, f"sink/{uid}", 20)
    world.fill(5)
    async with world.delivering():
        await world.delivered(uid)

    assert [line["id"] for line in world.lines()] == world.ids
    assert len(world.lines()) == len(ids) + 5


async def test_two_sinks_do_not_write_the_same_file(world: SinkWorld) -> None:
    ids = world.fill(20)
    async with world.delivering():
        first = world.apply("first", file={"path": "shared"})
        await world.delivered(first)
        second = world.apply("second", file={"path": "shared"})
        await world.until(lambda: "another sink" in world.cursor(second)[1], "the fault is not shown")

    assert [line["id"] for line in world.lines()] == ids


async def test_a_directory_that_cannot_be_written_is_told_and_nothing_is_lost(world: SinkWorld) -> None:
    ids = world.fill(20)
    world.export_dir.mkdir()
    (world.export_dir / "system").write_text("in the way")
    async with world.delivering():
        uid = world.apply(file={})
        await world.until(lambda: "cannot be written" in world.cursor(uid)[1], "the fault is not shown")
        (world.export_dir / "system").unlink()
        await world.delivered(uid)

    assert [line["id"] for line in world.lines()] == ids
    assert world.cursor(uid)[1] == ""


async def test_a_secret_file_that_is_missing_is_told_and_read_when_it_is_there(world: SinkWorld) -> None:
    collector = OtlpCollector()
    ids = world.fill(20)
    async with collector.listening(), world.delivering():
        uid = world.apply(otlp={"endpoint": f"{collector.url}/v1/logs", "headers": {"x-api-key": {"file": "otlp-key"}}})
        await world.until(lambda: "otlp-key" in world.cursor(uid)[1], "the fault is not shown")
        secret = world.secrets_dir / "system" / "otlp-key"
        secret.write_text("otlp-secret\n")
        secret.chmod(0o600)
        await world.delivered(uid)

    assert set(collector.kept) == set(ids)


async def test_records_that_retention_has_deleted_are_passed_over(world: SinkWorld) -> None:
    world.fill(30)
    with world.store.transaction() as connection:
        connection.execute(AUDIT_RECORD.delete())
    world.store.forget_rows()
    collector = OtlpCollector()
    async with collector.listening(), world.delivering():
        uid = world.apply(**otlp_spec(collector.url))
        await world.delivered(uid)
        ids = world.fill(3)
        await world.delivered(uid)

    assert set(collector.kept) == set(ids)


async def test_parquet_in_a_directory_and_a_bucket_holds_every_record(world: SinkWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="no pyarrow here (pip install 'legation[archive]'): Parquet was not tested")
    monkeypatch.setattr("controlplane.audit.sinks.sinks.PARQUET_ROWS", 500)  # full files: nobody waits for the interval
    bucket = S3Bucket(Chaos(seed=2, cut_after=0.2, error=0.2))
    ids = world.fill()
    s3: dict[str, Any] = {"bucket": "records", "prefix": "a!(b)/legation", "accessKeyId": bucket.ACCESS_KEY}
    async with bucket.listening(), world.delivering():
        s3 |= {"endpoint": bucket.url, "secretAccessKey": {"value": bucket.SECRET_KEY}}
        directory = world.apply("disk", parquet={"directory": "cold", "intervalMinutes": 1})
        stored = world.apply("bucket", parquet={"s3": s3, "intervalMinutes": 1})
        await world.delivered(directory)
        await world.delivered(stored)

    files = [file.read_bytes() for file in sorted((world.export_dir / "system" / "cold").rglob("*.parquet"))]
    for contents in (files, [bucket.objects[key] for key in sorted(bucket.objects)]):
        rows = [row for content in contents for row in parquet.read_table(io.BytesIO(content)).to_pylist()]
        assert [row["id"] for row in rows] == ids
        assert json.loads(rows[0]["record"])["tool"] == "tool_0"


async def test_sinks_get_what_their_namespace_and_filter_say(world: SinkWorld) -> None:
    mine = world.write([{}, {"namespace": "other", "mcp_server": "hr"}, {"virtual_server": "demo/desk", "namespace": "other"}], writer="a")
    denied = world.write([{"decision": 2, "tool": "drop", "effect": "destructive"}, {"effect": "read"}], writer="b")
    seen: dict[str, OtlpCollector] = {}
    async with world.delivering():
        wanted = {
            "all": ("system", {}, [*mine, *denied]),
            "own": ("demo", {}, [mine[0], mine[2], *denied]),
            "server": ("system", {"servers": ["hr"]}, [mine[1]]),
            "denied": ("system", {"decisions": ["deny"]}, [denied[0]]),
            "destructive": ("system", {"minimumEffect": "destructive"}, [denied[0]]),
            "nothing": ("system", {"events": ["change"]}, []),
        }
        for name, (namespace, wishes, _) in wanted.items():
            seen[name] = OtlpCollector()
            async with seen[name].listening():
                (world.secrets_dir / namespace).mkdir(exist_ok=True)
                await world.delivered(world.apply(name, namespace, filter=wishes, **otlp_spec(seen[name].url)))

    assert {name: sorted(collector.kept) for name, collector in seen.items()} == {name: sorted(ids) for name, (_, _, ids) in wanted.items()}


def outcome(decision_id: str, status: int = 200) -> dict[str, Any]:
    return {"event": 8, "decision": 0, "decision_id": decision_id, "outcome": pb.AuditOutcome(http_status=status)}


async def test_an_outcome_goes_where_its_decision_goes(world: SinkWorld) -> None:
    first = {"decision_id": "d-1", "decision": 1, "namespace": "demo"}
    other = {"decision_id": "d-2", "decision": 1, "namespace": "other", "mcp_server": "hr"}
    bare = {"namespace": "", "mcp_server": ""}
    ids = world.write([first, other, {**outcome("d-1"), **bare}, {**outcome("d-2"), **bare}])
    collector = OtlpCollector()
    (world.secrets_dir / "demo").mkdir()
    async with collector.listening(), world.delivering():
        await world.delivered(world.apply("own", "demo", **otlp_spec(collector.url)))

    assert sorted(collector.kept) == sorted([ids[0], ids[2]])


async def test_outcomes_are_joined_to_their_decisions_and_said_once(world: SinkWorld) -> None:
    async with world.delivering():
        uid = world.apply(file={}, outcomes="joined", outcomeSeconds=2)
        early = world.write([{"decision_id": "d-1", "decision": 1}, outcome("d-1", 201)], writer="a")
        await world.until(lambda: len(world.lines()) == 1, "the first decision does not arrive with its outcome")
        late = world.write([{"decision_id": "d-2", "decision": 1}, {"decision_id": "d-3", "decision": 2}], writer="b")
        await world.until(lambda: len(world.lines()) == 3, "a decision waits for its outcome for ever")
        too_late = world.write([outcome("d-2", 500)], writer="c")
        await world.delivered(uid)

    lines = world.lines()
    assert [line["id"] for line in lines] == [early[0], *late, *too_late]
    assert lines[0]["outcome"]["http_status"] == 201
    assert lines[0]["outcome_record"] == early[1]
    assert "outcome" not in lines[1]
    assert lines[3]["outcome"]["http_status"] == 500


async def test_what_was_answered_is_a_record_of_its_own_and_no_decision_for_an_outcome(world: SinkWorld) -> None:
    result = {"decision_id": "d-1", "event": pb.AUDIT_EVENT_RESULT, "decision": 1, "result_json": '"Ann"', "result_kept": "full"}
    async with world.delivering():
        uid = world.apply(file={}, outcomes="joined", outcomeSeconds=900)
        ids = world.write([result, {"decision_id": "d-1", "decision": 1}, outcome("d-1", 201), result])
        await world.delivered(uid)

    lines = world.lines()
    assert [(line["id"], line["event"]) for line in lines] == [(ids[0], "result"), (ids[1], "tool_call"), (ids[3], "result")]
    assert lines[1]["outcome"]["http_status"] == 201
    assert lines[2]["result_json"] == '"Ann"'


async def test_a_joined_outcome_far_behind_its_decision_is_still_said_once(world: SinkWorld) -> None:
    decisions = [{"decision_id": f"d-{n}", "decision": 1} for n in range(250)]
    ids = world.write([*decisions, *(outcome(f"d-{n}") for n in range(250))])
    uid = world.apply(file={}, outcomes="joined", outcomeSeconds=900)
    for _ in range(4):  # restarts between the batches of decisions and those of their outcomes
        async with world.delivering():
            await asyncio.sleep(0.2)
    async with world.delivering():
        await world.delivered(uid)

    assert [line["id"] for line in world.lines()] == ids[:250]
    assert {line["outcome"]["http_status"] for line in world.lines()} == {200}


async def test_a_new_sink_may_begin_behind_the_newest_record(world: SinkWorld) -> None:
    world.fill(20)
    async with world.delivering():
        uid = world.apply(file={}, start="newest")
        await world.delivered(uid)
        ids = world.fill(3)
        await world.delivered(uid)

    assert [line["id"] for line in world.lines()] == ids


async def test_a_suspended_sink_goes_on_where_it_stopped(world: SinkWorld) -> None:
    collector = OtlpCollector()
    async with collector.listening(), world.delivering():
        uid = world.apply(**otlp_spec(collector.url))
        world.fill(30)
        await world.delivered(uid)
        world.apply(suspended=True, **otlp_spec(collector.url))
        world.fill(30)
        await asyncio.sleep(0.5)
        assert len(collector.kept) == 30
        world.apply(**otlp_spec(collector.url))
        await world.delivered(uid)

    assert set(collector.kept) == set(world.ids)


async def test_secrets_and_records_reach_no_log(world: SinkWorld, capfd: pytest.CaptureFixture[str]) -> None:
    receiver = SentinelEndpoint(Chaos(seed=1, error=0.5))
    world.fill(200, arguments_json='{"note": "very private"}')
    async with receiver.listening(), world.delivering():
        await world.delivered(world.apply(**sentinel_spec(receiver.url)))

    said = capfd.readouterr()
    for secret in (SentinelEndpoint.SECRET, "token-0", "very private"):
        assert secret not in said.out + said.err


def test_there_are_as_many_records_as_promised() -> None:
    assert RECORDS >= 2000
