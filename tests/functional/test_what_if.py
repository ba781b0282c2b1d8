"""Replays of recorded calls: what a change of policies would do, held against deciding every call again by itself."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.audit.database import open_audit_database
from controlplane.audit.store import AuditStore
from controlplane.catalog_digest import definition_digest
from controlplane.database import sqlite_url
from controlplane.registry.permissions import Operator
from controlplane.registry.probe import ProbedDefinition
from controlplane.registry.refusal import EntryNotFoundError, InvalidDocumentsError, NotPermittedError
from controlplane.registry.spec import Kind
from controlplane.what_if import parts
from controlplane.what_if.matrix import matrix_difference
from controlplane.what_if.process import answer
from controlplane.what_if.question import Question, policies_of, question_from_json
from controlplane.what_if.recorded_call import UndecidableError, recorded_call
from controlplane.what_if.replay import decide
from controlplane.what_if.report import Report
from controlplane.what_if.runner import ReplayRunner, ReplaySources
from controlplane.xds.authorizer_resources import build_authorization_state
from extauthz.errors import LegationError
from extauthz.policy.cedar import CedarEngine
from extauthz.v1 import audit_pb2 as pb
from tests.functional.registry import ADMIN, CRM, Registry, open_registry, operator, reading

RULES = b"""
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: demo, name: sales}
spec: {role: sales, subjects: [{kind: Group, name: local/sales}]}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: demo, name: rules}
spec:
  cedar: |
    @id("sales")
    permit (principal in Role::"demo/sales", action, resource in McpServer::"demo/crm");
    @id("small")
    forbid (principal, action == Action::"tools/call", resource == Tool::"demo/crm/refund")
    when { context.arguments has amount && context.arguments.amount > 100 };
"""
CANDIDATE = b"""
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: demo, name: rules}
spec:
  cedar: |
    @id("sales")
    permit (principal in Role::"demo/sales", action, resource in McpServer::"demo/crm");
    @id("smaller")
    forbid (principal, action == Action::"tools/call", resource == Tool::"demo/crm/refund")
    when { context.arguments has amount && context.arguments.amount > 50 };
    @id("bob")
    forbid (principal == User::"local/bob", action == Action::"tools/call", resource == Tool::"demo/crm/find");
    @id("ann-at-home")
    permit (principal == User::"local/eve", action == Action::"tools/call", resource == Tool::"demo/crm/find")
    when { context.caller has address && context.caller.address.isInRange(ip("10.0.0.0/8")) };
