"""HTTP/2 frames as bytes (RFC 9113 sections 4, 6 and 7): numbers, building, and what can be read of a frame by itself.

Nothing here knows a connection; `connection` does, and turns every `ProtocolError` into a GOAWAY.
"""

from __future__ import annotations

import struct
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
FRAME_HEADER = struct.Struct(">IBI")  # length (24 bits) and type (8), flags, stream id
_U32 = struct.Struct(">I")
_SETTING = struct.Struct(">HI")
_TWO_U32 = struct.Struct(">II")

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

SETTINGS_HEADER_TABLE_SIZE = 0x1
SETTINGS_ENABLE_PUSH = 0x2
SETTINGS_MAX_CONCURRENT_STREAMS = 0x3
SETTINGS_INITIAL_WINDOW_SIZE = 0x4
SETTINGS_MAX_FRAME_SIZE = 0x5
SETTINGS_MAX_HEADER_LIST_SIZE = 0x6

DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384
LARGEST_FRAME_BYTES = 2**24 - 1
LARGEST_WINDOW = 2**31 - 1
LARGEST_STREAM_ID = 2**31 - 1


class ErrorCode(IntEnum):
    """RFC 9113 section 7, those that we send."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ProtocolError(Exception):
    """The peer broke the protocol in a way that ends the connection. `sentence` is ours alone: it goes into the GOAWAY."""

    def __init__(self, code: ErrorCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


def make_frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame; the payload must fit the peer's frame size."""
    return FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def make_settings(values: dict[int, int]) -> bytes:
    """Our SETTINGS."""
    return make_frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in values.items()))


def make_window_update(stream_id: int, increment: int) -> bytes:
    """Room for `increment` more bytes, on a stream or (0) on the connection."""
    return make_frame(WINDOW_UPDATE, 0, stream_id, _U32.pack(increment))


def make_rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """The end of one stream."""
    return make_frame(RST_STREAM, 0, stream_id, _U32.pack(code))


def make_goaway(last_stream_id: int, code: ErrorCode, sentence: str = "") -> bytes:
    """The end of the connection; streams above `last_stream_id` were not looked at and may be tried elsewhere."""
    return make_frame(GOAWAY, 0, 0, _TWO_U32.pack(last_stream_id, code) + sentence.encode("ascii", "replace"))


def unpadded(payload: bytes, flags: int) -> bytes:
    """What a DATA or HEADERS frame holds without padding and priority (sections 6.1 and 6.2)."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame is empty")
        start, end = 1, end - payload[0]
    if flags & WITH_PRIORITY:
        start += 5
    if start > end:
        code = ErrorCode.PROTOCOL_ERROR if flags & PADDED else ErrorCode.FRAME_SIZE_ERROR
        raise ProtocolError(code, "a frame is shorter than its padding or priority")
    return payload[start:end]


def parse_u32(payload: bytes, what: str) -> int:
    """The one number of a RST_STREAM or WINDOW_UPDATE frame, without the reserved bit of the latter's users."""
    if len(payload) != 4:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"{what} has another length than 4")
    value: int = _U32.unpack(payload)[0]
    return value


def parse_settings(payload: bytes) -> dict[int, int]:
    """The peer's SETTINGS, checked (section 6.5.2); of a repeated one the last value counts."""
    if len(payload) % 6:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS has a length that is no multiple of 6")
    values: dict[int, int] = {}
    for name, value in _SETTING.iter_unpack(payload):
        if name == SETTINGS_ENABLE_PUSH and value > 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if name == SETTINGS_INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
        if name == SETTINGS_MAX_FRAME_SIZE and not DEFAULT_FRAME_BYTES <= value <= LARGEST_FRAME_BYTES:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
        values[name] = value
    return values
