"""`/v1/reviews`: definitions that nobody accepted yet or that changed since, and what an operator decides about them.

Also the versions of a server's catalog, and a request to read it again now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from pydantic import ValidationError

from controlplane.api.problems import bad_request
from controlplane.api.review_schemas import ReviewDecision
from controlplane.api.routes import JSON_TYPES, Route, json_response, parse_json, query_flag, query_number, query_text, read_body
from controlplane.api.write_slots import WriteSlots
from controlplane.registry.permissions import Operator, Permission, require
from controlplane.registry.plain_value import fault_of_text
from controlplane.registry.refusal import ConflictError, EntryNotFoundError
from controlplane.registry.review import ReviewedItem
from controlplane.registry.review_reader import MOST_LISTED, MOST_SHOWN, ReviewReader
from controlplane.registry.service import RegistryService

ProbeNow = Callable[[str], bool]
"""Have the server of this uid read again at once; False: it is not one that is read here."""

_SERVER = "/v1/namespaces/{namespace}/mcp-servers/{name}"
_REVIEW = "/v1/reviews/{namespace}/{name}"
_MOST = 5000
_LIMIT = {"limit": f"at most this many (1 to {_MOST})"}
_DECIDED = (400, 401, 403, 404, 409, 413, 415, 429)


def no_prober(_uid: str) -> bool:
    """Of a process that reads no servers."""
    return False


class ReviewRoutes:
    """Reviews of definitions. `probe_now` reaches the prober of this process."""

    def __init__(self, *, service: RegistryService, reader: ReviewReader, slots: WriteSlots, probe_now: ProbeNow = no_prober) -> None:
        self._service = service
        self._reader = reader
        self._slots = slots
        self._probe_now = probe_now

    def routes(self) -> list[Route]:
        """List, show, decide; versions; read again."""
        read, accept = Permission.REGISTRY_READ.value, Permission.CATALOG_ACCEPT.value
        return [
            Route(
                method="GET",
                path="/v1/reviews",
                operation_id="listReviews",
                summary="Definitions that wait for review, of everything that you may read",
                handler=self._list,
                answer="ReviewList",
                query={
                    "namespace": "only this one",
                    "server": "only servers of this name",
                    "accepted": "true: also what is accepted",
                    **_LIMIT,
                },
                permission=read,
                statuses=(400, 401, 403),
            ),
            Route(
                method="GET",
                path=_REVIEW,
                operation_id="showReviews",
                summary="What waits for review at a server, with every difference from what was accepted",
                handler=self._show,
                answer="ReviewDetailList",
                query={"kind": "only this kind", "definition": "only the one of this name, also when it is accepted", **_LIMIT},
                permission=read,
                statuses=(400, 401, 403, 404),
            ),
            Route(
                method="POST",
                path=_REVIEW,
                operation_id="decideReviews",
                summary="Accept or reject definitions as they were looked at",
                handler=self._decide,
                body="ReviewDecision",
                answer="Reviewed",
                permission=accept,
                statuses=_DECIDED,
            ),
            Route(
                method="GET",
                path=f"{_SERVER}/versions",
                operation_id="listCatalogVersions",
                summary="The catalogs that the server presented, and which virtual servers pin them",
                handler=self._versions,
                answer="CatalogVersionList",
                permission=read,
                statuses=(401, 403, 404),
            ),
            Route(
                method="POST",
                path=f"{_SERVER}/probe",
                operation_id="probeMcpServer",
                summary="Read the server's definitions again now",
                handler=self._probe,
                answer="Probing",
                permission=accept,
                statuses=(401, 403, 404, 409, 429),
            ),
        ]

    async def _list(self, request: web.Request, operator: Operator) -> web.Response:
        chosen = {"namespace": query_text(request, "namespace"), "server": query_text(request, "server")}
        accepted = query_flag(request, "accepted")
        limit = int(query_number(request, "limit", default=MOST_LISTED, low=1, high=_MOST))
        found = await asyncio.to_thread(self._reader.list_reviews, operator, **chosen, accepted=accepted, limit=limit)
        return json_response(found)

    async def _show(self, request: web.Request, operator: Operator) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        chosen = {"kind": query_text(request, "kind"), "definition": query_text(request, "definition")}
        limit = int(query_number(request, "limit", default=MOST_SHOWN, low=1, high=_MOST))
        return json_response(await asyncio.to_thread(self._reader.show_reviews, operator, namespace, name, **chosen, limit=limit))

    async def _decide(self, request: web.Request, operator: Operator) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        require(operator, Permission.CATALOG_ACCEPT, namespace)
        async with self._slots.admitted(operator.id):
            decision = _decision(parse_json(await read_body(request, JSON_TYPES)))
            items = [ReviewedItem(kind=item.kind, name=item.name, digest=item.digest) for item in decision.items]
            async with self._slots.working(operator.id):
                if decision.decision == "reject":
                    rejected = await asyncio.to_thread(self._service.reject, operator, namespace, name, items=items, reason=decision.reason)
                    return json_response({"revision": rejected.revision, "warnings": []})
                done = await asyncio.to_thread(self._service.accept, operator, namespace, name, items=items, reason=decision.reason)
        return json_response({"revision": done.revision, "warnings": done.warnings})

    async def _versions(self, request: web.Request, operator: Operator) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        return json_response({"items": await asyncio.to_thread(self._reader.list_versions, operator, namespace, name)})

    async def _probe(self, request: web.Request, operator: Operator) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        require(operator, Permission.CATALOG_ACCEPT, namespace)
        entry = self._service.state.mcp_servers.get(f"{namespace}/{name}")
        if entry is None:
            raise EntryNotFoundError(f"there is no McpServer {namespace}/{name}")
        async with self._slots.admitted(operator.id):
            if not self._probe_now(entry.uid):
                raise ConflictError(f"{namespace}/{name} is not read now: it is suspended, or this control plane has only just started")
        return json_response({"asked": True})


def _decision(value: object) -> ReviewDecision:
    try:
        decision = ReviewDecision.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise bad_request(f"{'.'.join(str(part) for part in fault['loc']) or 'the body'}: {fault['msg']}") from error
    if fault_of_reason := fault_of_text(decision.reason):
        raise bad_request(f"reason {fault_of_reason}")
    return decision