"""
NOON = 1_790_000_000_000_000


def _tool(name: str, **properties: str) -> ProbedDefinition:
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    document: dict[str, object] = {"name": name, "description": f"{name}.", "inputSchema": schema}
    return ProbedDefinition(kind="tool", name=name, digest=definition_digest(document), document=document)


class World:
    """A registry with policies, and a record."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.registry: Registry = open_registry(sqlite_url(directory / "registry.db"))
        self.registry.apply(CRM)
        uid = self.registry.live.state.mcp_servers["demo/crm"].uid
        self.registry.service.record_probes([(uid, reading(_tool("find", text="string"), _tool("refund", amount="integer")))])
        self.registry.service.accept(ADMIN, "demo", "crm")
        self.registry.apply(RULES)
        self.uid = uid
        self.audit = AuditStore(open_audit_database(sqlite_url(directory / "audit.db")), self.registry.key)
        self.state = build_authorization_state(self.registry.live.state, key=self.registry.key, now=_now())
        self.records: list[pb.AuditRecord] = []
        self._previous = b""

    def record(self, user: str, tool: str, arguments: dict[str, Any] | None = None, **fields: Any) -> None:
        """One decision, as the policies in force make it, unless `fields` say otherwise."""
        groups = ["local/sales"] if user in ("ann", "bob") else []
        digest = self.state.mcp_servers["demo/crm"].tools[tool].digest if tool else ""
        values: dict[str, Any] = {
            "decision_id": f"d{len(self.records) + 1}",
            "at_unix_us": NOON + len(self.records) * 1_000_000,
            "event": pb.AUDIT_EVENT_TOOL_CALL,
            "decision": pb.AUDIT_DECISION_ALLOW,
            "reason": "allowed",
            "principal": pb.AuditPrincipal(kind="User", id=f"local/{user}", provider="local", subject=user, groups=groups),
            "namespace": "demo",
            "mcp_server": "crm",
            "mcp_server_uid": self.uid,
            "method": "tools/call",
            "tool": tool,
            "era": "modern",
            "tool_digest": digest,
            "replay": pb.AuditReplay(arguments_json=json.dumps(arguments or {}), caller_era="modern", caller_address="10.1.1.1"),
        }
        record = pb.AuditRecord(**{**values, **fields})
        try:
            allowed = decide(self.state, recorded_call(record)).allowed
            if "decision" not in fields and not allowed:
                record.decision, record.reason = pb.AUDIT_DECISION_DENY, "no_matching_permit"
        except UndecidableError:
            pass
        self.records.append(record)

    def keep(self) -> None:
        """Everything into the record, chained as a writer does."""
        payloads = []
        for sequence, record in enumerate(self.records, 1):
            record.writer_id, record.sequence, record.previous_hash = "node-1", sequence, self._previous
            payloads.append(record.SerializeToString())
            self._previous = hashlib.sha256(payloads[-1]).digest()
        self.audit.append(pb.ShipBatch(writer_id="node-1", first_sequence=1, records=payloads), "node")

    def question(self, text: bytes = CANDIDATE, **options: Any) -> Question:
        candidate = self.registry.service.candidate(ADMIN, text, **options)
        return Question(since_unix_us=0, until_unix_us=NOON * 2, namespaces=None, policies=policies_of(candidate))

    def replay(self, question: Question, *, processes: int = 1) -> dict[str, Any]:
        return answer(question, self.registry.store, self.audit, self.registry.key, lambda _line: None, processes=processes)


def _now() -> Any:
    from datetime import UTC, datetime  # noqa: PLC0415 - not at import: the suite runs for a while

    return datetime.now(UTC)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.audit.close()
    made.registry.store.close()


def test_a_replay_agrees_with_deciding_every_call_by_itself(world: World):
    dice = random.Random(7)
    for _ in range(1500):
        user, tool = dice.choice(["ann", "bob", "eve", "joe"]), dice.choice(["find", "refund"])
        arguments = {"amount": dice.choice([10, 60, 200])} if tool == "refund" and dice.random() < 0.8 else {}
        replay = pb.AuditReplay(arguments_json=json.dumps(arguments), caller_address=dice.choice(["10.1.1.1", "192.0.2.1"]))
        world.record(user, tool, replay=replay)
    world.keep()
    question = world.question()

    result = world.replay(question)

    assert question.policies is not None
    engine = CedarEngine.build(question.policies.documents, question.policies.bindings, world.state.mcp_servers)
    after = replace(world.state, policy=engine)
    expected: Counter[tuple[str, str, bool]] = Counter()
    for record in world.records:
        call = recorded_call(record)
        was, will = decide(world.state, call).allowed, decide(after, call).allowed
        if was != will:
            expected[call.principal.id, call.name, will] += 1
    found: Counter[tuple[str, str, bool]] = Counter()
    for flip in result["flips"]:
        found[flip["principal"], flip["name"], flip["after"]["allowed"]] += flip["calls"]
    assert found == expected
    assert len(expected) >= 4
    assert result["replayed"] == 1500
    assert result["drifted"] == 0
    assert result["newly_denied"] == sum(count for (_, _, allowed), count in expected.items() if not allowed)
    assert result["newly_allowed"] == sum(count for (_, _, allowed), count in expected.items() if allowed) > 0


