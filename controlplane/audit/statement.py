"""Signed statements about the record: what stood at an interval of positions, when, and which statement came before.

    record hashes of an interval ─▶ Merkle root ─┐
    SHA-256 of the statement before ─────────────┼─▶ document (RFC 8785) ─▶ Ed25519
    heads of the writers that wrote ─────────────┘

Intervals follow one another without a gap and each statement names the one before by its hash, so one trusted statement vouches for
everything before it. A key is replaced by a statement that names its successor (`next_key`), signed by the old one. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.audit.merkle import HASH_BYTES, leaf_hash, tree_root
from controlplane.audit.strict_json import members_of, read_strict_json

FORMAT = "legation-audit-statement/1"
MAX_RECORDS = 65_536
"""Positions that one statement is about at most, so that a verifier knows how much it must hold."""
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
SIGNATURE_BYTES = 64

_KEY_ID = re.compile(r"[0-9a-f]{32}")
_HEX_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_NUMBER = 2**53 - 1  # what every reader of JSON takes for the same number


class StatementError(ValueError):
    """A statement that cannot be read, or whose signature is not its key's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementKey:
    """A public key of statements. Its id is made from it, so neither can be exchanged alone."""

    public_key: bytes  # Ed25519, 32 bytes

    @property
    def key_id(self) -> str:
        return hashlib.sha256(b"legation-audit-key/1\n" + self.public_key).hexdigest()[:32]

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise `StatementError` unless this key made the signature."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise StatementError(f"the signature is not by the key {self.key_id}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterHead:
    """The last record of a writer in an interval."""

    sequence: int
    record_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement. `heads`: of every writer with a record in the interval; those of others stand in statements before."""

    number: int  # from 1
    first_position: int
    last_position: int
    root: bytes
    previous: bytes  # SHA-256 of the document before; empty at the first
    heads: Mapping[str, WriterHead]
    at_unix_us: int
    key: StatementKey
    next_key: StatementKey | None = None
    replaces_lost: str = ""  # id of a key that the operator declared lost: this statement's key follows it without its signature

    @property
    def records(self) -> int:
        return self.last_position - self.first_position + 1

    def document(self) -> bytes:
        """What is hashed, signed and kept: canonical JSON (RFC 8785)."""
        value: dict[str, object] = {
            "format": FORMAT,
            "number": self.number,
            "first_position": self.first_position,
            "last_position": self.last_position,
            "root": self.root.hex(),
            "previous_statement": self.previous.hex(),
            "heads": {writer: {"sequence": head.sequence, "hash": head.record_hash.hex()} for writer, head in self.heads.items()},
            "at_unix_us": self.at_unix_us,
            "key": _key_json(self.key),
        }
        if self.next_key is not None:
            value["next_key"] = _key_json(self.next_key)
        if self.replaces_lost:
            value["replaces_lost_key"] = self.replaces_lost
        return rfc8785.dumps(value)  # type: ignore[arg-type]

    def successor_key_id(self) -> str:
        """The id of the key that the next statement must be signed by."""
        return (self.next_key or self.key).key_id


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedStatement:
    """A statement's document as it was signed, and the signature."""

    document: bytes
    signature: bytes

    @property
    def digest(self) -> bytes:
        """What the next statement names."""
        return hashlib.sha256(self.document).digest()

    def envelope(self) -> bytes:
        """One line: the form in which statements are exported and anchored."""
        value = {"document": self.document.decode(), "signature": base64.b64encode(self.signature).decode()}
        return rfc8785.dumps(value) + b"\n"


def signed_message(document: bytes, purpose: str = FORMAT) -> bytes:
    """What is signed of a document: its purpose and its SHA-256 in hex, each on a line. Short, so that any signing device takes it."""
    return f"{purpose}\n{hashlib.sha256(document).hexdigest()}\n".encode()


def record_root(record_hashes: list[bytes]) -> bytes:
    """The Merkle root over record hashes in the order of their positions."""
    return tree_root(leaf_hash(record_hash) for record_hash in record_hashes)


