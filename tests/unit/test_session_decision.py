"""What a decision makes of legacy sessions: opened for their owner, refused to everybody else, unknown to modern requests."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from extauthz.audit.draft import encode_record
from extauthz.audit.record import AuditRecord, record_to_json
from extauthz.check import check_response
from extauthz.check_input import CheckInput
from extauthz.decision import Decider, Decision
from extauthz.door import Door
from extauthz.egress_context import EgressContext, sign_egress_context
from extauthz.identity.principal import PROBER, Principal
from extauthz.session import BINDING_KEY, EndedSessions, bind_session, binding_from_text, seal_session, session_digest
from tests.unit.test_decision import ANN, CRM, KEY, Audit, Credentials, Policies, State, body_of, call
from tests.unit.test_session import ENVELOPE

NOW = 1_800_000_000.0


def sealed_for(principal: Principal = ANN, *, uid: str = "u1", listener: str = "ingress", at: float = NOW, key: Any = KEY) -> str:
    return seal_session(ENVELOPE, bind_session(principal, replace(CRM, uid=uid), listener), (key,), at)


def changed(sealed: str) -> str:
    """One character is another one."""
    return sealed[:40] + ("A" if sealed[40] != "A" else "B") + sealed[41:]


async def decided(check: CheckInput, *, max_age: int = 86_400) -> tuple[Decision, AuditRecord]:
    audit = Audit()
    decider = Decider(
        state=State(Policies("update", "read")),
        door=Door(gateway_url="https://gw.example"),
        credentials=Credentials(),
        audit=audit,
        timeout_ms=5000,
        session_max_age_seconds=max_age,
        clock=lambda: NOW,
    )
    decision = await decider.decide(check)
    (record,) = audit.records
    return decision, record


def with_session(*values: str, **changes: Any) -> CheckInput:
    return call(headers={"mcp-session-id": list(values)}, **changes)


def message(method: str, *, id_: object = 1, **headers: list[str]) -> CheckInput:
    body = {"jsonrpc": "2.0", "method": method, "params": {}} | ({"id": id_} if id_ is not None else {})
    return call(headers={name.replace("_", "-"): value for name, value in headers.items()}, body=json.dumps(body).encode())


async def test_the_owner_of_a_session_goes_on_with_it_at_its_endpoint_and_nowhere_else() -> None:
    sealed = sealed_for()

    decision, record = await decided(with_session(sealed))

    assert decision.passage is not None
    assert ("mcp-session-id", ENVELOPE) in decision.passage.set_headers
    assert "mcp-session-id" not in decision.passage.remove_headers
    assert not [name for name, _ in decision.passage.set_headers if "retry" in name]
    assert decision.passage.lane == "direct"
    assert record.session_digest == session_digest(sealed)


async def test_the_record_holds_a_digest_and_not_the_id() -> None:
    sealed = sealed_for()

    _, record = await decided(with_session(sealed))

    written = encode_record(record, writer_id="w", sequence=1)
    assert record_to_json(written)["session_digest"] == session_digest(sealed)
    assert sealed.encode() not in written
    assert ENVELOPE.encode() not in written


@pytest.mark.parametrize(
    ("session_id", "reason"),
    [
        ("0123456789abcdef0123456789abcdef", "session_unknown"),
        (ENVELOPE, "session_unknown"),
        ("", "session_unknown"),
        (changed(sealed_for()), "session_unknown"),
        (sealed_for(key=replace(KEY, key=b"y" * 32)), "session_unknown"),
        (sealed_for(at=NOW + 3600), "session_unknown"),
        (sealed_for(at=NOW - 601), "session_expired"),
        (sealed_for(replace(ANN, subject="bob")), "session_foreign"),
        (sealed_for(replace(ANN, oauth_client_id="other-client")), "session_foreign"),
        (sealed_for(uid="u0"), "session_foreign"),
        (sealed_for(PROBER), "session_foreign"),
        (sealed_for(listener="egress"), "session_foreign"),
    ],
    ids=["raw", "envelope", "empty", "forged", "other-key", "future", "expired", "caller", "client", "replaced", "prober", "listener"],
)
@pytest.mark.parametrize("http_method", ["POST", "GET", "DELETE"])
async def test_any_other_session_is_refused_in_the_same_words_and_the_record_says_why(
    session_id: str, reason: str, http_method: str
) -> None:
    bodiless = {} if http_method == "POST" else {"http_method": http_method, "body": b""}

    decision, record = await decided(with_session(session_id, **bodiless), max_age=600)

    assert decision.passage is None
    assert decision.answer is not None
    assert decision.answer.status == 404
    body = body_of(decision)
    error = body["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["data"]["reason"]) == (40401, "session_unknown")
    assert error["message"] == "This session is unknown here or has ended. Start a new one with initialize."
    assert body["id"] == ("q1" if http_method == "POST" else None)
    assert (record.reason, record.http_status) == (reason, 404)
    assert record.session_digest == session_digest(session_id)


async def test_two_session_headers_are_refused() -> None:
    decision, record = await decided(with_session(sealed_for(), sealed_for()))

    assert decision.passage is None
    assert record.reason == "header_repeated"


async def test_a_denial_comes_before_the_session() -> None:
    """Who may not call learns nothing about sessions."""
    _, record = await decided(call("delete_all", headers={"mcp-session-id": ["0123"]}))

    assert record.reason == "tool_unknown"


async def test_a_modern_request_has_no_session_whatever_it_says() -> None:
    for value in (sealed_for(), "raw"):
        decision, record = await decided(call(modern=True, headers={"mcp-session-id": [value]}))

        assert decision.passage is not None
        assert "mcp-session-id" in decision.passage.remove_headers
        assert "mcp-session-id" not in dict(decision.passage.set_headers)
        assert (decision.passage.session_binding, decision.passage.lane, record.session_digest) == ("", "direct", "")


async def test_initialize_takes_the_lane_that_seals_and_says_for_whom() -> None:
    decision, record = await decided(message("initialize"))

    assert decision.passage is not None
    assert (decision.passage.lane, record.lane) == ("inspect", "inspect")
    assert binding_from_text(decision.passage.session_binding) == bind_session(ANN, CRM, "ingress")
    metadata = check_response(decision).dynamic_metadata.fields
    assert metadata[BINDING_KEY].string_value == decision.passage.session_binding


async def test_only_initialize_may_open_a_session() -> None:
    for check, lane in (
        (call(), "direct"),
        (message("tools/list"), "aggregate"),
        (message("notifications/initialized", id_=None), "direct"),
        (with_session(sealed_for()), "direct"),
    ):
        decision, _ = await decided(check)

        assert decision.passage is not None
        assert (decision.passage.lane, decision.passage.session_binding) == (lane, "")
        assert BINDING_KEY not in check_response(decision).dynamic_metadata.fields


async def test_an_initialize_with_somebody_elses_session_is_refused_and_with_ones_own_stays_in_it() -> None:
    """Fixation: the id that a server sees is one that was made here for this caller, or none."""
    refused, record = await decided(message("initialize", mcp_session_id=["chosen-by-the-attacker"]))
    kept, _ = await decided(message("initialize", mcp_session_id=[sealed_for()]))

    assert (refused.passage, record.reason) == (None, "session_unknown")
    assert kept.passage is not None
    assert ("mcp-session-id", ENVELOPE) in kept.passage.set_headers
    assert kept.passage.lane == "inspect"


async def test_a_stream_of_a_session_goes_to_its_endpoint() -> None:
    decision, _ = await decided(with_session(sealed_for(), http_method="GET", body=b""))

    assert decision.passage is not None
    assert decision.passage.lane == "stream"
    assert ("mcp-session-id", ENVELOPE) in decision.passage.set_headers


async def test_a_legacy_request_without_a_session_passes_as_before() -> None:
    decision, record = await decided(call())

    assert decision.passage is not None
    assert "mcp-session-id" not in {*dict(decision.passage.set_headers), *decision.passage.remove_headers}
    assert record.session_digest == ""


async def test_the_prober_has_sessions_of_its_own() -> None:
    context = EgressContext(
        decision_id="probe-1", principal=PROBER, mcp_server_id="demo/crm", revision=42, expires_at_unix=NOW + 30, kind="prober"
    )
    signed = {"legation_context": [sign_egress_context(context, KEY)]}
    own, foreign = sealed_for(PROBER, listener="egress"), sealed_for(ANN, listener="egress")

    opening, _ = await decided(replace(message("initialize", **signed), listener="egress"))
    going_on, _ = await decided(replace(message("tools/list", **signed, mcp_session_id=[own]), listener="egress"))
    refused, record = await decided(replace(message("tools/list", **signed, mcp_session_id=[foreign]), listener="egress"))

    assert opening.passage is not None
    assert binding_from_text(opening.passage.session_binding) == bind_session(PROBER, CRM, "egress")
    assert going_on.passage is not None
    assert ("mcp-session-id", ENVELOPE) in going_on.passage.set_headers
    assert (refused.passage, record.reason) == (None, "session_foreign")


async def test_a_session_that_its_client_has_ended_is_answered_no_more() -> None:
    """Lists are answered without its server, which would know."""
    decider = Decider(
        state=State(Policies("update", "read")),
        door=Door(gateway_url="https://gw.example"),
        credentials=Credentials(),
        audit=Audit(),
        timeout_ms=5000,
        clock=lambda: NOW,
    )
    ended, other = sealed_for(), sealed_for()

    delete = await decider.decide(with_session(ended, http_method="DELETE", body=b""))
    after = await decider.decide(message("tools/list", mcp_session_id=[ended]))
    of_other = await decider.decide(message("tools/list", mcp_session_id=[other]))

    assert delete.passage is not None
    assert after.answer is not None
    assert after.answer.status == 404
    assert of_other.passage is not None


def test_only_so_many_ended_sessions_are_remembered() -> None:
    ended = EndedSessions(most=2)
    for digest in ("a", "b", "c"):
        ended.add(digest)

    assert [digest in ended for digest in ("a", "b", "c")] == [False, True, True]
