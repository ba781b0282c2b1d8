"""`/v1/audit/sinks`: how far each sink is, what is wrong with it, and its dead letters."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime

from aiohttp import web
from pydantic import ValidationError

from controlplane.api.problems import bad_request
from controlplane.api.routes import JSON_TYPES, Route, json_response, parse_json, query_number, read_body
from controlplane.api.sink_schemas import DeadLetterAction
from controlplane.audit.sinks.dead_letter import DeadLetter
from controlplane.audit.sinks.overview import SinkOverview
from controlplane.registry.permissions import Operator, Permission, require, require_somewhere

_MOST = 1000
_DEAD_LETTERS = "/v1/audit/sinks/{namespace}/{name}/dead-letters"


class AuditSinkRoutes:
    """Reads for auditors, and what is done about dead letters by whoever may write the sink."""

    def __init__(self, *, overview: SinkOverview) -> None:
        self._overview = overview

    def routes(self) -> list[Route]:
        """List sinks; list, resend and drop dead letters."""
        read, write = Permission.AUDIT_READ.value, Permission.REGISTRY_AUDIT_SINK_WRITE.value
        return [
            Route(
                method="GET",
                path="/v1/audit/sinks",
                operation_id="listSinkStandings",
                summary="How far the sinks of namespaces that you may audit are, and what is wrong with them",
                handler=self._list,
                answer="SinkStandingList",
                permission=f"{read}; only sinks of namespaces where it is held",
                statuses=(401, 403),
            ),
            Route(
                method="GET",
                path=_DEAD_LETTERS,
                operation_id="listDeadLetters",
                summary="Records that the sink's receiver refused for good",
                handler=self._read,
                answer="DeadLetterList",
                query={"after": "only those behind this position", "limit": f"at most this many (1 to {_MOST})"},
                permission=f"{read} in the sink's namespace",
                statuses=(400, 401, 403, 404),
            ),
            Route(
                method="POST",
                path=_DEAD_LETTERS,
                operation_id="actOnDeadLetters",
                summary="Have dead letters sent once more, or forget them",
                handler=self._act,
                body="DeadLetterAction",
                answer="DeadLettersActedOn",
                permission=f"{write} in the sink's namespace",
                statuses=(400, 401, 403, 404, 413, 415),
            ),
        ]

    async def _list(self, _request: web.Request, operator: Operator) -> web.Response:
        require_somewhere(operator, Permission.AUDIT_READ)
        namespaces = operator.permissions.namespaces_with(Permission.AUDIT_READ)
        found = await asyncio.to_thread(self._overview.list, namespaces)
        return json_response({"items": [asdict(standing) for standing in found]})

    async def _read(self, request: web.Request, operator: Operator) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        require(operator, Permission.AUDIT_READ, namespace)
        after = int(query_number(request, "after", default=0, low=0, high=2**53))
        limit = int(query_number(request, "limit", default=100, low=1, high=_MOST))
        found = await asyncio.to_thread(self._overview.dead_letters, f"{namespace}/{name}", after=after, limit=limit)
        following = found[-1].position if len(found) == limit else 0
        return json_response({"items": [_letter_json(letter) for letter in found], "next": following})

    async def _act(self, request: web.Request, operator: Operator) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        require(operator, Permission.REGISTRY_AUDIT_SINK_WRITE, namespace)
        wanted = _action(parse_json(await read_body(request, JSON_TYPES)))
        act = self._overview.resend if wanted.action == "resend" else self._overview.drop
        count = await asyncio.to_thread(act, f"{namespace}/{name}", wanted.positions, actor=operator.id)
        return json_response({"records": count})


def _letter_json(letter: DeadLetter) -> dict[str, object]:
    at = datetime.fromtimestamp(letter.at_unix_us / 1_000_000, UTC).isoformat(timespec="seconds")
    return {
        "position": letter.position,
        "record": letter.record_id,
        "event": letter.event,
        "at": at,
        "fault": letter.fault,
        "resend": letter.resend,
    }


def _action(value: object) -> DeadLetterAction:
    try:
        return DeadLetterAction.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise bad_request(f"{'.'.join(str(part) for part in fault['loc']) or 'the body'}: {fault['msg']}") from error
