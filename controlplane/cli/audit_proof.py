"""`audit export`, `audit verify`, `audit prove`: the record taken away, and shown to be whole where there is no deployment."""

from __future__ import annotations

import re
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from controlplane.cli.audit import say_lagging
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.past_moment import PastMoment
from controlplane.cli.terminal import json_text, note, printable, say, say_document
from controlplane.client import UnreachableError

if TYPE_CHECKING:
    from controlplane.audit.finding import Report
    from controlplane.audit.statement import StatementKey

_A_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_SHOWN = 50
_LAGGING_HEADER = "Legation-Lagging"  # of `controlplane.api.audit_proof`, which a command need not load
_MAX_FILE_BYTES = 2 * 1024**3


@click.command(cls=Command)
@click.option("--from", "from_", type=PastMoment(), metavar="WHEN", help="From when on (default: from the first record on).")
@click.option("--to", type=PastMoment(), metavar="WHEN", help="Until when (default: now).")
@click.option("--to-dir", required=True, type=click.Path(path_type=Path, file_okay=False), help="A directory that is empty or not there.")
@pass_invocation
def export(invocation: Invocation, *, from_: str | None, to: str | None, to_dir: Path) -> int:
    """Write records, statements and public keys to a directory, for `legation audit verify`. Sealed values stay sealed."""
    if to_dir.exists() and any(to_dir.iterdir()):
        raise CommandError(f"{to_dir} is not empty", remedy="name a directory that is empty, or that is not there yet")
    with invocation.api() as api:
        names, lagging = api.download(
            "/v1/audit/export",
            {"from": from_ or "", "to": to or ""},
            lambda answer: (extract(answer, to_dir), [node for node in answer.headers.get(_LAGGING_HEADER, "").split(",") if node]),
        )
    if invocation.for_machines:
        say_document({"directory": str(to_dir), "files": names, "lagging": lagging}, invocation.output)
    else:
        say(printable(f"{len(names)} files are in {to_dir}; `legation audit verify {to_dir}` verifies them"))
    say_lagging({"lagging": lagging})
    return Outcome.DONE


@click.command(cls=Command)
@click.argument("directory", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="[DIR]")
@click.option("--proof", type=_A_FILE, help="A file of `legation audit prove` instead.")
@click.option("--anchor", "anchors", multiple=True, type=click.Path(path_type=Path, exists=True), help="Where statements were anchored.")
@click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A public key (PEM) you trust."
)
@pass_invocation
def verify(invocation: Invocation, *, directory: Path | None, proof: Path | None, anchors: tuple[Path, ...], keys: tuple[Path, ...]) -> int:
    """Verify an export, or one proof, offline: no edit, no gap, nothing cut off, or where. Exit code 1: something was found."""
    from controlplane.audit.verification import NoBundleError, verify_bundle  # noqa: PLC0415 - cryptography costs 100 ms

    if (directory is None) == (proof is None):
        raise CommandError("name a directory that `legation audit export` made, or --proof FILE, and not both")
    trusted = [_read_key(path) for path in keys]
    if proof is not None:
        return _verify_proof(invocation, proof, anchors, trusted)
    assert directory is not None  # noqa: S101 - one of the two
    try:
        report = verify_bundle(directory, anchors=anchors, keys=trusted)
    except NoBundleError as error:
        raise CommandError(str(error), remedy="name a directory that `legation audit export` made") from error
    if invocation.for_machines:
        say_document(_report_json(report), invocation.output)
    else:
        _say_report(report)
    return Outcome.DONE if report.good else Outcome.NO


@click.command(cls=Command)
@click.argument("decision_id")
@click.option(
    "--to-file", type=click.Path(path_type=Path, dir_okay=False), help="Where the proof is written (default: DECISION_ID.proof.json)."
)
@pass_invocation
def prove(invocation: Invocation, *, decision_id: str, to_file: Path | None) -> int:
    """Write the proof that the record of a decision stands in the record as it was made, for `legation audit verify --proof`."""
    if to_file is None and not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", decision_id):
        raise CommandError("the decision's id is no name for a file", remedy="say --to-file FILE")
    path = to_file or Path(f"{decision_id}.proof.json")
    with invocation.api() as api:
        content = api.download("/v1/audit/proof", {"decision_id": decision_id}, lambda stream: stream.read())
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
    if invocation.for_machines:
        say_document({"decision_id": decision_id, "file": str(path)}, invocation.output)
    else:
        say(printable(f"the proof is in {path}; `legation audit verify --proof {path}` verifies it"))
    return Outcome.DONE


