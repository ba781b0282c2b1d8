"""The catalog of one revision: which MCP servers exist, where their calls may go, and which tools they have.

Everything here is immutable and is replaced as a whole when a new revision arrives (`extauthz.subscription`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class Effect(StrEnum):
    """What a tool does to the world, from accepted annotations only. Not accepted = destructive."""

    READ = "read"
    WRITE = "write"
    DESTRUCTIVE = "destructive"


class ArgumentType(StrEnum):
    """Types that an argument may have in a policy's context; the values are Cedar's names."""

    STRING = "String"
    LONG = "Long"
    DECIMAL = "decimal"
    BOOL = "Bool"
    STRING_SET = "Set<String>"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredArgument:
    """An argument that clients copy into a header, by `x-mcp-header` of the accepted schema (MCP 2026-07-28, basic/transports).

    `header` is the whole name in lower case (`mcp-param-region`), `path` the names that lead to the argument.
    """

    header: str
    path: tuple[str, ...]
    type: ArgumentType


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One reviewed tool. Its identity is `namespace/server/name`, never its advertised name alone."""

    name: str
    digest: str = ""
    effect: Effect = Effect.DESTRUCTIVE
    idempotent: bool = False
    arguments: Mapping[str, ArgumentType] = field(default_factory=lambda: MappingProxyType({}))
    mirrored: tuple[MirroredArgument, ...] = ()
    held: bool = False  # changed in a way that waits for review: listed as it was accepted, and not called


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Where a secret is: a file below the secrets directory, or its value. Never printed."""

    file: str = ""
    value: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticHeader:
    """The upstream is authenticated by one constant header."""

    header: str
    prefix: str
    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """The upstream is authenticated by an access token of the OAuth client credentials grant (RFC 6749 section 4.4)."""

    token_url: str
    oauth_client_id: str
    client_secret: Secret
    scopes: tuple[str, ...] = ()
    audience: str = ""
    resource: str = ""


UpstreamCredential = StaticHeader | ClientCredentials | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredScopes:
    """OAuth scopes that an access token needs here: for every request, and more for calls of some tools."""

    connect: tuple[str, ...] = ()
    effects: Mapping[Effect, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    tools: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, called: Iterable[Tool]) -> tuple[str, ...]:
        """All scopes of one request that calls these tools, once each."""
        needed = list(self.connect)
        for tool in called:
            needed += (*self.effects.get(tool.effect, ()), *self.tools.get(tool.name, ()))
        return tuple(dict.fromkeys(needed))


NO_SCOPES = RequiredScopes()


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """One registered MCP server as the authorizer knows it."""

    uid: str
    namespace: str
    name: str
    cluster: str
    path: str
    max_body_bytes: int = 256 * 1024
    timeout_ms: int = 0
    credential: UpstreamCredential = None
    tools: Mapping[str, Tool] = field(default_factory=lambda: MappingProxyType({}))
    prompts: frozenset[str] = frozenset()
    suspended: bool = False
    required_scopes: RequiredScopes = NO_SCOPES
    eras: frozenset[str] = frozenset()  # "modern", "legacy": what it was found to speak; none: not known yet
    bridged: bool = True

    @property
    def id(self) -> str:
        """`namespace/name`, the Cedar id of `McpServer::"…"` and the xDS resource name."""
        return f"{self.namespace}/{self.name}"
