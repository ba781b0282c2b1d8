"""What delivery asks of a receiver, and how a receiver says that it did not take what it was sent.

`send` takes records from the front of what waits, as many as one request may carry, and says what became of them. Nothing counts as
received but by the receiver's own rules: an acknowledgement, a status, the orderly end of a connection. Records are put into form in a
thread: the event loop has others to serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Protocol

from controlplane.audit.sinks.sent_record import SentRecord
from extauthz.errors import LegationError

MAX_FAULT_CHARACTERS = 300


class DeliveryError(LegationError):
    """Records were not taken, for a time: they are sent again. The text holds no secret."""

    def __init__(self, fault: str, *, retry_after_seconds: float = 0.0) -> None:
        super().__init__(fault[:MAX_FAULT_CHARACTERS])
        self.retry_after_seconds = retry_after_seconds


class RefusedError(LegationError):
    """The first `taken` records were refused for good, as they were sent together: each alone may be taken."""

    def __init__(self, fault: str, *, taken: int) -> None:
        super().__init__(fault[:MAX_FAULT_CHARACTERS])
        self.taken = taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of the first `taken` records that were sent: received, but those of `refused` (index, fault) and `again` (indexes)."""

    taken: int
    refused: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    again: Sequence[int] = ()
    fault: str = ""
    retry_after_seconds: float = 0.0


class Receiver(Protocol):
    """One receiver, open. `most_requests`: how many may be under way at once."""

    most_requests: int

    async def send(self, records: Sequence[SentRecord]) -> Receipt:
        """Send from the front of `records`, at least one. Raises `DeliveryError` or `RefusedError`."""
        ...

    async def close(self) -> None:
        """Give connections and files back."""
        ...


def front_within(sizes: Sequence[int], max_bytes: int) -> int:
    """How many from the front fit together; at least one."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > max_bytes and count:
            return count
    return len(sizes)


def retry_after_seconds(header: str, *, most: float = 600.0) -> float:
    """What a `Retry-After` asks for (RFC 9110 section 10.2.3), bounded; 0 where it says nothing that can be understood."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), most)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max((at - datetime.now(UTC)).total_seconds(), 0.0), most)
