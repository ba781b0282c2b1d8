"""The chain of a writer's records, and the personal values sealed in them."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from extauthz.audit.chain import Head
from extauthz.audit.draft import draft_of, encode_record
from extauthz.audit.frames import frame_bytes, read_frames
from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord, Replay, record_to_json
from extauthz.audit.sealing import SealedValueError, SubjectKeys, associated_data, open_message, open_record, open_subject_key
from extauthz.audit.wal import AuditLog
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.v1 import audit_pb2 as pb
from tests.unit.written_log import link_one, sealing_pair, written_log

NOON = 1_700_000_000_000_000
DAY = 86_400_000_000
ANN = Principal(
    kind=PrincipalKind.USER, id="okta/ann", provider="okta", subject="ann", groups=("okta/all",), labels=(("team", "crm"),), scopes=("mcp",)
)
BOB = Principal(kind=PrincipalKind.USER, id="okta/bob", provider="okta", subject="bob")


def record(number: int, **facts: object) -> AuditRecord:
    given: dict[str, object] = {"reason": "allowed", "decision": AuditDecision.ALLOW, "downstream_address": "192.0.2.7", **facts}
    return AuditRecord(decision_id=f"d{number}", at_unix_us=NOON + number, **given)  # type: ignore[arg-type]


def opened_log(directory: Path, sealing_key: AuditSealingKey | None = None, **settings: int) -> AuditLog:
    log = AuditLog(directory=directory, writer_id="a-1", sealing_key=lambda: sealing_key, **settings)
    log.open()
    return log


async def test_each_record_names_the_one_before_it_across_groups_and_files(tmp_path: Path) -> None:
    log = opened_log(tmp_path, segment_bytes=2000)

    for beginning in range(0, 100, 10):
        await asyncio.gather(*(log.append(record(beginning + number)) for number in range(10)))
    log.close()

    assert len(list(tmp_path.glob("*.wal"))) > 3
    assert [r.decision_id for r in written_log(tmp_path).records()] == [f"d{number}" for number in range(100)]


async def test_nothing_personal_stands_in_the_files_and_all_of_it_can_be_opened(tmp_path: Path) -> None:
    private_key, sealing_key = sealing_pair()
    log = opened_log(tmp_path, sealing_key)
    personal = {
        "sentence": "SECRET-sentence",
        "mcp_resource_uri": "SECRET://uri",
        "downstream_address": "SECRET-address",
        "user_agent": "SECRET-agent",
        "arguments_json": '{"a":"SECRET"}',
        "arguments_digest": "sha256:SECRET",
        "result_json": '{"r":"SECRET"}',
        "result_digest": "sha256:SECRET-r",
        "replay": Replay(caller_address="SECRET-address", caller_era="modern", arguments_json='{"a":"SECRET"}', withheld=("SECRET-w",)),
    }
    agent = Principal(kind=PrincipalKind.WORKLOAD, id="spiffe://SECRET/agent", provider="SECRET", subject="spiffe://SECRET/agent")
    who = Principal(
        kind=PrincipalKind.USER, id="SECRET/ann", provider="SECRET", subject="ann-SECRET", issuer="https://SECRET", tenant="SECRET",
        groups=("SECRET/g",), attributes=("SECRET/a=b",), scopes=("SECRET-s",), oauth_client_id="SECRET-c", access_token_id="SECRET-j",
        actor="SECRET-x", earlier_actors=("SECRET-y",), owner="SECRET-o", workload=agent, labels=(("team", "SECRET-t"),),
    )  # fmt: skip

    await log.append(record(1, principal=who, roles=("SECRET-role",), workload_roles=("SECRET-wr",), namespace="demo", **personal))
    log.close()

    assert not any(b"SECRET" in path.read_bytes() for path in tmp_path.iterdir())
    (found,) = written_log(tmp_path).records(private_key)
    expected = pb.AuditRecord.FromString(
        encode_record(
            record(1, principal=who, roles=("SECRET-role",), workload_roles=("SECRET-wr",), namespace="demo", **personal),
            writer_id="a-1",
            sequence=1,
        )
    )
    assert found == expected
    assert (found.principal.id, found.workload.id, found.labels[0].value) == ("SECRET/ann", "spiffe://SECRET/agent", "SECRET-t")
    assert (found.replay.caller_era, list(found.replay.attributes), list(found.replay.withheld)) == ("modern", ["SECRET/a=b"], ["SECRET-w"])


async def test_a_principal_has_one_key_a_day_and_strangers_have_one(tmp_path: Path) -> None:
    private_key, sealing_key = sealing_pair()
    log = opened_log(tmp_path, sealing_key)

    for number, principal in enumerate((ANN, BOB, ANN, None, None, ANN)):
        await log.append(record(number, principal=principal))
    await log.append(record(DAY, principal=ANN))
    log.close()

    written = written_log(tmp_path)
    subjects = [open_subject_key(key, private_key).principal_id for key in written.keys["a-1"].values()]
    assert subjects == ["okta/ann", "okta/bob", "", "okta/ann"]
    used = [pb.AuditRecord.FromString(payload).sealed.key_id for payload in written.payloads["a-1"]]
    assert used[0] == used[2] == used[5] != used[6]
    assert used[3] == used[4]
    nonces = [(message.sealed.key_id, message.sealed.nonce) for message in map(pb.AuditRecord.FromString, written.payloads["a-1"])]
    assert len(set(nonces)) == len(nonces)


async def test_until_there_is_a_key_records_are_open_and_afterwards_never_again(tmp_path: Path) -> None:
    private_key, sealing_key = sealing_pair()
    current: list[AuditSealingKey | None] = [None]
    log = AuditLog(directory=tmp_path, writer_id="a-1", sealing_key=lambda: current[0])
    log.open()

    await log.append(record(1, principal=ANN))
    current[0] = sealing_key
    await log.append(record(2, principal=ANN))
    current[0] = None
    await log.append(record(3, principal=ANN))
    current[0] = AuditSealingKey(key_id="broken", public_key=bytes(32))
    await log.append(record(4, principal=ANN))
    log.close()

    written = written_log(tmp_path)
    assert [message.HasField("sealed") for message in written.records()] == [False, True, True, True]
    assert [message.principal.id for message in written.records(private_key)] == ["okta/ann"] * 4


async def test_another_sealing_key_has_other_keys(tmp_path: Path) -> None:
    (first, first_public), (second, _) = sealing_pair(), sealing_pair()
    second_public = AuditSealingKey(key_id="k2", public_key=second.public_key().public_bytes_raw())
    current = [first_public]
    log = AuditLog(directory=tmp_path, writer_id="a-1", sealing_key=lambda: current[0])
    log.open()

    await log.append(record(1, principal=ANN))
    current[0] = second_public
    await log.append(record(2, principal=ANN))
    log.close()

    keys = list(written_log(tmp_path).keys["a-1"].values())
    assert [key.sealing_key_id for key in keys] == ["k1", "k2"]
    assert open_subject_key(keys[0], first).principal_id == open_subject_key(keys[1], second).principal_id == "okta/ann"
    with pytest.raises(SealedValueError, match="cannot be opened"):
        open_subject_key(keys[1], first)


def test_an_alarm_is_about_nobody_and_stays_readable() -> None:
    _, sealing_key = sealing_pair()
    told = record(1, event=AuditEvent.ALARM, downstream_address="", sentence="the disk is full", alarm=pb.AuditAlarm(used_bytes=5))

    linked = link_one(Head("a-1"), draft_of(told), SubjectKeys(sealing_key))

    message = pb.AuditRecord.FromString(linked.payload)
    assert (message.sentence, message.alarm.used_bytes, message.HasField("sealed"), linked.key) == ("the disk is full", 5, False, None)


def test_json_of_a_sealed_record_says_what_is_gone() -> None:
    _, sealing_key = sealing_pair()
    keys = SubjectKeys(sealing_key)
    linked = link_one(Head("a-1", 4, b"h" * 32), draft_of(record(1, principal=ANN, tool="update")), keys)
    assert linked.key is not None

    erased = record_to_json(linked.payload)

    assert erased["erased"] is True
    assert not erased.keys() & {"principal", "downstream_address", "sealed"}
    assert (erased["tool"], erased["sequence"], erased["previous_hash"]) == ("update", 5, "68" * 32)
    assert erased["record_hash"] == hashlib.sha256(linked.payload).hexdigest() == linked.head.record_hash.hex()


def test_keys_that_are_too_many_are_forgotten_and_values_stay_readable() -> None:
    private_key, sealing_key = sealing_pair()
    keys = SubjectKeys(sealing_key, max_keys=3)
    head, wrapped, payloads = Head("a-1"), {}, []

    for number in range(10):
        linked = link_one(
            head,
            draft_of(record(number, principal=Principal(kind=PrincipalKind.USER, id=f"p/{number % 5}", provider="p", subject="s"))),
            keys,
        )
        assert linked.key is not None
        wrapped[linked.key.key_id] = linked.key.wrapped
        payloads.append(linked.payload)
        head = linked.head

    assert len(wrapped) == 10
    for number, payload in enumerate(payloads):
        key_id = pb.AuditRecord.FromString(payload).sealed.key_id
        subject = open_subject_key(pb.AuditSubjectKey.FromString(wrapped[key_id]), private_key)
        assert open_record(payload, subject).principal.id == f"p/{number % 5}"


@cache
def the_pair() -> tuple[X25519PrivateKey, AuditSealingKey]:
    """One for all examples."""
    return sealing_pair()


texts = st.text(max_size=40)
records = st.builds(
    lambda texts, numbers, principal, alarm: record(
        0,
        **dict(zip(("sentence", "path", "tool", "user_agent", "arguments_json", "mcp_resource_uri", "reason"), texts, strict=True)),
        revision=numbers[0],
        latency_us=numbers[1],
        principal=principal,
        event=AuditEvent.ALARM if alarm else AuditEvent.TOOL_CALL,
    ),
    st.tuples(*[texts] * 7),
    st.tuples(st.integers(0, 2**63), st.integers(0, 2**31)),
    st.none()
    | st.builds(
        lambda subject, groups: Principal(
            kind=PrincipalKind.USER,
            id=f"okta/{subject}",
            provider="okta",
            subject=subject,
            groups=tuple(groups),
            labels=(("team", subject),),
        ),
        texts,
        st.lists(texts, max_size=3),
    ),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(one=records, flipped=st.floats(0, 1, exclude_max=True))
def test_any_record_opens_to_what_was_written_and_a_flipped_bit_is_seen(one: AuditRecord, flipped: float) -> None:
    private_key, sealing_key = the_pair()
    head = Head("w", 6, b"x" * 32)
    linked = link_one(head, draft_of(one), SubjectKeys(sealing_key))
    key = None
    if linked.key is not None:
        key = open_subject_key(pb.AuditSubjectKey.FromString(linked.key.wrapped), private_key)

    opened = open_record(linked.payload, key)

    expected = encode_record(one, writer_id="w", sequence=7, previous_hash=b"x" * 32)
    assert opened == pb.AuditRecord.FromString(expected)
    bit = int(flipped * len(linked.payload) * 8)
    altered = bytearray(linked.payload)
    altered[bit // 8] ^= 1 << bit % 8
    assert hashlib.sha256(altered).digest() != linked.head.record_hash  # so the next record, or the statement, does not fit
    message = pb.AuditRecord.FromString(linked.payload)
    if message.HasField("sealed"):
        sealed = bytearray(message.sealed.ciphertext)
        sealed[bit // 8 % len(sealed)] ^= 1 << bit % 8
        message.sealed.ciphertext = bytes(sealed)
        with pytest.raises(SealedValueError):
            open_record(message.SerializeToString(), key)


def test_sealed_values_belong_to_their_record() -> None:
    private_key, sealing_key = sealing_pair()
    keys = SubjectKeys(sealing_key)
    first = link_one(Head("a-1"), draft_of(record(1, principal=ANN)), keys)
    second = link_one(first.head, draft_of(record(2, principal=ANN)), keys)
    assert first.key is not None
    key = open_subject_key(pb.AuditSubjectKey.FromString(first.key.wrapped), private_key)
    moved = pb.AuditRecord.FromString(second.payload)
    moved.sealed.CopyFrom(pb.AuditRecord.FromString(first.payload).sealed)

    with pytest.raises(SealedValueError, match="record 2 of a-1"):
        open_record(moved.SerializeToString(), key)


def test_a_key_does_not_open_under_another_name() -> None:
    private_key, sealing_key = sealing_pair()
    message = pb.AuditSubjectKey.FromString(SubjectKeys(sealing_key).key_of("okta/ann", NOON).wrapped)
    message.key_id = "another"

    with pytest.raises(SealedValueError):
        open_subject_key(message, private_key)
    with pytest.raises(SealedValueError):
        open_subject_key(pb.AuditSubjectKey(key_id="x"), private_key)


def test_frames_end_before_what_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.000001.wal"
    path.write_bytes(frame_bytes(b"one") + frame_bytes(b"key", is_key=True) + frame_bytes(b"two") + b"\xff" * 30)

    frames = list(read_frames(path))

    assert [(frame.payload, frame.is_key) for frame in frames] == [(b"one", False), (b"key", True), (b"two", False)]
    assert [frame.payload for frame in read_frames(path, frames[0].end)] == [b"key", b"two"]
    assert [frame.payload for frame in read_frames(path, end=frames[1].end)] == [b"one", b"key"]
    assert [frame.payload for frame in read_frames(path, end=frames[1].end + 1)] == [b"one", b"key"]
    assert list(read_frames(tmp_path / "absent.000001.wal")) == []


@pytest.mark.parametrize(
    ("claim", "openly", "why"),
    [
        ({"namespace": "other"}, {}, "are not only personal"),
        ({"decision": pb.AUDIT_DECISION_ALLOW}, {}, "are not only personal"),
        ({"sealed": pb.AuditSealed(key_id="x")}, {}, "are not only personal"),
        ({"user_agent": "curl"}, {"user_agent": "mcp"}, "say again what it says openly"),
        ({"principal": pb.AuditPrincipal(id="okta/bob")}, {}, "are under the key of another principal"),
        ({"arguments_json": "{}"}, {"principal": pb.AuditPrincipal(id="okta/bob")}, "are under the key of another principal"),
    ],
)
def test_what_is_sealed_is_personal_and_of_the_principal_whose_key_it_is_under(
    claim: dict[str, Any], openly: dict[str, Any], why: str
) -> None:
    private_key, sealing_key = sealing_pair()
    key = SubjectKeys(sealing_key).key_of("okta/ann", NOON)
    subject = open_subject_key(pb.AuditSubjectKey.FromString(key.wrapped), private_key)

    def sealed(personal: bytes) -> pb.AuditRecord:
        made = pb.AuditSealed.FromString(key.seal(personal, associated_data("w", 1)))
        return pb.AuditRecord(writer_id="w", sequence=1, sealed=made, **openly)

    forged = sealed(pb.AuditRecord(**claim).SerializeToString())
    before = forged.SerializeToString()
    with pytest.raises(SealedValueError, match=why):
        open_message(forged, subject)
    assert forged.SerializeToString() == before
    with pytest.raises(SealedValueError, match="are not only personal"):
        open_message(sealed(b"\xfa\xff\x01\x01a"), subject)  # a field that this release does not know
    if not openly:
        hers = sealed(pb.AuditRecord(principal=pb.AuditPrincipal(id="okta/ann")).SerializeToString())
        assert open_message(hers, subject).principal.id == "okta/ann"
