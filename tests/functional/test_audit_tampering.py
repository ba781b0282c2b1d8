"""Whatever is changed in an exported bundle or in its anchor is found, and where it is."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.audit.anchor import DirectoryAnchor, FileAnchor
from controlplane.audit.bundle import (
    KIND_RECORD,
    MANIFEST,
    RECORDS_HEADER,
    SIGNATURE,
    STATEMENTS,
    BundleFile,
    Frame,
    KeptRecord,
    pack_frame,
    parse_manifest,
    read_frames,
    records_name,
)
from controlplane.audit.finding import Finding, FindingCode, Report
from controlplane.audit.verification import verify_bundle
from controlplane.database import sqlite_url
from extauthz.v1 import audit_pb2 as pb
from tests.functional.proof_world import ProofWorld, files_of, put_files

RECORDS = records_name(1)
Files = dict[str, bytes]


class Sample:
    """A bundle with its anchors, and what verifies them after a change."""

    def __init__(self, root: Path, world: ProofWorld) -> None:
        self.bundle = root / "bundle"
        self.anchor_dir, self.anchor_file = world.anchor_dir, root / "anchor.jsonl"
        self.key = world.keys.signer().key
        self.files = files_of(self.bundle)
        self.anchored = files_of(self.anchor_dir)
        self.lines = self.anchor_file.read_bytes()
        self.frames = list(read_frames(io.BytesIO(self.files[RECORDS])))

    def verify(self, changes: Files | None = None, *, anchors: bool = True) -> Report:
        """With these files instead of those that there are; empty content: the file is gone."""
        files = {name: content for name, content in (self.files | (changes or {})).items() if content}
        put_files(self.bundle, files)
        return verify_bundle(self.bundle, anchors=[self.anchor_dir, self.anchor_file] if anchors else [], keys=[self.key])

    def forge(self, frames: list[Frame]) -> Report:
        """By somebody who makes everything again that needs no key: checksums, the manifest's digests."""
        content = RECORDS_HEADER + b"".join(pack_frame(frame.kind, frame.position, frame.payload) for frame in frames)
        manifest = parse_manifest(self.files[MANIFEST])
        said = BundleFile(size_bytes=len(content), sha256=hashlib.sha256(content).digest())
        document = replace(manifest, files={**manifest.files, RECORDS: said}).document()
        return self.verify({RECORDS: content, MANIFEST: document, SIGNATURE: b""})


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    root = tmp_path_factory.mktemp("tampering")
    world = ProofWorld(root, sqlite_url(root / "audit.db"))
    world.write("one", 3)
    world.write("two", 2, event=8)
    world.state()
    world.write("two", 2)
    world.state()
    world.write("one", 2)
    world.state()
    asyncio.run(world.anchor([DirectoryAnchor(directory=world.anchor_dir), FileAnchor(file=root / "anchor.jsonl")]))
    world.export()
    made = Sample(root, world)
    world.close()
    assert made.verify().findings == []
    return made


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :]


def _about(finding: Finding, name: str) -> bool:
    return finding.place.file.endswith(name)


def test_a_bit_of_every_byte_of_every_file(sample: Sample):
    for name, content in sample.files.items():
        for at in range(len(content)):
            report = sample.verify({name: _flipped(content, at)}, anchors=False)

            said = {finding.place.file for finding in report.findings}
            expected = {name, SIGNATURE} if name == MANIFEST else {name}
            assert said & expected, (name, at, [str(finding.place) for finding in report.findings])
    sample.verify()


def test_a_bit_of_every_byte_of_the_records_is_found_at_its_position(sample: Sample):
    """The same, told by the record in which it is."""
    content = sample.files[RECORDS]
    ends = [*(frame.offset for frame in sample.frames[1:]), len(content)]
    for frame, end in zip(sample.frames, ends, strict=True):
        for at in range(frame.offset, end):
            report = sample.verify({RECORDS: _flipped(content, at)}, anchors=False)

            found = {finding.place.position for finding in report.findings if finding.code is not FindingCode.FILE_CHANGED}
            assert frame.position in found, (frame.position, at - frame.offset, sorted(found))
    sample.verify()


