"""`/v1/nodes`, `/v1/revisions/{n}`, `/v1/status`: who holds what. "Programmed" is said from ACKs only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import web

from controlplane.api.routes import Route, json_response, query_number
from controlplane.registry.entry import Json
from controlplane.registry.permissions import Operator, Permission, require_somewhere
from controlplane.registry.reader import RegistryReader
from controlplane.registry.spec import SYSTEM_NAMESPACE
from controlplane.registry.state import RegistryState

MAX_WAIT_SECONDS = 60.0


class RolloutStatus(Protocol):
    """What is known of the nodes (`xds.rollout.Rollout`)."""

    def nodes(self) -> list[dict[str, Any]]:
        """Every remembered node, as `/v1/nodes` shows it."""
        ...

    def programmed(self, revision: int) -> dict[str, list[int]]:
        """`{"envoy": [acked, total], "authorizer": [acked, total]}`, and `aggregator` where there is one."""
        ...

    def complete(self, revision: int) -> bool:
        """Whether every connected node, and at least one of each kind (aggregators may be none), accepted this revision."""
        ...

    async def wait(self, revision: int, timeout_seconds: float) -> bool:
        """Whether it was complete in time."""
        ...


class NodeRoutes:
    """How far the nodes are."""

    def __init__(
        self,
        *,
        reader: RegistryReader,
        rollout: RolloutStatus,
        state: Callable[[], RegistryState],
        problems: Callable[[], list[str]] = list,
        warnings: Callable[[], list[str]] = list,
    ) -> None:
        self._reader = reader
        self._rollout = rollout
        self._state = state
        self._problems = problems
        self._warnings = warnings

    def routes(self) -> list[Route]:
        """Reads only."""
        read = f"{Permission.REGISTRY_READ.value} in any namespace"
        wait = {"wait": f"seconds to wait until every node has accepted it (0 to {MAX_WAIT_SECONDS:g})"}
        return [
            Route(
                method="GET",
                path="/v1/nodes",
                operation_id="listNodes",
                summary="Every node, what it has accepted and what it refused",
                handler=self._nodes,
                answer="NodeList",
                permission=read,
                statuses=(401, 403),
            ),
            Route(
                method="GET",
                path="/v1/revisions/{revision}",
                operation_id="readRevision",
                summary="Who committed a revision, and which nodes have accepted it",
                handler=self._revision,
                answer="Revision",
                query=wait,
                permission=read,
                statuses=(400, 401, 403, 404),
            ),
            Route(
                method="GET",
                path="/v1/status",
                operation_id="readStatus",
                summary="The newest revision, the nodes, and how much there is",
                handler=self._status,
                answer="Status",
                permission=read,
                statuses=(401, 403),
            ),
        ]

    async def _nodes(self, _request: web.Request, operator: Operator) -> web.Response:
        require_somewhere(operator, Permission.REGISTRY_READ)
        items = self._shown_nodes(operator)
        answer: Json = {"revision": self._state().revision, "items": items, "problems": self._problems(), "warnings": self._warnings()}
        return json_response(answer)

    async def _revision(self, request: web.Request, operator: Operator) -> web.Response:
        require_somewhere(operator, Permission.REGISTRY_READ)
        revision = int(request.match_info["revision"])
        wait_seconds = query_number(request, "wait", default=0, low=0, high=MAX_WAIT_SECONDS)
        record = await asyncio.to_thread(self._reader.read_revision, revision)
        complete = self._rollout.complete(revision)
        if not complete and wait_seconds:
            complete = await self._rollout.wait(revision, wait_seconds)
        answer: Json = {"revision": revision, "committed_at": record.committed_at.isoformat()}
        if _sees_everything(operator) or record.actor == operator.id:
            answer |= {"actor": record.actor, "message": record.message}
        answer |= {"programmed": self._rollout.programmed(revision), "complete": complete, "nodes": self._shown_nodes(operator)}
        return json_response(answer)

    async def _status(self, _request: web.Request, operator: Operator) -> web.Response:
        require_somewhere(operator, Permission.REGISTRY_READ)
        state = self._state()
        answer: Json = {
            "revision": state.revision,
            "committed_at": state.committed_at.isoformat(),
            "programmed": self._rollout.programmed(state.revision),
            "complete": self._rollout.complete(state.revision),
            "nodes": self._shown_nodes(operator),
            "counts": _counts(state, operator),
        }
        return json_response(answer)

    def _shown_nodes(self, operator: Operator) -> list[Json]:
        nodes = self._rollout.nodes()
        if _sees_everything(operator):
            return nodes
        # What a node says about a refused resource names other people's servers.
        return [node | {"types": [_without_details(shown) for shown in node["types"]]} for node in nodes]


def _without_details(shown: Json) -> Json:
    return shown | {"error": "refused; ask an administrator" if shown.get("error") else ""}


def _sees_everything(operator: Operator) -> bool:
    return operator.permissions.allows(Permission.REGISTRY_READ, SYSTEM_NAMESPACE)


def _counts(state: RegistryState, operator: Operator) -> dict[str, int]:
    readable = operator.permissions.namespaces_with(Permission.REGISTRY_READ)

    def count(namespaces: list[str]) -> int:
        return len(namespaces) if readable is None else sum(namespace in readable for namespace in namespaces)

    return {
        "namespaces": count(list(state.namespaces)),
        "mcp-servers": count([entry.namespace for entry in state.mcp_servers.values()]),
        "policy-sets": count([entry.namespace for entry in state.policy_sets.values()]),
        "role-bindings": count([entry.namespace for entry in state.role_bindings.values()]),
        "identity-providers": count([entry.namespace for entry in state.identity_providers.values()]),
        "revocations": count([entry.namespace for entry in state.revocations.values()]),
    }
