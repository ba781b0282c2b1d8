"""`/v1/audit`: the decisions that authorizers recorded, oldest first; `follow` streams them as they are written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from controlplane.api.auth import OperatorAuthentication
from controlplane.api.problems import bad_request
from controlplane.api.routes import Route, json_response, query_flag, query_number, query_text
from controlplane.registry.permissions import Operator, Permission, require_somewhere

FOLLOW_SECONDS = 0.2
_MAX_FOLLOWERS = 50

AuditRecordJson = dict[str, object]
Matches = Callable[[AuditRecordJson], bool]

_QUERY = {
    "limit": "at most this many records (1 to 1000)",
    "after": "cursor: records behind it, oldest first; without it the newest",
    "follow": "true: stream newline-delimited JSON, the newest first lines, then every new record",
    "decision": "allow, deny or error",
    "server": "namespace/name of an MCP server, or virtual/namespace/name",
    "principal": "qualified id of a caller, or its part behind the identity provider",
    "tool": "name of a tool, at its server or at a virtual server",
}


class AuditReader(Protocol):
    """Where records are read (`extauthz.audit.reader.AuditReader`)."""

    def read(self, *, after: str, limit: int, matches: Matches | None = None) -> tuple[list[AuditRecordJson], str]:
        """Up to `limit` records and the cursor behind them; ValueError for a cursor that is not one."""
        ...


class AuditRoutes:
    """Reads of the audit log."""

    def __init__(self, *, audit: AuditReader, authentication: OperatorAuthentication) -> None:
        self._audit = audit
        self._authentication = authentication
        self._followers = asyncio.Semaphore(_MAX_FOLLOWERS)

    def routes(self) -> list[Route]:
        """One read, in two forms."""
        return [
            Route(
                method="GET",
                path="/v1/audit",
                operation_id="readAudit",
                summary="Decisions about calls to the servers of namespaces that you may audit",
                handler=self._read,
                answer="AuditRecordList",
                query=_QUERY,
                permission=f"{Permission.AUDIT_READ.value}; only records of namespaces where it is held",
                statuses=(400, 401, 403, 503),
            )
        ]

    async def _read(self, request: web.Request, operator: Operator) -> web.StreamResponse:
        require_somewhere(operator, Permission.AUDIT_READ)
        limit = int(query_number(request, "limit", default=100, low=1, high=1000))
        wanted = _wanted(request)
        if query_flag(request, "follow"):
            return await self._follow(request, operator, wanted, limit)
        items, cursor = await self._next(operator, wanted, query_text(request, "after"), limit)
        return json_response({"items": items, "next": cursor})

    async def _next(self, operator: Operator, wanted: Matches, after: str, limit: int) -> tuple[list[AuditRecordJson], str]:
        readable = operator.permissions.namespaces_with(Permission.AUDIT_READ)

        def matches(record: AuditRecordJson) -> bool:
            return (readable is None or not readable.isdisjoint(_namespaces(record))) and wanted(record)

        try:
            return await asyncio.to_thread(self._audit.read, after=after, limit=limit, matches=matches)
        except ValueError as error:
            raise bad_request(str(error)) from error

    async def _follow(self, request: web.Request, operator: Operator, wanted: Matches, limit: int) -> web.StreamResponse:
        if self._followers.locked():
            raise web.HTTPServiceUnavailable(reason="too many streams of the audit log are open")
        async with self._followers:
            items, cursor = await self._next(operator, wanted, query_text(request, "after"), limit)
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            await response.prepare(request)
            try:
                while True:
                    if items:
                        await response.write(b"".join(json.dumps(item, ensure_ascii=False).encode() + b"\n" for item in items))
                    await asyncio.sleep(FOLLOW_SECONDS)
                    if request.transport is None or request.transport.is_closing():
                        break
                    # A stream outlives neither its token nor its permission.
                    current = self._authentication.again(operator)
                    if current is None or not current.permissions.allows_somewhere(Permission.AUDIT_READ):
                        break
                    items, cursor = await self._next(current, wanted, cursor, 1000)
            except (ConnectionResetError, asyncio.CancelledError):
                pass  # the reader has gone, or we stop
            return response


def _namespaces(record: AuditRecordJson) -> set[str]:
    """Whose the record is: of the server's namespace, and of that of the virtual server through which it was asked."""
    return {str(record.get("namespace", "")), str(record.get("virtual_server", "")).partition("/")[0]} - {""}


def _servers(record: AuditRecordJson) -> set[object]:
    """What may be given for `server`."""
    found = {f"{record.get('namespace', '')}/{record.get('mcp_server', '')}", record.get("mcp_server")}
    return found | {f"virtual/{record['virtual_server']}"} if "virtual_server" in record else found


def _wanted(request: web.Request) -> Matches:
    decision, server = query_text(request, "decision"), query_text(request, "server")
    principal, tool = query_text(request, "principal"), query_text(request, "tool")
    if decision not in ("", "allow", "deny", "error"):
        raise bad_request("?decision must be allow, deny or error")

    def matches(record: AuditRecordJson) -> bool:
        caller = record.get("principal")
        asked_by = (caller.get("id"), caller.get("subject")) if isinstance(caller, dict) else ()
        return (
            (not decision or record.get("decision") == decision)
            and (not server or server in _servers(record))
            and (not principal or principal in asked_by)
            and (not tool or tool in (record.get("tool"), record.get("exposed_name")))
        )

    return matches
