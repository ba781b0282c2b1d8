"""How long a replay takes: `python -m bench.what_if [--calls 100000] [--callers 500] [--tools 40]`.

The record is made first: calls of many callers to one server, sealed as authorizers seal them, each with other arguments. The
candidate reads arguments and the time, so that no two calls are alike and nothing that was decided once can be used again: the worst
case; with `--plain` it reads neither, as most policies do. What is measured is the whole process, from its start to its result.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from controlplane.audit.database import open_audit_database
from controlplane.audit.store import AuditStore
from controlplane.database import sqlite_url
from controlplane.what_if.question import Question, policies_of
from controlplane.what_if.runner import ReplayRunner, ReplaySources
from extauthz.v1 import audit_pb2 as pb
from tests.functional.registry import ADMIN, CRM, open_registry, reading, tool

KEY = b"0123456789abcdef0123456789abcdef"
_BATCH = 5000
_POLICY = """
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: demo, name: rules}
spec:
  cedar: |
    permit (principal in Group::"local/sales", action, resource in McpServer::"demo/crm") CONDITION;
    forbid (principal == User::"local/user-7", action, resource == Tool::"demo/crm/tool_7");
"""
_CONDITION = 'when { context.caller.now > datetime("2026-01-01") }'


def main() -> None:
    """Make a record, replay it, print one line."""
    parser = argparse.ArgumentParser(prog="python -m bench.what_if")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--callers", type=int, default=500)
    parser.add_argument("--tools", type=int, default=40)
    parser.add_argument("--plain", action="store_true", help="policies that read neither arguments nor the time")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="legation-bench-") as temporary:
        print(asyncio.run(_measure(Path(temporary), wanted)))


async def _measure(directory: Path, wanted: argparse.Namespace) -> str:
    registry = open_registry(sqlite_url(directory / "registry.db"))
    registry.apply(CRM)
    uid = registry.live.state.mcp_servers["demo/crm"].uid
    registry.service.record_probes([(uid, reading(*(tool(f"tool_{number}") for number in range(wanted.tools))))])
    registry.service.accept(ADMIN, "demo", "crm")
    condition = "" if wanted.plain else _CONDITION
    registry.apply(_POLICY.replace("CONDITION", condition).replace("forbid", "permit").encode())
    key_file = directory / "registry.key"
    key_file.write_text(base64.b64encode(KEY).decode())
    key_file.chmod(0o600)
    audit = AuditStore(open_audit_database(sqlite_url(directory / "audit.db")), registry.key)
    _fill(audit, uid, wanted)
    candidate = policies_of(registry.service.candidate(ADMIN, _POLICY.replace("CONDITION", condition).encode()))
    question = Question(since_unix_us=0, until_unix_us=2**62, namespaces=None, policies=candidate)
    sources = ReplaySources(
        database_url=sqlite_url(directory / "registry.db"),
        audit_database_url=sqlite_url(directory / "audit.db"),
        encryption_key_file=key_file,
    )
    started = time.perf_counter()
    last = b""
    async for line in ReplayRunner(sources).answers(question):
        last = line
    seconds = time.perf_counter() - started
    result = json.loads(last)["result"]
    return f"{result['replayed']} calls in {seconds:.1f} s, {result['newly_denied']} would be denied, {len(result['flips'])} groups"


def _fill(audit: AuditStore, uid: str, wanted: argparse.Namespace) -> None:
    previous, first, batch = b"", 1, []
    for sequence, record in enumerate(_records(uid, wanted), 1):
        record.writer_id, record.sequence, record.previous_hash = "bench", sequence, previous
        payload = record.SerializeToString()
        previous = hashlib.sha256(payload).digest()
        batch.append(payload)
        if len(batch) == _BATCH:
            audit.append(pb.ShipBatch(writer_id="bench", first_sequence=first, records=batch), "bench")
            first, batch = sequence + 1, []
    if batch:
        audit.append(pb.ShipBatch(writer_id="bench", first_sequence=first, records=batch), "bench")


def _records(uid: str, wanted: argparse.Namespace) -> Iterator[pb.AuditRecord]:
    now = int(time.time() * 1_000_000)
    for number in range(wanted.calls):
        user = f"user-{number % wanted.callers}"
        yield pb.AuditRecord(
            decision_id=f"d{number}",
            at_unix_us=now - (wanted.calls - number) * 1000,
            event=pb.AUDIT_EVENT_TOOL_CALL,
            decision=pb.AUDIT_DECISION_ALLOW,
            reason="allowed",
            principal=pb.AuditPrincipal(kind="User", id=f"local/{user}", provider="local", subject=user, groups=["local/sales"]),
            namespace="demo",
            mcp_server="crm",
            mcp_server_uid=uid,
            method="tools/call",
            tool=f"tool_{number % wanted.tools}",
            era="modern",
            replay=pb.AuditReplay(
                arguments_json=json.dumps({"number": number}), caller_address="192.0.2.1", issuer="https://idp.example.com"
            ),
        )


if __name__ == "__main__":
    main()
