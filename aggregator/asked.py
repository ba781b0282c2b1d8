"""One request as it reached this process: who asks (by the signed context), at which front, what, and in which session."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from aggregator.call import Client, Json
from aggregator.front import Front, Viewer
from aggregator.session import PREFIX, Session
from extauthz.egress_context import EgressContext
from extauthz.mcp.document import parse_document
from extauthz.mcp.era import Era
from extauthz.mcp.headers import META_CAPABILITIES
from extauthz.mcp.jsonrpc import MessageClass
from extauthz.mcp.request import McpRequest
from extauthz.session import SESSION_HEADER, caller_digest

META_CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
META_LOG_LEVEL = "io.modelcontextprotocol/logLevel"
_PATH = re.compile(r"/(servers|virtual)/([a-z0-9][-a-z0-9]*)/([a-z0-9][-a-z0-9]*)/mcp", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Everything that an answer is made from. `params` of a request or notification, `outcome` of a response."""

    front: Front
    context: EgressContext
    context_header: str = field(repr=False)
    viewer: Viewer
    mcp: McpRequest
    params: Json
    outcome: Json
    session_id: str = field(default="", repr=False)
    session: Session | None = None
    log_level: str = ""

    @property
    def whose(self) -> str:
        """Whose requests and questions these are: the session's, or the caller's at this front where there is none."""
        return self.session_id or f"{caller_digest(self.context.principal).hex()}:{self.front.place}"

    @property
    def client(self) -> Client:
        """The client as members are told of it."""
        meta = self.params.get("_meta")
        said = meta if isinstance(meta, Mapping) else {}
        if self.mcp.era is Era.MODERN:
            level = said.get(META_LOG_LEVEL)
            return Client(
                context=self.context,
                context_header=self.context_header,
                era=Era.MODERN,
                protocol_version=self.mcp.protocol_version,
                capabilities=_object(said.get(META_CAPABILITIES)),
                info=_object(said.get(META_CLIENT_INFO)),
                log_level=level if isinstance(level, str) else "",
            )
        session = self.session or Session(protocol_version=self.mcp.protocol_version or "2025-03-26")
        return Client(
            context=self.context,
            context_header=self.context_header,
            era=Era.LEGACY,
            protocol_version=session.protocol_version,
            capabilities=session.capabilities,
            info=session.info,
            log_level=self.log_level,
            session_id=self.session_id,
            upstream_sessions=session.upstream_sessions,
        )


def front_of_path(path: str) -> tuple[bool, str] | None:
    """Whether a path is of a virtual server, and the id; None for any other path."""
    found = _PATH.fullmatch(path)
    return (found[1] == "virtual", f"{found[2]}/{found[3]}") if found is not None else None


def is_for(context: EgressContext, front: tuple[bool, str]) -> bool:
    """Whether the context was signed for this front."""
    is_virtual, front_id = front
    return (context.virtual_server_id if is_virtual else context.mcp_server_id) == front_id


def own_session_id(headers: Mapping[str, Sequence[str]]) -> str:
    """The id of a session of ours that the request names; a session with a member itself is not ours to judge."""
    session_id = next(iter(headers.get(SESSION_HEADER, ())), "")
    return session_id if session_id.startswith(PREFIX) else ""


def read_message(mcp: McpRequest, body: bytes) -> tuple[Json, Json]:
    """Parameters and outcome of the message, which `parse_request` has found to be good."""
    if mcp.message_class is None:
        return {}, {}
    document: Any = parse_document(body)
    if mcp.message_class is MessageClass.RESPONSE:
        return {}, {name: document[name] for name in ("result", "error") if name in document}
    return document.get("params", {}), {}


def id_of(mcp: McpRequest) -> object:
    """The id as a value."""
    return json.loads(mcp.id_json)


def _object(value: object) -> Json:
    return value if isinstance(value, Mapping) else MappingProxyType({})
