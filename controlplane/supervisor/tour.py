"""The supervisor's end of the tour: says that the gateway is ready, hears how it went, and ends it by going away.

The other end is `demo.guide`, in a process that is forked from the samples.
"""

from __future__ import annotations

import asyncio
import os
import socket

from controlplane.supervisor.plan import Once

_READY = b"ready\n"
_DID_NOT_HOLD = 1


class TourLink:
    """A socket to the tour. `once`: what the samples must be started with, the first time, so that there is a tour."""

    def __init__(self, *, data_dir: str, gateway_url: str, output: str) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        descriptors = (theirs.detach(), _duplicate(1), _duplicate(2))
        arguments = ("--guide", *map(str, descriptors), "--tour", data_dir, gateway_url, output)
        self.once = Once(arguments=arguments, descriptors=descriptors)

    async def walk(self) -> int:
        """Let it begin; the exit code, once it has ended: 0 when every step held."""
        loop = asyncio.get_running_loop()
        said = b""
        try:
            await loop.sock_sendall(self._ours, _READY)
            while heard := await loop.sock_recv(self._ours, 16):
                said += heard
        except OSError:
            return _DID_NOT_HOLD
        return int(said) if said.strip().isdigit() else _DID_NOT_HOLD

    def end(self) -> None:
        """End it, if it has not."""
        self._ours.close()


def _duplicate(descriptor: int) -> int:
    """A copy of a standard stream, or nothing at all where that is closed."""
    try:
        return os.dup(descriptor)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
