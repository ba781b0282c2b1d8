"""Statements about a real record, exported and verified without it: what is whole verifies, and what is not is found where it is."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from controlplane.audit.anchor import AnchorError, DirectoryAnchor, FileAnchor, parse_anchors
from controlplane.audit.finding import FindingCode, Report
from controlplane.audit.inclusion import InclusionProof, NotProvableError, ProofError, parse_proof, prove, verify_proof
from controlplane.audit.notary import Notary
from controlplane.audit.signer import KeyRing, SigningError, public_pem, read_signer
from controlplane.audit.statement import MAX_RECORDS, StatementKey, parse_statement
from controlplane.audit.verification import NoBundleError, verify_bundle
from controlplane.database import sqlite_url
from extauthz.errors import ConfigurationError
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.proof_world import START, ProofWorld, files_of, write_key


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProofWorld]:
    url = sqlite_url(tmp_path / "audit.db") if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    made = ProofWorld(tmp_path, url)
    yield made
    made.close()


@pytest.fixture
def sqlite_world(tmp_path: Path) -> Iterator[ProofWorld]:
    made = ProofWorld(tmp_path, sqlite_url(tmp_path / "audit.db"))
    yield made
    made.close()


def _codes(report: Report) -> set[FindingCode]:
    return {finding.code for finding in report.findings}


def _sample(world: ProofWorld) -> None:
    """Two writers, three statements."""
    world.write("one", 5)
    world.write("two", 2)
    world.state()
    world.write("two", 3)
    world.state()
    world.write("one", 4)
    world.state()


async def test_a_whole_record_verifies(world: ProofWorld):
    _sample(world)
    await world.anchor()
    world.write("two", 2)  # not stated yet

    report = verify_bundle(world.export(), anchors=[world.anchor_dir], keys=[world.keys.signer().key])

    assert report.findings == []
    assert (report.records, report.writers, report.statements, report.anchored) == (16, 2, 3, 3)
    assert (report.first_position, report.last_position, report.proven_to_position) == (1, 16, 14)
    assert report.key_pinned
    assert report.notes == ["positions 15 to 16 are not stated yet: only their writers' chains speak for them"]


def test_statements_follow_one_another(world: ProofWorld):
    _sample(world)

    stored = list(world.evidence.statements(1, 14))

    assert [(each.statement.number, each.statement.first_position, each.statement.last_position) for each in stored] == [
        (1, 1, 7), (2, 8, 10), (3, 11, 14),
    ]  # fmt: skip
    assert [each.statement.previous for each in stored] == [b"", stored[0].signed.digest, stored[1].signed.digest]
    assert {writer: head.sequence for writer, head in stored[0].statement.heads.items()} == {"one": 5, "two": 2}
    assert {writer: head.sequence for writer, head in stored[2].statement.heads.items()} == {"one": 9}
    assert parse_statement(stored[0].signed.document) == stored[0].statement


def test_where_nothing_came_nothing_is_stated(world: ProofWorld):
    world.state()
    assert world.evidence.newest_statement() is None
    _sample(world)
    world.state()
    assert world.evidence.newest_statement().statement.number == 3


def test_processes_that_state_at_once_make_one_chain(world: ProofWorld):
    world.write("one", 50)
    notaries = [Notary(world.store, world.keys, interval_seconds=1) for _ in range(4)]

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda notary: notary.state_next(), notaries * 5))

    assert [each.statement.number for each in world.evidence.statements(1, 50)] == [1]
    assert verify_bundle(world.export()).good


def test_a_gap_is_never_stated(world: ProofWorld):
    world.write("one", 5)
    with world.store.transaction() as connection:
        connection.execute(text("DELETE FROM audit_record WHERE position = 3"))

    with pytest.raises(SigningError, match="positions 3 to 3 are missing"):
        world.notary.state_next()


async def test_a_fault_is_told_and_ends(sqlite_world: ProofWorld):
    world = sqlite_world
    world.write("one", 2)
    hidden = world.key_file.rename(world.root / "away")

    await world.notary.state_now()
    assert "cannot read" in world.notary.fault
    hidden.rename(world.key_file)
    await world.notary.state_now()

    assert world.notary.fault == ""
    assert world.evidence.newest_statement().statement.last_position == 2


def test_an_export_of_a_time_is_of_whole_statements(world: ProofWorld):
    _sample(world)
    during_second = START + timedelta(seconds=10)

    report = verify_bundle(world.export(from_=during_second, to=during_second + timedelta(seconds=1)))

    assert report.findings == []
    assert (report.first_position, report.last_position, report.statements) == (8, 10, 1)


def test_an_export_of_a_time_without_records_is_empty_and_whole(world: ProofWorld):
    _sample(world)

    report = verify_bundle(world.export(from_=START + timedelta(days=2)), keys=[world.keys.signer().key])

    assert report.good
    assert (report.records, report.statements) == (0, 0)


# what somebody with the database changes


@pytest.mark.parametrize(
    ("statement", "code", "position", "sequence"),
    [
        ("UPDATE audit_record SET payload = (SELECT payload FROM audit_record WHERE position = 2) WHERE position = 3", None, 3, 2),
        ("DELETE FROM audit_record WHERE position = 9", FindingCode.POSITION_MISSING, 9, 0),
        ("DELETE FROM audit_record WHERE position > 12", FindingCode.POSITION_MISSING, 13, 0),
        ("DELETE FROM audit_statement WHERE number = 2", FindingCode.STATEMENT_MISSING, 11, 0),
    ],
)
def test_a_changed_database_is_found(world: ProofWorld, statement: str, code: FindingCode | None, position: int, sequence: int):
    _sample(world)
    with world.store.transaction() as connection:
        connection.execute(text(statement))

    report = verify_bundle(world.export())

    places = [(finding.code, finding.place.position, finding.place.sequence) for finding in report.findings]
    assert any((code in (None, found)) and at == position and of == sequence for found, at, of in places), places


async def test_a_record_that_was_cut_off_is_found_by_its_anchor(world: ProofWorld):
    """Whoever takes the last records and their statements away leaves a record that is whole in itself."""
    _sample(world)
    await world.anchor()
    with world.store.transaction() as connection:
        for change in (
            "DELETE FROM audit_record WHERE position > 10",
            "DELETE FROM audit_statement WHERE number = 3",
            "UPDATE audit_cursor SET position = 10 WHERE name = 'position'",
        ):
            connection.execute(text(change))
    bundle = world.export()

    assert verify_bundle(bundle).good
    report = verify_bundle(bundle, anchors=[world.anchor_dir])

    assert [(finding.code, finding.place.statement, finding.place.position) for finding in report.findings] == [
        (FindingCode.TRUNCATED, 3, 11)
    ]


async def test_a_record_that_was_made_anew_is_found_by_key_and_by_anchor(sqlite_world: ProofWorld, tmp_path: Path):
    world = sqlite_world
    _sample(world)
    await world.anchor()
    (tmp_path / "forged").mkdir()
    forged = ProofWorld(tmp_path / "forged", sqlite_url(tmp_path / "forged.db"))
    _sample(forged)

    bundle = forged.export()
    forged.close()

    assert verify_bundle(bundle).good  # in itself it is
    assert _codes(verify_bundle(bundle, keys=[world.keys.signer().key])) == {FindingCode.KEY_UNTRUSTED}
    assert _codes(verify_bundle(bundle, anchors=[world.anchor_dir])) == {FindingCode.ANCHOR_DIFFERS}


# keys


def test_a_key_is_replaced_by_the_one_that_it_names(world: ProofWorld):
    _sample(world)
    old = world.keys.signer().key
    new = read_signer(write_key(world.keys.following_file)).key
    world.write("one", 2)
    world.state()  # by the old key, which names the new one
    world.write("one", 2)
    world.state()  # by the new one
    world.keys.following_file.rename(world.key_file)
    world.write("one", 2)
    world.state()

    stored = list(world.evidence.statements(1, 100))
    assert [each.statement.key.key_id for each in stored[2:]] == [old.key_id, old.key_id, new.key_id, new.key_id]
    bundle = world.export()
    for key in (old, new):
        assert verify_bundle(bundle, keys=[key]).good


def test_a_lost_key_stops_statements_until_it_is_given_up(sqlite_world: ProofWorld):
    world = sqlite_world
    _sample(world)
    old = world.keys.signer().key
    new = read_signer(write_key(world.key_file)).key
    world.write("one", 2)
    with pytest.raises(SigningError, match=f"must be signed by the key {old.key_id}"):
        world.notary.state_next()

    world.keys.replaced_file.write_text(f"{old.key_id}\n")
    world.state()

    bundle = world.export()
    assert _codes(verify_bundle(bundle, keys=[old])) == {FindingCode.KEY_UNTRUSTED}  # a thief could have done the same
    assert verify_bundle(bundle, keys=[old, new]).good


_SIGNER = """
import base64, pathlib, sys
from cryptography.hazmat.primitives.serialization import load_pem_private_key
key = load_pem_private_key(pathlib.Path(sys.argv[1]).read_bytes(), None)
message = sys.stdin.buffer.read()
if sys.argv[2] == "wrong":
    message += b"!"
