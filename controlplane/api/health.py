"""`/healthz` (the process answers) and `/readyz` (it can do its work, or why not). Nobody needs to be authenticated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from aiohttp import web
from sqlalchemy.exc import SQLAlchemyError

from controlplane.api.nodes import RolloutStatus
from controlplane.api.routes import Route, json_response
from controlplane.registry.entry import Json

_log = structlog.get_logger(__name__)
_DATABASE_SECONDS = 2.0


class HealthRoutes:
    """Liveness and readiness."""

    def __init__(
        self,
        *,
        read_revision: Callable[[], int],
        rollout: RolloutStatus,
        problems: Callable[[], list[str]] = list,
        gateway_url: Callable[[], str] = str,
    ) -> None:
        self._gateway_url = gateway_url
        self._read_revision = read_revision
        self._rollout = rollout
        self._problems = problems

    def routes(self) -> list[Route]:
        """Two questions, asked by machines."""
        return [
            Route(
                method="GET",
                path="/healthz",
                operation_id="readHealth",
                summary="Whether the control plane's process answers",
                public_handler=self._health,
                answer="Health",
            ),
            Route(
                method="GET",
                path="/readyz",
                operation_id="readReadiness",
                summary="Whether the database answers and at least one Envoy and one authorizer are up to date; 503 with reasons otherwise",
                public_handler=self._readiness,
                answer="Readiness",
                statuses=(503,),
            ),
        ]

    async def _health(self, _request: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    async def _readiness(self, request: web.Request) -> web.Response:
        reasons = []
        revision = -1
        try:
            revision = await asyncio.wait_for(asyncio.to_thread(self._read_revision), _DATABASE_SECONDS)
        except (SQLAlchemyError, TimeoutError) as error:
            _log.warning("not ready: the database does not answer", error=type(error).__name__)
            reasons.append("the database does not answer")
        nodes = self._rollout.nodes()
        ready = {node["kind"] for node in nodes if node["connected"] and _is_ready(node)}
        reasons += [f"no {kind} is connected and up to date" for kind in ("envoy", "authorizer") if kind not in ready]
        reasons += self._problems()
        answer: Json = {"status": "not ready" if reasons else "ready", "reasons": reasons}
        if revision >= 0:
            answer["revision"] = revision
        if url := self._gateway_url() if _is_of_this_machine(request) else "":
            answer["gateway_url"] = url
        return json_response(answer, status=503 if reasons else 200)


def _is_of_this_machine(request: web.Request) -> bool:
    """Whether it came by the API's own socket, which nobody else may open: Envoy gives an id to every request that it passes on."""
    return "x-request-id" not in request.headers


def _is_ready(node: Json) -> bool:
    """In step; or on the way to the next revision, or refusing a part of it, while it serves what it accepted before.

    An edit must not take a gateway out of use, and neither must one bad resource: `/v1/nodes` says what was refused.
    """
    return node["state"] == "SYNCED" or (node["state"] in {"SENT", "NACK"} and bool(node.get("serving")))
