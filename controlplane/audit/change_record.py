"""One change of the registry, or of something else that operators change, as a record (event `change`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from extauthz.audit.draft import Draft
from extauthz.v1 import audit_pb2 as pb

MAX_DOCUMENT_BYTES = 256 * 1024
"""A larger document stands in the registry's history only; the record has its digest."""

_SYSTEM = "system/"


def change_draft(
    *,
    decision_id: str,
    at: datetime,
    actor: str,
    message: str,
    op: str,
    kind: str,
    namespace: str,
    name: str,
    uid: str = "",
    revision: int = 0,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> Draft:
    """`before` and `after` are documents without secrets. Who did it stands in the open: what administrators do is not erased."""
    at_unix_us = int(at.timestamp() * 1_000_000)
    record = pb.AuditRecord(
        decision_id=decision_id,
        at_unix_us=at_unix_us,
        event=pb.AUDIT_EVENT_CHANGE,
        decision=pb.AUDIT_DECISION_ALLOW,
        reason=op,
        namespace=namespace,
        revision=revision,
        change=pb.AuditChange(
            actor=actor,
            message=message[:1000],
            op=op,
            kind=kind,
            namespace=namespace,
            name=name,
            uid=uid,
            before_json=json_text(before),
            after_json=json_text(after),
        ),
    )
    if kind in {"McpServer", "Catalog"}:
        record.mcp_server, record.mcp_server_uid = name, uid
    elif kind == "VirtualServer":
        record.virtual_server = f"{namespace}/{name}"
    principal = pb.AuditPrincipal(id=actor, kind="System" if actor.startswith(_SYSTEM) else "")
    personal = pb.AuditRecord(principal=principal).SerializeToString() if actor else b""
    return Draft(open=record.SerializeToString(), personal=personal, principal_id=actor, at_unix_us=at_unix_us)


def json_text(document: Mapping[str, Any] | None) -> str:
    """A document as it stands in a record; empty for none."""
    if document is None:
        return ""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= MAX_DOCUMENT_BYTES:
        return encoded.decode()
    return json.dumps({"too_large_bytes": len(encoded), "sha256": hashlib.sha256(encoded).hexdigest()})
