"""`/v1/usage`: sums of calls and what they cost, of namespaces that the operator may read usage of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from aiohttp import web

from controlplane.api.problems import bad_request
from controlplane.api.routes import Route, json_response, query_text
from controlplane.audit.store import AuditStore
from controlplane.registry.permissions import Operator, Permission, require_somewhere
from controlplane.registry.state import RegistryState
from controlplane.usage.period import PeriodError, parse_period
from controlplane.usage.report import (
    DEFAULT_BY,
    DEFAULT_BY_OF_MONTH,
    DIMENSIONS,
    Question,
    QuestionError,
    parse_by,
    read_report,
    report_json,
    unknown_labels,
)
from controlplane.usage.rollup import uncounted

_QUERY = {
    "by": f"what is grouped by, with commas between: {', '.join(DIMENSIONS)}, or a label such as team and project",
    "from": "from when on: a time (RFC 3339), a day (2026-11-22), or 7d, 24h before now; 30d before `to` when not given. Whole hours",
    "to": "until when, likewise, not included; now when not given",
    "month": "a calendar month (2026-11, UTC) instead: the chargeback report, with amounts rounded to coins line by line",
    "namespace": "calls of servers of this namespace, or through virtual servers of it",
    "server": "calls of this server: namespace/name, or virtual/namespace/name",
}


_CATCH_UP_SECONDS = 1.0

CatchUp = Callable[[float], None]
"""Counts what is there, for so many seconds at most (`UsageRollup.catch_up`)."""


class UsageRoutes:
    """Reads of what was counted. `catch_up` counts before each of them what has come since."""

    def __init__(
        self,
        *,
        store: AuditStore,
        state: Callable[[], RegistryState],
        catch_up: CatchUp | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._catch_up = catch_up
        self._state = state
        self._clock = clock

    def routes(self) -> list[Route]:
        """One read."""
        return [
            Route(
                method="GET",
                path="/v1/usage",
                operation_id="readUsage",
                summary="How often, how long and for how much tools were called, by caller, label, server, tool, outcome or time",
                handler=self._read,
                answer="UsageReport",
                query=_QUERY,
                permission=f"{Permission.USAGE_READ.value}; only calls of namespaces where it is held",
                statuses=(400, 401, 403),
            )
        ]

    async def _read(self, request: web.Request, operator: Operator) -> web.Response:
        require_somewhere(operator, Permission.USAGE_READ)
        try:
            question = self._question(request, operator)
            return await asyncio.to_thread(self._answer, question)
        except (PeriodError, QuestionError) as error:
            raise bad_request(str(error)) from error

    def _question(self, request: web.Request, operator: Operator) -> Question:
        month = query_text(request, "month")
        return Question(
            by=parse_by(query_text(request, "by"), DEFAULT_BY_OF_MONTH if month else DEFAULT_BY),
            period=parse_period(query_text(request, "from"), query_text(request, "to"), month, self._clock()),
            namespaces=operator.permissions.namespaces_with(Permission.USAGE_READ),
            namespace=query_text(request, "namespace"),
            server=query_text(request, "server"),
            chargeback=bool(month),
        )

    def _answer(self, question: Question) -> web.Response:
        if self._catch_up is not None:
            self._catch_up(_CATCH_UP_SECONDS)
        report = read_report(self._store, question)
        unknown = unknown_labels(question.by, report, _configured_labels(self._state()))
        if unknown and report.groups:
            raise QuestionError(
                f"by: {unknown[0]!r} is neither a dimension nor a label that anybody has; dimensions are {', '.join(DIMENSIONS)}"
            )
        return json_response({**report_json(report), "uncounted": uncounted(self._store)})


def _configured_labels(state: RegistryState) -> set[str]:
    """Labels that the registry gives to callers."""
    found: set[str] = set()
    for provider in state.identity_providers.values():
        found |= provider.spec.mapping.labels.keys()
    for server in state.authorization_servers.values():
        found |= server.spec.login.mapping.labels.keys()
    for trust_domain in state.trust_domains.values():
        for mapping in trust_domain.spec.workloads:
            found |= mapping.labels.keys()
    return found
