"""Whose sessions are whose: the key under which something of a caller is kept in memory."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from aggregator.call import Client
from extauthz import base64url
from extauthz.catalog.server import McpServer
from extauthz.session import bind_session

_LISTENER = "egress"


def caller_of(client: Client, member: McpServer) -> str:
    """The caller, as the authorizers tell callers apart when they bind sessions."""
    return base64url.encode(bind_session(client.context.principal, member, _LISTENER).caller)


def place_of(client: Client, member: McpServer) -> str:
    """The caller at this member as it is registered now."""
    binding = bind_session(client.context.principal, member, _LISTENER)
    return base64url.encode(binding.caller + binding.place)


def digest_of(*parts: Any) -> str:  # noqa: ANN401 - any JSON
    """Of JSON values; equal for equal ones."""
    text = json.dumps([_plain(part) for part in parts], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _plain(value: Any) -> Any:  # noqa: ANN401
    return dict(value) if hasattr(value, "keys") else value
