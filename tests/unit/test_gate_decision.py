"""Each guard of the door, of the steps of a decision and of its answers by itself. `make mutate-gate` takes them away."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence

import pytest

from extauthz import answer
from extauthz.audit.record import AuditDecision, AuditRecord
from extauthz.door import Door
from extauthz.egress_context import EgressContext, sign_egress_context
from extauthz.errors import AuthenticationError, CredentialError, MessageError, Reason
from extauthz.identity.binding import Presentation
from extauthz.identity.principal import PROBER, Principal
from extauthz.identity.provider import IdentityProvider, TokenBinding
from extauthz.mcp.era import Era
from extauthz.policy.model import AuthorizationRequest, Evaluation
from tests.unit.test_decision import ANN, CRM, KEY, Audit, Credentials, Policies, State, body_of, call, decider

PATH = "/servers/demo/crm/mcp"
METADATA = "/.well-known/oauth-protected-resource"


# (0) the door

HERE = Door(gateway_url="https://GW.example:8443/", extra_hosts=("Other.example",), allowed_origins=("https://App.example",))
LOOPBACK = Door(gateway_url="http://localhost:8080")


def place(
    door: Door = HERE, *, listener: str = "ingress", method: str = "POST", path: str = PATH, host: str = "", origin: str | None = None
) -> object:
    """What the door says: a refusal, the id of the server, or None."""
    own = "gw.example:8443" if door is HERE else "localhost:8080"
    found = door.enter(listener, method, path, host or own, {} if origin is None else {"origin": [origin]})
    return None if found is None else found.refused or found.id


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/mcp", "/servers/demo/crm", "/servers/demo/crm/mcp/", "/servers/demo/crm/mcp/x", "/servers/demo/crm/mcpx", "x" + PATH,
        "//servers/demo/crm/mcp", "/servers/demo//mcp", "/servers/-a/crm/mcp", "/servers/demo/crm-/mcp", "/servers/Demo/crm/mcp",
        "/servers/demo/crm%2f/mcp", "/servers/demo/crm;x/mcp", "/servers/d\u0435mo/crm/mcp", f"/servers/{'a' * 64}/crm/mcp", PATH + "\n",
        PATH + "#x", f"{METADATA}x{PATH}", METADATA, f"/x{METADATA}{PATH}",
    ],
)  # fmt: skip
def test_a_path_that_is_not_exactly_one_server_names_none(path: str) -> None:
    assert place(path=path) is None


def test_a_path_names_its_server_and_its_metadata() -> None:
    assert place() == place(path=PATH + "?a=b") == "demo/crm"
    assert place(path=f"/servers/{'a' * 63}/b/mcp") == f"{'a' * 63}/b"
    found = [HERE.enter("ingress", "GET", path, "gw.example:8443", {}) for path in (PATH, METADATA + PATH)]
    assert [each and (each.metadata, each.resource_url) for each in found] == [
        (False, f"https://GW.example:8443{PATH}"),
        (True, f"https://GW.example:8443{PATH}"),
    ]


def test_only_methods_of_mcp_come_in_and_metadata_takes_any() -> None:
    assert place(method="GET") == place(method="DELETE") == place(method="POST") == "demo/crm"
    assert place(method="OPTIONS", path=METADATA + PATH) == "demo/crm"
    for method in ("PUT", "HEAD", "OPTIONS", "post", "PATCH", "TRACE"):
        with pytest.raises(MessageError) as refused:
            place(method=method)
        assert refused.value.status == 405


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("gw.example:8443", "demo/crm"), ("GW.example:8443", "demo/crm"), ("other.EXAMPLE", "demo/crm"),
        ("gw.example", Reason.HOST_REFUSED),
        ("gw.example:8444", Reason.HOST_REFUSED), ("x", Reason.HOST_REFUSED), ("localhost:8443", Reason.HOST_REFUSED),
        ("127.0.0.1", Reason.HOST_REFUSED), ("gw.example:8443.evil.example", Reason.HOST_REFUSED),
    ],
)  # fmt: skip
def test_a_host_is_one_of_ours(host: str, expected: object) -> None:
    assert place(host=host) == expected


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:65535", "[::1]:8080", "[::1]"])
def test_a_gateway_of_the_loopback_takes_every_name_of_it(host: str) -> None:
    assert place(LOOPBACK, host=host) == place(LOOPBACK, origin=f"http://{host}") == place(LOOPBACK, origin=f"https://{host}") == "demo/crm"
    for url in ("http://127.0.0.1:8080", "http://[::1]:8080"):
        assert place(Door(gateway_url=url), host=host) == "demo/crm"


@pytest.mark.parametrize("host", ["localhost.evil.example", "evil.example", "localhost:123456", "127.0.0.2", "x@localhost", "::1"])
def test_a_gateway_of_the_loopback_takes_no_other_name(host: str) -> None:
    assert place(LOOPBACK, host=host) is Reason.HOST_REFUSED
    assert place(LOOPBACK, origin=f"http://{host}") is Reason.ORIGIN_REFUSED


@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        ("https://gw.example:8443", True), ("HTTPS://APP.example", True), ("http://app.example", False), ("https://gw.example", False),
        ("null", False), ("", False), ("http://localhost", False), ("https://127.0.0.1:8443", False), ("https://app.example.evil", False),
    ],
)  # fmt: skip
def test_a_web_origin_is_allowed_by_name(origin: str, passes: bool) -> None:
    assert place(origin=origin) == ("demo/crm" if passes else Reason.ORIGIN_REFUSED)


def test_one_foreign_origin_among_several_is_one_too_many() -> None:
    found = HERE.enter("ingress", "POST", PATH, "gw.example:8443", {"origin": ["https://app.example", "https://evil.example"]})

    assert found is not None
    assert found.refused is Reason.ORIGIN_REFUSED
    assert place(LOOPBACK, origin="ftp://localhost") is place(LOOPBACK, origin="file://localhost") is Reason.ORIGIN_REFUSED


@pytest.mark.parametrize("query", ["access_token=x", "a=b&access_token=x", "ACCESS_TOKEN=x", "access%5Ftoken=x", "a=access_token"])
def test_a_token_in_the_query_is_no_token(query: str) -> None:
    assert place(path=f"{PATH}?{query}") is Reason.ACCESS_TOKEN_MISSING
    assert place(path=f"{PATH}?token=x") == "demo/crm"


def test_the_egress_listener_is_asked_by_ourselves() -> None:
    assert place(listener="egress", host="anything", origin="anything") == "demo/crm"


def test_a_partial_body_is_refused_whatever_the_header_says_but_false() -> None:
    for value in ("true", "", "TRUE", "False"):
        with pytest.raises(MessageError) as refused:
            HERE.refuse_partial({"x-envoy-auth-partial-body": [value]})
        assert refused.value.reason is Reason.BODY_INCOMPLETE
    HERE.refuse_partial({})
    HERE.refuse_partial({"x-envoy-auth-partial-body": ["false"]})


# answers


STATUS: Mapping[Reason, tuple[int, int]] = {
    Reason.ACCESS_TOKEN_MISSING: (401, 40100), Reason.ACCESS_TOKEN_INVALID: (401, 40100), Reason.ACCESS_TOKEN_EXPIRED: (401, 40100),
    Reason.AUDIENCE_MISMATCH: (401, 40100), Reason.ISSUER_UNKNOWN: (401, 40100), Reason.ISSUER_UNAVAILABLE: (503, 50300),
    Reason.TOKEN_BINDING_FAILED: (401, 40100), Reason.DPOP_PROOF_INVALID: (401, 40100), Reason.USE_DPOP_NONCE: (401, 40100),
    Reason.CLAIMS_ELSEWHERE: (401, 40100), Reason.REVOKED: (401, 40100), Reason.EGRESS_CONTEXT_INVALID: (401, 40100),
    Reason.SVID_INVALID: (401, 40100), Reason.SVID_EXPIRED: (401, 40100), Reason.TRUST_DOMAIN_UNKNOWN: (401, 40100),
    Reason.HOST_REFUSED: (421, 42100), Reason.ORIGIN_REFUSED: (403, 40301), Reason.BODY_TOO_LARGE: (413, 41300),
    Reason.BODY_INCOMPLETE: (413, 41300), Reason.SERVER_NOT_FOUND: (404, 40400), Reason.SERVER_SUSPENDED: (403, 40300),
    Reason.TOOL_UNKNOWN: (403, 40300), Reason.NO_MATCHING_PERMIT: (403, 40300), Reason.FORBIDDEN_BY_POLICY: (403, 40300),
    Reason.POLICY_EVALUATION_ERROR: (403, 40300), Reason.DEFINITION_HELD: (403, 40300),
    Reason.SESSION_UNKNOWN: (404, 40401), Reason.SESSION_EXPIRED: (404, 40401),
    Reason.SESSION_FOREIGN: (404, 40401), Reason.INSUFFICIENT_SCOPE: (403, 40302), Reason.NOT_READY: (503, 50300),
    Reason.REGISTRY_STALE: (503, 50300), Reason.UPSTREAM_CREDENTIAL_UNAVAILABLE: (502, 50201), Reason.AUDIT_UNAVAILABLE: (503, 50301),
    Reason.DECISION_TOO_LATE: (503, 50300), Reason.INTERNAL_ERROR: (503, 50300),
}  # fmt: skip
HIDDEN = {
    Reason.TOOL_UNKNOWN: Reason.NO_MATCHING_PERMIT,
    Reason.SESSION_EXPIRED: Reason.SESSION_UNKNOWN,
    Reason.SESSION_FOREIGN: Reason.SESSION_UNKNOWN,
}


def told(reason: Reason, era: Era | None = Era.MODERN, **changes: str) -> answer.Answer:
    values = {"id_json": '"q"', "decision_id": "d-1", "www_authenticate": "Bearer x", **changes}
    return answer.refusal(reason, era=era, **values)


def test_every_reason_that_is_told_stands_here() -> None:
    assert answer.TOLD.keys() == STATUS.keys()


@pytest.mark.parametrize("reason", STATUS)
def test_a_refusal_is_told_as_it_must_be(reason: Reason) -> None:
    status, code = STATUS[reason]

    given = told(reason)

    error = json.loads(given.body)["error"]
    headers = dict(given.headers)
    assert (given.status, error["code"], json.loads(given.body)["id"]) == (status, code, "q")
    assert error["data"] == {"reason": HIDDEN.get(reason, reason).value, "decision_id": "d-1"}
    assert ("d-1" in error["message"]) is (code == 40300)
    assert ("www-authenticate" in headers) is (status == 401 or reason is Reason.INSUFFICIENT_SCOPE)
    assert ("retry-after" in headers) is (status == 503)
    assert (headers["content-type"], headers["cache-control"], "dpop-nonce" in headers) == ("application/json", "no-store", False)
    assert told(reason, Era.LEGACY).status == (200 if code == 40300 else status)
    assert told(reason, None).status == status


def test_a_challenge_and_a_nonce_are_there_when_there_is_one() -> None:
    assert "www-authenticate" not in dict(told(Reason.ACCESS_TOKEN_MISSING, www_authenticate="").headers)
    assert dict(told(Reason.USE_DPOP_NONCE, dpop_nonce="n").headers)["dpop-nonce"] == "n"
    assert told(Reason.PARSE_ERROR).status == 503  # a reason that nobody has written an answer for


@pytest.mark.parametrize(("status", "allows"), [(405, True), (400, False)])
def test_what_is_malformed_is_told_with_its_id(status: int, allows: bool) -> None:
    given = answer.malformed(Reason.PARSE_ERROR, "no", status=status, code=-32700, id_json="7", decision_id="d", data={"a": 1})

    assert ("allow" in dict(given.headers)) is allows
    assert json.loads(given.body)["error"]["data"] == {"a": 1, "reason": "parse_error", "decision_id": "d"}


# the steps


class Answering(Policies):
    """Answers every question with one evaluation, after a while."""

    def __init__(self, reason: Reason, *, seconds: float = 0) -> None:
        super().__init__("update")
        self._reason, self._seconds = reason, seconds

    def evaluate(self, request: AuthorizationRequest) -> Evaluation:
        time.sleep(self._seconds)
        if self._reason is Reason.INTERNAL_ERROR:
            raise RuntimeError("bug")
        return Evaluation(allowed=self._reason is Reason.ALLOWED, reason=self._reason, errors=("why",))


@pytest.mark.parametrize(
    ("policies", "state", "credentials", "reason"),
    [
        (Policies(), {"loaded": False}, None, Reason.NOT_READY),
        (Policies(), {"stale": True}, None, Reason.REGISTRY_STALE),
        (Policies(), {"error": AuthenticationError(Reason.ISSUER_UNAVAILABLE, "down")}, None, Reason.ISSUER_UNAVAILABLE),
        (Answering(Reason.POLICY_EVALUATION_ERROR), {}, None, Reason.POLICY_EVALUATION_ERROR),
        (Answering(Reason.INTERNAL_ERROR), {}, None, Reason.INTERNAL_ERROR),
        (Answering(Reason.ALLOWED, seconds=0.3), {}, None, Reason.DECISION_TOO_LATE),
        (Policies("update"), {}, Credentials(error=CredentialError("no")), Reason.UPSTREAM_CREDENTIAL_UNAVAILABLE),
    ],
)
async def test_what_fails_is_on_the_record_as_a_failure(
    policies: Policies, state: dict[str, object], credentials: Credentials | None, reason: Reason
) -> None:
    audit = Audit()

    decision = await decider(
        policies,
        audit,
        state=State(policies, **state),  # type: ignore[arg-type]
        credentials=credentials,
        timeout_ms=250 if reason is Reason.DECISION_TOO_LATE else 60_000,
    ).decide(call())

    (record,) = audit.records
    assert (decision.passage, decision.reason, record.reason, record.decision) == (None, reason, reason.value, AuditDecision.ERROR)
    assert record.sentence
    assert decision.answer is not None
    assert record.http_status == decision.answer.status


async def test_what_is_too_late_at_the_end_is_no_call() -> None:
    policies, audit = Answering(Reason.ALLOWED, seconds=0.3), Audit()
    state = State(policies)
    without_credential = {"demo/crm": dataclasses.replace(CRM, credential=None)}
    state._state = dataclasses.replace(state._state, mcp_servers=without_credential)

    decision = await decider(policies, audit, state=state, timeout_ms=250).decide(call())

    assert (decision.passage, decision.reason) == (None, Reason.DECISION_TOO_LATE)
    assert audit.records[0].abandoned


async def test_who_goes_while_the_record_is_written_is_told_nothing() -> None:
    class Slow(Audit):
        begun = asyncio.Event()

        async def append(self, record: AuditRecord) -> None:
            await super().append(dataclasses.replace(record))
            if len(self.records) == 1:
                self.begun.set()
                await asyncio.sleep(60)

    audit = Slow()
    task = asyncio.create_task(decider(Policies("update"), audit).decide(call()))
    await audit.begun.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [(record.reason, record.abandoned) for record in audit.records] == [("allowed", False), ("decision_too_late", True)]


async def test_what_is_denied_or_allowed_is_on_the_record_as_that() -> None:
    for policies, expected in ((Policies(), AuditDecision.DENY), (Policies("update"), AuditDecision.ALLOW)):
        audit = Audit()
        decision = await decider(policies, audit).decide(call())
        (record,) = audit.records
        assert record.decision is expected
        assert (decision.passage is None) is (decision.answer is not None) is (expected is AuditDecision.DENY)
        assert (record.server, record.policy_engine, record.effect) == (CRM, "test", "write")
        assert record.http_status == (decision.answer.status if decision.answer is not None else 0)


def provider(name: str, **changes: object) -> IdentityProvider:
    values: dict[str, object] = {"id": name, "namespace": "system", "name": name, "issuer": f"https://{name}.example", **changes}
    return IdentityProvider(**values)  # type: ignore[arg-type]


PROVIDERS = (
    provider("all"),
    provider("demo", trusted_namespaces=("demo",)),
    provider("other", trusted_namespaces=("other",)),
    provider("operators", operators_only=True),
)


def knows_providers(*, loaded: bool = True) -> State:
    state = State(Policies(), loaded=loaded)
    state._state = dataclasses.replace(state._state, identity_providers=PROVIDERS)
    return state


@pytest.mark.parametrize("loaded", [True, False])
async def test_metadata_names_the_issuers_that_the_namespace_trusts_once_they_are_known(loaded: bool) -> None:
    asked = call(path=METADATA + PATH, http_method="GET", body=b"")

    decision = await decider(Policies(), Audit(), state=knows_providers(loaded=loaded)).decide(asked)

    assert decision.answer is not None
    assert json.loads(decision.answer.body).get("authorization_servers", []) == (
        ["https://all.example", "https://demo.example"] if loaded else []
    )


@pytest.mark.parametrize(
    ("authorization", "bindings", "scheme"),
    [
        ("Bearer x", (TokenBinding.NONE, TokenBinding.DPOP), "Bearer"),
        ("DPoP x", (TokenBinding.NONE,), "DPoP"),
        ("dpop x", (TokenBinding.NONE,), "DPoP"),
        ("", (TokenBinding.DPOP, TokenBinding.DPOP), "DPoP"),
        ("", (), "Bearer"),
    ],
)
async def test_a_challenge_is_of_the_kind_that_the_client_can_answer(
    authorization: str, bindings: Sequence[TokenBinding], scheme: str
) -> None:
    state = State(Policies(), error=AuthenticationError(Reason.ACCESS_TOKEN_INVALID, "no"))
    providers = tuple(provider(f"p{number}", token_binding=binding) for number, binding in enumerate(bindings))
    state._state = dataclasses.replace(state._state, identity_providers=providers)

    decision = await decider(Policies(), Audit(), state=state).decide(call(headers={"authorization": [authorization]}))

    assert decision.answer is not None
    assert dict(decision.answer.headers)["www-authenticate"].split(" ")[0] == scheme


@pytest.mark.parametrize("proofs", [[], ["a"], ["a", "b"]])
async def test_a_token_is_verified_with_everything_that_came_beside_it(proofs: list[str]) -> None:
    given: list[Presentation] = []

    class Watching(State):
        async def authenticate(
            self, authorization_headers: Sequence[str], *, resource_url: str, namespace: str, deadline: float, presentation: Presentation
        ) -> Principal:
            given.append(presentation)
            return ANN

    await decider(Policies("update"), Audit(), state=Watching(Policies("update"))).decide(call(headers={"dpop": proofs}))

    (presentation,) = given
    assert (presentation.http_method, presentation.url, list(presentation.proofs)) == ("POST", f"https://gw.example{PATH}", proofs)
    assert bool(presentation.nonces) is bool(proofs)


def test_a_challenge_names_the_scopes_of_the_call_or_those_to_begin_with() -> None:
    found = HERE.enter("ingress", "POST", PATH, "gw.example:8443", {})
    assert found is not None
    reason, providers = Reason.ACCESS_TOKEN_MISSING, (provider("a", scopes=("first",)),)

    assert 'scope="first"' in HERE.challenge(found, reason, providers)
    assert 'scope="second third"' in HERE.challenge(found, reason, providers, ("second", "third"))
    assert "scope" not in HERE.challenge(found, reason)
    assert HERE.challenge(found, reason, uses_dpop=True).startswith("DPoP")
    for changes in ({"operators_only": True}, {"trusted_namespaces": ("other",)}):  # of no account here
        others = (provider("dpop", token_binding=TokenBinding.DPOP), provider("a", **changes))
        assert HERE.challenge(found, reason, others).startswith("DPoP")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, Reason.ALLOWED),
        ({"mcp_server_id": ""}, Reason.EGRESS_CONTEXT_INVALID),  # for nothing in particular
        ({"mcp_server_id": "demo/other"}, Reason.EGRESS_CONTEXT_INVALID),
        ({"kind": "prober", "principal": PROBER}, Reason.NO_MATCHING_PERMIT),
        ({"kind": "prober"}, Reason.NO_MATCHING_PERMIT),  # whoever else it names
    ],
)
async def test_a_signed_context_says_who_calls_which_server(changes: dict[str, object], reason: Reason) -> None:
    values: dict[str, object] = {"decision_id": "outer", "principal": ANN, "mcp_server_id": "demo/crm", "revision": 1}
    context = EgressContext(**{**values, "expires_at_unix": time.time() + 60, **changes})  # type: ignore[arg-type]
    audit = Audit()

    decision = await decider(Policies("update"), audit).decide(
        call(listener="egress", headers={"legation-context": [sign_egress_context(context, KEY)]})
    )

    assert decision.reason is reason
    (record,) = audit.records
    if reason is not Reason.EGRESS_CONTEXT_INVALID:
        assert (record.parent_decision_id, record.principal) == ("outer", PROBER if context.kind == "prober" else ANN)


async def test_a_body_is_read_up_to_its_limit_and_not_beyond() -> None:
    honest = call().body
    for size, reason in ((2000, Reason.ALLOWED), (2001, Reason.BODY_TOO_LARGE)):
        decision = await decider(Policies("update"), Audit()).decide(call(body=honest + b" " * (size - len(honest))))
        assert decision.reason is reason
    for size, known in ((16 * 1024, True), (16 * 1024 + 1, False)):
        decision = await decider(Policies(visible=False), Audit()).decide(call(body=honest + b" " * (size - len(honest))))
        assert decision.reason is Reason.SERVER_NOT_FOUND
        assert body_of(decision)["id"] == ("q1" if known else None)


async def test_what_was_wrong_with_a_message_is_on_the_record_in_words() -> None:
    for body, request_id in ((b"{", ""), (b'{"jsonrpc":"2.0","id":7,"method":5}', "7")):
        audit = Audit()
        decision = await decider(Policies("update"), audit).decide(call(body=body))
        (record,) = audit.records
        assert record.request_id_json == request_id
        assert record.sentence == body_of(decision)["error"]["message"]  # type: ignore[index]
    assert audit.records[0].sentence == 'the member "method" must be a string'


async def test_who_must_prove_with_a_nonce_is_given_one() -> None:
    state = State(Policies(), error=AuthenticationError(Reason.USE_DPOP_NONCE, "no"))

    decision = await decider(Policies(), Audit(), state=state).decide(call())

    assert decision.answer is not None
    assert dict(decision.answer.headers)["dpop-nonce"]


async def test_why_nobody_was_authenticated_is_on_the_record_in_words() -> None:
    audit = Audit()

    await decider(Policies(), audit, state=State(Policies(), error=AuthenticationError(Reason.ISSUER_UNKNOWN, "of whom?"))).decide(call())

    assert audit.records[0].sentence == "of whom?"


async def test_the_limit_of_a_server_holds_for_the_prober_whom_no_policy_knows() -> None:
    context = EgressContext(
        decision_id="", principal=PROBER, mcp_server_id="demo/crm", revision=1, kind="prober", expires_at_unix=time.time() + 60
    )
    headers = {"legation-context": [sign_egress_context(context, KEY)]}
    listing = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'

    for size, reason in ((2000, Reason.ALLOWED), (2001, Reason.BODY_TOO_LARGE)):
        body = listing + b" " * (size - len(listing))
        decision = await decider(Policies(visible=False), Audit()).decide(call(listener="egress", headers=headers, body=body))
        assert decision.reason is reason


async def test_the_callers_token_is_not_asked_for_at_the_egress_nor_a_context_at_the_ingress() -> None:
    decision = await decider(Policies("update"), Audit()).decide(call(listener="egress"))

    assert decision.reason is Reason.EGRESS_CONTEXT_INVALID
    twice = call(listener="egress", headers={"legation-context": ["a", "b"]})
    assert (await decider(Policies("update"), Audit()).decide(twice)).reason is Reason.EGRESS_CONTEXT_INVALID