def test_several_processes_find_what_one_finds(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "SMALLEST_PART", 100)
    dice = random.Random(8)
    for _ in range(1000):
        world.record(dice.choice(["ann", "bob", "eve"]), dice.choice(["find", "refund"]))
    world.record("ann", "find", replay=None)
    world.keep()
    question = world.question()

    one, several = world.replay(question), world.replay(question, processes=3)

    assert several == one
    assert one["newly_denied"] > 0
    assert one["undecidable"] == {"not_recorded": 1}


def test_a_part_that_dies_is_no_result():
    def dies(_window: parts.Window, _done: Callable[[int], None]) -> Report:
        os._exit(1)

    windows = [parts.Window(first=1, last=5), parts.Window(first=6, last=9)]

    with pytest.raises(LegationError, match="without a result"):
        parts.report_of(windows, dies, lambda _done: None)


def test_parts_of_a_window_are_the_window():
    for size in (0, 1, 9_999, 10_000, 25_000, 100_003):
        window = parts.Window(first=7, last=6 + size)
        found = window.parts(8)

        assert sum(map(len, found)) == size
        assert all(one.last + 1 == other.first for one, other in itertools.pairwise(found))
        assert len(found) <= 4


def test_what_cannot_be_decided_again_is_counted_by_why(world: World):
    world.record("ann", "find")
    world.record("ann", "find", replay=None)
    world.record("ann", "refund", tool_digest="sha256:" + "0" * 64)
    world.record("ann", "find", mcp_server_uid="another")
    world.record("ann", "find", mcp_server="gone")
    world.record("ann", "", method="completion/complete", event=pb.AUDIT_EVENT_MCP_MESSAGE, prompt="p")
    world.record("ann", "find", sealed=pb.AuditSealed(key_id="k", nonce=b"n" * 12, ciphertext=b"c"), principal=None, replay=None)
    world.record("ann", "find", reason="access_token_expired", decision=pb.AUDIT_DECISION_DENY)
    world.record("ann", "find", event=pb.AUDIT_EVENT_OUTCOME)
    world.record("ann", "find", parent_decision_id="d1")
    world.keep()

    result = world.replay(world.question())

    assert result["undecidable"] == {"definition_changed": 1, "erased": 1, "not_recorded": 1, "server_gone": 2, "several_names": 1}
    assert (result["records"], result["replayed"], result["not_of_policy"]) == (10, 1, 3)


def test_an_argument_that_is_not_kept_matters_where_a_policy_reads_it(world: World):
    world.record("ann", "refund", replay=pb.AuditReplay(withheld=["amount"]))
    world.record("ann", "refund", replay=pb.AuditReplay(withheld=["*"]))
    world.record("ann", "refund", replay=pb.AuditReplay(withheld=["comment"]))
    world.keep()

    result = world.replay(world.question())

    assert (result["undecidable"], result["replayed"]) == ({"withheld": 2}, 1)


def test_what_candidates_said_when_a_call_was_decided_is_told(world: World):
    denied = pb.AuditShadow(reason="forbidden_by_policy", determining_policies=["demo/stricter"])
    world.record("ann", "find", shadow=denied)
    world.record("ann", "find", shadow=denied)
    world.record("ann", "find", shadow=pb.AuditShadow(allowed=True, reason="allowed"))
    world.record("ann", "find")
    world.keep()

    result = world.replay(Question(since_unix_us=0, until_unix_us=NOON * 2, namespaces=None, policies=None))

    assert (result["replayed"], result["newly_denied"], result["not_of_policy"]) == (3, 2, 1)
    (flip,) = result["flips"]
    assert (flip["principal"], flip["name"], flip["calls"]) == ("local/ann", "find", 2)
    assert flip["after"] == {"allowed": False, "reason": "forbidden_by_policy", "policies": ("demo/stricter",)}


def test_a_window_and_namespaces_choose_what_is_replayed(world: World):
    for _ in range(5):
        world.record("bob", "find")
    world.record("bob", "find", namespace="other")
    world.keep()
    everything = world.question()

    part = Question(
        since_unix_us=NOON + 1_000_000, until_unix_us=NOON + 3_000_000, namespaces=frozenset({"demo"}), policies=everything.policies
    )
    assert world.replay(part)["records"] == 2
    assert world.replay(everything)["records"] == 6
    assert question_from_json(json.loads(json.dumps(part.to_json()))) == part


