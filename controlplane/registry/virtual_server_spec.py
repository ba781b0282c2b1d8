"""The document of a VirtualServer: tools, prompts and resources of several MCP servers at one address.

Only shape and ranges; what needs the rest of the registry is checked by `registry.virtual_server_rules`. What it offers of what its
members have now is worked out by `registry.exposure`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from controlplane.registry.document import Document

Glob = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f\x7f]+$")]
ServerName = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
CatalogVersion = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
ArgumentName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ToolAnnotationsSpec(Document):
    """Annotations of MCP that are told instead of the accepted ones; they may only be more careful than those."""

    read_only_hint: bool | None = None
    destructive_hint: bool | None = None
    idempotent_hint: bool | None = None
    open_world_hint: bool | None = None


class ToolOverrideSpec(Document):
    """How one tool is shown. Policies go on speaking of the tool as its server calls it.

    `inputDefaults` are filled in where the caller gives nothing, `hiddenArguments` are not shown and must not be given.
    """

    name: ToolName | None = None
    title: str = Field(default="", max_length=500)
    description: str = Field(default="", max_length=20_000)
    input_defaults: dict[ArgumentName, object] = Field(default_factory=dict, max_length=100)
    hidden_arguments: tuple[ArgumentName, ...] = Field(default=(), max_length=100)
    annotations: ToolAnnotationsSpec = Field(default_factory=ToolAnnotationsSpec)


class MemberSpec(Document):
    """What is taken of one MCP server: `server` of the own namespace, or `namespace/name`.

    `include` and `exclude` name tools, `prompts` prompts, `resources` URIs and URI templates, all by globs (`*`, `?`). `readOnly` takes
    tools only whose accepted effect is read. `version` pins the catalog: what differs from that version is not offered.
    """

    server: ServerName
    version: CatalogVersion | None = None
    include: tuple[Glob, ...] = Field(default=(), max_length=500)
    exclude: tuple[Glob, ...] = Field(default=(), max_length=500)
    prompts: tuple[Glob, ...] = Field(default=(), max_length=500)
    resources: tuple[Glob, ...] = Field(default=(), max_length=500)
    read_only: bool = False
    overrides: dict[ToolName, ToolOverrideSpec] = Field(default_factory=dict, max_length=1000)


class FailureSpec(Document):
    """What happens to lists while a member cannot be read: it is left out after `staleSeconds`, or (`strict`) the whole list fails."""

    list: Literal["partial", "strict"] = "partial"
    stale_seconds: int = Field(default=600, ge=0, le=604_800)


class VirtualServerSpec(Document):
    """`/virtual/{namespace}/{name}/mcp`.

    `conflicts`: what becomes of two tools of one name: `error` refuses the document (and later withholds the newcomer), `prefix` puts
    the server's name before all tools of later members that collide, `priority` offers that of the first member.
    `defaultVisibility`: what of a member is offered that names nothing in `include`, `prompts`, `resources`.
    `mode: search` offers two tools, which find and call all others.
    """

    title: str = Field(default="", max_length=200)
    description: str = Field(default="", max_length=2000)
    instructions: str = Field(default="", max_length=20_000)
    members: tuple[MemberSpec, ...] = Field(min_length=1, max_length=500)
    conflicts: Literal["error", "prefix", "priority"] = "error"
    default_visibility: Literal["deny", "allow"] = "deny"
    mode: Literal["direct", "search"] = "direct"
    failure: FailureSpec = Field(default_factory=FailureSpec)
    suspended: bool = False

    @model_validator(mode="after")
    def _members_differ(self) -> VirtualServerSpec:
        names = [member.server for member in self.members]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the member {twice} is named twice")
        return self
