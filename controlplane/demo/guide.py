"""The process of the tour, forked from that of the samples: both need the MCP SDK, whose import takes a second of CPU.

The supervisor hands three descriptors over: a socket of its own, and its standard output and error, which the tour prints to.
On the socket it says that the gateway is ready, and hears the exit code of the tour. Its end of the socket closed, or the samples
gone, the tour ends at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from controlplane.launch import die_with

READY = b"ready\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What the tour is told. `link`, `output`, `error`: the descriptors of the supervisor."""

    link: int
    output: int
    error: int
    data_dir: str
    gateway_url: str
    ports: Mapping[str, int]
    format: str


def fork_guide(errand: Errand) -> None:
    """Have the tour wait in a process of its own. To be called before there is any thread or event loop."""
    samples = os.getpid()
    signal.signal(signal.SIGCHLD, _reap)  # the supervisor hears how it ends, nobody waits for it here
    if os.fork() == 0:
        try:
            _guide(errand, samples)
        except BaseException:  # noqa: BLE001 - never back into the samples
            traceback.print_exc()
        finally:
            os._exit(1)  # whoever waits for the code reads it from the socket
    for descriptor in (errand.link, errand.output, errand.error):
        os.close(descriptor)


def _reap(_number: int, _frame: object) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def _guide(errand: Errand, samples: int) -> None:
    if not die_with(samples):
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.stdout, sys.stderr = _become(1, errand.output, sys.stdout), _become(2, errand.error, sys.stderr)
    from controlplane.demo.tour import walk  # noqa: PLC0415 - the samples need not wait for it

    with socket.socket(fileno=errand.link) as supervisor:
        if supervisor.recv(len(READY)) != READY:
            return
        threading.Thread(target=_end_with, args=(supervisor,), daemon=True).start()
        code = walk(data_dir=errand.data_dir, gateway_url=errand.gateway_url, ports=errand.ports, output=errand.format)
        sys.stdout.flush()
        supervisor.sendall(b"%d\n" % code)


def _become(descriptor: int, given: int, stream: TextIO) -> TextIO:
    """A standard stream on what was given; line by line when that is a terminal."""
    os.dup2(given, descriptor)
    os.close(given)
    return open(descriptor, "w", encoding=stream.encoding, errors=stream.errors, closefd=False)


def _end_with(supervisor: socket.socket) -> None:
    if not supervisor.recv(1):
        os._exit(1)
