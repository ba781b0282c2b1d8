"""How much of the disk the write-ahead log may use: what the control plane has not taken yet must not fill the machine.

What may be used is the setting, or what there is where that is less. The last part of it is a reserve: decisions end before it, so
that what belongs to decisions which stand already (outcomes) and what the log says of itself (alarms) can still be written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from extauthz.audit.frames import SUFFIX
from extauthz.authorizer_settings import DEFAULT_AUDIT_BYTES

RESERVE_BYTES = 16 * 1024**2
RESERVE_SHARE = 16
"""The reserve is one part in so many, and at most `RESERVE_BYTES`."""
NEARLY_FULL = 0.8
ROOM_AGAIN = 0.7
SCAN_SECONDS = 1.0


class DiskLevel(IntEnum):
    """How full it is."""

    ROOM = 0
    NEARLY_FULL = 1
    FULL = 2


class DiskBudget:
    """Counts what stands in the directory, of all writers. `scan` may run in another thread than the rest, one at a time."""

    def __init__(self, directory: Path, max_bytes: int = DEFAULT_AUDIT_BYTES, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._clock = clock
        self._scanned_at = -SCAN_SECONDS
        self._level = DiskLevel.ROOM
        self.used_bytes = 0
        self.capacity_bytes = max_bytes

    def scan(self) -> None:
        """Look what is there: others delete what has been shipped. A directory that cannot be read is as it was."""
        self._scanned_at = self._clock()
        try:
            with os.scandir(self._directory) as entries:
                used = sum(_size(entry) for entry in entries if entry.name.endswith(SUFFIX))
            found = os.statvfs(self._directory)
        except OSError:
            return
        self.used_bytes = used
        self.capacity_bytes = min(self._max_bytes, used + found.f_bavail * found.f_frsize)

    def add(self, written: int) -> None:
        """So many bytes more."""
        self.used_bytes += written

    @property
    def may_be_stale(self) -> bool:
        """Whether it should be looked at again: it seems to be filling up, and the last look is a while ago."""
        return self.used_bytes >= NEARLY_FULL * self._usable and self._clock() - self._scanned_at >= SCAN_SECONDS

    @property
    def _usable(self) -> int:
        """What decisions may use."""
        return self.capacity_bytes - min(RESERVE_BYTES, self.capacity_bytes // RESERVE_SHARE)

    def has_room(self, *, from_reserve: bool = False) -> bool:
        """Whether another record may be written."""
        return self.used_bytes < (self.capacity_bytes if from_reserve else self._usable)

    def new_level(self) -> DiskLevel | None:
        """How full it is, when that is not what the last call said. Who was nearly full stays so until there is clearly room."""
        if not self.has_room():
            level = DiskLevel.FULL
        elif self.used_bytes >= NEARLY_FULL * self._usable:
            level = DiskLevel.NEARLY_FULL
        elif self.used_bytes < ROOM_AGAIN * self._usable:
            level = DiskLevel.ROOM
        else:
            level = min(self._level, DiskLevel.NEARLY_FULL)
        if level is self._level:
            return None
        self._level = level
        return level


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0  # shipped, and deleted a moment ago
