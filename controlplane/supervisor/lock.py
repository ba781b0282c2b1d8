"""One supervisor per data directory: a file lock that the kernel releases with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extauthz.errors import ConfigurationError


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the deployment's lock; raises `ConfigurationError` naming the process that holds it already."""
    descriptor = os.open(data_dir / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise ConfigurationError(
                f"a deployment is already running in {data_dir} (process {holder}); stop it, or choose another folder with --data-dir"
            ) from error
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)
