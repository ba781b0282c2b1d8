"""`POST /v1/what-if`: which recorded calls would be decided otherwise if these policies were in force."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from controlplane.api.moment import query_moment
from controlplane.api.problems import ApiError, ProblemCode, bad_request
from controlplane.api.routes import MANIFEST_TYPES, Route, query_text, read_body
from controlplane.registry.entry import EntryKey
from controlplane.registry.permissions import Operator, Permission, require_somewhere
from controlplane.registry.service import RegistryService
from controlplane.registry.spec import Kind
from controlplane.what_if.question import Question, policies_of
from controlplane.what_if.runner import ReplayBusyError, ReplayFailedError

_QUERY = {
    "since": "from when on calls are replayed: a time (RFC 3339), or 7d, 12h, 30m before now; 7d when not given",
    "until": "until when, likewise; now when not given",
    "without": "entries that are taken away: PolicySet/namespace/name or RoleBinding/namespace/name, with commas between",
}
_USUAL_SECONDS = 7 * 86_400
_WITHOUT = re.compile(r"(PolicySet|RoleBinding)/([a-z0-9-]{1,63})/([a-z0-9-]{1,63})", re.ASCII)

Replays = Callable[[Question], AsyncIterator[bytes]]


class WhatIfRoutes:
    """Replays of recorded calls."""

    def __init__(self, *, service: RegistryService, replays: Replays, clock: Callable[[], float] = time.time) -> None:
        self._service = service
        self._replays = replays
        self._clock = clock

    def routes(self) -> list[Route]:
        """What would be, and what candidates said."""
        return [
            Route(
                method="GET",
                path="/v1/shadow",
                operation_id="readShadow",
                summary="Calls that PolicyCandidates would have decided otherwise than they were decided: lines of JSON, as of whatIf",
                handler=self._shadow,
                answer="WhatIfLine",
                query={name: told for name, told in _QUERY.items() if name != "without"},
                permission=f"{Permission.AUDIT_READ.value}; only calls of namespaces where it is held",
                statuses=(400, 401, 403, 429),
            ),
            Route(
                method="POST",
                path="/v1/what-if",
                operation_id="whatIf",
                summary="Recorded calls that would be decided otherwise with these PolicySets and RoleBindings: lines of JSON, "
                "`progress` and at last `result` or `error`",
                handler=self._what_if,
                body="Manifest",
                answer="WhatIfLine",
                query=_QUERY,
                permission=f"{Permission.POLICY_EXPLAIN.value} where the documents are; calls of namespaces with "
                f"{Permission.AUDIT_READ.value} are replayed",
                statuses=(400, 401, 403, 404, 413, 415, 422, 429),
            ),
        ]

    async def _what_if(self, request: web.Request, operator: Operator) -> web.StreamResponse:
        require_somewhere(operator, Permission.AUDIT_READ)
        text = await read_body(request, MANIFEST_TYPES) if request.can_read_body else b""
        without = _without(query_text(request, "without"))
        since, until = _times(request, self._clock())
        candidate = await asyncio.to_thread(self._service.candidate, operator, text, without=without)
        question = Question(
            since_unix_us=since,
            until_unix_us=until,
            namespaces=operator.permissions.namespaces_with(Permission.AUDIT_READ),
            policies=policies_of(candidate),
        )
        return await self._answered(request, question)

    async def _shadow(self, request: web.Request, operator: Operator) -> web.StreamResponse:
        require_somewhere(operator, Permission.AUDIT_READ)
        since, until = _times(request, self._clock())
        question = Question(
            since_unix_us=since,
            until_unix_us=until,
            namespaces=operator.permissions.namespaces_with(Permission.AUDIT_READ),
            policies=None,
        )
        return await self._answered(request, question)

    async def _answered(self, request: web.Request, question: Question) -> web.StreamResponse:
        lines = self._replays(question)
        try:
            first = await anext(lines)
        except ReplayBusyError as error:
            raise ApiError(429, ProblemCode.TOO_MANY_REQUESTS, "Busy", "two replays are running; ask again when one has ended") from error
        except (ReplayFailedError, StopAsyncIteration) as error:
            raise ApiError(500, ProblemCode.INTERNAL_ERROR, "No result", "the replay ended without a result") from error
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(first)
        try:
            async for line in lines:
                await response.write(line)
        except ReplayFailedError:
            await response.write(json.dumps({"error": "the replay ended without a result"}).encode() + b"\n")
        await response.write_eof()
        return response


def _times(request: web.Request, now: float) -> tuple[int, int]:
    """From when until when, in microseconds since 1970."""
    since = query_moment(request, "since", now_unix=now) or int((now - _USUAL_SECONDS) * 1_000_000)
    return since, query_moment(request, "until", now_unix=now) or int(now * 1_000_000)


def _without(text: str) -> list[EntryKey]:
    keys: list[EntryKey] = []
    for part in filter(None, text.split(",")):
        found = _WITHOUT.fullmatch(part)
        if found is None:
            raise bad_request(f"?without must name PolicySet/namespace/name or RoleBinding/namespace/name, not {part[:100]!r}")
        keys.append((Kind(found[1]), found[2], found[3]))
    return keys
