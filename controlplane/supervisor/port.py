"""TCP ports of the loopback: is one free, who has it, which one is free instead."""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path

from extauthz.errors import ConfigurationError

LOOPBACK = "127.0.0.1"


def require_free(port: int, *, what: str, change_with: str) -> None:
    """Raise `ConfigurationError` with the port, its holder if we can tell, and how to choose another."""
    fault = _bind_fault(port)
    if fault is None:
        return
    if fault == errno.EACCES:
        raise ConfigurationError(f"port {port} for {what} needs more rights than this user has; choose one above 1023 with {change_with}")
    holder = holder_of(port)
    by = f" by {holder}" if holder else ""
    raise ConfigurationError(f"port {port} for {what} is taken{by}; free it, or choose another with {change_with}")


def free_port(preferred: int) -> int:
    """`preferred` when it is free, else the next free one ten further on, so that the choice seldom changes; else any."""
    for port in range(preferred, preferred + 100, 10):
        if port < 65536 and _bind_fault(port) is None:
            return port
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def holder_of(port: int) -> str:
    """`name (process 123)` of whoever listens on this port, when /proc shows it to us; else empty."""
    inodes = _listening_inodes(port)
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        if not inodes.isdisjoint(_socket_inodes(process / "fd")):
            return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return ""


def _bind_fault(port: int) -> int | None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count as taken
        try:
            listener.bind((LOOPBACK, port))
            listener.listen(1)
        except OSError as error:
            return error.errno or errno.EADDRINUSE
    return None


def _socket_inodes(descriptors: Path) -> set[str]:
    """Inodes of the sockets a process has open, as far as it shows them to us."""
    found = set()
    with contextlib.suppress(OSError):  # another user's, or gone
        for descriptor in list(descriptors.iterdir()):
            with contextlib.suppress(OSError):  # closed meanwhile
                link = str(descriptor.readlink())
                if link.startswith("socket:["):
                    found.add(link[8:-1])
    return found


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:  # 0A: LISTEN
                found.add(fields[9])
    return found
