"""Sums of usage by what somebody asks for: who, what, where and when, with what it cost.

    Question ─▶ rows of usage_hour that the asker may read ─▶ groups ─▶ UsageReport

Costs are exact; `amounts` of a month's report are rounded to what the currency has coins for, line by line, and summed as they stand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from sqlalchemy import Row, false, or_, select

from controlplane.audit.store import AuditStore
from controlplane.usage.models import USAGE_CALLER, USAGE_HOUR
from controlplane.usage.period import Period
from controlplane.usage.price import EXACT, decimal_text

DIMENSIONS = ("user", "agent", "client", "namespace", "server", "virtual_server", "tool", "outcome", "hour", "day", "month")
"""What usage can be grouped by, beside labels."""
USUAL_LABELS = ("team", "project")
DEFAULT_BY = ("server", "tool")
DEFAULT_BY_OF_MONTH = ("team", "project")
MAX_BY = 8
MAX_GROUPS = 100_000
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,29}", re.ASCII)
_TIMES = {"hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}
_NO_COINS = frozenset(
    {*("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF")}
)
_THOUSANDTHS = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})
_MEASURES = frozenset(
    {"calls", "denied", "failed", "duration_us", "request_bytes", "response_bytes", "estimated_tokens", "costs", "amounts"}
)
_CHUNK = 5000


class QuestionError(ValueError):
    """What was asked for cannot be told; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked. `namespaces`: where the asker may read usage; None: everywhere. `server` and `namespace` empty: all."""

    by: tuple[str, ...]
    period: Period
    namespaces: frozenset[str] | None = None
    namespace: str = ""
    server: str = ""
    chargeback: bool = False


@dataclass(slots=True)
class Group:
    """The sums of one group. `costs` by currency; of several currencies nothing is ever added up."""

    values: tuple[str, ...]
    calls: int = 0
    failed: int = 0
    denied: int = 0
    duration_us: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    tokens: int = 0
    costs: dict[str, Decimal] = field(default_factory=dict)

    def add(self, row: Row[Any]) -> None:
        """Count one row of `usage_hour`."""
        self.calls += row.calls
        self.denied += row.calls if row.outcome in ("denied", "error") else 0
        self.failed += row.calls if row.outcome not in ("ok", "open", "denied", "error") else 0
        self.duration_us += row.duration_us
        self.request_bytes += row.request_bytes
        self.response_bytes += row.response_bytes
        self.tokens += row.tokens
        if row.currency:
            self.costs[row.currency] = EXACT.add(self.costs.get(row.currency, Decimal(0)), Decimal(row.cost))


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """Groups, the most calls first, and the sums of all."""

    question: Question
    groups: tuple[Group, ...]
    total: Group


def parse_by(text: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """`team,tool`: dimensions and labels, once each. Raises `QuestionError`."""
    names = tuple(name.strip().replace("-", "_") for name in text.split(",")) if text else default
    for name in names:
        if name not in DIMENSIONS and not _LABEL.fullmatch(name):
            raise QuestionError(f"by: {name[:40]!r} is neither a dimension nor a label; dimensions are {', '.join(DIMENSIONS)}")
        if name in _MEASURES:
            raise QuestionError(f"by: {name} is what is added up, not what it is grouped by")
    if len(set(names)) != len(names):
        raise QuestionError("by: a name is given twice")
    if len(names) > MAX_BY:
        raise QuestionError(f"by: at most {MAX_BY} names")
    return names


def read_report(store: AuditStore, question: Question) -> UsageReport:
    """Read and add up. Raises `QuestionError` for more groups than anybody reads, and for a label that nobody has."""
    callers = _Callers()
    groups: dict[tuple[str, ...], Group] = {}
    total = Group(values=())
    with store.reading() as connection:
        for row in connection.execution_options(yield_per=_CHUNK).execute(_statement(question)):
            values = tuple(_value(name, row, callers) for name in question.by)
            group = groups.get(values)
            if group is None:
                if len(groups) >= MAX_GROUPS:
                    raise QuestionError(f"more than {MAX_GROUPS} groups: ask for less time or fewer dimensions")
                group = groups[values] = Group(values=values)
            group.add(row)
            total.add(row)
    ordered = sorted(groups.values(), key=lambda group: (-group.calls, group.values))
    return UsageReport(question=question, groups=tuple(ordered), total=total)


def unknown_labels(by: Iterable[str], report: UsageReport, configured: Iterable[str]) -> list[str]:
    """Names in `by` that are labels, but of nobody: neither configured, nor usual, nor seen."""
    known = {*DIMENSIONS, *USUAL_LABELS, *configured}
    places = {name: index for index, name in enumerate(by) if name not in known}
    return [name for name, index in places.items() if not any(group.values[index] for group in report.groups)]


def rounded(amount: Decimal, currency: str) -> Decimal:
    """As much as the currency has coins for (ISO 4217), halves up."""
    places = 0 if currency in _NO_COINS else 3 if currency in _THOUSANDTHS else 2
    return amount.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP, context=EXACT)


def amounts_of(groups: Sequence[Group]) -> dict[str, Decimal]:
    """What a chargeback adds up to: the rounded lines, summed."""
    sums: dict[str, Decimal] = {}
    for group in groups:
        for currency, cost in group.costs.items():
            sums[currency] = sums.get(currency, Decimal(0)) + rounded(cost, currency)
    return sums


def report_json(report: UsageReport) -> dict[str, object]:
    """The report as JSON-ready values; money as text."""
    question, groups = report.question, report.groups
    total = _group_json(report.total, (), chargeback=False)
    if question.chargeback:
        total["amounts"] = {currency: format(amount, "f") for currency, amount in sorted(amounts_of(groups).items())}
    return {
        "from": _instant(question.period.begins),
        "to": _instant(question.period.ends),
        "by": list(question.by),
        "items": [_group_json(group, question.by, chargeback=question.chargeback) for group in groups],
        "total": total,
    }


def _group_json(group: Group, by: Sequence[str], *, chargeback: bool) -> dict[str, object]:
    found: dict[str, object] = dict(zip(by, group.values, strict=False))
    found |= {
        "calls": group.calls,
        "denied": group.denied,
        "failed": group.failed,
        "duration_us": group.duration_us,
        "request_bytes": group.request_bytes,
        "response_bytes": group.response_bytes,
        "estimated_tokens": group.tokens,
        "costs": {currency: decimal_text(cost) for currency, cost in sorted(group.costs.items())},
    }
    if chargeback:
        found["amounts"] = {currency: format(rounded(cost, currency), "f") for currency, cost in sorted(group.costs.items())}
    return found


def _statement(question: Question) -> Any:  # noqa: ANN401 - a select
    table, caller = USAGE_HOUR, USAGE_CALLER
    columns = [caller.c.id.label("caller"), caller.c.user_id, caller.c.agent_id, caller.c.client, caller.c.labels]
    statement = (
        select(table, *columns)
        .join(caller, caller.c.id == table.c.caller_id)
        .where(table.c.hour_unix >= question.period.begins_unix, table.c.hour_unix < question.period.ends_unix)
    )
    if question.namespaces is not None:
        statement = statement.where(or_(*(_of_namespace(namespace) for namespace in sorted(question.namespaces)), false()))
    if question.namespace:
        statement = statement.where(_of_namespace(question.namespace))
    if question.server.startswith("virtual/"):
        statement = statement.where(table.c.virtual_server == question.server.removeprefix("virtual/"))
    elif question.server:
        statement = statement.where(table.c.mcp_server == question.server)
    return statement


def _of_namespace(namespace: str) -> Any:  # noqa: ANN401 - a condition
    """Of the server's namespace, or through a virtual server of this one."""
    return or_(USAGE_HOUR.c.namespace == namespace, USAGE_HOUR.c.virtual_server.startswith(f"{namespace}/", autoescape=True))


class _Callers:
    """Labels of callers, parsed once each."""

    def __init__(self) -> None:
        self._labels: dict[int, Mapping[str, str]] = {}

    def label(self, row: Row[Any], name: str) -> str:
        labels = self._labels.get(row.caller)
        if labels is None:
            labels = self._labels[row.caller] = json.loads(row.labels)
        return str(labels.get(name, ""))


def _value(name: str, row: Row[Any], callers: _Callers) -> str:
    match name:
        case "user":
            return str(row.user_id)
        case "agent":
            return str(row.agent_id)
        case "server":
            return str(row.mcp_server)
        case "client" | "namespace" | "virtual_server" | "tool" | "outcome":
            return str(getattr(row, name))
        case "hour" | "day" | "month":
            return datetime.fromtimestamp(row.hour_unix, UTC).strftime(_TIMES[name])
        case _:
            return callers.label(row, name)


def _instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
