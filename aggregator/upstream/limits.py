"""How much a member may send, and how long and how often a caller may make it work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamLimits:
    """Bounds of one aggregator. A member is hostile until shown otherwise, and so is a caller."""

    max_answer_bytes: int = 32 * 1024 * 1024
    """Of everything that belongs to one request, notifications included."""
    max_event_bytes: int = 16 * 1024 * 1024
    """Of one event of a stream; a single answer must fit in."""
    answers_bytes: int = 512 * 1024 * 1024
    """Of all answers under way together, in memory (`aggregator.upstream.room`); of those of one caller or one member, half of it."""
    call_seconds: float = 3600
    """Of one request, where the member has no `timeoutMs`; Envoy's own limits come first."""
    open_seconds: float = 2
    """For all that `initialize` of a legacy client waits for."""
    initialize_seconds: float = 15
    """For a session that a request needs."""
    connect_seconds: float = 5
    short_seconds: float = 5
    """For what is answered at once: notifications, responses, the end of a session."""
    held_seconds: float = 900
    """How long a legacy member's question waits for a modern client to come back with the answer."""
    held_per_caller: int = 32
    held_calls: int = 4096
    """Of all callers together."""
    calls_per_caller: int = 256
    """Requests of one caller at a time, over all members."""
    streams_per_caller: int = 1024
    """Streams to members for one caller's own streams, of which each may need one per member."""
    subscriptions_per_caller: int = 256
    """Sessions of a legacy caller that follow resources of a modern member."""
    stream_seconds: float = 1
    """How long a request waits until the stream beside it is open."""
    questions_per_call: int = 16
    """Questions of one member that wait at the same time."""
    rounds_per_call: int = 20
    """How often a modern member may ask for more input within one call of a legacy client."""
    idle_seconds: float = 300
    """How long a pooled session is kept that nobody uses."""
    idle_per_caller: int = 16
    idle_sessions: int = 1024
    remembered_sessions: int = 16_384
    """Sessions of legacy clients of which something is known; the ones that were not used for longest are forgotten."""
    resumptions_per_call: int = 16
    """How often a broken stream of a legacy member is taken up again (`Last-Event-ID`)."""


DEFAULT_LIMITS = UpstreamLimits()
