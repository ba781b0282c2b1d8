"""What AuditPolicies change about a decision: what of the call stands on its record, and what happens when there can be none."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from controlplane.registry.json_path import parse_json_path
from extauthz.audit.draft import encode_record
from extauthz.audit.loss import Losses
from extauthz.audit.record import AuditDecision, AuditRecord
from extauthz.audit.wal import AuditLog
from extauthz.catalog.audit_policy import AuditMode, AuditPolicy, ContentRule, ContentRules, Keep
from extauthz.catalog.server import McpServer, Tool
from extauthz.decision import Decider, Decision
from extauthz.door import Door
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.model import PolicyDocument
from extauthz.v1 import audit_pb2 as pb
from tests.unit import test_virtual_decision as virtual_world
from tests.unit.test_decision import Credentials
from tests.unit.test_virtual_decision import FILES, SERVERS, State, decided, inner, message, tool
from tests.unit.written_log import sealing_pair, written_log

AVAILABLE = AuditMode.AVAILABLE
UPDATE = "/servers/demo/crm/mcp"
NO_RULES: Mapping[str, Keep] = MappingProxyType({})


def policy(mode: AuditMode = AuditMode.STRICT, keep: Keep = Keep.HASHED, rules: Mapping[str, Keep] = NO_RULES) -> AuditPolicy:
    contents = tuple(ContentRule(path=parse_json_path(path), keep=kept) for path, kept in rules.items())
    return AuditPolicy(namespace="demo", mode=mode, argument_rules=ContentRules(keep=keep, rules=contents))


def state(**policies: AuditPolicy) -> State:
    world = State()
    world.state = replace(world.state, audit_policies=MappingProxyType(policies))
    return world


AGENT = Principal(kind=PrincipalKind.WORKLOAD, id="spiffe://a/w", provider="a", subject="spiffe://a/w", trusted_namespaces=("demo",))


# arguments


async def test_without_an_audit_policy_arguments_are_a_digest_and_kept_for_deciding_again() -> None:
    _, record = await decided(tool("update", {"amount": 5, "note": "s3cret"}, path=UPDATE))

    assert (record.arguments_json, record.arguments_kept) == ("", "hashed")
    assert record.arguments_digest.startswith("sha256:")
    assert record.replay is not None
    assert json.loads(record.replay.arguments_json) == {"amount": 5, "note": True}
    assert (record.replay.caller_address, record.replay.caller_era, record.replay.withheld) == ("10.0.0.9", "modern", ())


async def test_the_policy_of_the_namespace_says_what_is_kept() -> None:
    world = state(demo=policy(keep=Keep.FULL, rules={"$.note": Keep.REDACTED, "$.amount": Keep.OFF}))

    _, record = await decided(tool("update", {"amount": 5, "note": "s3cret", "id": 7}, path=UPDATE), world)

    assert json.loads(record.arguments_json) == {"note": {"$redacted": "string", "length": 6}, "id": 7}
    assert record.arguments_kept == "full"
    assert record.replay is not None
    assert (json.loads(record.replay.arguments_json), record.replay.withheld) == ({"note": True, "id": True}, ("amount",))


async def test_prompts_have_arguments_too_and_calls_without_any_say_nothing() -> None:
    world = state(system=policy(keep=Keep.FULL))

    _, prompt = await decided(message("prompts/get", {"name": "greet", "arguments": {"who": "Bob"}}, path=UPDATE), world)
    _, bare = await decided(message("tools/list", path=UPDATE), world)

    assert (json.loads(prompt.arguments_json), prompt.arguments_kept) == ({"who": "Bob"}, "full")
    assert prompt.replay is not None
    assert prompt.replay.arguments_json == ""
    assert (bare.arguments_json, bare.arguments_digest, bare.arguments_kept) == ("", "", "")
    assert bare.replay is not None


async def test_behind_a_virtual_server_the_members_namespace_says_it_about_what_the_member_gets() -> None:
    rule = ContentRule(path=parse_json_path("$.tenant"), keep=Keep.FULL)
    world = state(demo=AuditPolicy(namespace="demo", argument_rules=ContentRules(keep=Keep.OFF, rules=(rule,))))

    _, outer = await decided(tool("change", {"amount": 5}), world)
    _, called = await decided(inner(tool("update", {"amount": 5, "tenant": "acme"})), world)

    assert json.loads(outer.arguments_json) == json.loads(called.arguments_json) == {"tenant": "acme"}
    assert called.replay is not None
    assert (called.replay.caller_address, called.replay.caller_era) == ("10.0.0.9", "modern")


async def test_who_was_refused_before_policies_were_asked_has_nothing_to_replay() -> None:
    _, stranger = await decided(tool("update", {"amount": 5}, path=UPDATE, headers={"authorization": []}))
    _, denied = await decided(tool("private", {"amount": 5}, path="/servers/demo/secret/mcp"))

    assert stranger.replay is None
    assert denied.decision is AuditDecision.DENY
    assert denied.replay is not None


async def test_what_policies_read_of_a_caller_can_be_read_from_the_record() -> None:
    world = State()
    world.principal = replace(
        world.principal,
        attributes=("okta/department=sales",),
        groups=("okta/all",),
        labels=(("project", "p1"), ("team", "crm")),
        by_certificate=True,
        issued_at_unix=1_700_000_000.5,
        trusted_namespaces=("demo", "other"),
        workload=Principal(
            kind=PrincipalKind.WORKLOAD, id="spiffe://a/w", provider="a", subject="spiffe://a/w", trusted_namespaces=("demo",)
        ),
    )

    _, record = await decided(tool("update", {"amount": 5, "tenant": "acme"}, path=UPDATE), world)

    found = pb.AuditRecord.FromString(encode_record(record, writer_id="w", sequence=1))
    replay = found.replay
    assert (list(replay.attributes), list(replay.scopes), replay.issuer) == (
        ["okta/department=sales"],
        ["crm:write"],
        "https://okta.example",
    )
    assert (replay.mtls, replay.by_certificate, replay.issued_at_unix, list(replay.trusted_namespaces)) == (
        True,
        True,
        1_700_000_000.5,
        ["demo"],
    )
    assert {label.name: label.value for label in found.labels} == {"project": "p1", "team": "crm"}
    assert found.workload.id == "spiffe://a/w"


async def test_a_policy_that_reads_names_sees_the_same_names_when_it_decides_again() -> None:
    """An argument that could be taken for one that a policy reads is refused, and has to be refused again."""
    world = State(virtual_world.PERMITS, virtual_world.LIMIT)

    decision, record = await decided(tool("update", {"amount": 5, "Tenant": "evil"}, path=UPDATE), world)

    assert decision.passage is None
    assert record.reason == "policy_evaluation_error"
    assert record.replay is not None
    again, _ = await decided(tool("update", json.loads(record.replay.arguments_json), path=UPDATE), world)
    assert again.reason is decision.reason


# no record


class Recording:
    """A decider with a real log on a directory of the test's."""

    def __init__(self, directory: Path, world: State) -> None:
        self.private_key, sealing_key = sealing_pair()
        self.directory = directory
        self.log = AuditLog(directory=directory, writer_id="a-1", segment_bytes=1, sealing_key=lambda: sealing_key)
        self.log.open()
        self.losses = Losses(self.log, self.log)
        self._decider = Decider(
            state=world,
            door=Door(gateway_url="https://gw.example"),
            credentials=Credentials([("authorization", "of-upstream")]),
            audit=self.losses,
            timeout_ms=60_000,
        )

    async def call(self, name: str = "search", path: str = UPDATE) -> Decision:
        return await self._decider.decide(tool(name, {}, path=path))

    def records(self) -> list[pb.AuditRecord]:
        return written_log(self.directory).records(self.private_key)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, check=False).returncode
    ):
        pytest.skip("no small disk can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


OPEN = McpServer(
    uid="uid-open", namespace="open", name="crm", cluster="mcp-open", path="/mcp", tools=MappingProxyType({"search": Tool(name="search")})
)
PERMIT_OPEN = 'permit (principal, action, resource in Namespace::"open");'


def two_namespaces() -> State:
    servers = {**SERVERS, OPEN.id: OPEN}
    world = State(servers=servers)
    documents = [PolicyDocument(namespace="demo", name="p", cedar=virtual_world.PERMITS)]
    documents.append(PolicyDocument(namespace="open", name="p", cedar=PERMIT_OPEN))
    engine = CedarEngine.build(documents, (), servers)
    world.state = replace(world.state, policy=engine, audit_policies=MappingProxyType({"open": policy(AVAILABLE)}))
    return world


async def test_on_a_full_disk_strict_calls_are_refused_in_clear_words_and_available_ones_go_on_and_are_told(small_disk: Path) -> None:
    recording = Recording(small_disk / "audit", two_namespaces())
    assert (await recording.call()).passage is not None
    filler = small_disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=512"], capture_output=True, check=False)  # noqa: ASYNC221

    strict = await recording.call()
    available = [await recording.call(path="/servers/open/crm/mcp") for _ in range(3)]

    assert strict.passage is None
    assert strict.answer is not None
    told = json.loads(strict.answer.body)["error"]
    assert (strict.answer.status, told["code"], told["data"]["reason"]) == (503, 50301, "audit_unavailable")
    assert told["message"] == "The decision could not be recorded, so the call is not made."
    assert all(decision.passage is not None for decision in available)
    assert (recording.losses.lost, recording.losses.refused) == (3, 1)

    filler.unlink()
    assert (await recording.call()).passage is not None
    await recording.losses.flush()
    recording.log.close()
    records = recording.records()
    alarms = {message.reason: message for message in records if message.event == pb.AUDIT_EVENT_ALARM}
    assert (alarms["record_lost"].namespace, alarms["record_lost"].alarm.lost) == ("open", 3)
    assert (alarms["refused_unrecorded"].namespace, alarms["refused_unrecorded"].alarm.lost) == ("demo", 1)
    assert [m.decision for m in records if m.event == pb.AUDIT_EVENT_TOOL_CALL] == [pb.AUDIT_DECISION_ALLOW] * 2


async def test_an_available_namespace_is_recorded_like_any_other_while_it_can_be(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "audit", two_namespaces())

    decision = await recording.call(path="/servers/open/crm/mcp")
    recording.log.close()

    (record,) = recording.records()
    assert (record.decision_id, record.namespace, record.principal.id) == (decision.decision_id, "open", "okta/ann")


@pytest.mark.parametrize(
    ("path", "name", "policies", "needed"),
    [
        (UPDATE, "search", {}, True),
        (UPDATE, "search", {"demo": policy(AVAILABLE)}, False),
        (UPDATE, "search", {"system": policy(AVAILABLE)}, False),
        (UPDATE, "search", {"system": policy(AVAILABLE), "demo": policy()}, True),
        ("/virtual/desks/desk/mcp", "open", {"desks": policy(AVAILABLE), "demo": policy(AVAILABLE)}, False),
        ("/virtual/desks/desk/mcp", "open", {"desks": policy(AVAILABLE), "demo": policy()}, True),
        ("/virtual/desks/desk/mcp", "open", {"desks": policy(), "demo": policy(AVAILABLE)}, True),
        ("/servers/absent/absent/mcp", "search", {"system": policy(AVAILABLE)}, False),
    ],
)
async def test_a_record_is_needed_where_one_namespace_says_so(path: str, name: str, policies: dict[str, AuditPolicy], needed: bool) -> None:
    world = state(**policies)
    desk = replace(virtual_world.DESK, namespace="desks")
    world.state = replace(world.state, virtual_servers={desk.id: desk})

    _, record = await decided(tool(name, path=path), world)

    assert record.needed is needed
    if path.startswith("/virtual"):
        assert record.mcp_server == FILES.name


async def test_before_the_first_revision_every_record_is_needed() -> None:
    class Unloaded(State):
        def current(self) -> None:  # type: ignore[override]
            return None

    _, record = await decided(tool("search", path=UPDATE), Unloaded())

    assert record.needed


async def test_arguments_that_cannot_be_described_are_no_reason_to_let_a_call_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr("extauthz.decision.describe_content", fails)

    decision, record = await decided(tool("search", {"a": 1}, path=UPDATE))

    assert decision.passage is None
    assert (record.reason, record.decision) == ("internal_error", AuditDecision.ERROR)


def test_the_fields_of_a_record_all_reach_the_file() -> None:
    """Whatever field `AuditRecord` has stands in the message under the same name."""
    message_fields = {field.name for field in pb.AuditRecord.DESCRIPTOR.fields}
    elsewhere = {"principal", "roles", "workload_roles", "server", "needed", "event", "decision"}
    nested = {"replay", "outcome", "change", "alarm", "shadow", "result"}
    values: dict[type, object] = {str: "x", int: 7, bool: True, tuple: ("x",)}
    record = AuditRecord(decision_id="d", at_unix_us=1)
    plain = [name for name in record.__slots__ if name not in elsewhere | nested]
    for name in plain:
        setattr(record, name, values[type(getattr(record, name))])

    written = pb.AuditRecord.FromString(encode_record(record, writer_id="w", sequence=1))

    assert set(plain) <= message_fields
    assert {field.name for field, _ in written.ListFields()} == {*plain, "event", "decision", "writer_id", "sequence"}