def test_a_bit_of_every_byte_of_the_anchors(sample: Sample):
    try:
        for name, content in sample.anchored.items():
            for at in range(len(content)):
                (sample.anchor_dir / name).chmod(0o600)
                (sample.anchor_dir / name).write_bytes(_flipped(content, at))
                if at == len(content) - 1:
                    continue  # the end of the line; what it holds is whole
                report = verify_bundle(sample.bundle, anchors=[sample.anchor_dir])
                assert any(_about(finding, name) for finding in report.findings), (name, at)
            (sample.anchor_dir / name).write_bytes(content)
        for at in range(len(sample.lines)):
            sample.anchor_file.write_bytes(_flipped(sample.lines, at))
            report = verify_bundle(sample.bundle, anchors=[sample.anchor_file])
            line = sample.lines[:at].count(b"\n") + 1
            assert any(_about(found, "anchor.jsonl") and found.place.line in (line, line + 1) for found in report.findings), at
    finally:
        put_files(sample.anchor_dir, sample.anchored)
        sample.anchor_file.write_bytes(sample.lines)


def test_files_that_are_taken_away_swapped_or_added(sample: Sample):
    names = sorted(sample.files)
    for taken in names:
        if taken == MANIFEST:
            continue
        report = sample.verify({taken: b""}, anchors=False)
        assert any(_about(finding, taken) for finding in report.findings), taken
    assert FindingCode.MANIFEST_UNREADABLE in {finding.code for finding in sample.verify({MANIFEST: b""}, anchors=False).findings}
    for one in names:
        for two in names:
            if one < two:
                report = sample.verify({one: sample.files[two], two: sample.files[one]}, anchors=False)
                assert {one, two} & {finding.place.file for finding in report.findings}, (one, two)
    for added in (records_name(2), f"keys/{'0' * 32}.pem", "notes.txt", "records/more/x"):
        report = sample.verify({added: sample.files[RECORDS]}, anchors=False)
        assert any(_about(finding, added) and finding.code is FindingCode.FILE_UNEXPECTED for finding in report.findings), added
    sample.verify()


def test_anchored_files_that_are_taken_away(sample: Sample):
    """One in the middle is missed; the newest may not have been written yet, and its absence is told."""
    names = sorted(sample.anchored)
    try:
        put_files(sample.anchor_dir, {name: content for name, content in sample.anchored.items() if name != names[1]})
        report = verify_bundle(sample.bundle, anchors=[sample.anchor_dir])
        assert [(finding.code, finding.place.statement) for finding in report.findings] == [(FindingCode.ANCHOR_MISSING, 2)]
        put_files(sample.anchor_dir, {name: sample.anchored[name] for name in names[:2]})
        report = verify_bundle(sample.bundle, anchors=[sample.anchor_dir])
        assert report.good
        assert any("not in" in note for note in report.notes)
    finally:
        put_files(sample.anchor_dir, sample.anchored)


def _edited(frame: Frame) -> Frame:
    message = pb.AuditRecord.FromString(frame.payload)
    message.sentence = "something else"
    return replace(frame, payload=message.SerializeToString())


def _stub(frame: Frame) -> Frame:
    message = pb.AuditRecord.FromString(frame.payload)
    kept = KeptRecord(
        position=frame.position, writer_id=message.writer_id, sequence=message.sequence, at_unix_us=1, record_hash=bytes(32), payload=b""
    )
    return next(read_frames(io.BytesIO(RECORDS_HEADER + kept.frame())))


def _renumbered(frames: list[Frame]) -> list[Frame]:
    return [replace(frame, position=number) for number, frame in enumerate(frames, 1)]


_FORGERIES: dict[str, Callable[[list[Frame], int], list[Frame]]] = {
    "edited": lambda frames, at: [*frames[:at], _edited(frames[at]), *frames[at + 1 :]],
    "taken away": lambda frames, at: [*frames[:at], *frames[at + 1 :]],
    "taken away, the rest moved up": lambda frames, at: _renumbered([*frames[:at], *frames[at + 1 :]]),
    "there twice": lambda frames, at: [*frames[: at + 1], frames[at], *frames[at + 1 :]],
    "there twice, the rest moved down": lambda frames, at: _renumbered([*frames[: at + 1], frames[at], *frames[at + 1 :]]),
    "at the end": lambda frames, at: [*frames[:at], *frames[at + 1 :], frames[at]],
    "at the end, all numbered anew": lambda frames, at: _renumbered([*frames[:at], *frames[at + 1 :], frames[at]]),
    "said to be deleted": lambda frames, at: [*frames[:at], _stub(frames[at]), *frames[at + 1 :]],
    "everything behind it cut off": lambda frames, at: frames[:at],
}


