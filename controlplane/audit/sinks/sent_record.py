"""A record on its way to a receiver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from extauthz.audit.shipping import node_of_writer

RecordJson = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRecord:
    """One record, opened. `document` is its JSON form (`extauthz.audit.record.record_to_json`); times are microseconds since 1970."""

    position: int
    writer_id: str
    sequence: int
    at_unix_us: int
    event: str
    decision: str
    document: RecordJson = field(repr=False)

    @property
    def id(self) -> str:
        """The same for each copy of the record, wherever and however often it is sent."""
        return f"{self.writer_id}/{self.sequence}"

    @property
    def node(self) -> str:
        """The node that wrote it: its name within the writer's."""
        return node_of_writer(self.writer_id)
