"""`/v1/…` for every kind: list, read, write one, delete, history. And `/v1/apply`, the declarative door for many at once."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from aiohttp import web

from controlplane.api.problems import bad_request
from controlplane.api.routes import (
    JSON_TYPES,
    MANIFEST_TYPES,
    Route,
    items_response,
    json_response,
    parse_json,
    query_flag,
    query_number,
    query_text,
    read_body,
)
from controlplane.api.write_slots import WriteSlots
from controlplane.registry.entry import EntryKey, Json
from controlplane.registry.permissions import (
    WRITE_OF_KIND,
    WRITTEN_IN_SYSTEM,
    Operator,
    Permission,
    require,
    require_any_write,
    write_scope_of,
)
from controlplane.registry.precondition import Precondition
from controlplane.registry.reader import RegistryReader
from controlplane.registry.service import ApplyResult, RegistryService
from controlplane.registry.spec import PLURAL_OF_KIND, Kind

_TAG = re.compile(r'\s*(W/)?("[^"\x00-\x1f]*")\s*(?:,|$)')
_WRITE_STATUSES = (400, 401, 403, 404, 409, 412, 413, 415, 422, 428, 429)
_DRY_RUN = {"dry_run": "true: check everything, change nothing"}


class EntryRoutes:
    """The entries of the registry."""

    def __init__(self, *, service: RegistryService, reader: RegistryReader, slots: WriteSlots) -> None:
        self._service = service
        self._reader = reader
        self._slots = slots

    def routes(self) -> list[Route]:
        """Every operation on entries."""
        return [self._apply_route(), *(route for kind in Kind for route in self._routes_of(kind))]

    def _apply_route(self) -> Route:
        return Route(
            method="POST",
            path="/v1/apply",
            operation_id="apply",
            summary="Create or update all documents of a manifest in one revision, or none",
            handler=self._apply,
            body="Manifest",
            answer="ApplyResult",
            query=_DRY_RUN | {"message": "why, for the history"},
            permission="the write permission of each document's kind, in its namespace (some kinds: in `system`, see each kind's PUT)",
            statuses=(400, 401, 403, 409, 413, 415, 422, 429),
        )

    def _routes_of(self, kind: Kind) -> list[Route]:
        plural = PLURAL_OF_KIND[kind]
        noun, nouns = kind.value, "".join(word.capitalize() for word in plural.split("-"))
        namespaced = kind is not Kind.NAMESPACE
        one = f"/v1/namespaces/{{namespace}}/{plural}/{{name}}" if namespaced else "/v1/namespaces/{name}"
        write, read = WRITE_OF_KIND[kind].value, Permission.REGISTRY_READ.value
        if kind in WRITTEN_IN_SYSTEM:
            write += " in `system`"
        routes = [
            _route("GET", f"/v1/{plural}", f"list{nouns}", f"Every {noun} that you may read", self._list(kind), f"{noun}List", read),
            _route("GET", one, f"read{noun}", f"One {noun}", self._read(kind), noun, read, statuses=(401, 403, 404)),
            _route(
                "PUT",
                one,
                f"put{noun}",
                f"Create or replace a {noun}",
                self._put(kind),
                noun,
                write,
                body=noun,
                query=_DRY_RUN,
                statuses=_WRITE_STATUSES,
            ),
            _route(
                "DELETE",
                one,
                f"delete{noun}",
                f"Delete a {noun}",
                self._delete(kind),
                "Deleted",
                write,
                statuses=(401, 403, 404, 409, 412, 428, 429),
            ),
            _route(
                "GET",
                f"{one}/history",
                f"history{noun}",
                f"What happened to a {noun}, newest first",
                self._history(kind),
                "History",
                read,
                query={"limit": "at most this many changes (1 to 1000)"},
                statuses=(400, 401, 403, 404),
            ),
        ]
        if namespaced:
            inside = f"/v1/namespaces/{{namespace}}/{plural}"
            routes.append(_route("GET", inside, f"list{nouns}In", f"Every {noun} of a namespace", self._list(kind), f"{noun}List", read))
        return routes

    async def _apply(self, request: web.Request, operator: Operator) -> web.Response:
        require_any_write(operator)
        dry_run, message = query_flag(request, "dry_run"), query_text(request, "message")
        async with self._slots.admitted(operator.id):
            text = await read_body(request, MANIFEST_TYPES)
            async with self._slots.working(operator.id):
                result = await asyncio.to_thread(self._service.apply, operator, text, dry_run=dry_run, message=message)
        return json_response(_apply_json(result))

    def _list(self, kind: Kind) -> Any:  # noqa: ANN401 - a handler of `routes.Handler`
        async def handle(request: web.Request, operator: Operator) -> web.Response:
            namespace = request.match_info.get("namespace")
            return await asyncio.to_thread(answer, operator, namespace)

        def answer(operator: Operator, namespace: str | None) -> web.Response:
            revision, items = self._reader.list_documents(operator, kind, namespace)
            return items_response(items, {"revision": revision})

        return handle

    def _read(self, kind: Kind) -> Any:  # noqa: ANN401
        async def handle(request: web.Request, operator: Operator) -> web.Response:
            document = await asyncio.to_thread(self._reader.read_document, operator, _key(kind, request))
            return _tagged(document)

        return handle

    def _put(self, kind: Kind) -> Any:  # noqa: ANN401
        async def handle(request: web.Request, operator: Operator) -> web.Response:
            key, dry_run = _key(kind, request), query_flag(request, "dry_run")
            require(operator, WRITE_OF_KIND[kind], write_scope_of(*key))
            precondition = _precondition(request)
            async with self._slots.admitted(operator.id):
                body = await read_body(request, JSON_TYPES)
                async with self._slots.working(operator.id):
                    result = await asyncio.to_thread(put, operator, key, body, precondition, dry_run=dry_run)
            if dry_run or result.entry is None:
                return json_response(_apply_json(result))
            return _tagged(result.entry, status=201 if result.results[0].action == "created" else 200)

        def put(operator: Operator, key: EntryKey, body: bytes, precondition: Precondition, *, dry_run: bool) -> ApplyResult:
            return self._service.put(operator, key, parse_json(body), precondition=precondition, dry_run=dry_run)

        return handle

    def _delete(self, kind: Kind) -> Any:  # noqa: ANN401
        async def handle(request: web.Request, operator: Operator) -> web.Response:
            precondition = _precondition(request)
            async with self._slots.admitted(operator.id), self._slots.working(operator.id):
                revision = await asyncio.to_thread(self._service.delete, operator, _key(kind, request), precondition=precondition)
            return json_response({"revision": revision})

        return handle

    def _history(self, kind: Kind) -> Any:  # noqa: ANN401
        async def handle(request: web.Request, operator: Operator) -> web.Response:
            limit = int(query_number(request, "limit", default=100, low=1, high=1000))
            items = await asyncio.to_thread(self._reader.read_history, operator, _key(kind, request), limit=limit)
            return json_response({"items": items})

        return handle


def _route(
    method: str,
    path: str,
    operation_id: str,
    summary: str,
    handler: Any,  # noqa: ANN401
    answer: str,
    permission: str,
    *,
    body: str = "",
    query: dict[str, str] | None = None,
    statuses: tuple[int, ...] = (401, 403),
) -> Route:
    return Route(
        method=method,
        path=path,
        operation_id=operation_id,
        summary=summary,
        handler=handler,
        answer=answer,
        permission=permission,
        body=body,
        query=query or {},
        statuses=statuses,
    )


def _key(kind: Kind, request: web.Request) -> EntryKey:
    return (kind, request.match_info.get("namespace", ""), request.match_info["name"])


def _tagged(document: Json, *, status: int = 200) -> web.Response:
    return json_response(document, status=status, headers={"ETag": f'"{document["metadata"]["resourceRevision"]}"'})


def _precondition(request: web.Request) -> Precondition:
    return Precondition(if_match=_tags(request, "If-Match"), if_none_match=_tags(request, "If-None-Match"))


def _tags(request: web.Request, header: str) -> tuple[str, ...]:
    """The entity tags of a header (RFC 9110 section 13.1); weak ones never match."""
    text = ", ".join(request.headers.getall(header, [])).strip()
    if text in ("", "*"):
        return (text,) if text else ()
    tags: list[str] = []
    position = 0
    while position < len(text):
        found = _TAG.match(text, position)
        if found is None:
            raise bad_request(f'{header} must be * or entity tags such as "42"')
        tags.append(found[2] if not found[1] else f"W/{found[2]}")
        position = found.end()
    return tuple(tags)


def _apply_json(result: ApplyResult) -> Json:
    return {
        "revision": result.revision,
        "dry_run": result.dry_run,
        "results": [
            {
                "document": item.document,
                "kind": item.kind.value,
                "namespace": item.namespace,
                "name": item.name,
                "action": item.action,
                "resource_revision": item.resource_revision,
                "warnings": list(item.warnings),
                "diff": list(item.diff),
            }
            for item in result.results
        ],
    }
