"""gRPC over HTTP/2, the part that is about one unary call: statuses, its time limit, and answers as bytes.

Every header block that we send is made of literals that touch no table (RFC 7541 section 6.2.2), so a block is a constant
and no peer's table size matters. Reference: grpc.io, "gRPC over HTTP2".
"""

from __future__ import annotations

import re
import struct
from enum import IntEnum
from urllib.parse import quote

from extauthz.unary.frames import END_HEADERS, END_STREAM, HEADERS, make_frame

MESSAGE_PREFIX = struct.Struct(">BI")  # compressed flag, length
_ANSWER_DATA = struct.Struct(">IBIBI")  # DATA frame header, then the message's prefix
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Status(IntEnum):
    """gRPC status codes, those that we send."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    DEADLINE_EXCEEDED = 4
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class CallRefused(Exception):  # noqa: N818 - an answer, not a failure of ours
    """Raised by a method to end its call with a status; the sentence goes to the peer."""

    def __init__(self, status: Status, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing, new name; both shorter than 127 bytes."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


_STATUS_200 = b"\x88"  # static table, index 8
_CONTENT_TYPE = _literal(b"content-type", b"application/grpc")
_HEAD_BLOCK = _STATUS_200 + _CONTENT_TYPE
_OK_BLOCK = _literal(b"grpc-status", b"0")
_HEAD_PREFIX = make_frame(HEADERS, END_HEADERS, 0, _HEAD_BLOCK)[:5]
_OK_PREFIX = make_frame(HEADERS, END_HEADERS | END_STREAM, 0, _OK_BLOCK)[:5]
MAX_SENTENCE_BYTES = 120


def whole_answer(stream_id: int, message: bytes) -> bytes:
    """HEADERS, DATA and trailers of an answer that fits one frame and the peer's windows."""
    number = stream_id.to_bytes(4, "big")
    size = len(message)
    data = _ANSWER_DATA.pack((size + 5) << 8, 0, stream_id, 0, size)
    return b"".join((_HEAD_PREFIX, number, _HEAD_BLOCK, data, message, _OK_PREFIX, number, _OK_BLOCK))


def answer_head(stream_id: int) -> bytes:
    """HEADERS of an answer whose DATA follows as the peer's windows allow."""
    return make_frame(HEADERS, END_HEADERS, stream_id, _HEAD_BLOCK)


def answer_trailers(stream_id: int) -> bytes:
    """The end of a good answer."""
    return make_frame(HEADERS, END_HEADERS | END_STREAM, stream_id, _OK_BLOCK)


def answer_refusal(stream_id: int, status: Status, sentence: str) -> bytes:
    """An answer without a message ("Trailers-Only")."""
    told = quote(sentence, safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~")[:MAX_SENTENCE_BYTES].encode("ascii")
    block = _HEAD_BLOCK + _literal(b"grpc-status", b"%d" % status) + _literal(b"grpc-message", told)
    return make_frame(HEADERS, END_HEADERS | END_STREAM, stream_id, block)


def answer_http_status(stream_id: int, http_status: int) -> bytes:
    """For a request that is not gRPC at all."""
    block = b"\x08\x03%d" % http_status  # name ":status" of the static table, literal value
    return make_frame(HEADERS, END_HEADERS | END_STREAM, stream_id, block)


def parse_timeout(value: bytes) -> float | None:
    """Seconds of a grpc-timeout header; None when it is not one."""
    found = _TIMEOUT.fullmatch(value)
    return int(found[1]) * _UNIT_SECONDS[found[2]] if found else None
