"""A lock file that one process holds for as long as it lives: who reads a log and remembers how far must be alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


def take_lock(path: Path, held: contextlib.ExitStack) -> bool:
    """Take the lock until `held` ends; False while another process has it. Raises OSError when there can be no such file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    held.callback(os.close, descriptor)
    return True
