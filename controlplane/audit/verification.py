"""Verifies an exported bundle without a deployment: no edit, no gap, no truncation, or where it is and what.

    (1) files: there, as the manifest says, nothing else      (2) keys and the manifest's signature
    (3) statements: numbered, chained, signed, by keys that follow one another
    (4) records: by position without a gap, by writer without a gap, each naming the one before it
    (5) each statement's root and heads over the records of its interval
    (6) anchors: every statement is there, the same, and none is there that the bundle should hold

Whatever it reads may come from an enemy: memory is bounded, every form is exact, and nothing that a name leads to is followed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from controlplane.audit.anchor_reading import read_anchor, verify_anchor
from controlplane.audit.bundle import (
    FORMAT,
    MANIFEST,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    STATEMENTS,
    BundleError,
    BundleFile,
    Manifest,
    is_bundle_name,
    opened,
    parse_manifest,
    parse_signature,
    read_frames,
    read_whole,
)
from controlplane.audit.finding import FindingCode, Place, Report
from controlplane.audit.record_check import RecordCheck
from controlplane.audit.signer import parse_public_key
from controlplane.audit.statement import (
    MAX_DOCUMENT_BYTES,
    SignedStatement,
    Statement,
    StatementError,
    StatementKey,
    parse_envelope,
    parse_statement,
    signed_message,
    verify_signature,
)

_PIECE_BYTES = 1024 * 1024
_MAX_UNSAID_BYTES = 4 * 1024 * 1024
"""So much is read of a file of records beyond what the manifest says of it: what is wrong is told, and no hole is read for hours."""
_MAX_LINE_BYTES = 2 * MAX_DOCUMENT_BYTES
_MAX_KEY_BYTES = 16_384


class NoBundleError(ValueError):
    """What was named is no bundle at all: nothing can be said about it."""


def verify_bundle(directory: Path, *, anchors: Sequence[Path] = (), keys: Sequence[StatementKey] = ()) -> Report:
    """Everything that can be said of a bundle. Raises `NoBundleError` when it is none.

    `keys` are those that the reader trusts; without one, signatures show only that whoever holds the bundle's keys made it.
    """
    report = Report()
    names = _names(directory)
    manifest = _read_manifest(directory, report)
    _check_files(directory, names, manifest, report)
    first_position = manifest.first_position if manifest is not None else 0
    statements = StatementCheck(report, keys, first_position=first_position)
    stated = _Stated(statements.read(directory / STATEMENTS))
    whole = manifest is not None and manifest.to_unix_us is None
    records = RecordCheck(report, first_position=first_position, whole=whole)
    for name in sorted(name for name in names if name.startswith("records/")):
        said = manifest.files.get(name) if manifest is not None else None
        _check_records(directory, name, records, stated, max_bytes=_MAX_UNSAID_BYTES + (said.size_bytes if said is not None else 0))
    records.finish(manifest.last_position if manifest is not None else 0)
    for statement in stated.rest():
        records.compare(statement)
    records.report_totals()
    statements.finish()
    _check_keys(directory, names, statements, report)
    _check_signature(directory, names, manifest, statements, report)
    for anchor in anchors:
        verify_anchor(read_anchor(anchor, report), statements.digests, anchor, manifest, report)
    return report


class _Stated:
    """The statements in their order, each handed out when the records of its interval have been read."""

    def __init__(self, statements: Iterator[Statement]) -> None:
        self._statements = statements
        self._next = next(statements, None)

    def before(self, position: int) -> Iterator[Statement]:
        """Those that end before this position."""
        while self._next is not None and self._next.last_position < position:
            yield self._next
            self._next = next(self._statements, None)

    def rest(self) -> Iterator[Statement]:
        """All others."""
        while self._next is not None:
            yield self._next
            self._next = next(self._statements, None)


class StatementCheck:
    """(3) Follows the chain of statements."""

    def __init__(self, report: Report, pinned: Sequence[StatementKey], *, first_position: int) -> None:
        self._report = report
        self._first_position = first_position  # of the bundle; 0: not known
        self._pinned = {key.key_id for key in pinned}
        self._last: Statement | None = None
        self._last_digest = b""
        self.keys: dict[str, StatementKey] = {}
        self.digests: dict[int, bytes] = {}
        """SHA-256 of each statement's envelope, by its number."""

    def read(self, path: Path) -> Iterator[Statement]:
        """Those that can be read, in the order of the file, and checked."""
        try:
            for number, line in enumerate(_lines(path), 1):
                statement = self._read_line(line, Place(file=STATEMENTS, line=number))
                if statement is not None:
                    yield statement
        except BundleError as error:
            self._report.add(FindingCode.STATEMENT_UNREADABLE, str(error), Place(file=STATEMENTS))

    def knows(self, key_id: str) -> bool:
        """Whether it is a key of these statements, or one of the reader's."""
        return key_id in self.keys or key_id in self._pinned

    def finish(self) -> None:
        """What can be said when all were read."""
        report = self._report
        report.statements = len(self.digests)
        report.key_ids = list(self.keys)
        report.key_pinned = bool(self._pinned & set(self.keys))
        if not self.digests:
            report.notes.append("there is no statement: nothing shows that records were not changed before the export")
        elif not self._pinned:
            report.notes.append("no key was given (--key): the signatures show only that one holder of these keys made all of it")
        elif not report.key_pinned:
            report.add(FindingCode.KEY_UNTRUSTED, "no statement is signed by a key that was given", Place(file=STATEMENTS))

    def _read_line(self, line: bytes, place: Place) -> Statement | None:
        try:
            signed = parse_envelope(line)
            statement = parse_statement(signed.document)
        except StatementError as error:
            self._report.add(FindingCode.STATEMENT_UNREADABLE, str(error), place)
            return None
        place = Place(
            file=place.file,
            line=place.line,
            statement=statement.number,
            position=statement.first_position,
            last_position=statement.last_position,
        )
        if not self._follows(statement, place):
            return None
        self._check_signature(statement, signed, place)
        self._check_key(statement, place)
        self._remember(statement, signed)
        return statement

    def _follows(self, statement: Statement, place: Place) -> bool:
        last, report = self._last, self._report
        if last is None:
            if self._first_position and statement.first_position != self._first_position:
                what = f"the statement about position {self._first_position} is missing"
                report.add(FindingCode.STATEMENT_MISSING, what, place)
            return True
        if statement.number <= last.number:
            report.add(FindingCode.STATEMENT_OUT_OF_ORDER, f"it stands behind statement {last.number}", place)
            return False
        if statement.number > last.number + 1:
            what = f"statements {last.number + 1} to {statement.number - 1} are missing"
            report.add(FindingCode.STATEMENT_MISSING, what, place)
        else:
            if statement.previous != self._last_digest:
                report.add(FindingCode.STATEMENT_OUT_OF_ORDER, f"statement {last.number} is not the one that it names before it", place)
            if statement.first_position != last.last_position + 1:
                report.add(FindingCode.STATEMENT_MISSING, f"it does not begin behind position {last.last_position}", place)
        return True

    def _check_signature(self, statement: Statement, signed: SignedStatement, place: Place) -> None:
        try:
            verify_signature(signed, statement)
        except StatementError as error:
            self._report.add(FindingCode.SIGNATURE_INVALID, str(error), place)

    def _check_key(self, statement: Statement, place: Place) -> None:
        last, key_id = self._last, statement.key.key_id
        if last is None or last.successor_key_id() == key_id:
            return
        given_up = statement.replaces_lost == last.successor_key_id() and key_id in self._pinned
        if not given_up:
            what = f"it is signed by the key {key_id}, which no statement before names; give it with --key if you know it"
            self._report.add(FindingCode.KEY_UNTRUSTED, what, place)

    def _remember(self, statement: Statement, signed: SignedStatement) -> None:
        self._last, self._last_digest = statement, signed.digest
        self.digests[statement.number] = hashlib.sha256(signed.envelope()).digest()
        for key in (statement.key, statement.next_key):
            if key is not None:
                self.keys[key.key_id] = key


