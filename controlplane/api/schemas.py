"""The shapes that the API takes and gives, beside the registry's documents; `openapi` publishes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from controlplane.api.insight_schemas import INSIGHT_SHAPES
from controlplane.api.review_schemas import REVIEW_SHAPES
from controlplane.api.sink_schemas import SINK_SHAPES
from controlplane.registry.spec import SPEC_OF_KIND, Kind, Name


class Shape(BaseModel):
    """Base of the shapes: unknown members are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ExplainPrincipal(Shape):
    """Who would call. Without `provider` the only one that the server's namespace trusts. A Workload is named by its SPIFFE ID."""

    subject: str = Field(alias="as", min_length=1, max_length=2048)
    groups: tuple[str, ...] = Field(default=(), max_length=1000)
    claims: tuple[str, ...] = Field(default=(), max_length=1000, description="claim=value")
    scopes: tuple[str, ...] | None = Field(default=None, max_length=500, description="absent: every scope that the call needs")
    tenant: str = Field(default="", max_length=500)
    kind: Literal["User", "Agent", "Workload"] = "User"
    provider: str = Field(default="", max_length=200)
    workload: str = Field(default="", max_length=2048, description="SPIFFE ID of a workload that calls for it, by its X.509-SVID")


class ExplainRequest(Shape):
    """A call that is imagined. `tool` is the prompt's name, the resource's URI or the task's id for methods about those."""

    principal: ExplainPrincipal
    server: str = Field(max_length=200, description="namespace/name of an MCP server, or virtual/namespace/name")
    method: str = Field(default="tools/call", max_length=100)
    tool: str = Field(default="", max_length=2000)
    arguments: dict[str, Any] = Field(default_factory=dict)


class Explanation(Shape):
    """The decision, and why."""

    decision: Literal["allow", "deny"]
    reason: str
    sentence: str
    determining_policies: list[str]
    roles: list[str]
    missing_roles: list[str]
    errors: list[str]
    target: str = Field(description="at a virtual server: what the name stands for, namespace/server/name")
    revision: int


class ViewRequest(Shape):
    """Somebody who looks at an address of the gateway, in one era of the protocol."""

    principal: ExplainPrincipal
    server: str = Field(max_length=200, description="namespace/name of an MCP server, or virtual/namespace/name")
    era: Literal["modern", "legacy"] = "modern"


class ViewedItem(Shape):
    """One thing that is offered there."""

    kind: Literal["tool", "prompt", "resource", "resource_template"]
    name: str
    target: str = Field(description="what policies decide about: namespace/server/name")
    listed: bool
    reason: str = Field(description="why not, or why its calls are denied although it is listed; else empty")
    determining_policies: list[str]


class ExplainedView(Shape):
    """What somebody is shown."""

    visible: bool = Field(description="whether the address exists for the caller at all")
    revocation: str = Field(description="the Revocation by which the caller has nothing; else empty")
    items: list[ViewedItem]
    revision: int


class AcceptRequest(Shape):
    """`digest` of the catalog that was reviewed; the call fails when the server presents another one by now."""

    digest: str = ""


class AcceptedTool(Shape):
    """What a tool counts as from now on."""

    name: str
    effect: Literal["read", "write", "destructive"]


class Accepted(Shape):
    """The catalog that counts from `revision` on. `warnings`: what policies have against it now."""

    revision: int
    accepted: list[AcceptedTool]
    warnings: list[str]


class DefinitionItem(Shape):
    """One definition, beside what was accepted of it. `class` and `held` as in reviews."""

    kind: Literal["tool", "prompt", "resource", "resource_template"]
    name: str
    digest: str
    accepted_digest: str
    change_class: str = Field(alias="class")
    held: bool
    effect: str
    description: str
    document: dict[str, Any]


class DefinitionList(Shape):
    """Everything that a server presents; `digest` is that of the whole."""

    items: list[DefinitionItem]
    digest: str


class ApplyResultItem(Shape):
    """What happened to one document."""

    document: int
    kind: str
    namespace: str
    name: str
    action: Literal["created", "updated", "unchanged"]
    resource_revision: int
    warnings: list[str]
    diff: list[str]


class ApplyResult(Shape):
    """What a manifest did, or would do."""

    revision: int
    dry_run: bool
    results: list[ApplyResultItem]


class Deleted(Shape):
    """The revision that removed it."""

    revision: int


class HistoryItem(Shape):
    """One change; `before` and `after` hold no secrets."""

    revision: int
    committed_at: str
    actor: str
    message: str
    op: Literal["created", "updated", "deleted", "probed", "accepted", "rejected", "rotated"]
    uid: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class History(Shape):
    """Changes, newest first."""

    items: list[HistoryItem]


class NodeType(BaseModel):
    """One xDS type on one node."""

    type_url: str
    version: str
    state: str
    error: str


