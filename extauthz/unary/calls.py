"""The calls of one connection: from a request's headers to its answer, or its end without one.

A call's method runs only when the message has arrived whole. A reset, a deadline or the end of the connection cancels it;
until its task has really ended it counts as a stream, so that opening and resetting buys nobody more work than waiting does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import structlog

from extauthz.telemetry.trace_context import arriving
from extauthz.unary import frames
from extauthz.unary.budget import FrameBudget
from extauthz.unary.frames import ErrorCode, ProtocolError
from extauthz.unary.outbox import Outbox
from extauthz.unary.request_head import RequestHead
from extauthz.unary.status import CallRefused, Status, answer_http_status, answer_refusal
from extauthz.unary.stream import Memory, Stream
from extauthz.unary.turns import Turns

logger = structlog.get_logger(__name__)

Method = Callable[[bytes], Awaitable[bytes]]
"""A unary method: the request's message in, the answer's out; raises `CallRefused` to answer with a status."""

MAX_STREAMS = 1024
STALL_SECONDS = 30.0
MAX_CUT = 4096


class Calls:
    """Made by `connection`, one for each. `watch(at)` asks to be looked at by then (`expire`); `idle()` is told when no call is left."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        methods: Mapping[str, Method],
        memory: Memory,
        turns: Turns,
        write: Callable[[bytes], None],
        watch: Callable[[float], None],
        idle: Callable[[], None],
    ) -> None:
        self.admitted = False
        self.outbox = Outbox(loop=loop, write=write, sent=self._close)
        self.streams: dict[int, Stream] = {}
        self.ending: set[asyncio.Task[None]] = set()
        self._loop = loop
        self._methods = methods
        self._memory = memory
        self._turns = turns
        self._watch = watch
        self._idle = idle
        self._resets = FrameBudget("resets", burst=20_000, per_second=5_000)
        self._cut: set[int] = set()

    # -- what the peer does ----------------------------------------------------------------------------------------------

    def open(self, stream_id: int, head: RequestHead, *, ended: bool) -> None:
        """A request begins."""
        if head.fault:
            self.reset(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        if len(self.streams) + len(self.ending) >= MAX_STREAMS:
            self.reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        now = self._loop.time()
        stream = self.streams[stream_id] = Stream(stream_id, head)
        stream.stalls_at = now + STALL_SECONDS
        if head.timeout_seconds is not None:
            stream.deadline = now + head.timeout_seconds
        self._watch(min(stream.deadline, stream.stalls_at))
        if head.http_method != b"POST" or not head.is_grpc:
            self._answer(stream, answer_http_status(stream_id, 405 if head.http_method != b"POST" else 415))
        elif not self.admitted:
            self._refuse(stream, Status.PERMISSION_DENIED, "only a process of this deployment that has the right may call")
        elif head.path not in self._methods:
            self._refuse(stream, Status.UNIMPLEMENTED, "there is no such method here")
        elif ended:
            self.add(stream, b"", ended=True)

    def add(self, stream: Stream, payload: bytes, *, ended: bool) -> None:
        """The next piece of its message; the last one starts the method."""
        stream.ended = ended
        stream.held += len(payload)
        try:
            self._memory.hold(len(payload))
            message = stream.add(payload)
        except CallRefused as refused:
            self._refuse(stream, refused.status, refused.sentence)
            return
        if message is not None:
            stream.stalls_at = math.inf
            if stream.head.content_length not in {None, stream.held}:
                self.reset(stream.id, ErrorCode.PROTOCOL_ERROR)
                return
            self._turns.wait(partial(self._begin, stream, message))

    def reset_by_peer(self, stream_id: int) -> None:
        """The peer wants no answer any more."""
        self._resets.spend()
        self._close(stream_id)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """The peer gets none: it broke a rule of the stream, or came too much."""
        self._resets.spend()
        self.outbox.put(frames.make_rst_stream(stream_id, code))
        stream = self.streams.get(stream_id)
        if stream is None or not stream.ended:
            self._cut_off(stream_id)
        self._close(stream_id)

    def was_cut(self, stream_id: int) -> bool:
        """Whether we ended this stream before the peer did: what still comes on it is nobody's fault."""
        return stream_id in self._cut

    # -- what we do ------------------------------------------------------------------------------------------------------

    def _begin(self, stream: Stream, message: bytes) -> bool:
        """Its turn has come, unless the stream is over."""
        if self.streams.get(stream.id) is not stream:
            return False
        stream.task = self._loop.create_task(self._serve(stream, message))
        return True

    async def _serve(self, stream: Stream, message: bytes) -> None:
        """The task of a call."""
        if stream.head.traceparent:
            arriving.set(stream.head.traceparent)
        try:
            answering = self._methods[stream.head.path](message)
            del message  # whoever waits for its record should hold little: a dozen others are decided meanwhile
            answer = await answering
        except CallRefused as refused:
            self._refuse(stream, refused.status, refused.sentence)
        except asyncio.CancelledError:
            self._refuse(stream, Status.CANCELLED, "the call was cancelled")
            raise
        except Exception as error:
            logger.error("call failed", path=stream.head.path, error=type(error).__name__, exc_info=error)
            self._refuse(stream, Status.UNKNOWN, "the call failed")
        else:
            stream.task = None
            if self.streams.get(stream.id) is not stream:
                return
            if self.outbox.put_answer(stream.id, answer, stream.granted):
                self._close(stream.id)
            else:
                stream.deadline = math.inf
                stream.stalls_at = self._loop.time() + STALL_SECONDS
                self._watch(stream.stalls_at)

    def _refuse(self, stream: Stream, status: Status, sentence: str) -> None:
        self._answer(stream, answer_refusal(stream.id, status, sentence))

    def _answer(self, stream: Stream, frame: bytes) -> None:
        """An answer without a message; the peer need not send the rest (RFC 9113 section 8.1)."""
        if self.streams.get(stream.id) is not stream:
            return
        self.outbox.put(frame)
        if not stream.ended:
            self.outbox.put(frames.make_rst_stream(stream.id, ErrorCode.NO_ERROR))
            self._cut_off(stream.id)
        self._close(stream.id)

    def _cut_off(self, stream_id: int) -> None:
        if len(self._cut) >= MAX_CUT:
            self._cut.clear()
        self._cut.add(stream_id)

    def _close(self, stream_id: int) -> None:
        """The stream is over, its task too or soon."""
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            return
        self._memory.held -= stream.held
        self.outbox.forget(stream_id)
        self._cancel(stream)
        if not self.streams:
            self._idle()

    def _cancel(self, stream: Stream) -> None:
        task, stream.task = stream.task, None
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            self.ending.add(task)
            task.add_done_callback(self.ending.discard)

    def close_all(self) -> None:
        """The connection is over: nobody waits for an answer."""
        for stream_id in list(self.streams):
            self._close(stream_id)

    # -- time ------------------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> float:
        """End what is overdue; gives when to look again (infinity: no need)."""
        for stream in list(self.streams.values()):
            if stream.deadline <= now:
                self._refuse(stream, Status.DEADLINE_EXCEEDED, "the deadline has passed")
            elif stream.stalls_at <= now:
                self.reset(stream.id, ErrorCode.CANCEL)
        return min((min(stream.deadline, stream.stalls_at) for stream in self.streams.values()), default=math.inf)


def refuse_idle(last_id: int, stream_id: int, what: str) -> None:
    """Raise `ProtocolError` for a frame on a stream that was never opened."""
    if stream_id > last_id or not stream_id & 1:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"{what} on a stream that was never opened")
