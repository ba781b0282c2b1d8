"""`/v1/anomalies`: uses of tools that are unusual for their caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

from controlplane.api.moment import query_moment
from controlplane.api.problems import bad_request
from controlplane.api.routes import Route, json_response, query_number, query_text
from controlplane.baseline.detection import AnomalyKind
from controlplane.baseline.reader import AnomalyQuery
from controlplane.registry.permissions import Operator, Permission, require_somewhere

_QUERY = {
    "since": "only findings from this time on (RFC 3339), or 7d, 12h, 30m before now",
    "kind": f"one of {', '.join(AnomalyKind)}",
    "principal": "qualified id of a caller",
    "server": "namespace/name of an MCP server",
    "before": "only findings with a lower id: for the next page, the last id of this one",
    "limit": "at most this many findings (1 to 1000)",
}

Anomalies = Callable[[AnomalyQuery], list[dict[str, object]]]


class AnomalyRoutes:
    """Reads of findings."""

    def __init__(self, *, anomalies: Anomalies) -> None:
        self._anomalies = anomalies

    def routes(self) -> list[Route]:
        """One read."""
        return [
            Route(
                method="GET",
                path="/v1/anomalies",
                operation_id="listAnomalies",
                summary="Uses of tools that were unusual for their caller, the newest first",
                handler=self._list,
                answer="AnomalyList",
                query=_QUERY,
                permission=f"{Permission.AUDIT_READ.value}; only findings of namespaces where it is held",
                statuses=(400, 401, 403),
            )
        ]

    async def _list(self, request: web.Request, operator: Operator) -> web.Response:
        require_somewhere(operator, Permission.AUDIT_READ)
        kind = query_text(request, "kind")
        if kind and kind not in set(AnomalyKind):
            raise bad_request(f"?kind must be one of {', '.join(AnomalyKind)}")
        query = AnomalyQuery(
            namespaces=operator.permissions.namespaces_with(Permission.AUDIT_READ),
            since_unix_us=query_moment(request, "since", now_unix=time.time()) or 0,
            kind=kind,
            principal=query_text(request, "principal"),
            server=query_text(request, "server"),
            before=int(query_number(request, "before", default=2**53, low=1, high=2**53)),
            limit=int(query_number(request, "limit", default=100, low=1, high=1000)),
        )
        return json_response({"items": await asyncio.to_thread(self._anomalies, query)})
