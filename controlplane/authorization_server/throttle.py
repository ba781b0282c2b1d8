"""How many requests of strangers are looked at, and how many of their refusals are written down one by one. Bounded, in memory.

Strangers are told apart by the address that they connect to Envoy from, which Envoy says and nobody else can (`PEER_HEADER`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network, ip_address

from aiohttp import web

from controlplane.authorization_server.grant import Event, EventRecord

PEER_HEADER = "x-legation-peer"
"""The address at the other end of the connection to Envoy, of which nobody else can set the header; without port."""
MAX_STRANGERS = 4096
"""How many addresses are known apart; those that came last."""

REFUSALS_PER_MINUTE = 60
"""Refusals of one authorization server that are recorded one by one by one replica; the others are counted."""
_MAX_TEXT = 500


class Throttle:
    """A bucket of `burst` turns that fills with `per_second`."""

    def __init__(self, *, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._turns = self._burst
        self._filled_at = clock()

    def take(self) -> bool:
        """Whether there is a turn; it is taken."""
        now = self._clock()
        self._turns = min(self._burst, self._turns + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._turns < 1.0:
            return False
        self._turns -= 1.0
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Turns in a second, and how many may be saved up."""

    per_second: float
    burst: int


class FairThrottle:
    """Turns for everybody together, and for each stranger no more than a share, so that one alone keeps nobody else out.

    Who comes from many addresses at once can still use up what there is for all.
    """

    def __init__(self, *, each: Rate, everybody: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._each = each
        self._everybody = Throttle(per_second=everybody.per_second, burst=everybody.burst, clock=clock)
        self._strangers: OrderedDict[str, Throttle] = OrderedDict()
        self._clock = clock

    def take(self, stranger: str) -> bool:
        """Whether there is a turn for this stranger (`stranger_of`); it is taken. One who has had his share takes nobody else's."""
        own = self._strangers.get(stranger)
        if own is None:
            own = self._strangers[stranger] = Throttle(per_second=self._each.per_second, burst=self._each.burst, clock=self._clock)
        self._strangers.move_to_end(stranger)
        if len(self._strangers) > MAX_STRANGERS:
            self._strangers.popitem(last=False)
        return own.take() and self._everybody.take()


def stranger_of(request: web.Request) -> str:
    """Who sends this, as far as it can be told before anybody is known: an IPv4 address, or the /64 of an IPv6 address (one host has
    as many addresses in it as it likes). One text for all where Envoy says nothing.
    """
    told = request.headers.get(PEER_HEADER, "")
    try:
        address = ip_address(told)
    except ValueError:
        return ""
    if not isinstance(address, IPv6Address):
        return str(address)
    return str(address.ipv4_mapped or IPv6Network((int(address), 64), strict=False))


class RefusalLog:
    """Which refusals are written, so that a flood cannot fill the database, and none is forgotten."""

    def __init__(self, *, per_minute: int = REFUSALS_PER_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._window = float("-inf")
        self._written = 0
        self._counted: Counter[Event] = Counter()
        self._lock = threading.Lock()

    def admit(self, record: EventRecord) -> list[EventRecord]:
        """What to write now: the record, unless there were too many in this minute, and what was only counted in those before."""
        now = self._clock()
        told: list[EventRecord] = []
        if now - self._window >= 60.0:
            self._window, self._written = now, 0
            told = self.counted()
        with self._lock:
            if self._written >= self._per_minute:
                self._counted[record.event] += 1
                return told
            self._written += 1
        return [
            *told,
            replace(record, reason=record.reason[:_MAX_TEXT], resource=record.resource[:_MAX_TEXT], client_id=record.client_id[:_MAX_TEXT]),
        ]

    def counted(self) -> list[EventRecord]:
        """What was only counted so far, and is told now."""
        with self._lock:
            counted, self._counted = self._counted, Counter()
        return [EventRecord(event=event, reason="too many to be written one by one", count=count) for event, count in counted.items()]
