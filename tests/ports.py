"""Ports for servers that tests start: chosen first, bound later by a process of its own."""

from __future__ import annotations

import random
import socket

_PORTS = range(18_000, 32_000)
"""Below those that systems give to outgoing connections (32768 and up): no connection takes one before its server has it."""
_IN_TURN = iter(random.sample(_PORTS, len(_PORTS)))
"""Another order in every process, so that two of them seldom choose the same; none is chosen twice."""


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    for port in _IN_TURN:
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"every port of {_PORTS} was chosen before or is taken")