def _names(directory: Path) -> set[str]:
    """Relative names of everything in the directory. Raises `NoBundleError`."""
    if not (directory / MANIFEST).exists() and not (directory / STATEMENTS).exists():
        raise NoBundleError(f"{directory} is no bundle: it has neither {MANIFEST} nor {STATEMENTS}")
    names: set[str] = set()
    try:
        for root, folders, files in os.walk(directory):
            within = Path(root).relative_to(directory)
            links = [folder for folder in folders if (Path(root) / folder).is_symlink()]
            names.update((within / name).as_posix() for name in (*files, *links))
            if len(names) > MAX_FILES:
                raise NoBundleError(f"{directory} holds more than {MAX_FILES} files")
    except OSError as error:
        raise NoBundleError(f"{directory} cannot be read: {error.strerror}") from error
    return names


def _read_manifest(directory: Path, report: Report) -> Manifest | None:
    try:
        manifest = parse_manifest(read_whole(directory / MANIFEST, MAX_MANIFEST_BYTES))
    except BundleError as error:
        report.add(FindingCode.MANIFEST_UNREADABLE, str(error), Place(file=MANIFEST))
        return None
    report.first_position, report.last_position = manifest.first_position, manifest.last_position
    report.asked_from_unix_us, report.asked_to_unix_us = manifest.from_unix_us, manifest.to_unix_us
    report.exported_at_unix_us = manifest.exported_at_unix_us
    return manifest


