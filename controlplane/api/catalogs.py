"""`…/mcp-servers/{name}/tools` and `…/accept`: what a server presents, and that an operator has reviewed it."""

from __future__ import annotations

import asyncio

from aiohttp import web

from controlplane.api.problems import bad_request
from controlplane.api.routes import Route, json_response, read_object
from controlplane.api.write_slots import WriteSlots
from controlplane.registry.permissions import Operator, Permission
from controlplane.registry.reader import RegistryReader
from controlplane.registry.service import RegistryService

_SERVER = "/v1/namespaces/{namespace}/mcp-servers/{name}"


class CatalogRoutes:
    """The definitions of one MCP server."""

    def __init__(self, *, service: RegistryService, reader: RegistryReader, slots: WriteSlots) -> None:
        self._service = service
        self._reader = reader
        self._slots = slots

    def routes(self) -> list[Route]:
        """Read and accept."""
        return [
            Route(
                method="GET",
                path=f"{_SERVER}/tools",
                operation_id="readTools",
                summary="What the server presents, beside what was accepted of it",
                handler=self._tools,
                answer="DefinitionList",
                permission=Permission.REGISTRY_READ.value,
                statuses=(401, 403, 404),
            ),
            Route(
                method="POST",
                path=f"{_SERVER}/accept",
                operation_id="acceptTools",
                summary="Declare reviewed everything that the server presents now: from then on its annotations count",
                handler=self._accept,
                body="AcceptRequest",
                answer="Accepted",
                permission=Permission.CATALOG_ACCEPT.value,
                statuses=(400, 401, 403, 404, 409, 415, 429),
            ),
        ]

    async def _tools(self, request: web.Request, operator: Operator) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        digest, items = await asyncio.to_thread(self._reader.read_tools, operator, namespace, name)
        return json_response({"items": items, "digest": digest})

    async def _accept(self, request: web.Request, operator: Operator) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        body = await read_object(request, ["digest"], optional=True)
        digest = body.get("digest", "")
        if not isinstance(digest, str):
            raise bad_request("digest must be a string")
        async with self._slots.admitted(operator.id), self._slots.working(operator.id):
            done = await asyncio.to_thread(self._service.accept, operator, namespace, name, digest=digest)
        return json_response({"revision": done.revision, "accepted": done.accepted, "warnings": done.warnings})
