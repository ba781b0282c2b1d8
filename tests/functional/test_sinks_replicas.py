"""Two control planes on one PostgreSQL: one of them delivers to a sink at a time, and the other goes on when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from controlplane.audit.database import open_audit_database
from controlplane.audit.sinks.lease import LeaseLostError, Leases
from controlplane.audit.store import AuditStore
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.sink_world import SinkWorld, sink_world
from tests.sink_receivers import OtlpCollector

pytestmark = pytest.mark.external

SPEC = {"batch": {"records": 50, "seconds": 1}}


@pytest.fixture
def world(tmp_path: Path, postgresql_url: str) -> Iterator[SinkWorld]:  # noqa: F811 - the fixture
    with sink_world(tmp_path, audit_url=postgresql_url) as world:
        yield world


@pytest.fixture
def other(world: SinkWorld) -> Iterator[AuditStore]:
    """The record as another process sees it."""
    store = AuditStore(open_audit_database(world.audit_url), world.registry.key)
    yield store
    store.close()


def otlp(url: str) -> dict[str, object]:
    return {"otlp": {"endpoint": f"{url}/v1/logs", "headers": {"x-api-key": {"value": "otlp-secret"}}}, **SPEC}


async def test_two_control_planes_deliver_each_record_once(world: SinkWorld, other: AuditStore) -> None:
    collector = OtlpCollector()
    ids = world.fill(1000)
    async with collector.listening(), world.delivering(), world.delivering(other):
        uid = world.apply(**otlp(collector.url))
        await world.delivered(uid)

    assert collector.kept == dict.fromkeys(ids, 1)


async def test_another_control_plane_goes_on_where_the_first_one_ended(world: SinkWorld, other: AuditStore) -> None:
    collector = OtlpCollector()
    ids = world.fill(1000)
    async with collector.listening(), world.delivering(other):
        uid = world.apply(**otlp(collector.url))
        async with world.delivering():
            await world.until(lambda: collector.kept, "nobody delivers")
        await world.delivered(uid)

    assert set(collector.kept) == set(ids)


async def test_a_lost_connection_to_the_database_ends_the_lease_and_delivery_goes_on(world: SinkWorld) -> None:
    collector = OtlpCollector()
    ids = world.fill(300)
    async with collector.listening(), world.delivering():
        uid = world.apply(**otlp(collector.url))
        await world.delivered(uid)
        _cut_connections(world)
        ids += world.fill(300)
        await world.delivered(uid)

    assert set(collector.kept) == set(ids)


async def test_a_lease_is_held_by_one_process_and_ends_with_its_connection(world: SinkWorld, other: AuditStore) -> None:
    mine, theirs = Leases(world.store.engine), Leases(other.engine)

    assert await asyncio.to_thread(mine.take, "sink/a")
    assert await asyncio.to_thread(mine.take, "sink/b")
    assert not await asyncio.to_thread(theirs.take, "sink/a")
    _cut_connections(world)
    with pytest.raises(LeaseLostError):
        mine.check("sink/a")
    with pytest.raises(LeaseLostError):
        mine.check("sink/b")
    assert theirs.take("sink/a") or theirs.take("sink/a")  # its own connection was cut as well
    theirs.check("sink/a")
    theirs.give_back("sink/a")
    assert mine.take("sink/a")
    mine.close()
    theirs.close()


def _cut_connections(world: SinkWorld) -> None:
    """End every other connection to the database, as a failover does."""
    with world.store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        )