def _check_files(directory: Path, names: set[str], manifest: Manifest | None, report: Report) -> None:
    """(1)"""
    said = manifest.files if manifest is not None else {}
    for name in sorted(names - {MANIFEST, SIGNATURE}):
        if manifest is not None and name not in said:
            report.add(FindingCode.FILE_UNEXPECTED, "the manifest does not name this file", Place(file=name))
        elif manifest is None and not is_bundle_name(name):
            report.add(FindingCode.FILE_UNEXPECTED, "no bundle holds such a file", Place(file=name))
    for name in sorted(said):
        if name not in names:
            report.add(FindingCode.FILE_MISSING, "the manifest names this file", Place(file=name))
            continue
        try:
            found = _digest(directory / name, said[name].size_bytes)
        except BundleError as error:
            report.add(FindingCode.FILE_CHANGED, str(error), Place(file=name))
            continue
        if found != said[name]:
            report.add(FindingCode.FILE_CHANGED, "it is not what the manifest says of it", Place(file=name))


def _digest(path: Path, expected_bytes: int) -> BundleFile:
    """Size and hash of a file, read up to one byte more than it should have."""
    digest, size = hashlib.sha256(), 0
    with opened(path) as file:
        while size <= expected_bytes and (piece := file.read(min(_PIECE_BYTES, expected_bytes + 1 - size))):
            digest.update(piece)
            size += len(piece)
    return BundleFile(size_bytes=size, sha256=digest.digest())


def _check_records(directory: Path, name: str, records: RecordCheck, stated: _Stated, *, max_bytes: int) -> None:
    """(4), and (5) as soon as an interval is complete."""
    try:
        with opened(directory / name) as file:
            for frame in read_frames(file, max_bytes):
                for statement in stated.before(frame.position) if records.is_next(frame.position) else ():
                    records.compare(statement)
                records.check(frame, name)
    except BundleError as error:
        records.unreadable(name, str(error))


def _check_keys(directory: Path, names: Iterable[str], statements: StatementCheck, report: Report) -> None:
    """(2)"""
    found: set[str] = set()
    for name in sorted(name for name in names if name.startswith("keys/")):
        key_id = Path(name).stem
        found.add(key_id)
        try:
            key = parse_public_key(read_whole(directory / name, _MAX_KEY_BYTES))
        except ValueError as error:
            report.add(FindingCode.KEY_UNTRUSTED, f"it cannot be read: {error}", Place(file=name))
            continue
        if key.key_id != key_id or key_id not in statements.keys:
            report.add(FindingCode.KEY_UNTRUSTED, "it is not a key of the statements under its own name", Place(file=name))
    for key_id in sorted(set(statements.keys) - found):
        report.add(FindingCode.FILE_MISSING, "a key of the statements has no file", Place(file=f"keys/{key_id}.pem"))


def _check_signature(directory: Path, names: set[str], manifest: Manifest | None, statements: StatementCheck, report: Report) -> None:
    """(2) By a key of the statements, or one of the reader's."""
    if SIGNATURE not in names:
        if statements.digests:
            report.add(FindingCode.MANIFEST_UNSIGNED, "the manifest has no signature", Place(file=SIGNATURE))
        return
    try:
        key, signature = parse_signature(read_whole(directory / SIGNATURE, 4096))
        if manifest is not None:
            key.verify(signature, signed_message(manifest.document(), FORMAT))
    except (BundleError, StatementError) as error:
        report.add(FindingCode.SIGNATURE_INVALID, str(error), Place(file=SIGNATURE))
        return
    if not statements.knows(key.key_id):
        what = f"it is by the key {key.key_id}, which no statement here names; give it with --key if you know it"
        report.add(FindingCode.KEY_UNTRUSTED, what, Place(file=SIGNATURE))


def _lines(path: Path) -> Iterator[bytes]:
    with opened(path) as file:
        while line := file.readline(_MAX_LINE_BYTES + 1):
            if len(line) > _MAX_LINE_BYTES:
                raise BundleError(f"has a line of more than {_MAX_LINE_BYTES} bytes")
            yield line
