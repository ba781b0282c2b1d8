"""Kind AuditPolicy: what is recorded of calls, what happens where it cannot be recorded, and how long it is kept.

Only shape and ranges; names of events, server globs of other namespaces and overlapping retention are checked by `registry.audit_rules`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints, field_validator, model_validator

from controlplane.registry.document import Document, Name
from controlplane.registry.json_path import MAX_PATH_CHARACTERS, parse_json_path

AUDIT_POLICY_NAME = "default"
"""The only name of an AuditPolicy, so that a namespace has one at most."""

KeepSpec = Literal["full", "redacted", "hashed", "off"]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x20\x7f]+$")]
Globs = Annotated[tuple[Glob, ...], Field(max_length=100)]
EventName = Annotated[str, StringConstraints(pattern=r"^([a-z][a-z0-9_]{0,40}|\*)$")]
DataClass = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]

MAX_KEEP_DAYS = 36_500
"""A hundred years; what must be kept for longer is a legal hold."""
MAX_HOT_DAYS = 3650


class ContentRuleSpec(Document):
    """How much is kept of the values at `path`, of calls of these tools of these servers. No globs: all of them.

    A glob of servers without `/` is about names, one with `/` about `namespace/name`. Exactly one of `keep` and `dataClass`.
    """

    servers: Globs = ()
    tools: Globs = ()
    path: Annotated[str, StringConstraints(max_length=MAX_PATH_CHARACTERS)] = "$"
    data_class: DataClass | None = None
    keep: KeepSpec | None = None

    @field_validator("path")
    @classmethod
    def _readable(cls, path: str) -> str:
        parse_json_path(path)
        return path

    @model_validator(mode="after")
    def _exactly_one(self) -> ContentRuleSpec:
        if (self.keep is None) == (self.data_class is None):
            raise ValueError("needs exactly one of 'keep' and 'dataClass'")
        return self


class ArgumentsSpec(Document):
    """What is kept of the arguments of calls: `keep`, but where a rule says otherwise."""

    keep: KeepSpec = "hashed"
    rules: tuple[ContentRuleSpec, ...] = Field(default=(), max_length=500)


class ResultsSpec(Document):
    """What is kept of what tools answer: `keep`, but where a rule says otherwise."""

    keep: KeepSpec = "off"
    rules: tuple[ContentRuleSpec, ...] = Field(default=(), max_length=500)


class RetentionSpec(Document):
    """How long records of these events are kept: `hotDays` in the database, `keepDays` in all. `*`: all that no other rule names."""

    events: Annotated[tuple[EventName, ...], Field(min_length=1, max_length=50)]
    hot_days: int = Field(default=30, ge=1, le=MAX_HOT_DAYS)
    keep_days: int = Field(default=400, ge=1, le=MAX_KEEP_DAYS)

    @model_validator(mode="after")
    def _hot_first(self) -> RetentionSpec:
        if self.keep_days < self.hot_days:
            raise ValueError("'keepDays' is all the time that a record is kept, and must not be less than 'hotDays'")
        return self


class LegalHoldSpec(Document):
    """What is not deleted while this stands here, whatever `retention` says: all that fits everything that is given.

    `server` is a name of this namespace or `namespace/name`, `principal` a qualified id. `from` and `until` bound the time of the
    record, not of the hold.
    """

    name: Name
    reason: str = Field(min_length=1, max_length=1000)
    server: (
        Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/)?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] | None
    ) = None
    principal: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = None
    from_: AwareDatetime | None = Field(default=None, alias="from")
    until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _ordered(self) -> LegalHoldSpec:
        if self.from_ is not None and self.until is not None and self.until <= self.from_:
            raise ValueError("'until' must be later than 'from'")
        return self


class AuditPolicySpec(Document):
    """What is recorded in a namespace. The one of `system` holds in every namespace that has none of its own.

    `mode: strict`: a call that cannot be recorded is not made; `available`: it is made, and what is missing is said. `dataClasses`: how
    much is kept of values that rules give a class.
    """

    mode: Literal["strict", "available"] = "strict"
    data_classes: Annotated[dict[DataClass, KeepSpec], Field(max_length=50)] = Field(default_factory=dict)
    arguments: ArgumentsSpec = Field(default_factory=ArgumentsSpec)
    results: ResultsSpec = Field(default_factory=ResultsSpec)
    retention: tuple[RetentionSpec, ...] = Field(default=(), max_length=50)
    legal_holds: tuple[LegalHoldSpec, ...] = Field(default=(), max_length=200)

    @model_validator(mode="after")
    def _agree(self) -> AuditPolicySpec:
        for place, rules in (("arguments", self.arguments.rules), ("results", self.results.rules)):
            for index, rule in enumerate(rules):
                if rule.data_class is not None and rule.data_class not in self.data_classes:
                    raise ValueError(f"'{place}.rules[{index}]' has the class {rule.data_class}, which 'dataClasses' does not name")
        events = [event for rule in self.retention for event in rule.events]
        if twice := next((event for event in events if events.count(event) > 1), None):
            raise ValueError(f"'retention' names the event {twice} twice")
        names = [hold.name for hold in self.legal_holds]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"'legalHolds' names {twice} twice")
        return self
