"""Spans: what one process did for one request, as cheap as they can be. `otlp` writes them down, in another thread.

A span that is not sampled is never made: its context alone goes on, so that whoever comes after does not keep it either.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from enum import IntEnum

from extauthz.telemetry.trace_context import TraceContext, parse_traceparent

Value = str | int | float | bool


class SpanKind(IntEnum):
    """As OTLP numbers them."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


class Span:
    """One piece of work. Attributes may be added until `Tracer.end`; empty ones are left out when it is written."""

    __slots__ = ("attributes", "context", "end_ns", "error", "kind", "links", "name", "parent_span_id", "start_ns")

    def __init__(self, name: str, kind: SpanKind, context: TraceContext, parent_span_id: str) -> None:
        self.name = name
        self.kind = kind
        self.context = context
        self.parent_span_id = parent_span_id
        self.attributes: dict[str, Value] = {}
        self.links: list[TraceContext] = []
        self.error: str | None = None
        """What failed, in words that are no secret; None: nothing did."""
        self.start_ns = time.time_ns()
        self.end_ns = 0

    def link(self, traceparent: object) -> None:
        """Point at the span that a client names in the body (`params._meta.traceparent`): it began before ours, and elsewhere."""
        if isinstance(traceparent, str) and (context := parse_traceparent(traceparent)) is not None:
            self.links.append(context)


current: ContextVar[TraceContext | None] = ContextVar("trace_context", default=None)
"""The context of what this task does: logs name it, calls elsewhere carry it on."""


class Tracer:
    """Begins spans and hands ended ones on. `ratio`: how many of the traces that begin here are kept; others decide for theirs."""

    def __init__(self, *, ratio: float, ended: Callable[[Span], None], generator: random.Random | None = None) -> None:
        self._ratio = ratio
        self._ended = ended
        self._random = generator or random.Random()  # noqa: S311 - ids of traces are no secrets

    def begin(self, name: str, kind: SpanKind, parent: TraceContext | None) -> Span | None:
        """A span in the parent's trace, or in a new one; None when its trace is not kept. Makes it (or its parent) `current`."""
        if parent is None:
            sampled = self._ratio >= 1.0 or self._random.random() < self._ratio
            context = TraceContext(f"{self._random.getrandbits(128) or 1:032x}", self._new_span_id(), sampled)
            parent_span_id = ""
        else:
            context = TraceContext(parent.trace_id, self._new_span_id(), parent.sampled)
            parent_span_id = parent.span_id
        current.set(context)
        return Span(name, kind, context, parent_span_id) if context.sampled else None

    def end(self, span: Span) -> None:
        """It is over."""
        span.end_ns = time.time_ns()
        self._ended(span)

    def _new_span_id(self) -> str:
        return f"{self._random.getrandbits(64) or 1:016x}"


def outgoing() -> dict[str, str]:
    """The header that carries the trace on to whom this task calls; nothing while there is no trace."""
    context = current.get()
    return {"traceparent": context.traceparent} if context is not None else {}
