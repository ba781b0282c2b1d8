"""Tokens of questions: the id by which a legacy client is asked says which member's session the response belongs to.

    <member> ~ <digest of the session's handle> ~ <the member's own id, as JSON>

A token is no secret and proves nothing: the response goes upstream with the caller's own context, into a session that the caller's own
sealed id holds, and Envoy's authorizers look at both.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import NamedTuple

from aggregator.upstream.message import RequestId

MAX_TOKEN_CHARACTERS = 200
_SEPARATOR = "~"


class QuestionPlace(NamedTuple):
    """Where the response to a question belongs."""

    member_id: str
    session_digest: str
    request_id: RequestId


def make_token(member_id: str, handle: str, request_id: RequestId) -> str:
    """The token of a question that a legacy member asked; a random one when that would be too long, or the session has no handle."""
    token = _SEPARATOR.join((member_id, digest_of(handle), json.dumps(request_id, ensure_ascii=True)))
    return token if handle and len(token) <= MAX_TOKEN_CHARACTERS else random_token()


def random_token() -> str:
    """The token of a question that can be answered here only."""
    return secrets.token_urlsafe(24)


def parse_token(token: str) -> QuestionPlace | None:
    """What `make_token` wrote; None for anything else."""
    parts = token.split(_SEPARATOR, 2)
    if len(parts) != 3 or len(token) > MAX_TOKEN_CHARACTERS:
        return None
    try:
        request_id = json.loads(parts[2])
    except (ValueError, RecursionError):
        return None
    if isinstance(request_id, bool) or not isinstance(request_id, str | int):
        return None
    return QuestionPlace(parts[0], parts[1], request_id)


def digest_of(handle: str) -> str:
    """What a token says of a session."""
    return hashlib.sha256(handle.encode()).hexdigest()[:16]
