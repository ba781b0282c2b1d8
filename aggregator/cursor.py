"""Cursors of lists: opaque to clients, and good only while the list is the one whose first page they were given with.

A cursor is base64url of the digest of the caller's view (12 bytes) and the place of the next entry (4 bytes). It is no secret: all it
can do is to point into a list that is the caller's own anyway.
"""

from __future__ import annotations

import struct

from aggregator.call import RpcError
from extauthz import base64url
from extauthz.mcp.jsonrpc import INVALID_PARAMS

_CURSOR = struct.Struct(">12sI")


def make_cursor(digest: bytes, offset: int) -> str:
    """The cursor of the entries from `offset` on."""
    return base64url.encode(_CURSOR.pack(digest, offset))


def parse_cursor(cursor: object, digest: bytes) -> int:
    """Where to go on; 0 without a cursor. Raises `RpcError` (-32602) for one that was not made here, or for a list that has changed."""
    if cursor is None:
        return 0
    try:
        raw = base64url.decode(cursor) if isinstance(cursor, str) else b""
        of_view, offset = _CURSOR.unpack(raw)
    except (ValueError, struct.error) as error:
        raise RpcError(INVALID_PARAMS, "The cursor is not one of this list.", {"reason": "cursor_unknown"}) from error
    if of_view != digest:
        sentence = "The list has changed since its first page. Begin again without a cursor."
        raise RpcError(INVALID_PARAMS, sentence, {"reason": "cursor_stale"})
    return int(offset)
