"""Virtual servers of one revision: tools, prompts and resources of several MCP servers, offered at one address.

A virtual server grants nothing. It names what it offers, and each name stands for something of a member (`Exposed`): that is what
policies decide about. What a caller sees and may call is `extauthz.effective_view`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class DefinitionKind(StrEnum):
    """What MCP servers offer; the values are those of the registry's definitions."""

    TOOL = "tool"
    PROMPT = "prompt"
    RESOURCE = "resource"
    RESOURCE_TEMPLATE = "resource_template"


class Mode(StrEnum):
    """How a virtual server offers its tools: each by itself, or by the two tools that find and call them."""

    DIRECT = "direct"
    SEARCH = "search"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposed:
    """One thing that is offered: called `name` here, and `own_name` at the member `mcp_server_id`.

    Empty overrides (`title`, `description`, `annotations`) leave the definition's own. `defaults` are arguments that are filled in
    where the caller gives none, `hidden` ones that callers neither see nor may give.
    """

    kind: DefinitionKind
    name: str
    mcp_server_id: str
    own_name: str
    title: str = ""
    description: str = ""
    annotations: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    defaults: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    hidden: frozenset[str] = frozenset()

    @property
    def unchanged(self) -> bool:
        """Whether a call of it means the same to its server as it was written by the caller."""
        return self.name == self.own_name and not self.defaults and not self.hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One MCP server of a virtual server. `uri_prefix` stands before its resource URIs (`m.demo.crm+`); empty: they are as they are."""

    mcp_server_id: str
    uri_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualServer:
    """One virtual server as authorizers and aggregators know it. `items` by kind and by the name that clients use."""

    uid: str
    namespace: str
    name: str
    members: tuple[Member, ...]
    items: Mapping[DefinitionKind, Mapping[str, Exposed]]
    title: str = ""
    instructions: str = ""
    strict: bool = False
    stale_seconds: int = 600
    mode: Mode = Mode.DIRECT
    suspended: bool = False

    @property
    def id(self) -> str:
        """`namespace/name`; the same id may be that of an MCP server, which lives at another path."""
        return f"{self.namespace}/{self.name}"
