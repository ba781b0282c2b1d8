"""Request headers: from a block of bytes to what we need to know of a request.

We announce SETTINGS_HEADER_TABLE_SIZE 0. Once the peer has acknowledged that and obeyed, a block means the same whatever came
before it, so what was read of a block once is remembered by its bytes: an Envoy sends the same few blocks for ever (`traced_head`:
but for their `traceparent`). Until
then, and for every new block, the `hpack` library reads (RFC 7541).
"""

from __future__ import annotations

from collections.abc import Iterable

from hpack import Decoder, HPACKError, OversizedHeaderListError

from extauthz.unary.frames import ErrorCode, ProtocolError
from extauthz.unary.request_head import RequestHead
from extauthz.unary.status import parse_timeout
from extauthz.unary.traced_head import TracedHeads

MAX_HEADER_BYTES = 16 * 1024
MAX_REMEMBERED = 256
MAX_REMEMBERED_BYTES = 1024
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_OF_CONNECTIONS = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_FORBIDDEN_IN_NAMES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ") | frozenset(range(0x21)) | frozenset(range(0x7F, 0x100))
_FORBIDDEN_IN_VALUES = (b"\x00", b"\r", b"\n")


class RememberedHeads:
    """Heads by the bytes of their block, for all connections of a server; bounded, forgotten all at once."""

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self.heads: dict[bytes, RequestHead] = {}
        self.traced = TracedHeads()

    def add(self, block: bytes, head: RequestHead) -> None:
        """Remember one; only a block that was read without any table may come here."""
        if len(block) > MAX_REMEMBERED_BYTES:
            return
        if len(self.heads) >= self._limit:
            self.heads.clear()
        self.heads[block] = head


class HeadReader:
    """Reads the header blocks of one connection, each exactly once and in order."""

    def __init__(self, remembered: RememberedHeads) -> None:
        self._remembered = remembered
        self._known = remembered.heads
        self._traced = remembered.traced
        self._decoder = Decoder(max_header_list_size=MAX_HEADER_BYTES)
        self._acknowledged = False
        self._stateless = False

    def acknowledged(self) -> None:
        """The peer has our SETTINGS: from the next block on its table has no room."""
        self._acknowledged = True
        self._decoder.max_allowed_table_size = 0

    def read(self, block: bytes) -> RequestHead:
        """The head of a request; raises `ProtocolError` when the block cannot be read, which ends the connection."""
        if self._stateless:
            known = self._known.get(block) or self._traced.read(block)
            if known is not None:
                return known
        head = _head_of(self.read_fields(block))
        if self._stateless:
            if head.traceparent:  # no other block will be like this one
                self._traced.learn(block, head)
            else:
                self._remembered.add(block, head)
        elif self._acknowledged:
            self._stateless = self._decoder.header_table_size == 0
        return head

    def read_fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """The fields of a block, for trailers: nobody asks what they say, but the table must follow."""
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError as error:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large") from error
        except HPACKError as error:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, "a header block cannot be read") from error


def _head_of(fields: Iterable[tuple[bytes, bytes]]) -> RequestHead:
    """Check the fields (RFC 9113 sections 8.2 and 8.3) and keep those that matter."""
    pseudo: dict[bytes, bytes] = {}
    regular: dict[bytes, bytes] = {}
    for name, value in fields:
        fault = _fault_of(name, value)
        if not fault and name.startswith(b":"):
            fault = "a pseudo-header is unknown, repeated or late" if name not in _PSEUDO or name in pseudo or regular else ""
            pseudo[name] = value
        else:
            regular.setdefault(name, value)
        if fault:
            return RequestHead(fault=fault)
    if any(not pseudo.get(name) for name in (b":method", b":scheme", b":path")):
        return RequestHead(fault="a pseudo-header is missing")
    return _described(pseudo, regular)


def _fault_of(name: bytes, value: bytes) -> str:
    if not name or not _FORBIDDEN_IN_NAMES.isdisjoint(name) or b":" in name[1:]:
        return "a header name is malformed"
    if any(byte in value for byte in _FORBIDDEN_IN_VALUES) or value != value.strip(b" \t"):
        return "a header value is malformed"
    if name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers"):
        return "a header belongs to HTTP/1.1"
    return ""


def _described(pseudo: dict[bytes, bytes], regular: dict[bytes, bytes]) -> RequestHead:
    length, timeout = regular.get(b"content-length"), regular.get(b"grpc-timeout")
    timeout_seconds = parse_timeout(timeout) if timeout is not None else None
    if timeout is not None and timeout_seconds is None:
        return RequestHead(fault="grpc-timeout is malformed")
    if length is not None and not (length.isdigit() and len(length) <= 12):
        return RequestHead(fault="content-length is malformed")
    return RequestHead(
        path=pseudo[b":path"].decode("latin-1"),
        http_method=pseudo[b":method"],
        content_type=regular.get(b"content-type", b""),
        timeout_seconds=timeout_seconds,
        content_length=int(length) if length is not None else None,
        traceparent=regular.get(b"traceparent", b"").decode("latin-1"),
    )