if sys.argv[2] == "fails":
    sys.exit(3)
print(base64.b64encode(key.sign(message)).decode() if sys.argv[2] != "garbage" else "?")
assert len(sys.argv) == 4 and len(message) < 200
"""


@pytest.mark.parametrize(
    ("how", "error"),
    [("right", ""), ("wrong", "is no signature by the key"), ("fails", "ended with code 3"), ("garbage", "in base64")],
)
def test_a_command_signs(sqlite_world: ProofWorld, how: str, error: str):
    world = sqlite_world
    public = world.root / "public.pem"
    public.write_bytes(public_pem(world.keys.signer().key))
    (world.root / "sign.py").write_text(_SIGNER)
    ring = KeyRing(file=public, command=(sys.executable, str(world.root / "sign.py"), str(world.key_file), how))
    notary = Notary(world.store, ring, interval_seconds=1)
    world.write("one", 3)

    if error:
        with pytest.raises(SigningError, match=error):
            notary.state_next()
    else:
        notary.state_next()
        assert verify_bundle(world.export()).good


def test_key_files_that_are_none(tmp_path: Path):
    key_file = write_key(tmp_path / "key.pem")
    key_file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_signer(key_file)
    key_file.chmod(0o600)
    with pytest.raises(ConfigurationError, match="must hold the public key only"):
        read_signer(key_file, ("sign",))
    (tmp_path / "public.pem").write_bytes(public_pem(read_signer(key_file).key))
    with pytest.raises(ConfigurationError, match="LEGATION_AUDIT_SIGNER_COMMAND"):
        read_signer(tmp_path / "public.pem")
    key_file.write_text("-----BEGIN PRIVATE KEY-----\nno\n")
    with pytest.raises(ConfigurationError, match="no Ed25519 key"):
        read_signer(key_file)
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_signer(tmp_path / "none.pem")


def test_openssl_verifies_a_statement(sqlite_world: ProofWorld, tmp_path: Path):
    """As docs/audit.md shows: what is signed can be made and checked without any program of ours."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    _sample(sqlite_world)
    stored = sqlite_world.evidence.newest_statement()
    message = f"legation-audit-statement/1\n{hashlib.sha256(stored.signed.document).hexdigest()}\n"
    for name, content in {"key": public_pem(stored.statement.key), "sig": stored.signed.signature, "text": message.encode()}.items():
        (tmp_path / name).write_bytes(content)

    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key", "-rawin", "-in", "text", "-sigfile", "sig"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


