"""The shapes of `/v1/reviews`, of versions of catalogs and of readings; `openapi` publishes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ReviewedDefinition(BaseModel):
    """A definition with the digest that was looked at; the call fails when it is another one by now."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["tool", "prompt", "resource", "resource_template"]
    name: str = Field(min_length=1, max_length=2000)
    digest: str = Field(min_length=1, max_length=100)


class ReviewDecision(BaseModel):
    """What becomes of these definitions. Rejected ones are held until the server presents something else."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    decision: Literal["accept", "reject"]
    items: tuple[ReviewedDefinition, ...] = Field(min_length=1, max_length=5000)
    reason: str = Field(default="", max_length=1000)


class ReviewItem(BaseModel):
    """One definition. `class`: what its change means; empty: it was never accepted. `held`: it cannot be used until then."""

    model_config = ConfigDict(extra="forbid")
    namespace: str
    server: str
    kind: str
    name: str
    state: Literal["new", "changed", "rejected", "accepted"]
    change_class: Literal["", "cosmetic", "reworded", "narrowing", "widening", "risky"] = Field(alias="class")
    held: bool
    digest: str
    accepted_digest: str
    findings: list[str]


class ReviewList(BaseModel):
    """What waits for review, at `revision`; what is held comes first. `left`: how many more there are than `limit`."""

    items: list[ReviewItem]
    left: int
    revision: int


class ReviewDifference(BaseModel):
    """One place at which the announced definition is not the accepted one; `before` or `after` null: nothing stands there."""

    path: str
    change_class: str = Field(alias="class")
    sentence: str
    before: Any
    after: Any


class ReviewDetail(ReviewItem):
    """A definition with both of its documents, how they differ, and who decided about it last."""

    effect: str
    effect_if_accepted: str
    accepted: dict[str, Any] | None
    announced: dict[str, Any]
    differences: list[ReviewDifference]
    accepted_by: str
    accepted_at: str
    rejected_by: str
    rejected_at: str
    rejected_reason: str


class ReviewDetailList(BaseModel):
    """What waits at one server, and how many more there are than `limit`. `digest` is that of its whole catalog."""

    items: list[ReviewDetail]
    left: int
    digest: str
    auto_accept: Literal["none", "cosmetic", "all"]


class Reviewed(BaseModel):
    """The revision from which on the decision counts; `warnings`: what policies have against it now."""

    revision: int
    warnings: list[str]


class CatalogVersionItem(BaseModel):
    """A catalog that the server presented, last at `read_at`. `digest` is what a member of a VirtualServer pins as its `version`."""

    digest: str
    read_at: str
    definitions: int
    current: bool
    pinned_by: list[str]


class CatalogVersionList(BaseModel):
    """The newest first."""

    items: list[CatalogVersionItem]


class Probing(BaseModel):
    """A reading was asked for; the server's status says when it ended and how."""

    asked: bool


REVIEW_SHAPES: tuple[type[BaseModel], ...] = (CatalogVersionList, Probing, ReviewDecision, ReviewDetailList, ReviewList, Reviewed)
