"""Where children write: one file each below `logs/`, the last run's kept as `.1`, none ever larger than a bound."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MAX_BYTES = 16 * 1024 * 1024


def start_log(path: Path) -> None:
    """Begin a new log for this run."""
    if path.exists():
        path.replace(_previous(path))


def open_log(path: Path) -> int:
    """A descriptor that appends, so that the file may be emptied under its writer."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def bound_log(path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Move what is too large aside; the writer goes on in the emptied file."""
    if path.exists() and path.stat().st_size > max_bytes:
        shutil.copyfile(path, _previous(path))
        os.truncate(path, 0)


def tail(path: Path, lines: int = 15) -> list[str]:
    """The last lines of a log."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 16384))
            return log.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".1")