def test_calls_that_were_decided_by_other_policies_are_told(world: World):
    world.record("ann", "find", decision=pb.AUDIT_DECISION_DENY, reason="no_matching_permit")
    world.keep()

    result = world.replay(world.question())

    assert (result["drifted"], result["flips"]) == (1, [])


def test_the_access_matrix_says_which_role_gains_and_loses(world: World):
    text = b"""
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: demo, name: support}
spec: {role: support, subjects: [{kind: Group, name: local/support}]}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: demo, name: rules}
spec:
  cedar: |
    permit (principal in Role::"demo/sales", action == Action::"tools/call", resource == Tool::"demo/crm/find");
    permit (principal in Role::"demo/support", action == Action::"tools/call", resource == Tool::"demo/crm/refund");
"""
    before, after = policies_of(world.registry.live.state), policies_of(world.registry.service.candidate(ADMIN, text))

    cells, is_cut = matrix_difference(before, after, world.state.mcp_servers, None)

    assert {(cell.role, cell.tool, cell.before, cell.after) for cell in cells} == {
        ("demo/sales", "refund", True, False),
        ("demo/support", "refund", False, True),
    }
    assert not is_cut
    assert matrix_difference(before, after, world.state.mcp_servers, frozenset({"other"})) == ([], False)


def test_taking_a_policy_away_is_a_change_too(world: World):
    world.record("ann", "find")
    world.keep()

    result = world.replay(world.question(b"", without=[(Kind.POLICY_SET, "demo", "rules")]))

    assert (result["newly_denied"], result["flips"][0]["after"]["reason"]) == (1, "server_not_found")
    with pytest.raises(EntryNotFoundError):
        world.question(b"", without=[(Kind.POLICY_SET, "demo", "none")])


def test_a_candidate_is_checked_like_a_change_and_changes_nothing(world: World):
    revision = world.registry.store.read_revision()
    stranger: Operator = operator("viewer", "legation:viewer")

    with pytest.raises(InvalidDocumentsError):
        world.registry.service.candidate(ADMIN, CANDIDATE.replace(b"permit (", b"permitt (", 1))
    with pytest.raises(InvalidDocumentsError) as refused:
        world.registry.service.candidate(ADMIN, CRM)
    assert "PolicySet and RoleBinding only" in refused.value.errors[0].message
    with pytest.raises(NotPermittedError):
        world.registry.service.candidate(stranger, CANDIDATE)
    world.registry.service.candidate(ADMIN, CANDIDATE)
    assert world.registry.store.read_revision() == revision


async def test_the_process_tells_how_far_it_is_and_then_the_result(world: World, tmp_path: Path):
    import base64  # noqa: PLC0415 - of this test only

    world.record("bob", "find")
    world.keep()
    key_file = tmp_path / "registry.key"
    key_file.write_text(base64.b64encode(b"0123456789abcdef0123456789abcdef").decode())
    key_file.chmod(0o600)
    sources = ReplaySources(
        database_url=sqlite_url(tmp_path / "registry.db"),
        audit_database_url=sqlite_url(tmp_path / "audit.db"),
        encryption_key_file=key_file,
    )

    async with asyncio.timeout(120):
        lines = [json.loads(line) async for line in ReplayRunner(sources).answers(world.question())]

    assert lines[0].keys() == {"progress"}
    assert lines[-1]["result"]["newly_denied"] == 1


async def test_a_process_that_cannot_read_says_why(tmp_path: Path, world: World):
    sources = ReplaySources(
        database_url=sqlite_url(tmp_path / "registry.db"),
        audit_database_url=sqlite_url(tmp_path / "audit.db"),
        encryption_key_file=tmp_path / "none",
    )

    async with asyncio.timeout(120):
        lines = [json.loads(line) async for line in ReplayRunner(sources).answers(world.question())]

    assert "cannot read" in lines[-1]["error"]