@pytest.mark.parametrize("how", sorted(_FORGERIES))
def test_a_forged_record_is_found_where_it_is(sample: Sample, how: str):
    """By somebody who has no key, and makes everything else fit."""
    for at in range(len(sample.frames)):
        frames = _FORGERIES[how](list(sample.frames), at)
        if frames == sample.frames:
            continue  # the last one stands at the end

        report = sample.forge(frames)

        def near(finding: Finding, at: int = at) -> bool:
            first, last = finding.place.position, max(finding.place.position, finding.place.last_position)
            return bool(first) and (first <= at + 1 <= last or first in (at + 1, at + 2))

        assert any(near(finding) for finding in report.findings), (at, [str(finding.place) for finding in report.findings])
    sample.verify()


def test_an_edited_record_is_told_exactly(sample: Sample):
    """By the one that follows it, or by the statement that knows the writer's last."""
    for at, frame in enumerate(sample.frames):
        message = pb.AuditRecord.FromString(frame.payload)
        report = sample.forge(_FORGERIES["edited"](list(sample.frames), at))

        told = [
            finding
            for finding in report.findings
            if finding.place.writer_id == message.writer_id and finding.place.sequence in (message.sequence, message.sequence + 1)
        ]
        assert {finding.code for finding in told} & {FindingCode.CHAIN_BROKEN, FindingCode.HEAD_DIFFERS}, at
    sample.verify()


def test_a_writer_s_whole_chain_made_again_is_found_by_its_statements(sample: Sample):
    frames, previous = [], b""
    for frame in sample.frames:
        message = pb.AuditRecord.FromString(frame.payload)
        if message.writer_id == "two":
            message.sentence, message.previous_hash = "something else", previous
            payload = message.SerializeToString()
            previous = hashlib.sha256(payload).digest()
            frame = Frame(offset=frame.offset, kind=KIND_RECORD, position=frame.position, payload=payload, damaged=False)  # noqa: PLW2901
        frames.append(frame)

    report = sample.forge(frames)

    found = {(finding.code, finding.place.statement) for finding in report.findings if finding.place.statement}
    assert {(FindingCode.ROOT_DIFFERS, 1), (FindingCode.HEAD_DIFFERS, 1), (FindingCode.ROOT_DIFFERS, 2)} <= found
    assert (FindingCode.ROOT_DIFFERS, 3) not in found
    sample.verify()


def test_whatever_a_file_holds_is_a_finding_and_no_failure(sample: Sample):
    hostile = [
        b"\x00", b"{}", b"[" * 100_000, b'{"a":' * 50_000, b'"' + b"\xff" * 100, b'{"document":"\\ud800","signature":""}\n', b"9" * 5000,
        RECORDS_HEADER + b"\xff" * 17, RECORDS_HEADER + pack_frame(1, 2**64 - 1, b""), RECORDS_HEADER + pack_frame(2, 1, b"{}"),
        RECORDS_HEADER + pack_frame(2, 1, b'{"at_unix_us":99999999999999999999,"hash":"","sequence":0,"writer_id":"\\udfff"}'),
    ]  # fmt: skip
    for name in sample.files:
        for content in hostile:
            report = sample.verify({name: content}, anchors=False)
            assert {name, SIGNATURE} & {finding.place.file for finding in report.findings}, (name, content[:20])
    sample.verify()


def test_statements_that_are_taken_away_reordered_or_doubled(sample: Sample):
    lines = sample.files[STATEMENTS].splitlines(keepends=True)
    for changed in (
        lines[1:], lines[:1] + lines[2:], lines[:2], [lines[1], lines[0], lines[2]], [lines[0], lines[2], lines[1]], [*lines, lines[2]],
        [lines[0], lines[0], *lines[1:]], [],
    ):  # fmt: skip
        report = sample.verify({STATEMENTS: b"".join(changed) or b"\n"})

        codes = {finding.code for finding in report.findings if _about(finding, STATEMENTS)}
        assert codes & {
            FindingCode.STATEMENT_MISSING, FindingCode.STATEMENT_OUT_OF_ORDER, FindingCode.STATEMENT_UNREADABLE, FindingCode.FILE_CHANGED
        }, len(changed)  # fmt: skip
    sample.verify()