# anchors


async def test_statements_are_written_once(sqlite_world: ProofWorld):
    world = sqlite_world
    _sample(world)
    await world.anchor()

    names = sorted(path.name for path in world.anchor_dir.iterdir())
    assert names == [f"statement-{number:012d}.json" for number in (1, 2, 3)]
    assert world.evidence.count_unanchored() == 0
    anchor = DirectoryAnchor(directory=world.anchor_dir)
    await anchor.put(1, (world.anchor_dir / names[0]).read_bytes())  # again: nothing happens
    with pytest.raises(AnchorError, match="another statement stands at"):
        await anchor.put(1, (world.anchor_dir / names[1]).read_bytes())
    assert sorted(path.name for path in world.anchor_dir.iterdir()) == names
    assert not stat.S_IMODE((world.anchor_dir / names[0]).stat().st_mode) & 0o022


async def test_statements_are_appended_to_a_file_once(sqlite_world: ProofWorld):
    world = sqlite_world
    _sample(world)
    anchor = FileAnchor(file=world.root / "anchor.jsonl")
    await world.anchor([anchor])
    lines = anchor.file.read_bytes().splitlines(keepends=True)

    await anchor.put(3, lines[-1])  # we stopped before we remembered
    assert anchor.file.read_bytes() == b"".join(lines)
    with anchor.file.open("ab") as file:
        file.write(lines[0][:20])  # a crash cut a line off
    await anchor.put(4, lines[0])

    assert anchor.file.read_bytes() == b"".join(lines) + lines[0][:20] + b"\n" + lines[0]
    assert verify_bundle(world.export(), anchors=[anchor.file]).findings == []


