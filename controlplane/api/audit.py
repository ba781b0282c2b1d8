"""`/v1/audit`: the record. `follow` streams it as it is written; a detail view; and what makes somebody's values unreadable."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web

from controlplane.api.auth import OperatorAuthentication
from controlplane.api.moment import query_moment
from controlplane.api.problems import ApiError, ProblemCode, bad_request
from controlplane.api.routes import Route, json_response, query_flag, query_number, query_text, read_object
from controlplane.audit.archive import Archive
from controlplane.audit.archive_store import ArchiveError
from controlplane.audit.cursor import position_of
from controlplane.audit.erasure import Erasure
from controlplane.audit.filter import Filter
from controlplane.audit.query import AuditQuery, Page
from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import indexed_text
from controlplane.registry.permissions import Operator, Permission, require, require_somewhere
from controlplane.registry.spec import SYSTEM_NAMESPACE
from extauthz.audit.record import AuditDecision, AuditEvent
from extauthz.errors import ConfigurationError

AGAIN_SECONDS = 1.0
"""So often a stream looks whether its reader may still read, where nothing comes."""
_MAX_FOLLOWERS = 50
_MAX_FOLLOWERS_OF_ONE = 10

_QUERY = {
    "limit": "at most this many records (1 to 1000)",
    "after": "cursor (`next`): records that came behind it, in the order in which they came; without it the newest",
    "before": "cursor (`earlier`): the newest records before it",
    "follow": "true: stream newline-delimited JSON, the newest first lines, then every new record",
    "decision": "allow, deny or error",
    "event": f"one of {', '.join(AuditEvent)}; outcomes and results are shown with their decision, by themselves only if asked for",
    "reason": "code of a reason (docs/errors.md)",
    "principal": "qualified id of a caller, or its part behind the identity provider",
    "tool": "name of a tool, at its server or at a virtual server",
    "server": "namespace/name of an MCP server, or virtual/namespace/name",
    "namespace": "of the server, or of the virtual server that was asked",
    "from": "records of this time and later: RFC 3339, or 7d, 12h, 30m before now",
    "to": "records before this time, likewise",
    "revision": "of the registry, that decided",
    "trace": "trace id",
    "decision_id": "of a decision",
}
_WHERE = f"{Permission.AUDIT_READ.value}; only records of namespaces where it is held, and all with it in `{SYSTEM_NAMESPACE}`"
_SERVER = re.compile(r"(?:virtual/)?[^/]+/[^/]+")


async def nobody_ships() -> list[str]:
    """The barrier where no authorizer sends anything."""
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditAccess:
    """The record, as the API needs it. `barrier` has everything sent that is durable by now, and names the nodes that were too slow."""

    store: AuditStore
    barrier: Callable[[], Awaitable[list[str]]] = nobody_ships
    erasure: Erasure | None = None
    archive: Archive | None = None


class AuditRoutes:
    """Reads of the record, and the erasure of what is personal in it."""

    def __init__(self, *, audit: AuditAccess, authentication: OperatorAuthentication, clock: Callable[[], float] = time.time) -> None:
        self._store = audit.store
        self._query = AuditQuery(audit.store, audit.archive)
        self._barrier = audit.barrier
        self._erasure = audit.erasure
        self._authentication = authentication
        self._clock = clock
        self._followers: Counter[str] = Counter()  # open streams, by operator

    def routes(self) -> list[Route]:
        """One read in two forms, one of a decision, one write."""
        reads = [
            Route(
                method="GET",
                path="/v1/audit",
                operation_id="readAudit",
                summary="Decisions about calls to the servers of namespaces that you may audit, changes, and alarms",
                handler=self._read,
                answer="AuditRecordList",
                query=_QUERY,
                permission=_WHERE,
                statuses=(400, 401, 403, 429, 503),
            ),
            Route(
                method="GET",
                path="/v1/audit/decision",
                operation_id="showDecision",
                summary="One decision, how it ended, and the decisions that it caused",
                handler=self._show,
                answer="AuditedDecision",
                query={"decision_id": "of the decision"},
                permission=_WHERE,
                statuses=(400, 401, 403, 404),
            ),
        ]
        erase = Route(
            method="POST",
            path="/v1/audit/erase",
            operation_id="erasePrincipal",
            summary="Make what is personal in a principal's records unreadable, for ever",
            handler=self._erase,
            body="EraseRequest",
            answer="Erased",
            permission=f"{Permission.AUDIT_ERASE.value} in `{SYSTEM_NAMESPACE}`",
            statuses=(400, 401, 403, 413, 415),
        )
        return [*reads, erase] if self._erasure is not None else reads

    async def _read(self, request: web.Request, operator: Operator) -> web.StreamResponse:
        require_somewhere(operator, Permission.AUDIT_READ)
        limit = int(query_number(request, "limit", default=100, low=1, high=1000))
        wanted = self._wanted(request)
        after, before = query_text(request, "after"), query_text(request, "before")
        if after and before:
            raise bad_request("?after and ?before exclude each other")
        if query_flag(request, "follow"):
            return await self._follow(request, operator, wanted, after, limit)
        lagging = await self._barrier() if not before else []
        page = await self._page(operator, wanted, limit, after=after, before=before)
        return json_response({"items": page.items, "next": page.following, "earlier": page.earlier, "lagging": lagging})

    async def _show(self, request: web.Request, operator: Operator) -> web.Response:
        require_somewhere(operator, Permission.AUDIT_READ)
        decision_id = query_text(request, "decision_id")
        if not decision_id:
            raise bad_request("?decision_id must name a decision")
        lagging = await self._barrier()
        try:
            items = await asyncio.to_thread(self._query.shown, decision_id, readable=_readable(operator))
        except (ArchiveError, ConfigurationError) as error:
            raise _no_archive(error) from error
        if not items:
            raise ApiError(404, ProblemCode.NOT_FOUND, "Not found", f"there is no record of the decision {decision_id}")
        return json_response({"items": items, "lagging": lagging})

    async def _erase(self, request: web.Request, operator: Operator) -> web.Response:
        require(operator, Permission.AUDIT_ERASE, SYSTEM_NAMESPACE)
        asked = await read_object(request, ("principal", "message"))
        principal, message = asked.get("principal"), asked.get("message", "")
        if not isinstance(principal, str) or not isinstance(message, str) or not 1 <= len(principal) <= 2000 or len(message) > 1000:
            raise bad_request("the body must have a principal, and may have a message")
        assert self._erasure is not None  # noqa: S101 - there is no route without
        keys = await asyncio.to_thread(self._erasure.erase, principal, actor=operator.id, message=message)
        return json_response({"keys": keys})

    async def _page(self, operator: Operator, wanted: Filter, limit: int, *, after: str = "", before: str = "") -> Page:
        readable = _readable(operator)
        try:
            if after:
                return await asyncio.to_thread(self._query.following, wanted, readable=readable, limit=limit, after=after)
            return await asyncio.to_thread(self._query.newest, wanted, readable=readable, limit=limit, before=before)
        except ValueError as error:
            raise bad_request(str(error)) from error
        except (ArchiveError, ConfigurationError) as error:
            raise _no_archive(error) from error

    async def _follow(self, request: web.Request, operator: Operator, wanted: Filter, after: str, limit: int) -> web.StreamResponse:
        if self._followers.total() >= _MAX_FOLLOWERS or self._followers[operator.id] >= _MAX_FOLLOWERS_OF_ONE:
            detail = f"{_MAX_FOLLOWERS_OF_ONE} streams of yours or {_MAX_FOLLOWERS} of all operators are open; ask again when one has ended"
            raise ApiError(429, ProblemCode.TOO_MANY_REQUESTS, "Too many streams", detail)
        with self._following(operator.id):
            await self._barrier()
            page = await self._page(operator, wanted, limit, after=after)
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            await response.prepare(request)
            try:
                while True:
                    if page.items:
                        await response.write(b"".join(json.dumps(item, ensure_ascii=False).encode() + b"\n" for item in page.items))
                    await self._something_behind(page.following)
                    if request.transport is None or request.transport.is_closing():
                        break
                    # A stream outlives neither its token nor its permission.
                    current = self._authentication.again(operator)
                    if current is None or not current.permissions.allows_somewhere(Permission.AUDIT_READ):
                        break
                    page = await self._page(current, wanted, 1000, after=page.following)
            except (ConnectionResetError, asyncio.CancelledError):
                pass  # the reader has gone, or we stop
            return response

    @contextmanager
    def _following(self, operator_id: str) -> Iterator[None]:
        self._followers[operator_id] += 1
        try:
            yield
        finally:
            self._followers[operator_id] -= 1
            if not self._followers[operator_id]:
                del self._followers[operator_id]

    async def _something_behind(self, cursor: str) -> None:
        """Return when there is something behind the cursor, or in a moment."""
        try:
            await asyncio.wait_for(self._store.wait(position_of(cursor)), AGAIN_SECONDS)
        except TimeoutError:
            return

    def _wanted(self, request: web.Request) -> Filter:
        server = query_text(request, "server")
        if server and _SERVER.fullmatch(server) is None:
            raise bad_request("?server must be namespace/name, or virtual/namespace/name")
        return Filter(
            decision=_one_of(request, "decision", AuditDecision),
            event=_one_of(request, "event", AuditEvent),
            reason=query_text(request, "reason"),
            principal=query_text(request, "principal"),
            tool=indexed_text(query_text(request, "tool")),
            server=server,
            namespace=query_text(request, "namespace"),
            from_us=query_moment(request, "from", now_unix=self._clock()) or 0,
            to_us=query_moment(request, "to", now_unix=self._clock()) or 0,
            revision=int(query_number(request, "revision", default=0, low=0, high=2**53)),
            trace_id=query_text(request, "trace"),
            decision_id=query_text(request, "decision_id"),
        )


def _no_archive(error: Exception) -> ApiError:
    return ApiError(503, ProblemCode.NOT_READY, "The archive cannot be read", str(error))


def _readable(operator: Operator) -> Collection[str] | None:
    return operator.permissions.namespaces_with(Permission.AUDIT_READ)


def _one_of(request: web.Request, name: str, words: type[StrEnum]) -> str:
    text = query_text(request, name)
    known = [word.value for word in words]
    if text and text not in known:
        *others, last = known
        raise bad_request(f"?{name} must be {', '.join(others)} or {last}")
    return text
