"""What the prober hands to the registry: the definitions one MCP server announced, or why it could not be read.

`prober` makes these values, `registry.store` keeps them beside what an operator accepted; a probe never accepts anything. This is
all that the process which reads (`reader_process`) knows of the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingLimits:
    """How much of one server is read before the reading fails."""

    seconds: float = 20.0
    max_bytes: int = 16 * 1024 * 1024
    max_definition_bytes: int = 64 * 1024
    max_definitions: int = 5000
    max_pages: int = 200
    stream_seconds: float = 330.0  # how long a server is listened to before a new stream; Envoy ends them earlier


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedDefinition:
    """One tool, prompt, resource or resource template as the server announced it, whole.

    `digest` is "sha256:<hex>" over the RFC 8785 form of `document`.
    """

    kind: str  # "tool" | "prompt" | "resource" | "resource_template"
    name: str  # tool or prompt name, resource URI, URI template
    digest: str
    document: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One reading of one MCP server. With an `error` nothing was read and what is stored stays as it is.

    `era` is the one it was read in; `other_era`: whether it speaks the other one too, None: that could not be told this time.
    """

    at: datetime
    era: str = ""  # "modern" | "legacy"
    other_era: bool | None = None
    protocol_version: str = ""
    instructions: str = ""
    capabilities: Mapping[str, object] = field(default_factory=dict)
    server_info: Mapping[str, object] = field(default_factory=dict)
    definitions: tuple[ProbedDefinition, ...] = ()
    skipped: tuple[str, ...] = ()  # a sentence for each definition that was not taken over
    error: str = ""

    @property
    def message(self) -> str:
        """What the Probed condition says."""
        if self.error:
            return self.error
        counted = f"{len(self.definitions)} definitions, protocol {self.protocol_version}"
        return f"{counted}; skipped: {'; '.join(self.skipped)}" if self.skipped else counted


class DefinitionStore(Protocol):
    """Where readings go."""

    async def record_probe(self, uid: str, result: ProbeResult) -> int | None:
        """Keep a reading of the McpServer `uid`; the new revision when definitions changed, None when nothing did or it is gone."""
        ...
