"""What a verification found: each fault with its place, and how far the record is proven."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

MAX_FINDINGS = 1000
"""More are counted, and not kept."""


class FindingCode(StrEnum):
    """What is wrong. Alphabetical; the values are documented in docs/audit.md."""

    ANCHOR_DIFFERS = "anchor_differs"
    ANCHOR_MISSING = "anchor_missing"
    ANCHOR_UNREADABLE = "anchor_unreadable"
    CHAIN_BROKEN = "chain_broken"
    DELETION_UNRECORDED = "deletion_unrecorded"
    FILE_CHANGED = "file_changed"
    FILE_MISSING = "file_missing"
    FILE_UNEXPECTED = "file_unexpected"
    FRAME_DAMAGED = "frame_damaged"
    FRAMES_UNREADABLE = "frames_unreadable"
    HEAD_DIFFERS = "head_differs"
    KEY_UNTRUSTED = "key_untrusted"
    MANIFEST_UNREADABLE = "manifest_unreadable"
    MANIFEST_UNSIGNED = "manifest_unsigned"
    POSITION_MISSING = "position_missing"
    POSITION_OUT_OF_ORDER = "position_out_of_order"
    PROOF_INVALID = "proof_invalid"
    RECORD_UNREADABLE = "record_unreadable"
    ROOT_DIFFERS = "root_differs"
    SEQUENCE_MISSING = "sequence_missing"
    SEQUENCE_OUT_OF_ORDER = "sequence_out_of_order"
    SIGNATURE_INVALID = "signature_invalid"
    STATEMENT_MISSING = "statement_missing"
    STATEMENT_OUT_OF_ORDER = "statement_out_of_order"
    STATEMENT_UNREADABLE = "statement_unreadable"
    TRUNCATED = "truncated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something was found; what does not apply is empty or 0."""

    file: str = ""
    offset: int = -1  # byte in the file
    line: int = 0
    position: int = 0
    last_position: int = 0  # of an interval that begins at `position`
    writer_id: str = ""
    sequence: int = 0
    statement: int = 0

    def to_json(self) -> dict[str, object]:
        """Only what applies."""
        values = {name: getattr(self, name) for name in ("file", "line", "position", "last_position", "writer_id", "sequence", "statement")}
        return {name: value for name, value in values.items() if value} | ({"offset": self.offset} if self.offset >= 0 else {})

    def __str__(self) -> str:
        until = f"-{self.last_position}" if self.last_position > self.position else ""
        parts = [
            self.file + (f" byte {self.offset}" if self.offset >= 0 else "") + (f" line {self.line}" if self.line else ""),
            f"statement {self.statement}" if self.statement else "",
            f"position {self.position}{until}" if self.position else "",
            f"writer {self.writer_id}" if self.writer_id else "",
            f"sequence {self.sequence}" if self.sequence else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault."""

    code: FindingCode
    what: str
    place: Place

    def to_json(self) -> dict[str, object]:
        """For machines."""
        return {"code": self.code.value, "what": self.what, "where": self.place.to_json()}


@dataclass(slots=True, kw_only=True)
class Report:
    """Everything that a verification says. It is good when there is no finding; `notes` are what a reader should know beside."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    found: int = 0
    first_position: int = 0
    last_position: int = 0
    records: int = 0
    deleted: int = 0
    deleted_until_unix_us: int = 0
    writers: int = 0
    statements: int = 0
    proven_to_position: int = 0
    proven_to_unix_us: int = 0
    anchored: int = 0
    asked_from_unix_us: int | None = None
    asked_to_unix_us: int | None = None
    exported_at_unix_us: int = 0
    key_ids: list[str] = field(default_factory=list)
    key_pinned: bool = False

    def add(self, code: FindingCode, what: str, place: Place | None = None) -> None:
        """One more fault."""
        self.found += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(code=code, what=what, place=place or Place()))

    @property
    def good(self) -> bool:
        return self.found == 0
