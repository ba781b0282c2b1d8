"""`python -m controlplane.what_if.process`: one replay, away from the interpreter that tells Envoys what exists.

Standard input: one JSON object, where the databases and the key are, and the question. Standard output: lines of JSON, `progress`
about twice a second, at last `result` or `error`. It only reads.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from controlplane.audit.database import open_audit_database
from controlplane.audit.models import AUDIT_RECORD
from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import StoredRecord
from controlplane.database import open_database
from controlplane.registry.encryption import RegistryKey, read_registry_key
from controlplane.registry.store import RegistryStore
from controlplane.what_if.matrix import matrix_difference
from controlplane.what_if.parts import Done, Window, report_of
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
        question = question_from_json(asked["question"])
        tell({"result": answer(question, store, record, key, tell, processes=len(os.sched_getaffinity(0)))})
    except LegationError as error:
        tell({"error": str(error)})
        return 1
    return 0


def answer(
    question: Question,
    store: RegistryStore,
    record: AuditStore,
    key: RegistryKey,
    tell: Callable[[dict[str, Any]], None],
    *,
    processes: int = 1,
) -> dict[str, Any]:
    """The whole answer, as JSON has it; `tell` is called with progress."""
    window = Window(first=_first_position(record, question.since_unix_us), last=record.last_position())
    told = _Progress(tell, len(window))
    policies = question.policies
    if policies is None:
        report = Report()
        feed(question, record, window, partial(shadow_report, report), told)
        return report.to_json()
    state = store.read_state()
    before = build_authorization_state(state, key=key, now=datetime.now(UTC))
    now = policies_of(state)
    after = CedarEngine.build(policies.documents, policies.bindings, before.mcp_servers)
    texts = [document.cedar for document in (*now.documents, *policies.documents)]
    windows = window.parts(processes)

    def replayed(part: Window, done: Done) -> Report:
        if len(windows) > 1:
            record.engine.dispose(close=False)  # connections are the parent's
        replay = Replay(before, after, policy_texts=texts)
        feed(question, record, part, replay.take, done)
        return replay.report

    report = report_of(windows, replayed, told) if windows else Report()
    cells, more = matrix_difference(now, policies, before.mcp_servers, question.namespaces)
    return {
        "revision": state.revision,
        **report.to_json(),
        "matrix": [asdict(cell) for cell in cells],
        "matrix_is_cut": more,
    }


def feed(question: Question, record: AuditStore, window: Window, take: Callable[[pb.AuditRecord], None], done: Done) -> None:
    """Hand over the opened records of the question's times and namespaces that stand in the window."""
    position = window.first - 1
    while position < window.last:
        rows = record.rows(position, min(_BATCH, window.last - position))
        if not rows:
            break
        for row in rows:
            if row.position <= window.last and _is_asked(question, row):
                take(record.opened(row))
        position = rows[-1].position
        done(min(position, window.last) - window.first + 1)
    done(len(window))


class _Progress:
    """Tells how far it is, about twice a second and at the end."""

    def __init__(self, tell: Callable[[dict[str, Any]], None], of: int) -> None:
        self._tell = tell
        self._of = of
        self._told_at = 0.0

    def __call__(self, done: int) -> None:
        if done >= self._of or time.monotonic() - self._told_at > _TELLING_SECONDS:
            self._told_at = time.monotonic()
            self._tell({"progress": {"done": done, "of": self._of}})


def _first_position(record: AuditStore, since_unix_us: int) -> int:
    """The first record from then on, or behind the last: records come nearly, not quite, in the order of their times."""
    with record.reading() as connection:
        found = connection.execute(select(func.min(AUDIT_RECORD.c.position)).where(AUDIT_RECORD.c.at_unix_us >= since_unix_us))
        return found.scalar() or record.last_position() + 1


def _is_asked(question: Question, row: StoredRecord) -> bool:
    in_time = question.since_unix_us <= row.at_unix_us < question.until_unix_us
    return in_time and (question.namespaces is None or row.namespace in question.namespaces)


if __name__ == "__main__":
    sys.exit(main())
