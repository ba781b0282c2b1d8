"""Whoever may ship records cannot write in the control plane's name, nor records that keep the others from being kept or read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import select

from controlplane.audit.chain import MAX_AT_UNIX_US, OWN_NODE
from controlplane.audit.collector import ALARMS_A_MINUTE
from controlplane.audit.cursor import cursor_of
from controlplane.audit.database import open_audit_database
from controlplane.audit.filter import Filter
from controlplane.audit.models import AUDIT_SUBJECT_KEY
from controlplane.audit.query import AuditQuery
from controlplane.audit.store import MAX_SUBJECT_KEYS, AuditStore
from controlplane.audit.stored_record import indexed_text
from controlplane.audit.writer import RecordWriter
from controlplane.certificates import write_certificates
from controlplane.database import sqlite_url
from controlplane.registry.audit_key import audit_key_id, audit_private_key, audit_public_key
from controlplane.registry.encryption import RegistryKey
from extauthz.audit import sealing
from extauthz.audit.sealing import SubjectKeys, associated_data
from extauthz.audit.shipping import SHIP_METHOD
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.mcp.request import MAX_NAME_CHARACTERS
from extauthz.transport import LinkIdentity
from extauthz.v1 import audit_pb2 as pb
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.record_world import make_world, until
from tests.functional.test_audit_store import Writer

KEY = RegistryKey(b"0123456789abcdef0123456789abcdef")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AuditStore]:
    url = sqlite_url(tmp_path / "audit.db") if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    opened = AuditStore(open_audit_database(url), KEY)
    yield opened
    opened.close()


def incompressible(count: int) -> str:
    """Characters of four bytes each, so that no database can make them smaller."""
    chosen = random.Random(4)
    return "".join(chr(chosen.randrange(0x20000, 0x2A000)) for _ in range(count))


def ship(store: AuditStore, batch: pb.ShipBatch, node_id: str) -> pb.ShipAck:
    return store.append_all([(batch, node_id)])[0]


@pytest.mark.parametrize("name", ["tool", "exposed_name", "decision_id", "trace_id", "mcp_server", "virtual_server", "parent_decision_id"])
def test_the_longest_name_that_a_caller_may_send_is_kept_and_found(store: AuditStore, name: str):
    longest = incompressible(MAX_NAME_CHARACTERS)
    made = Writer().add(**{"namespace": "demo", "mcp_server": "crm", "tool": "t", name: longest}).add(tool="next")
    assert ship(store, made.batch(), "n").refused == ""
    first, following = store.rows(0, 10)
    assert getattr(pb.AuditRecord.FromString(first.payload), name) == longest  # the record is as it was written
    assert following.tool == "next"
    if name == "tool":
        page = AuditQuery(store).newest(Filter(tool=indexed_text(longest)), readable=None, limit=10)
        assert [item["tool"] for item in page.items] == [longest]


def test_nobody_ships_as_the_control_plane(store: AuditStore):
    own = RecordWriter(store, KEY)
    with store.transaction() as connection:
        batch = Writer(OWN_NODE).add(event=pb.AUDIT_EVENT_ALARM).batch()
        assert not store.append_in(connection, batch, OWN_NODE).refused
    made = Writer(OWN_NODE)
    made.records = [row.payload for row in store.rows(0, 10)]  # whoever may read the record knows the hash to go on from
    ack = ship(store, made.add(event=pb.AUDIT_EVENT_ALARM).batch(2), "evil")
    assert "own writer" in ack.refused
    ship(store, pb.ShipBatch(writer_id=OWN_NODE, first_sequence=2, closed=True), "evil")
    assert (store.last_position(), store.refused_writers()) == (1, {})
    own.append([])
    with store.transaction() as connection:
        assert store.head(connection, OWN_NODE).sequence == 1


@pytest.mark.parametrize(
    "event", [pb.AUDIT_EVENT_CHANGE, pb.AUDIT_EVENT_API_REFUSED, pb.AUDIT_EVENT_OUTCOME_MISSING, pb.AUDIT_EVENT_ANOMALY]
)
def test_what_only_the_control_plane_records_is_not_taken_from_others(store: AuditStore, event: pb.AuditEvent):
    forged = pb.AuditChange(actor="corp/root", op="deleted", kind="Policy", namespace="demo", name="all")
    made = Writer().add().add(event=event, change=forged)
    ack = ship(store, made.batch(), "n")
    assert (ack.sequence, ack.refused) == (1, "record 2 is about what only the control plane records")
    assert [row.event for row in store.rows(0, 10)] == ["tool_call"]


@pytest.mark.parametrize("at", [-1, -(2**63), MAX_AT_UNIX_US, 2**63 - 1])
def test_a_time_that_no_calendar_has_is_refused_and_everything_else_can_be_read(store: AuditStore, at: int):
    made = Writer().add().add(at_unix_us=at)
    assert ship(store, made.batch(), "n").refused == "record 2 is of a time that no calendar has"
    assert ship(store, Writer("last").add(at_unix_us=MAX_AT_UNIX_US - 1).batch(), "n").refused == ""
    query = AuditQuery(store)
    assert len(json.dumps(query.newest(Filter(), readable=None, limit=10).items)) > 0
    assert len(query.following(Filter(), readable=None, limit=10, after=cursor_of(0)).items) == 2


@pytest.mark.parametrize("name", ["", "x" * 300, "a\x1b[2J", "line\nbreak"])
def test_a_writer_has_a_name_that_can_be_shown(store: AuditStore, name: str):
    assert ship(store, Writer(name).add().batch(), "n").refused == "no writer has such a name"
    assert (store.last_position(), store.refused_writers()) == (0, {})


def test_what_is_refused_does_not_make_a_writer_anybody_elses(store: AuditStore):
    made = Writer("node-1").add(2)
    ship(store, made.batch(), "node")
    assert ship(store, pb.ShipBatch(writer_id="node-1", first_sequence=3, records=[b"junk"]), "evil").refused
    assert store.open_nodes(3600) == {"node"}
    assert ship(store, made.add().batch(3), "node").sequence == 3


async def test_what_the_database_cannot_take_is_refused_and_said_and_others_go_on(postgresql_url: str, tmp_path: Path):  # noqa: F811
    """A key whose name fits no index: the database is there, so the shipper must not offer it for ever as if it were away."""
    world = make_world(tmp_path, postgresql_url)
    private = audit_private_key(KEY)
    keys = SubjectKeys(AuditSealingKey(key_id="k", public_key=private.public_key().public_bytes_raw()))
    with patched_key_id(incompressible(2000)):
        key = keys.key_of("corp/ann", 0)
    bad = Writer("bad").add().batch()
    bad.subject_keys.append(key.wrapped)
    async with world.control_plane() as (opened, _), grpc.aio.insecure_channel(world.address) as channel:
        call = channel.stream_stream(
            SHIP_METHOD, request_serializer=pb.ShipRequest.SerializeToString, response_deserializer=pb.ShipResponse.FromString
        )()
        await call.write(pb.ShipRequest(hello=pb.ShipHello(node_id="n")))
        for batch in (bad, Writer("good").add().batch()):
            await call.write(pb.ShipRequest(batch=batch))
        async with asyncio.timeout(60):
            acks = [(await call.read()).ack for _ in range(2)]
        assert acks[0].refused.startswith("cannot be kept")
        assert (acks[1].sequence, acks[1].refused) == (1, "")
        await until(lambda: any(row.event == "alarm" for row in opened.rows(0, 100)))
        call.cancel()


@contextlib.contextmanager
def patched_key_id(name: str) -> Iterator[None]:
    made = sealing.secrets.token_urlsafe
    sealing.secrets.token_urlsafe = lambda _count: name
    try:
        yield
    finally:
        sealing.secrets.token_urlsafe = made


@pytest.mark.parametrize("node_id", ["", OWN_NODE, "n\x1b[2J", "n" * 300])
async def test_a_shipper_has_a_name_that_can_be_shown(tmp_path: Path, node_id: str):
    world = make_world(tmp_path)
    async with world.control_plane() as (_, collector), grpc.aio.insecure_channel(world.address) as channel:
        call = channel.stream_stream(
            SHIP_METHOD, request_serializer=pb.ShipRequest.SerializeToString, response_deserializer=pb.ShipResponse.FromString
        )()
        await call.write(pb.ShipRequest(hello=pb.ShipHello(node_id=node_id)))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert collector.nodes == []


async def test_names_that_are_made_up_do_not_fill_the_record_with_alarms(tmp_path: Path):
    world = make_world(tmp_path)

    async def shipped(*batches: pb.ShipBatch) -> list[pb.ShipAck]:
        async with grpc.aio.insecure_channel(world.address) as channel, asyncio.timeout(60):
            call = channel.stream_stream(
                SHIP_METHOD, request_serializer=pb.ShipRequest.SerializeToString, response_deserializer=pb.ShipResponse.FromString
            )()
            await call.write(pb.ShipRequest(hello=pb.ShipHello(node_id="node")))
            for batch in batches:
                await call.write(pb.ShipRequest(batch=batch))
            acks = [(await call.read()).ack for _ in batches]
            call.cancel()
            return acks

    async with world.control_plane() as (store, collector):
        junk = [pb.ShipBatch(writer_id=f"made-up-{number}", first_sequence=1, records=[b"junk"]) for number in range(80)]
        assert all(ack.refused for ack in await shipped(*junk))
        assert store.last_position() == ALARMS_A_MINUTE

        collector._alarms_until = 0.0  # a minute later
        assert not (await shipped(Writer("honest").add().batch()))[0].refused
        await until(lambda: store.last_position() == ALARMS_A_MINUTE + 2)
        alarms = [store.opened(row) for row in store.rows(0, 100) if row.event == "alarm"]
        assert [said.suppressed for said in alarms if said.suppressed] == [80 - ALARMS_A_MINUTE]


def test_a_batch_brings_a_bounded_number_of_keys(store: AuditStore):
    keys = SubjectKeys(AuditSealingKey(key_id=audit_key_id(KEY), public_key=audit_public_key(KEY)))
    wrapped = keys.key_of("corp/ann", 0).wrapped
    made = Writer().add()

    batch = made.batch()
    batch.subject_keys.extend([wrapped] * (MAX_SUBJECT_KEYS + 1))
    ack = ship(store, batch, "n")
    assert (ack.sequence, ack.refused) == (0, "it brings more than 4000 keys of sealed values")
    batch = made.batch()
    batch.subject_keys.extend([b"junk", *[wrapped] * (MAX_SUBJECT_KEYS - 1)])
    assert ship(store, batch, "n").refused == ""
    with store.reading() as connection:
        assert list(connection.execute(select(AUDIT_SUBJECT_KEY.c.wrapped)).scalars()) == [wrapped]


async def test_an_aggregator_has_writers_of_its_own_and_no_say_in_those_of_authorizers(tmp_path: Path):
    """It can neither end the log of an authorizer, which would no longer be missed, nor begin one under the name of the next process."""
    certificates = tmp_path / "certificates"
    write_certificates(certificates, ("control-plane", "aggregator"))
    world, written = make_world(tmp_path), Writer("authorizer-1-1").add(2)

    def identity(name: str) -> LinkIdentity:
        return LinkIdentity(cert_file=certificates / f"{name}.crt", key_file=certificates / f"{name}.key", ca_file=certificates / "ca.crt")

    async with world.control_plane(link=identity("control-plane"), listen="localhost:0") as (store, _):
        ship(store, written.batch(), "authorizer")
        credentials = identity("aggregator").channel_credentials(world.address)
        assert credentials is not None
        async with grpc.aio.secure_channel(world.address, credentials) as channel:
            call = channel.stream_stream(
                SHIP_METHOD, request_serializer=pb.ShipRequest.SerializeToString, response_deserializer=pb.ShipResponse.FromString
            )()
            await call.write(pb.ShipRequest(hello=pb.ShipHello(node_id="authorizer")))
            result = {"event": pb.AUDIT_EVENT_RESULT}
            batches = [
                pb.ShipBatch(writer_id="authorizer-1-1", first_sequence=3, closed=True),
                Writer("authorizer-2-1").add(**result).batch(),
                Writer("results-aggregator-1-1").add().batch(),
                Writer("results-aggregator-1-1").add(**result).batch(),
            ]
            for batch in batches:
                await call.write(pb.ShipRequest(batch=batch))
            async with asyncio.timeout(60):
                acks = [(await call.read()).ack for _ in batches]
            call.cancel()
        assert [bool(ack.refused) for ack in acks] == [True, True, True, False]
        assert [ack.sequence for ack in acks] == [0, 0, 0, 1]
        await until(lambda: store.open_nodes(3600) >= {"authorizer"})
        assert {row.writer_id for row in store.rows(0, 100)} == {"authorizer-1-1", "results-aggregator-1-1", OWN_NODE}


@pytest.mark.parametrize(
    "claim",
    [
        {"event": pb.AUDIT_EVENT_CHANGE, "change": pb.AuditChange(actor="corp/root")},
        {"namespace": "other"},
        {"decision": pb.AUDIT_DECISION_ALLOW},
        {"at_unix_us": 2**63 - 1},
        {"writer_id": OWN_NODE},
        {"sequence": 7},
        {"sealed": pb.AuditSealed(key_id="x")},
    ],
)
def test_what_is_sealed_says_nothing_but_what_is_personal(store: AuditStore, claim: dict[str, Any]):
    """Else whoever seals could show any record as another: as a change by somebody, or of a time that ends every page."""
    keys = SubjectKeys(AuditSealingKey(key_id=audit_key_id(KEY), public_key=audit_public_key(KEY)))
    key = keys.key_of("corp/ann", 0)
    ann = pb.AuditPrincipal(id="corp/ann", subject="ann")
    for number, more in enumerate(({}, claim), 1):
        personal = pb.AuditRecord(principal=ann, **more).SerializeToString()
        sealed = pb.AuditSealed.FromString(key.seal(personal, associated_data(f"w{number}", 1)))
        batch = Writer(f"w{number}").add(decision=pb.AUDIT_DECISION_DENY, namespace="demo", sealed=sealed).batch()
        batch.subject_keys.append(key.wrapped)
        assert not ship(store, batch, "n").refused

    good, forged = AuditQuery(store).newest(Filter(), readable=["demo"], limit=10).items

    assert good["principal"]["id"] == "corp/ann"
    assert {"principal", "change"}.isdisjoint(forged)
    assert (forged["writer_id"], forged["sequence"], forged["event"], forged["decision"]) == ("w2", 1, "tool_call", "deny")
    assert forged["namespace"] == "demo"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_null(store: AuditStore, number: float):
    made = Writer().add(namespace="demo", replay=pb.AuditReplay(issued_at_unix=number)).add(replay=pb.AuditReplay(issued_at_unix=1.5))
    assert not ship(store, made.batch(), "n").refused

    items = AuditQuery(store).newest(Filter(), readable=None, limit=10).items

    json.dumps(items, allow_nan=False)
    assert sorted(str(item["replay"]) for item in items) == ["{'issued_at_unix': 1.5}", "{'issued_at_unix': None}"]


def test_what_is_under_the_key_of_another_is_nobodys(store: AuditStore):
    """Else who seals Ann's values under Bob's key, or under that of strangers, keeps them when Ann is erased."""
    keys = SubjectKeys(AuditSealingKey(key_id=audit_key_id(KEY), public_key=audit_public_key(KEY)))
    for number, owner in enumerate(("corp/bob", "", "corp/ann"), 1):
        key = keys.key_of(owner, 0)
        ann = pb.AuditRecord(principal=pb.AuditPrincipal(id="corp/ann", subject="ann"), user_agent="of ann")
        sealed = pb.AuditSealed.FromString(key.seal(ann.SerializeToString(), associated_data(f"w{number}", 1)))
        batch = Writer(f"w{number}").add(namespace="demo", sealed=sealed).batch()
        batch.subject_keys.append(key.wrapped)
        assert not ship(store, batch, "n").refused

    query = AuditQuery(store)
    ann, bob = (store.principal_ref(name) for name in ("corp/ann", "corp/bob"))
    assert [(row.writer_id, row.principal_ref) for row in store.rows(0, 10)] == [("w1", bob), ("w2", ""), ("w3", ann)]
    assert "of ann" in json.dumps(query.newest(Filter(), readable=None, limit=10).items)
    with store.transaction() as connection:
        assert store.erase_in(connection, "corp/ann") == 1
    store.forget_keys()
    assert "of ann" not in json.dumps(query.newest(Filter(), readable=None, limit=10).items)