def parse_envelope(line: bytes) -> SignedStatement:
    """A line that `SignedStatement.envelope` made, and no other. Raises `StatementError`."""
    try:
        document, signature = members_of(read_strict_json(line, MAX_DOCUMENT_BYTES * 2), {"document": str, "signature": str})
        signed = SignedStatement(document=str(document).encode(), signature=decode_base64(str(signature), SIGNATURE_BYTES))
        canonical = signed.envelope()
    except ValueError as error:
        raise StatementError(f"it is not a signed statement: {error}") from error
    if canonical != line.removesuffix(b"\n") + b"\n":
        raise StatementError("it is not written as statements are written (RFC 8785)")
    return signed


def parse_statement(document: bytes) -> Statement:
    """The statement of a document. Raises `StatementError` for one that `Statement.document` would not have made."""
    try:
        statement = _statement(read_strict_json(document, MAX_DOCUMENT_BYTES))
        canonical = statement.document()
    except ValueError as error:
        raise StatementError(f"the statement cannot be read: {error}") from error
    if canonical != document:
        raise StatementError("the statement is not in canonical form (RFC 8785)")
    return statement


def verify_signature(signed: SignedStatement, statement: Statement) -> None:
    """Raise `StatementError` unless the signature is by the key that the statement names."""
    statement.key.verify(signed.signature, signed_message(signed.document))


def decode_base64(text: str, length: int) -> bytes:
    """Exactly `length` bytes in base64, in the one way to write them. Raises `StatementError`."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise StatementError("holds a value that is not base64") from error
    if len(decoded) != length or base64.b64encode(decoded).decode() != text:
        raise StatementError(f"holds a value that is not {length} bytes in base64")
    return decoded


def _key_json(key: StatementKey) -> dict[str, str]:
    return {"id": key.key_id, "public_key": base64.b64encode(key.public_key).decode()}


def _statement(value: object) -> Statement:
    if not isinstance(value, dict):
        raise StatementError("the statement is not a JSON object")
    value = dict(value)
    next_key, lost = value.pop("next_key", None), value.pop("replaces_lost_key", "")
    wanted = {"at_unix_us": int, "first_position": int, "format": str, "heads": dict, "key": dict, "last_position": int, "number": int}
    at, first, form, heads, key, last, number, previous, root = members_of(value, wanted | {"previous_statement": str, "root": str})
    if form != FORMAT:
        raise StatementError(f"the statement's format is {str(form)[:60]!r}, not {FORMAT}")
    if not isinstance(lost, str) or (lost and not _KEY_ID.fullmatch(lost)):
        raise StatementError("replaces_lost_key is not the id of a key")
    low, high = _number(first, 1, "first_position"), _number(last, 1, "last_position")
    if not 0 < high - low + 1 <= MAX_RECORDS:
        raise StatementError(f"the statement is about positions {low} to {high}; it may be about 1 to {MAX_RECORDS}")
    if bool(previous) == (number == 1):
        raise StatementError("the first statement names none before it, and every other does")
    return Statement(
        number=_number(number, 1, "number"),
        first_position=low,
        last_position=high,
        root=hash_of(root, "root"),
        previous=hash_of(previous, "previous_statement") if previous else b"",
        heads=_heads(heads),
        at_unix_us=_number(at, 0, "at_unix_us"),
        key=_key(key),
        next_key=None if next_key is None else _key(next_key),
        replaces_lost=lost,
    )


def _heads(value: object) -> dict[str, WriterHead]:
    heads: dict[str, WriterHead] = {}
    for writer, head in value.items():  # type: ignore[attr-defined]
        record_hash, sequence = members_of(head, {"hash": str, "sequence": int})
        heads[writer] = WriterHead(sequence=_number(sequence, 1, "sequence"), record_hash=hash_of(record_hash, "hash"))
    return heads


def _key(value: object) -> StatementKey:
    key_id, public_key = members_of(value, {"id": str, "public_key": str})
    key = StatementKey(public_key=decode_base64(str(public_key), HASH_BYTES))
    if key.key_id != key_id:
        raise StatementError("the statement's key has an id that is not its own")
    return key


def hash_of(value: object, name: str) -> bytes:
    """A SHA-256 in lower-case hex. Raises `StatementError`."""
    if not isinstance(value, str) or not _HEX_HASH.fullmatch(value):
        raise StatementError(f"{name} is not a SHA-256 in hex")
    return bytes.fromhex(value)


def _number(value: object, low: int, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= _MAX_NUMBER:
        raise StatementError(f"{name} is not a whole number from {low}")
    return value
