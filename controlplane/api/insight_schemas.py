"""The shapes of what is made of the record: `/v1/what-if`, `/v1/shadow` and `/v1/anomalies`; `openapi` publishes them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class AnomalyItem(BaseModel):
    """A use of a tool that was unusual for its caller."""

    id: int
    at: str
    kind: Literal["new_tool", "volume", "denial_burst", "unusual_hour", "request_size"]
    principal: str = Field(description="empty when the caller was erased, or the record is in the archive")
    mcp_server: str
    tool: str
    observed: float = Field(description="calls, denials, bytes, or a share of calls")
    expected: float
    spread: float
    sentence: str
    decision_id: str = Field(description="of the record with which it was found")


class AnomalyList(BaseModel):
    """The newest first."""

    items: list[AnomalyItem]


class WhatIfProgress(BaseModel):
    """How far a replay is."""

    done: int
    of: int


class WhatIfAnswer(BaseModel):
    """One decision of a replay."""

    allowed: bool
    reason: str
    policies: list[str]


class WhatIfFlip(BaseModel):
    """Calls of one caller of one thing that would be decided otherwise."""

    principal: str
    kind: str
    workload: str = Field(description="that called for the principal, if one did")
    mcp_server: str
    method: str
    name: str = Field(description="tool, prompt or URI; empty for the server itself")
    before: WhatIfAnswer
    after: WhatIfAnswer
    calls: int
    first_at: str
    last_at: str
    examples: list[str] = Field(description="ids of decisions")


class WhatIfCell(BaseModel):
    """A role and a tool whose relation would change: whether the role could call the tool at all."""

    role: str
    mcp_server: str
    tool: str
    before: bool
    after: bool


class WhatIfResult(BaseModel):
    """What a replay found; of what candidates said there is no revision and no matrix."""

    revision: int = 0
    records: int = Field(description="in the window")
    replayed: int
    not_of_policy: int = Field(description="records that no policy decided")
    undecidable: dict[str, int] = Field(description="decisions that cannot be made again, by why")
    drifted: int = Field(description="calls that the policies in force decide otherwise than they were decided then")
    newly_allowed: int
    newly_denied: int
    flips: list[WhatIfFlip]
    calls_left_out: int = Field(description="further calls that would be decided otherwise; there are too many flips")
    matrix: list[WhatIfCell] = []
    matrix_is_cut: bool = False


class WhatIfLine(BaseModel):
    """One line of the answer: exactly one member."""

    progress: WhatIfProgress | None = None
    result: WhatIfResult | None = None
    error: str | None = None


INSIGHT_SHAPES: tuple[type[BaseModel], ...] = (AnomalyList, WhatIfLine)
