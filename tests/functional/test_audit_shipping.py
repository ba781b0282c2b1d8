"""Records on their way: the real log, shipper, gRPC, collector and store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from controlplane.registry.audit_key import audit_key_id, audit_public_key
from extauthz.audit.frames import frame_bytes, read_frames
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.identity.principal import Principal, PrincipalKind
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
        await until(lambda: len(world.kept(store)) == 5)

        assert [sequence for writer, sequence, _ in world.kept(store) if writer == "node-1"] == [1, 2, 3, 4]
        assert world.files() == ["node-1.000001.wal", "node-2.000001.wal"]
        with store.reading() as connection:
            (refused,) = connection.execute(text("SELECT refused FROM audit_writer WHERE writer_id = 'node-1'")).scalars()
        assert "record 5 says that it is 6" in refused
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
