"""`python -m controlplane.what_if.process`: one replay, away from the interpreter that tells Envoys what exists.

Standard input: one JSON object, where the databases and the key are, and the question. Standard output: lines of JSON, `progress`
about twice a second, at last `result` or `error`. It only reads.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from controlplane.audit.database import open_audit_database
from controlplane.audit.models import AUDIT_RECORD
from controlplane.audit.store import AuditStore
from controlplane.database import open_database
from controlplane.registry.encryption import RegistryKey, read_registry_key
from controlplane.registry.store import RegistryStore
from controlplane.what_if.matrix import matrix_difference
from controlplane.what_if.question import Question, policies_of, question_from_json
from controlplane.what_if.replay import Replay
from controlplane.what_if.report import Report, shadow_report
from controlplane.xds.authorizer_resources import build_authorization_state
from extauthz.errors import LegationError
from extauthz.policy.cedar import CedarEngine
from extauthz.v1 import audit_pb2 as pb

_BATCH = 2000
_TELLING_SECONDS = 0.4


def main() -> int:
    """Answer the question on standard input."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints, prints there
    asked = json.loads(sys.stdin.readline())

    def tell(line: dict[str, Any]) -> None:
        print(json.dumps(line, separators=(",", ":")), file=answers)

    try:
        key = read_registry_key(Path(asked["encryption_key_file"]))
        store = RegistryStore(open_database(asked["database_url"]))
        record = AuditStore(open_audit_database(asked["audit_database_url"]), key)
        tell({"result": answer(question_from_json(asked["question"]), store, record, key, tell)})
    except LegationError as error:
        tell({"error": str(error)})
        return 1
    return 0


def answer(question: Question, store: RegistryStore, record: AuditStore, key: RegistryKey, tell: Any) -> dict[str, Any]:  # noqa: ANN401
    """The whole answer, as JSON has it; `tell` is called with progress."""
    policies = question.policies
    if policies is None:
        report = Report()
        for message in records_of(question, record, tell):
            shadow_report(report, message)
        return report.to_json()
    state = store.read_state()
    before = build_authorization_state(state, key=key, now=datetime.now(UTC))
    now = policies_of(state)
    after = CedarEngine.build(policies.documents, policies.bindings, before.mcp_servers)
    texts = [document.cedar for document in (*now.documents, *policies.documents)]
    replay = Replay(before, after, policy_texts=texts)
    for message in records_of(question, record, tell):
        replay.take(message)
    cells, more = matrix_difference(now, policies, before.mcp_servers, question.namespaces)
    return {
        "revision": state.revision,
        **replay.report.to_json(),
        "matrix": [asdict(cell) for cell in cells],
        "matrix_is_cut": more,
    }


def records_of(question: Question, record: AuditStore, tell: Any) -> Iterator[pb.AuditRecord]:  # noqa: ANN401
    """The opened records of the window and namespaces."""
    last = record.last_position()
    first = _first_position(record, question.since_unix_us) or last + 1
    position, of, told_at = first - 1, max(0, last - first + 1), 0.0
    while position < last:
        rows = record.rows(position, min(_BATCH, last - position))
        if not rows:
            break
        for row in rows:
            if question.since_unix_us <= row.at_unix_us < question.until_unix_us and _is_asked(question, row.namespace):
                yield record.opened(row)
        position = rows[-1].position
        if time.monotonic() - told_at > _TELLING_SECONDS:
            tell({"progress": {"done": position - first + 1, "of": of}})
            told_at = time.monotonic()
    tell({"progress": {"done": of, "of": of}})


def _first_position(record: AuditStore, since_unix_us: int) -> int:
    """The first record of the window: records come nearly, not quite, in the order of their times."""
    with record.reading() as connection:
        found = connection.execute(select(func.min(AUDIT_RECORD.c.position)).where(AUDIT_RECORD.c.at_unix_us >= since_unix_us))
        return found.scalar() or 0


def _is_asked(question: Question, namespace: str) -> bool:
    return question.namespaces is None or namespace in question.namespaces


if __name__ == "__main__":
    sys.exit(main())
