"""The files in which Envoy writes what it refused by itself, and how calls ended, kept small: who starts Envoy also turns them over.

The authorizer only reads (`extauthz.audit.line_reader`), from a file and from the one before it. A turn renames the file and
asks Envoy to open a new one, so that no line is lost between the two. `python -m controlplane.edge_log FILE ADMIN_SOCKET` does
it beside an Envoy that has no supervisor. Imports the standard library only: it stays for as long as Envoy does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

MAX_BYTES = 16 * 1024 * 1024
LOOK_SECONDS = 1.0
ENVOY_ARGUMENTS = ("--file-flush-interval-msec", "100")
"""Envoy writes lines at the latest so long after they came about, instead of ten seconds."""

_ADMIN_SECONDS = 5.0


def logs_of(file: Path) -> tuple[Path, Path]:
    """The file of refusals, and that of outcomes beside it, which is empty unless `LEGATION_OUTCOME_LOG` asks for it."""
    return file, file.with_name("outcome.jsonl")


def previous_log(file: Path) -> Path:
    """The log before this one."""
    return file.with_name(file.name + ".1")


def prepare(edge_log: Path) -> None:
    """Make the files readable by this user only, before Envoy opens them with wider rights. Raises OSError."""
    for file in logs_of(edge_log):
        _prepare(file)


def _prepare(file: Path) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def turn_over(edge_log: Path, admin_socket: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Begin a new file where one is larger; True when one was. Raises OSError when the file or Envoy cannot be reached.

    What was not read of the file before is lost then: at most two files are ever kept. When Envoy could not be told, the next look
    tells it: what it goes on writing into the file before would grow without end.
    """
    turned = [_turn_over(file, admin_socket, max_bytes) for file in logs_of(edge_log)]
    return any(turned)


def _turn_over(file: Path, admin_socket: Path, max_bytes: int) -> bool:
    if not file.exists():
        return False
    large = file.stat().st_size > max_bytes
    if large:
        file.replace(previous_log(file))
        _prepare(file)
    elif not _is_untold(file):
        return False
    _reopen_logs(admin_socket)
    os.utime(file)
    return large


def _is_untold(file: Path) -> bool:
    """Whether Envoy wrote into the file before since this one was made, and nothing into this one."""
    try:
        found, before = file.stat(), previous_log(file).stat()
    except FileNotFoundError:
        return False
    return found.st_size == 0 and before.st_mtime_ns > found.st_mtime_ns


def _reopen_logs(admin_socket: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as admin:
        admin.settimeout(_ADMIN_SECONDS)
        admin.connect(str(admin_socket))
        admin.sendall(b"POST /reopen_logs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        if b" 200 " not in admin.recv(4096).partition(b"\r\n")[0]:
            raise ConnectionError("Envoy refused to open its logs again")


def main(arguments: list[str]) -> None:
    """Look after the file until this process is ended."""
    file, admin_socket = Path(arguments[1]), Path(arguments[2])
    while True:
        with contextlib.suppress(OSError):  # Envoy is starting or has gone; the next look tries again
            turn_over(file, admin_socket)
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main(sys.argv)
