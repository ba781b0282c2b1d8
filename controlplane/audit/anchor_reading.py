"""Reads the place where statements were anchored (a directory of them, or a file with a line each) and compares it with a bundle."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.audit.bundle import BundleError, Manifest, opened, read_whole
from controlplane.audit.finding import FindingCode, Place, Report
from controlplane.audit.statement import MAX_DOCUMENT_BYTES, StatementError, parse_envelope, parse_statement, verify_signature

_FILE = re.compile(r"statement-([0-9]{12,16})\.json")
_MAX_BYTES = 2 * MAX_DOCUMENT_BYTES
_MAX_STATEMENTS = 20_000_000


@dataclass(frozen=True, slots=True)
class Anchored:
    """What is kept of an anchored statement."""

    digest: bytes  # SHA-256 of its envelope
    at_unix_us: int
    first_position: int
    last_position: int
    place: Place


def read_anchor(path: Path, report: Report) -> dict[int, Anchored]:
    """The statements there, by their numbers. What cannot be read is a finding."""
    found: dict[int, Anchored] = {}
    texts = _files(path, report) if path.is_dir() else _lines(path, report)
    for content, place, number in texts:
        try:
            signed = parse_envelope(content)
            statement = parse_statement(signed.document)
            verify_signature(signed, statement)
        except StatementError as error:
            report.add(FindingCode.ANCHOR_UNREADABLE, str(error), place)
            continue
        if number and number != statement.number:
            report.add(FindingCode.ANCHOR_UNREADABLE, f"it holds statement {statement.number}", place)
            continue
        digest = hashlib.sha256(signed.envelope()).digest()
        known = found.get(statement.number)
        if known is not None and known.digest != digest:
            report.add(FindingCode.ANCHOR_DIFFERS, f"there are two statements {statement.number}", place)
        if len(found) >= _MAX_STATEMENTS:
            report.add(FindingCode.ANCHOR_UNREADABLE, f"it holds more than {_MAX_STATEMENTS} statements", place)
            break
        found[statement.number] = Anchored(digest, statement.at_unix_us, statement.first_position, statement.last_position, place)
    return found


def verify_anchor(
    anchored: Mapping[int, Anchored], digests: Mapping[int, bytes], path: Path, manifest: Manifest | None, report: Report
) -> None:
    """Every statement of the bundle is anchored as it is, and every anchored one that the bundle should hold is in it."""
    newest = max(anchored, default=0)
    first, last = min(digests, default=0), max(digests, default=0)
    for number in sorted(digests):
        there = anchored.get(number)
        if there is not None and there.digest != digests[number]:
            report.add(FindingCode.ANCHOR_DIFFERS, "the anchor holds another statement of this number", _with_number(there.place, number))
        elif there is not None:
            report.anchored += 1
        elif min(anchored, default=0) < number < newest:
            report.add(
                FindingCode.ANCHOR_MISSING, "the anchor holds those before and after, but not this", Place(file=str(path), statement=number)
            )
    waiting = sum(number > newest for number in digests)
    if waiting:
        report.notes.append(f"{waiting} statements are not in {path} yet")
    until = None
    if manifest is not None:
        until = manifest.exported_at_unix_us if manifest.to_unix_us is None else manifest.to_unix_us
    for number in sorted(number for number in anchored if number not in digests):
        there = anchored[number]
        place = Place(file=str(path), statement=number, position=there.first_position, last_position=there.last_position)
        if first < number < last:
            report.add(FindingCode.STATEMENT_MISSING, "the anchor holds it, and the bundle does not", place)
        elif number > last and (until is None or there.at_unix_us <= until):
            what = "the anchor holds it, and the bundle ends before: the end of the record was cut off"
            report.add(FindingCode.TRUNCATED, what, place)
        elif number < first and manifest is not None and manifest.from_unix_us is None:
            report.add(FindingCode.TRUNCATED, "the anchor holds it, and the bundle begins behind it", place)


def _files(path: Path, report: Report) -> Iterator[tuple[bytes, Place, int]]:
    try:
        names = sorted(entry.name for entry in os.scandir(path) if not entry.name.startswith("."))
    except OSError as error:
        report.add(FindingCode.ANCHOR_UNREADABLE, f"it cannot be read: {error.strerror}", Place(file=str(path)))
        return
    for name in names:
        place = Place(file=str(path / name))
        number = _FILE.fullmatch(name)
        if number is None:
            report.add(FindingCode.ANCHOR_UNREADABLE, "it is not the file of a statement", place)
            continue
        try:
            yield read_whole(path / name, _MAX_BYTES), place, int(number[1])
        except BundleError as error:
            report.add(FindingCode.ANCHOR_UNREADABLE, str(error), place)


def _lines(path: Path, report: Report) -> Iterator[tuple[bytes, Place, int]]:
    """A line that a crash cut off, and that the next one repeats whole, is passed over."""
    try:
        with opened(path) as file:
            line, number = file.readline(_MAX_BYTES), 1
            while line:
                following = file.readline(_MAX_BYTES)
                if not (following and len(line) < len(following) and following.startswith(line.rstrip(b"\n"))):
                    yield line, Place(file=str(path), line=number), 0
                line, number = following, number + 1
    except BundleError as error:
        report.add(FindingCode.ANCHOR_UNREADABLE, str(error), Place(file=str(path)))


def _with_number(place: Place, number: int) -> Place:
    return Place(file=place.file, line=place.line, statement=number)
