"""`python -m bench.altered_authorizer none|null|unshipped`: the authorizer without a record, with one that is written to nowhere, or
with one that stays where it is.

For `bench.audit`; there is no such setting.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import extauthz.audit.wal
import extauthz.server
from extauthz.__main__ import main
from extauthz.audit.record import AuditRecord
from extauthz.audit.segment import Durable, SegmentWriter
from extauthz.audit.wal import AuditLog, AuditStatistics


class NoLog(AuditLog):
    """Takes every record, and forgets it at once."""

    def __init__(self, *, directory: Path, writer_id: str, **_others: object) -> None:
        self._writer_id = writer_id
        self._directory = directory

    def open(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Nothing waits."""

    async def append(self, record: AuditRecord) -> None:
        """Is done with it."""

    def append_later(self, record: AuditRecord) -> bool:  # noqa: ARG002 - of a log
        """Is done with it."""
        return True

    @property
    def durable(self) -> Durable:
        """Nothing."""
        return Durable(self._writer_id, 0, self._directory, 0)

    def durable_end(self, path: Path) -> int | None:  # noqa: ARG002 - of a log
        """Nothing is written here."""
        return None

    def watch(self, callback: Callable[[], None]) -> None:
        """Nothing changes."""

    def statistics(self) -> AuditStatistics:
        """Nothing."""
        return AuditStatistics(
            writer_id=self._writer_id, sequence=0, durable_sequence=0, waiting=0, failures=0, last_sync_seconds=0.0, bytes=0,
            used_bytes=0, capacity_bytes=0,
        )  # fmt: skip


class NullSink(SegmentWriter):
    """Takes every group as it would be written, and forgets it: nothing reaches a file."""

    def write(self) -> Durable:
        """Says that it is durable."""
        data, head, fresh = self._prepared
        self._end += len(data)
        self._head = head
        for key in fresh:
            key.kept = True
        self.written_bytes += len(data)
        return self.durable


class NoShipper:
    """Leaves the log alone."""

    connected = False

    def __init__(self, **_settings: object) -> None:
        pass

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.Event().wait()

    async def finish(self, timeout_seconds: float) -> bool:  # noqa: ARG002 - of a shipper
        """Nothing is under way."""
        return True


if __name__ == "__main__":
    extauthz.server.RecordShipper = NoShipper  # type: ignore[assignment, attr-defined]
    way = sys.argv.pop()
    if way == "none":
        extauthz.server.AuditLog = NoLog  # type: ignore[attr-defined]
    if way == "null":
        extauthz.audit.wal.SegmentWriter = NullSink  # type: ignore[attr-defined]
    sys.exit(main())
