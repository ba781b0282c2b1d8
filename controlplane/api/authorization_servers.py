"""`…/authorization-servers/{name}/…`: who allowed which client what, what happened there, and taking it away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from controlplane.api.routes import Route, json_response, query_number
from controlplane.authorization_server.oversight import Oversight
from controlplane.registry.permissions import Operator, Permission

_SERVER = "/v1/namespaces/{namespace}/authorization-servers/{name}"
_READ = f"{Permission.AUDIT_READ.value} in `system`"
_REVOKE = f"{Permission.REGISTRY_REVOCATION_WRITE.value} in `system`"
_EVENTS_QUERY = {"limit": "at most this many (1 to 1000)", "before": "id of an event: older ones than that"}

_List = Callable[[Operator, str, str], list[dict[str, Any]]]


class AuthorizationServerRoutes:
    """Consents, grants and events of one authorization server."""

    def __init__(self, *, oversight: Oversight) -> None:
        self._oversight = oversight

    def routes(self) -> list[Route]:
        """Reads, and two ways to take away."""
        return [
            self._list("consents", "Consents", "Consents that hold: what people are not asked again", self._oversight.consents),
            self._list("grants", "Grants", "Grants that hold: whom clients may act for", self._oversight.grants),
            Route(
                method="GET",
                path=f"{_SERVER}/events",
                operation_id="listAuthorizationServerEvents",
                summary="What the authorization server gave and refused, newest first",
                handler=self._events,
                answer="object",
                query=_EVENTS_QUERY,
                permission=_READ,
                statuses=(400, 401, 403, 404),
            ),
            Route(
                method="DELETE",
                path=f"{_SERVER}/consents/{{consent}}",
                operation_id="revokeConsent",
                summary="Forget a consent and end every grant that came from it; access tokens are refused at once",
                handler=self._revoke_consent,
                answer="object",
                permission=_REVOKE,
                statuses=(401, 403, 404),
            ),
            Route(
                method="DELETE",
                path=f"{_SERVER}/grants/{{grant}}",
                operation_id="revokeGrant",
                summary="End a grant; its access tokens are refused at once",
                handler=self._revoke_grant,
                answer="object",
                permission=_REVOKE,
                statuses=(401, 403, 404),
            ),
        ]

    def _list(self, noun: str, operation: str, summary: str, read: _List) -> Route:
        async def serve(request: web.Request, operator: Operator) -> web.Response:
            items = await asyncio.to_thread(read, operator, *_named(request))
            return json_response({"items": items})

        return Route(
            method="GET",
            path=f"{_SERVER}/{noun}",
            operation_id=f"list{operation}",
            summary=summary,
            handler=serve,
            answer="object",
            permission=_READ,
            statuses=(401, 403, 404),
        )

    async def _events(self, request: web.Request, operator: Operator) -> web.Response:
        limit = int(query_number(request, "limit", default=100, low=1, high=1000))
        before = int(query_number(request, "before", default=0, low=0, high=2**53))
        namespace, name = _named(request)
        items = await asyncio.to_thread(self._oversight.events, operator, namespace, name, before=before, limit=limit)
        return json_response({"items": items})

    async def _revoke_consent(self, request: web.Request, operator: Operator) -> web.Response:
        ended = await asyncio.to_thread(self._oversight.revoke_consent, operator, *_named(request), request.match_info["consent"])
        return json_response({"grants_ended": ended})

    async def _revoke_grant(self, request: web.Request, operator: Operator) -> web.Response:
        await asyncio.to_thread(self._oversight.revoke_grant, operator, *_named(request), request.match_info["grant"])
        return json_response({"grants_ended": 1})


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["namespace"], request.match_info["name"]
