"""The proof that one record stands in the record: its bytes, the path to the root of a statement, and that statement (RFC 6962 §2.1.1)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

import rfc8785

from controlplane.audit.bundle import MAX_PAYLOAD_BYTES
from controlplane.audit.evidence import Evidence
from controlplane.audit.merkle import MerklePathError, inclusion_path, leaf_hash, root_of_path
from controlplane.audit.statement import (
    MAX_DOCUMENT_BYTES,
    SIGNATURE_BYTES,
    SignedStatement,
    Statement,
    StatementError,
    decode_base64,
    hash_of,
    parse_statement,
    verify_signature,
)
from controlplane.audit.strict_json import members_of, read_strict_json
from extauthz.errors import LegationError

FORMAT = "legation-audit-proof/1"
MAX_PROOF_BYTES = 2 * (MAX_PAYLOAD_BYTES + MAX_DOCUMENT_BYTES)
_MAX_STEPS = 64


class NotProvableError(LegationError):
    """There is no proof of that record, now or any more; says why."""


class ProofError(ValueError):
    """A proof that does not prove what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionProof:
    """One record, and where it stands."""

    position: int
    record: bytes
    path: tuple[bytes, ...]
    signed: SignedStatement

    def document(self) -> bytes:
        """The proof's file: canonical JSON (RFC 8785)."""
        value: dict[str, object] = {
            "format": FORMAT,
            "position": self.position,
            "record": base64.b64encode(self.record).decode(),
            "path": [step.hex() for step in self.path],
            "statement": self.signed.document.decode(),
            "signature": base64.b64encode(self.signed.signature).decode(),
        }
        return rfc8785.dumps(value) + b"\n"  # type: ignore[arg-type]


def prove(evidence: Evidence, position: int) -> InclusionProof:
    """The proof of the record at a position. Raises `NotProvableError`."""
    stored = evidence.statement_of(position)
    if stored is None:
        raise NotProvableError("no statement is about this record yet; the next one will be, within LEGATION_AUDIT_STATEMENT_SECONDS")
    statement = stored.statement
    hashes = evidence.hashes(statement.first_position, statement.last_position)
    if [place for place, _ in hashes] != list(range(statement.first_position, statement.last_position + 1)):
        raise NotProvableError(f"the record has a gap in positions {statement.first_position} to {statement.last_position}")
    leaves = [leaf_hash(record_hash) for _, record_hash in hashes]
    kept = next(evidence.records(position, position))
    if not kept.payload:
        raise NotProvableError("the record was deleted by retention; its hash is all that is left")
    proof = InclusionProof(
        position=position,
        record=kept.payload,
        path=tuple(inclusion_path(leaves, position - statement.first_position)),
        signed=stored.signed,
    )
    try:
        verify_proof(proof)
    except ProofError as error:
        raise NotProvableError(f"the record is not what was stated of it: {error}") from error
    return proof


def parse_proof(content: bytes) -> InclusionProof:
    """The proof of a file. Raises `ProofError`."""
    wanted = {"format": str, "path": list, "position": int, "record": str, "signature": str, "statement": str}
    try:
        form, path, position, record, signature, statement = members_of(read_strict_json(content, MAX_PROOF_BYTES), wanted)
        if form != FORMAT or not isinstance(position, int) or not isinstance(path, list) or len(path) > _MAX_STEPS:
            raise ProofError(f"it is not in the format {FORMAT}")
        proof = InclusionProof(
            position=position,
            record=base64.b64decode(str(record), validate=True),
            path=tuple(hash_of(step, "path") for step in path),
            signed=SignedStatement(document=str(statement).encode(), signature=decode_base64(str(signature), SIGNATURE_BYTES)),
        )
        canonical = proof.document()
    except ValueError as error:
        raise ProofError(str(error)) from error
    if canonical != content:
        raise ProofError("it is not in canonical form (RFC 8785)")
    return proof


def verify_proof(proof: InclusionProof) -> Statement:
    """The statement that vouches for the record. Whether its key is to be trusted is for the caller. Raises `ProofError`."""
    try:
        statement = parse_statement(proof.signed.document)
        verify_signature(proof.signed, statement)
        leaf = leaf_hash(hashlib.sha256(proof.record).digest())
        root = root_of_path(leaf, index=proof.position - statement.first_position, size=statement.records, path=proof.path)
    except (StatementError, MerklePathError) as error:
        raise ProofError(str(error)) from error
    if root != statement.root:
        raise ProofError(f"the record is not at position {proof.position} of what statement {statement.number} is about")
    return statement