class Node(BaseModel):
    """One Envoy or authorizer. `revision` is the newest that it has accepted whole; `serving`: it did so since it connected."""

    id: str
    kind: Literal["envoy", "authorizer", "aggregator"]
    connected: bool
    revision: int
    state: Literal["SYNCED", "STALE", "NACK", "SENT"]
    serving: bool
    types: list[NodeType]
    last_seen_at: str


class NodeList(Shape):
    """All nodes that spoke to this control plane lately, what keeps the control plane itself from being ready, and what else is wrong."""

    revision: int
    items: list[Node]
    problems: list[str] = []
    warnings: list[str] = Field(default=[], description="faults that delay no call, such as statements that cannot be anchored")


class Revision(Shape):
    """A revision and how far it has come. Actor and message only for its author and for operators of `system`."""

    revision: int
    committed_at: str
    actor: str = ""
    message: str = ""
    programmed: dict[str, tuple[int, int]]
    complete: bool
    nodes: list[Node]


class Status(Shape):
    """The newest revision."""

    revision: int
    committed_at: str
    programmed: dict[str, tuple[int, int]]
    complete: bool
    nodes: list[Node]
    counts: dict[str, int]


class AuditRecordList(Shape):
    """Records, oldest first; `next` is the cursor behind them. Fields are described in docs/audit-fields.md.

    One answer looks at a bounded number of records: it may have fewer than `limit`, or none, and others may still match behind `next`
    or, where `earlier` is not empty, before it.
    """

    items: list[dict[str, Any]]
    next: str = Field(description="for `after`: what comes later")
    earlier: str = Field(description="for `before`: what was earlier; empty: nothing, or not asked for")
    lagging: list[str] = Field(description="nodes that may have records which are not here yet")


class AuditedDecision(Shape):
    """A decision with how it ended, and in `inner` the decisions that it caused, likewise."""

    items: list[dict[str, Any]]
    lagging: list[str]


class EraseRequest(Shape):
    """Whose personal values nobody shall be able to read any more."""

    principal: str = Field(min_length=1, max_length=2000, description="qualified id")
    message: str = Field(default="", max_length=1000, description="why, for the record")


class Erased(Shape):
    """How many keys were deleted; 0: there were none, or none any more."""

    keys: int


class AuditStatementStatus(Shape):
    """How far the record is stated. `key_id` and `public_key` (PEM) are of who signs the next statement. Before the first: empty."""

    signed: bool = Field(description="whether there is a key to sign with")
    statements: int
    stated_to_position: int
    stated_at: str
    key_id: str
    public_key: str
    unanchored: int = Field(description="statements that some anchor may not hold yet")
    faults: list[str]


class UsageSums(Shape):
    """Sums of one group. `failed`: passed on, and not answered well. Money is decimal text, by currency."""

    model_config = ConfigDict(extra="allow", frozen=True)

    calls: int
    denied: int
    failed: int
    duration_us: int
    request_bytes: int
    response_bytes: int
    estimated_tokens: int
    costs: dict[str, str]
    amounts: dict[str, str] | None = Field(default=None, description="of a month: costs rounded to coins; their total is that of the lines")


class UsageReport(Shape):
    """Usage in a period, the most calls first. Each item also has the values that `by` names.

    `uncounted`: records that have not been counted yet.
    """

    from_: str = Field(alias="from")
    to: str
    by: list[str]
    items: list[UsageSums]
    total: UsageSums
    uncounted: int


class Health(Shape):
    """The process answers."""

    status: Literal["ok"]


class Readiness(Shape):
    """Whether the work can be done, and what is missing. `gateway_url` is told to who holds the API's own socket, not through Envoy."""

    status: Literal["ready", "not ready"]
    reasons: list[str]
    revision: int = -1
    gateway_url: str = ""


class ProblemError(Shape):
    """One fault of a document."""

    document: int
    path: str
    message: str


class Problem(Shape):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    errors: list[ProblemError] = Field(default_factory=list)


class EntryMetadata(BaseModel):
    """Who an entry is; `uid` and what follows is the registry's and ignored when written."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    namespace: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    uid: str = ""
    resourceRevision: int = 0  # noqa: N815 - as on the wire
    createdAt: str = ""  # noqa: N815
    updatedAt: str = ""  # noqa: N815


SHAPES: tuple[type[BaseModel], ...] = (
    Accepted,
    AcceptRequest,
    ApplyResult,
    AuditedDecision,
    AuditRecordList,
    AuditStatementStatus,
    DefinitionList,
    Deleted,
    EntryMetadata,
    Erased,
    EraseRequest,
    ExplainedView,
    Explanation,
    ExplainRequest,
    Health,
    History,
    NodeList,
    Problem,
    Readiness,
    Revision,
    Status,
    UsageReport,
    ViewRequest,
    *INSIGHT_SHAPES,
    *REVIEW_SHAPES,
    *SINK_SHAPES,
    *(SPEC_OF_KIND[kind] for kind in Kind),
)
"""Everything that `openapi` publishes under components/schemas, beside the documents it assembles itself."""
