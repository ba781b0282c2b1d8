"""What shows that the record is whole: an export of it, the proof of one record, and how far statements are."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime

from aiohttp import web

from controlplane.api.moment import query_moment
from controlplane.api.problems import ApiError, ProblemCode, bad_request
from controlplane.api.routes import Route, json_response, query_text
from controlplane.audit.export import export_bundle
from controlplane.audit.inclusion import InclusionProof, NotProvableError, prove
from controlplane.audit.proving import Proving
from controlplane.audit.retention import Retention
from controlplane.audit.signer import SigningError, public_pem
from controlplane.registry.permissions import Operator, Permission, require, require_somewhere
from controlplane.registry.spec import SYSTEM_NAMESPACE

LAGGING_HEADER = "Legation-Lagging"
"""Of an export: the nodes that may have records which are not in it, "," between them."""

_AT_ONCE = 2
_PERIOD = {"from": "records from this time on (RFC 3339); absent: from the first on", "to": "records before this time; absent: up to now"}


class AuditProofRoutes:
    """Reads for auditors. `barrier` brings in what authorizers have written and not sent yet."""

    def __init__(
        self, *, proving: Proving, barrier: Callable[[], Awaitable[list[str]]] | None = None, retention: Retention | None = None
    ) -> None:
        self._evidence, self._notary = proving.evidence, proving.notary
        self._proving = proving
        self._retention = retention
        self._barrier = barrier
        self._exports = asyncio.Semaphore(_AT_ONCE)

    def faults(self) -> list[str]:
        """What keeps the record from being stated, anchored, archived or deleted, as sentences."""
        kept = [f"retention: {self._retention.fault}"] if self._retention is not None and self._retention.fault else []
        return self._proving.faults() + kept

    def routes(self) -> list[Route]:
        """Three reads."""
        return [
            Route(
                method="GET",
                path="/v1/audit/export",
                operation_id="exportAudit",
                summary=f"A bundle for `legation audit verify`, as a tar stream; {LAGGING_HEADER} names nodes that may have newer records",
                handler=self._export,
                answer="tar",
                query=_PERIOD,
                permission=f"{Permission.AUDIT_READ.value} in {SYSTEM_NAMESPACE}",
                statuses=(400, 401, 403, 429, 503),
            ),
            Route(
                method="GET",
                path="/v1/audit/proof",
                operation_id="proveAudit",
                summary="The proof that the record of a decision stands in the record, for `legation audit verify --proof`",
                handler=self._prove,
                answer="object",
                query={"decision_id": "of the decision"},
                permission=f"{Permission.AUDIT_READ.value} in the namespace of the record",
                statuses=(400, 401, 403, 404, 409),
            ),
            Route(
                method="GET",
                path="/v1/audit/statements",
                operation_id="readAuditStatements",
                summary="The newest statement about the record, who signs, and what keeps statements from being made or anchored",
                handler=self._statements,
                answer="AuditStatementStatus",
                permission=f"{Permission.AUDIT_READ.value} in any namespace",
                statuses=(401, 403),
            ),
        ]

    async def _export(self, request: web.Request, operator: Operator) -> web.StreamResponse:
        require(operator, Permission.AUDIT_READ, SYSTEM_NAMESPACE)
        from_unix_us, to_unix_us = (query_moment(request, name, now_unix=time.time()) for name in ("from", "to"))
        if self._exports.locked():
            raise ApiError(429, ProblemCode.TOO_MANY_REQUESTS, "Busy", f"{_AT_ONCE} exports are under way; ask again when one has ended")
        async with self._exports:
            lagging = await self._bring_in()
            pieces = export_bundle(self._evidence, self._notary.keys, from_unix_us=from_unix_us, to_unix_us=to_unix_us)
            try:
                first = await asyncio.to_thread(next, pieces)
            except SigningError as error:
                raise ApiError(503, ProblemCode.NOT_READY, "Nobody can sign", str(error)) from error
            response = web.StreamResponse(headers={"Content-Type": "application/x-tar", LAGGING_HEADER: ",".join(lagging)})
            with contextlib.suppress(ConnectionResetError):  # the reader has gone
                await response.prepare(request)
                await _send(response, first, pieces)
            return response

    async def _prove(self, request: web.Request, operator: Operator) -> web.Response:
        require_somewhere(operator, Permission.AUDIT_READ)
        decision_id = query_text(request, "decision_id")
        if not decision_id:
            raise bad_request("?decision_id names no decision")
        await self._bring_in()
        try:
            proof = await asyncio.to_thread(self._proof, decision_id, operator)
        except NotProvableError as error:
            raise ApiError(409, ProblemCode.NOT_PROVABLE, "Not provable", str(error)) from error
        return web.Response(body=proof.document(), content_type="application/json")

    async def _statements(self, _request: web.Request, operator: Operator) -> web.Response:
        require_somewhere(operator, Permission.AUDIT_READ)
        return json_response(await asyncio.to_thread(self._status))

    def _proof(self, decision_id: str, operator: Operator) -> InclusionProof:
        found = self._evidence.record_of(decision_id)
        # what belongs to no namespace is for who may read everything
        namespaces = [namespace for namespace in found[1:] if namespace] or [SYSTEM_NAMESPACE] if found is not None else []
        if found is None or not any(operator.permissions.allows(Permission.AUDIT_READ, namespace) for namespace in namespaces):
            raise ApiError(404, ProblemCode.NOT_FOUND, "Not found", f"there is no record of the decision {decision_id}")
        return prove(self._evidence, found[0])

    def _status(self) -> dict[str, object]:
        stored = self._evidence.newest_statement()
        status: dict[str, object] = {"faults": self.faults(), "signed": self._notary.keys is not None}
        if stored is None:
            return status | {"statements": 0, "stated_to_position": 0, "stated_at": "", "key_id": "", "public_key": "", "unanchored": 0}
        statement = stored.statement
        key = statement.next_key or statement.key
        return status | {
            "statements": statement.number,
            "stated_to_position": statement.last_position,
            "stated_at": datetime.fromtimestamp(statement.at_unix_us / 1_000_000, UTC).isoformat(),
            "key_id": key.key_id,
            "public_key": public_pem(key).decode(),
            "unanchored": self._evidence.count_unanchored(),
        }

    async def _bring_in(self) -> list[str]:
        """Have everything sent and stated; the nodes that may have records which are not here yet."""
        lagging = await self._barrier() if self._barrier is not None else []
        await self._notary.state_now()
        return lagging


async def _send(response: web.StreamResponse, piece: bytes | None, pieces: Iterator[bytes]) -> None:
    """All pieces. A failure breaks the answer off, and its reader sees that the end of the archive is missing."""
    while piece is not None:
        await response.write(piece)
        piece = await asyncio.to_thread(next, pieces, None)
    await response.write_eof()
