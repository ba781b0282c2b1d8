"""Records on their way: the real log, shipper, gRPC, collector and store."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from sqlalchemy import text

from controlplane.audit import collector as collector_module
from controlplane.certificates import write_certificates
from controlplane.registry.audit_key import audit_key_id, audit_public_key
from extauthz.audit.alarm import AlarmReason, alarm
from extauthz.audit.frames import frame_bytes, read_frames
from extauthz.audit.record import AuditEvent
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.transport import LinkIdentity
from extauthz.v1 import audit_pb2 as pb
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.record_world import KEY, RecordWorld, make_world, record, until

ALICE = Principal(kind=PrincipalKind.USER, id="local/alice", provider="local", subject="alice")


@pytest.fixture
def world(tmp_path: Path) -> RecordWorld:
    return make_world(tmp_path)


async def test_records_come_in_order_and_a_writer_that_has_ended_leaves_no_file(world: RecordWorld):
    log = world.log("node-1", segment_bytes=2_000)
    async with world.control_plane() as (store, _), world.shipping(log) as shipper:
        for number in range(1, 101):
            await log.append(record(number))
        await until(lambda: store.last_position() == 100)
        await until(lambda: len(world.files()) == 1)  # segments behind which others stand
        log.close()
        assert await shipper.finish(60)

        assert world.kept(store) == [("node-1", number, f"d{number}") for number in range(1, 101)]
        assert world.files() == []
        assert store.open_nodes(3600) == set()


async def test_what_was_written_while_nobody_took_it_comes_later(world: RecordWorld):
    log = world.log("node-1", segment_bytes=20_000)
    async with world.shipping(log):
        async with world.control_plane() as (store, _):
            await asyncio.gather(*(log.append(record(number)) for number in range(1, 301)))
            await until(lambda: store.last_position() == 300)
        for first in range(301, 3001, 300):
            await asyncio.gather(*(log.append(record(number)) for number in range(first, first + 300)))
        async with world.control_plane() as (store, _):
            await until(lambda: store.last_position() == 3000)

            assert world.kept(store) == [("node-1", number, f"d{number}") for number in range(1, 3001)]
    log.close()


async def test_records_of_writers_that_died_come_with_those_of_the_next(world: RecordWorld):
    for life in range(3):
        log = world.log(f"node-{life}")
        await asyncio.gather(*(log.append(record(number)) for number in range(1, 11)))
        log.close()
    torn = world.audit_dir / "node-1.000001.wal"
    torn.write_bytes(torn.read_bytes()[:-7])  # power was lost before the last record was durable
    log = world.log("node-3")
    await log.append(record(1))

    async with world.control_plane() as (store, _), world.shipping(log):
        await until(lambda: store.last_position() == 10 + 9 + 10 + 1)
        await until(lambda: world.files() == ["node-3.000001.wal"])

        found = world.kept(store)
        assert [sequence for writer, sequence, _ in found if writer == "node-1"] == list(range(1, 10))
        assert [sequence for writer, sequence, _ in found if writer == "node-2"] == list(range(1, 11))
        assert store.open_nodes(3600) == {"node"}
    log.close()


async def test_a_shipper_that_is_begun_again_goes_on_where_the_record_ends(world: RecordWorld):
    log = world.log("node-1")
    async with world.control_plane() as (store, _):
        for first in range(1, 101, 10):
            async with world.shipping(log):
                await asyncio.gather(*(log.append(record(number)) for number in range(first, first + 10)))
                await until(lambda: store.last_position() >= first)  # noqa: B023 - cut off in the middle, or behind it
        async with world.shipping(log):
            await until(lambda: store.last_position() == 100)
        assert world.kept(store) == [("node-1", number, f"d{number}") for number in range(1, 101)]
    log.close()


async def test_one_process_ships_a_directory_and_the_next_goes_on_when_it_is_gone(world: RecordWorld):
    one, two = world.log("a-1"), world.log("b-1")
    async with world.control_plane() as (store, collector):
        async with world.shipping(one, two, node_id="first"):
            await until(lambda: collector.nodes == ["first"])
            async with world.shipping(two, node_id="second"):
                await asyncio.gather(one.append(record(1)), two.append(record(2)))
                await until(lambda: store.last_position() == 2)
                assert collector.nodes == ["first"]
        async with world.shipping(two, node_id="second"):
            await until(lambda: collector.nodes == ["second"])
            await two.append(record(3))
            await until(lambda: store.last_position() == 3)
    one.close()
    two.close()


async def test_a_barrier_brings_what_is_durable(world: RecordWorld):
    log = world.log("node-1")
    async with world.control_plane() as (store, collector), world.shipping(log):
        await until(lambda: collector.nodes == ["node"])
        for number in range(1, 51):
            await log.append(record(number))
            assert await collector.barrier(timeout_seconds=60) == []
            assert store.last_position() == number
    log.close()


async def test_records_are_gathered_until_somebody_waits_for_them(world: RecordWorld, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collector_module, "GATHER_SECONDS", 3600.0)
    log = world.log("node-1")
    async with world.control_plane() as (store, collector), world.shipping(log):
        await log.append(record(1))
        await until(lambda: store.last_position() == 1)  # the first is not held up
        for number in range(2, 6):
            await log.append(record(number))
        assert store.last_position() == 1
        assert await collector.barrier(timeout_seconds=60) == []
        assert store.last_position() == 5

        monkeypatch.setattr(collector_module, "GATHER_BYTES", 1)
        await log.append(record(6))
        await until(lambda: store.last_position() == 6)  # so much is not gathered
    log.close()


async def test_a_barrier_says_who_lags(world: RecordWorld):
    log = world.log("node-1")
    async with world.control_plane() as (store, collector):
        assert await collector.barrier() == []  # nobody was ever here
        async with world.shipping(log):
            await log.append(record(1))
            await until(lambda: store.last_position() == 1)
        await until(lambda: collector.nodes == [])

        assert await collector.barrier() == ["node"]  # it may have more
    log.close()


async def test_a_broken_chain_is_refused_and_kept_where_it_is(world: RecordWorld, capfd: pytest.CaptureFixture[str]):
    log, other = world.log("node-1"), world.log("node-2")
    await asyncio.gather(*(log.append(record(number)) for number in range(1, 11)))
    log.close()
    file = world.audit_dir / "node-1.000001.wal"
    frames = [frame.payload for frame in read_frames(file)]
    file.write_bytes(b"".join(frame_bytes(payload) for number, payload in enumerate(frames, 1) if number != 5))
    async with world.control_plane() as (store, collector), world.shipping(other):
        await until(lambda: collector.nodes == ["node"])
        await other.append(record(1))
        assert await collector.barrier(timeout_seconds=60) == []
        await until(lambda: len(world.kept(store)) == 6)

        assert [sequence for writer, sequence, _ in world.kept(store) if writer == "node-1"] == [1, 2, 3, 4]
        assert world.files() == ["node-1.000001.wal", "node-2.000001.wal"]
        with store.reading() as connection:
            (refused,) = connection.execute(text("SELECT refused FROM audit_writer WHERE writer_id = 'node-1'")).scalars()
        assert "record 5 says that it is 6" in refused
        (alarm,) = (store.opened(row) for row in store.rows(0, 100) if row.event == "alarm")
        assert (alarm.reason, alarm.alarm.ended_writer_id, alarm.alarm.ended_sequence) == ("chain_refused", "node-1", 4)
        assert "record 5 says that it is 6" in alarm.sentence
        await until(lambda: "record 5 says that it is 6" in capfd.readouterr().out)
    other.close()


async def test_sealed_values_can_be_read_until_they_are_erased(world: RecordWorld):
    sealing_key = AuditSealingKey(key_id=audit_key_id(KEY), public_key=audit_public_key(KEY))
    log = world.log("node-1", sealing_key=lambda: sealing_key)
    async with world.control_plane() as (store, _):
        async with world.shipping(log):
            await log.append(record(1, principal=ALICE))
            await log.append(record(2, downstream_address="192.0.2.7"))
            await until(lambda: store.last_position() == 2)
        mine, strangers = store.rows(0, 10)
        assert b"alice" not in mine.payload
        assert (mine.principal_ref, mine.subject_ref) == (store.principal_ref("local/alice"), store.principal_ref("alice"))
        assert store.opened(mine).principal.id == "local/alice"
        assert store.opened_json(strangers)["downstream_address"] == "192.0.2.7"

        assert store.erase("local/alice") == 1
        assert store.erase("local/alice") == 0

        async with world.shipping(log):  # whose stream sends the key once more
            await log.append(record(3, principal=ALICE))
            await until(lambda: store.last_position() == 3)
        for row in (mine, store.rows(2, 1)[0]):
            shown = store.opened_json(row)
            assert shown["erased"] is True
            assert "principal" not in shown
            assert row.principal_ref == store.principal_ref("local/alice")
        assert store.opened_json(strangers)["downstream_address"] == "192.0.2.7"
    log.close()


async def test_over_tcp_only_an_authorizer_of_this_deployment_may_ship(
    world: RecordWorld, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    certificates = tmp_path / "certificates"
    write_certificates(certificates, ("control-plane", "authorizer", "envoy"))

    def identity(name: str) -> LinkIdentity:
        return LinkIdentity(cert_file=certificates / f"{name}.crt", key_file=certificates / f"{name}.key", ca_file=certificates / "ca.crt")

    log = world.log("node-1")
    await log.append(record(1))
    async with world.control_plane(link=identity("control-plane"), listen="localhost:0") as (store, collector):
        anonymous = grpc.ssl_channel_credentials((certificates / "ca.crt").read_bytes())
        for credentials, words in (
            (identity("envoy").channel_credentials(world.address), "not of an authorizer"),
            (anonymous, "UNAVAILABLE"),
        ):
            async with world.shipping(log, credentials=credentials):
                await until(lambda: words in capfd.readouterr().out)  # noqa: B023
        assert (collector.nodes, store.last_position()) == ([], 0)

        async with world.shipping(log, credentials=identity("authorizer").channel_credentials(world.address)):
            await until(lambda: store.last_position() == 1)
    log.close()


async def test_an_aggregator_ships_answers_of_tools_and_alarms_and_nothing_else(
    world: RecordWorld, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    certificates = tmp_path / "certificates"
    write_certificates(certificates, ("control-plane", "aggregator"))

    def identity(name: str) -> LinkIdentity:
        return LinkIdentity(cert_file=certificates / f"{name}.crt", key_file=certificates / f"{name}.key", ca_file=certificates / "ca.crt")

    honest, lying = world.log("results-honest"), world.log("results-lying")
    await honest.append(replace(record(1), event=AuditEvent.RESULT))
    await honest.append(alarm(AlarmReason.RESULT_LOST, "one answer is lost", pb.AuditAlarm(lost=1)))
    await lying.append(replace(record(2), event=AuditEvent.RESULT))
    await lying.append(replace(record(3), event=AuditEvent.TOOL_CALL))
    async with world.control_plane(link=identity("control-plane"), listen="localhost:0") as (store, _):
        credentials = identity("aggregator").channel_credentials(world.address)
        async with world.shipping(honest, lying, node_id="aggregator", credentials=credentials, results=True):
            await until(lambda: store.last_position() == 3)
            await until(lambda: "is not an aggregator's to write" in capfd.readouterr().out)

        kept = [(row.writer_id, row.event, row.reason) for row in store.rows(0, 10)]
        assert ("control-plane", "alarm", "chain_refused") in kept
        assert [(writer, event) for writer, event, _ in kept if writer != "control-plane"] == [
            ("results-honest", "result"),
            ("results-honest", "alarm"),
        ]
    honest.close()
    lying.close()


async def test_an_authorizer_and_an_aggregator_that_were_given_one_directory_ship_what_is_their_own(world: RecordWorld):
    decisions, answers = world.log("authorizer-1"), world.log("results-aggregator-1")
    await decisions.append(record(1))
    await answers.append(replace(record(2), event=AuditEvent.RESULT))
    async with world.control_plane() as (store, _):
        async with world.shipping(answers, node_id="aggregator", results=True):
            await until(lambda: store.last_position() == 1)
            async with world.shipping(decisions, node_id="authorizer"):
                await until(lambda: store.last_position() == 2)
        assert [row.writer_id for row in store.rows(0, 10)] == ["results-aggregator-1", "authorizer-1"]
    decisions.close()
    answers.close()


async def test_a_database_that_is_away_holds_records_up_and_loses_none(world: RecordWorld):
    log = world.log("node-1")
    async with world.control_plane() as (store, collector), world.shipping(log):
        await log.append(record(1))
        await until(lambda: store.last_position() == 1)
        locked = sqlite3.connect(world.directory / "audit.db", isolation_level=None)
        locked.execute("BEGIN IMMEDIATE")
        try:
            await asyncio.gather(*(log.append(record(number)) for number in range(2, 500)))
            assert await collector.barrier(timeout_seconds=0.5) == ["node"]
            await asyncio.sleep(12)  # longer than a statement waits for the lock: then the stream has ended
        finally:
            locked.execute("ROLLBACK")
            locked.close()
        await until(lambda: store.last_position() == 499)

        assert world.kept(store) == [("node-1", number, f"d{number}") for number in range(1, 500)]
    log.close()


async def test_shippers_may_change_between_control_planes_of_one_database(tmp_path: Path, postgresql_url: str):  # noqa: F811 - the fixture
    worlds = [make_world(tmp_path / name, postgresql_url) for name in ("one", "two")]
    for world in worlds:
        world.directory.mkdir()
    logs = [world.log(f"node-{number}") for number, world in enumerate(worlds)]
    async with worlds[0].control_plane() as (store, _), worlds[1].control_plane() as (other, _):
        for turn in range(4):
            addresses = [world.address for world in worlds]
            async with worlds[0].shipping(logs[0]), worlds[1].shipping(logs[1]):
                for log in logs:
                    await asyncio.gather(*(log.append(record(turn * 50 + number)) for number in range(50)))
                await until(lambda: store.last_position() == 100 * (turn + 1))  # noqa: B023
            worlds[0].address, worlds[1].address = addresses[1], addresses[0]

        found = worlds[0].kept(store)
        assert found == worlds[1].kept(other)
        for number in range(2):
            assert [sequence for writer, sequence, _ in found if writer == f"node-{number}"] == list(range(1, 201))
    for log in logs:
        log.close()


async def test_a_batch_that_can_never_be_kept_is_refused_and_holds_up_nobody(world: RecordWorld):
    bad, good = world.log("bad-1"), world.log("good-1")
    await asyncio.gather(bad.append(record(1)), good.append(record(1)))
    async with world.control_plane() as (store, _):
        with store.transaction() as connection:  # a rule that no record of this writer meets
            connection.execute(
                text("CREATE TRIGGER no BEFORE INSERT ON audit_record WHEN NEW.writer_id = 'bad-1' BEGIN SELECT RAISE(ABORT, 'never'); END")
            )
        async with world.shipping(bad, good):
            await until(lambda: store.last_position() == 2)
            await good.append(record(2))
            await until(lambda: store.last_position() == 3)

            assert [row.event for row in store.rows(0, 10) if row.writer_id == "control-plane"] == ["alarm"]
            assert {writer for writer, _, _ in world.kept(store)} == {"good-1", "control-plane"}
            assert "bad-1.000001.wal" in world.files()
    bad.close()
    good.close()
