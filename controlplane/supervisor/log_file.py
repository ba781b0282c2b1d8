"""Where children write: one file each below `logs/`, the last run's kept as `.1`, none ever larger than a bound."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

MAX_BYTES = 16 * 1024 * 1024


def start_log(path: Path) -> None:
    """Begin a new log for this run."""
    if path.exists():
        path.replace(_previous(path))


def open_log(path: Path) -> int:
    """A descriptor that appends, so that the file may be emptied under its writer."""
    return _open_private(path, os.O_APPEND)


def bound_log(path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Move what is too large aside; the writer goes on in the emptied file."""
    if path.exists() and path.stat().st_size > max_bytes:
        with path.open("rb") as full, os.fdopen(_open_private(_previous(path), os.O_TRUNC), "wb") as previous:
            shutil.copyfileobj(full, previous)
        os.truncate(path, 0)


def tail(path: Path, lines: int = 15) -> list[str]:
    """The last lines of a log."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 16384))
            return log.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def _open_private(path: Path, flag: int) -> int:
    """A descriptor that writes to a file which only we may read, whatever it was before."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o600)
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o600:
        os.fchmod(descriptor, 0o600)
    return descriptor


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".1")