def extract(stream: IO[bytes], directory: Path) -> list[str]:
    """The files of a bundle's tar stream, in a directory that is made. Raises `UnreachableError` for a stream that is not whole."""
    from controlplane.audit.bundle import MANIFEST, is_bundle_name  # noqa: PLC0415 - with cryptography

    names: list[str] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isfile() and is_bundle_name(entry.name) else None
                if content is None or entry.name in names or entry.size > _MAX_FILE_BYTES:
                    raise UnreachableError("the answer is no bundle of records")
                with _new_file(directory / entry.name) as file:
                    while piece := content.read(1024 * 1024):
                        file.write(piece)
                names.append(entry.name)
    except tarfile.TarError as error:
        raise UnreachableError(f"the export broke off: {error}; what is in {directory} is not whole") from error
    if MANIFEST not in names:
        raise UnreachableError(f"the export broke off before its end; what is in {directory} is not whole")
    return names


def _new_file(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.open("xb")
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error


def _read_key(path: Path) -> StatementKey:
    from controlplane.audit.signer import parse_public_key  # noqa: PLC0415 - cryptography costs 100 ms

    try:
        return parse_public_key(path.read_bytes()[:65_536])
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} is not an Ed25519 public key in PEM") from error


def _verify_proof(invocation: Invocation, path: Path, anchors: tuple[Path, ...], trusted: list[StatementKey]) -> int:
    from controlplane.audit.proof_check import verify_proof_file  # noqa: PLC0415 - cryptography costs 100 ms

    report, proven = verify_proof_file(path, anchors=anchors, keys=trusted)
    if invocation.for_machines:
        findings = [finding.to_json() for finding in report.findings]
        say_document({"verified": report.good, "findings": findings, "notes": report.notes, "record": proven}, invocation.output)
    else:
        _say_findings(report)
        if report.good:
            say("the record stands in the record as it was made", "good")
            say(json_text(proven))
        _say_notes(report)
    return Outcome.DONE if report.good else Outcome.NO


def _report_json(report: Report) -> dict[str, object]:
    return {
        "verified": report.good,
        "found": report.found,
        "findings": [finding.to_json() for finding in report.findings],
        "notes": report.notes,
        "asked": {"from": _moment(report.asked_from_unix_us), "to": _moment(report.asked_to_unix_us)},
        "exported_at": _moment(report.exported_at_unix_us),
        "first_position": report.first_position,
        "last_position": report.last_position,
        "records": report.records,
        "deleted": report.deleted,
        "deleted_until": _moment(report.deleted_until_unix_us or None),
        "writers": report.writers,
        "statements": report.statements,
        "anchored": report.anchored,
        "proven_to_position": report.proven_to_position,
        "proven_to": _moment(report.proven_to_unix_us or None),
        "keys": report.key_ids,
        "key_trusted": report.key_pinned,
    }


def _say_report(report: Report) -> None:
    asked = f"{_moment(report.asked_from_unix_us) or 'the first record'} to {_moment(report.asked_to_unix_us) or 'the export'}"
    say(f"asked: {asked}, exported {_moment(report.exported_at_unix_us)}")
    say(f"positions {report.first_position} to {report.last_position}: {report.records} records of {report.writers} writers")
    if report.deleted:
        say(f"{report.deleted} records until {_moment(report.deleted_until_unix_us)} were deleted by retention")
    say(f"{report.statements} statements, {report.anchored} found anchored; keys: {', '.join(report.key_ids) or 'none'}")
    _say_findings(report)
    if report.good and report.proven_to_position:
        say(f"whole and unchanged, proven up to position {report.proven_to_position} at {_moment(report.proven_to_unix_us)}", "good")
    elif report.good:
        say("no fault was found", "good")
    _say_notes(report)


def _say_findings(report: Report) -> None:
    for finding in report.findings[:_SHOWN]:
        say(printable(f"{finding.code.value}: {finding.place}: {finding.what}"), "bad")
    if report.found > _SHOWN:
        say(f"and {report.found - _SHOWN} more (-o json shows up to {len(report.findings)})", "bad")


def _say_notes(report: Report) -> None:
    for line in report.notes:
        note(printable(line), "doubt")


def _moment(unix_us: int | None) -> str:
    if unix_us is None:
        return ""
    try:
        return datetime.fromtimestamp(unix_us / 1_000_000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{unix_us} µs"