async def test_a_place_that_fails_is_told_and_tried_again(sqlite_world: ProofWorld):
    world = sqlite_world
    _sample(world)
    away = world.anchor_dir.rename(world.root / "away")

    anchoring = await world.anchor()
    assert len(anchoring.faults) == 1
    assert "statement 1 is not anchored" in anchoring.faults[0]
    assert world.evidence.count_unanchored() == 3
    away.rename(world.anchor_dir)

    assert await anchoring.put_waiting()
    assert anchoring.faults == []
    assert world.evidence.count_unanchored() == 0


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("dir:/no/such/place", "not a directory"),
        ("file:/no/such/place/file", "no such directory"),
        ("ftp://host/x", "is not dir:/path"),
        ("http://anchors.example.com/x", "without TLS"),
        ("https://user@anchors.example.com/x", "is not dir:/path"),
        ("s3://bucket/prefix", "AWS_ACCESS_KEY_ID is not set"),
    ],
)
def test_anchors_that_are_none(setting: str, error: str):
    with pytest.raises(ConfigurationError, match=error):
        parse_anchors([setting], {})


# one record


def test_one_record_is_proven(world: ProofWorld):
    _sample(world)
    position, namespace, _ = world.evidence.record_of("two-4")

    proof = prove(world.evidence, position)

    assert namespace == "crm"
    assert parse_proof(proof.document()) == proof
    assert verify_proof(proof).number == 2
    for changed in (
        InclusionProof(position=position + 1, record=proof.record, path=proof.path, signed=proof.signed),
        InclusionProof(position=position, record=proof.record + b"\x00", path=proof.path, signed=proof.signed),
        InclusionProof(position=position, record=proof.record, path=proof.path[:-1], signed=proof.signed),
    ):
        with pytest.raises(ProofError):
            verify_proof(changed)


def test_every_bit_of_a_proof_counts(sqlite_world: ProofWorld):
    _sample(sqlite_world)
    content = prove(sqlite_world.evidence, 6).document()

    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1
        with pytest.raises(ProofError):
            verify_proof(parse_proof(bytes(changed)))


def test_what_cannot_be_proven_says_why(sqlite_world: ProofWorld):
    world = sqlite_world
    _sample(world)
    world.write("one", 1)
    with pytest.raises(NotProvableError, match="no statement is about this record yet"):
        prove(world.evidence, 15)
    with world.store.transaction() as connection:
        connection.execute(text("UPDATE audit_record SET record_hash = X'00' WHERE position = 2"))
    with pytest.raises(NotProvableError, match="is not what was stated"):
        prove(world.evidence, 3)
    assert world.evidence.record_of("nobody") is None


# what is no bundle


def test_what_is_no_bundle(tmp_path: Path):
    with pytest.raises(NoBundleError):
        verify_bundle(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"[" * 100_000)
    report = verify_bundle(tmp_path)
    assert FindingCode.MANIFEST_UNREADABLE in _codes(report)


def test_names_lead_nowhere_else(sqlite_world: ProofWorld, tmp_path: Path):
    _sample(sqlite_world)
    bundle = sqlite_world.export()
    for name in files_of(bundle):
        elsewhere = tmp_path / "elsewhere"
        (bundle / name).rename(elsewhere)
        (bundle / name).symlink_to(elsewhere)
        assert not verify_bundle(bundle).good, name
        (bundle / name).unlink()
        elsewhere.rename(bundle / name)
    assert verify_bundle(bundle).good
    os.mkfifo(bundle / "records" / "000002.frames")
    assert FindingCode.FILE_UNEXPECTED in _codes(verify_bundle(bundle))


def test_the_key_of_an_id_is_that_key():
    assert StatementKey(public_key=bytes(32)).key_id != StatementKey(public_key=bytes(31) + b"\x01").key_id
    assert MAX_RECORDS == 65_536
