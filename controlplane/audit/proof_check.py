"""Verifies the proof of one record, from a file, without a deployment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from controlplane.audit.anchor_reading import read_anchor
from controlplane.audit.bundle import BundleError, read_whole
from controlplane.audit.finding import FindingCode, Place, Report
from controlplane.audit.inclusion import MAX_PROOF_BYTES, InclusionProof, ProofError, parse_proof, verify_proof
from controlplane.audit.statement import Statement, StatementKey
from extauthz.audit.record import record_to_json


def verify_proof_file(path: Path, *, anchors: Sequence[Path] = (), keys: Sequence[StatementKey] = ()) -> tuple[Report, dict[str, object]]:
    """What is wrong with it, and the record that it proves (JSON-ready; empty where it proves none)."""
    report, place = Report(), Place(file=str(path))
    try:
        proof = parse_proof(read_whole(path, MAX_PROOF_BYTES))
        statement = verify_proof(proof)
        record = record_to_json(proof.record)
    except (BundleError, ProofError, DecodeError) as error:
        what = "the record is not an AuditRecord" if isinstance(error, DecodeError) else str(error)
        report.add(FindingCode.PROOF_INVALID, what, place)
        return report, {}
    report.key_ids = [statement.key.key_id]
    if not keys:
        report.notes.append(f"no key was given (--key): the signature shows only that the holder of {statement.key.key_id} made it")
    elif statement.key.key_id not in {key.key_id for key in keys}:
        report.add(FindingCode.KEY_UNTRUSTED, f"its statement is signed by the key {statement.key.key_id}, which was not given", place)
    for anchor in anchors:
        _check_anchor(anchor, proof, statement, report)
    return report, {**record, "position": proof.position, "statement": statement.number, "stated_at_unix_us": statement.at_unix_us}


def _check_anchor(anchor: Path, proof: InclusionProof, statement: Statement, report: Report) -> None:
    there = read_anchor(anchor, report).get(statement.number)
    place = Place(file=str(anchor), statement=statement.number)
    if there is None:
        report.add(FindingCode.ANCHOR_MISSING, "the proof's statement is not there", place)
    elif there.digest != hashlib.sha256(proof.signed.envelope()).digest():
        report.add(FindingCode.ANCHOR_DIFFERS, "the anchor holds another statement of this number", place)
    else:
        report.anchored += 1
