"""W3C Trace Context: which trace something belongs to, read from `traceparent` strictly and written back."""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass

HEADER = "traceparent"
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
MAX_CHARACTERS = 256

arriving: ContextVar[str] = ContextVar("traceparent", default="")
"""The `traceparent` in the gRPC metadata of the call that this task answers: Envoy's span of the question, not what a client sent."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span elsewhere, or here: 32 and 16 hexadecimal digits, and whether it is kept."""

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(text: str) -> TraceContext | None:
    """The context that a header or `_meta.traceparent` names, or None when it names none (W3C Trace Context section 3.2)."""
    if len(text) > MAX_CHARACTERS or (found := _TRACEPARENT.fullmatch(text)) is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1))
