"""The decision, step by step: it starts as a denial, and whatever happens is on the record."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MappingProxyType

import pytest

from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord
from extauthz.catalog.server import ArgumentType, Effect, McpServer, MirroredArgument, Secret, StaticHeader, Tool
from extauthz.check_input import CheckInput
from extauthz.decision import Decider, Decision
from extauthz.door import Door
from extauthz.egress_context import EgressContext, sign_egress_context
from extauthz.errors import AuditError, AuthenticationError, CredentialError, Reason
from extauthz.identity.binding import Presentation
from extauthz.identity.principal import PROBER, Principal, PrincipalKind
from extauthz.identity.revocation import Revocation, RevocationIndex, RevokedKind
from extauthz.mcp.headers import META_CAPABILITIES, META_VERSION
from extauthz.passage import MAX_STREAM_SECONDS
from extauthz.policy.model import Action, AuthorizationRequest, Evaluation
from extauthz.state import AuthorizationState, ContextKey

ANN = Principal(kind=PrincipalKind.USER, id="okta/ann", provider="okta", subject="ann", issuer="https://okta.example")
KEY = ContextKey(key_id="k1", key=b"x" * 32, not_before_unix=0, not_after_unix=2**40)
HEADER = StaticHeader(header="authorization", prefix="Bearer ", secret=Secret(value=b"upstream"))
COPIED = Tool(name="copied", mirrored=(MirroredArgument(header="mcp-param-note", path=("note",), type=ArgumentType.STRING),))
CRM = McpServer(
    uid="u1",
    credential=HEADER,
    namespace="demo",
    name="crm",
    cluster="mcp-u1",
    path="/mcp?tenant=7",
    max_body_bytes=2000,
    tools=MappingProxyType(
        {"update": Tool(name="update", effect=Effect.WRITE), "read": Tool(name="read", effect=Effect.READ), "copied": COPIED}
    ),
)


class Policies:
    """Permits what it is told to; sees servers unless told not to."""

    name = "test"

    def __init__(self, *permitted: str, visible: bool = True) -> None:
        self.permitted = permitted
        self.sees = visible
        self.asked: list[AuthorizationRequest] = []

    def roles_of(self, principal: Principal, namespace: str) -> tuple[str, ...]:
        return (f"{namespace}/marketing",)

    def visible(self, principal: Principal, mcp_server: McpServer) -> bool:
        return self.sees

    def evaluate(self, request: AuthorizationRequest) -> Evaluation:
        self.asked.append(request)
        if request.name in self.permitted:
            return Evaluation(allowed=True, reason=Reason.ALLOWED, determining_policies=("demo/may",))
        return Evaluation(allowed=False, reason=Reason.NO_MATCHING_PERMIT)

    explain = evaluate


class State:
    """A loaded state, or none; every token is Ann's unless `error` says otherwise."""

    def __init__(
        self,
        policies: Policies,
        *,
        loaded: bool = True,
        stale: bool = False,
        error: AuthenticationError | None = None,
        revocations: RevocationIndex | None = None,
        principal: Principal = ANN,
    ) -> None:
        self._principal = principal
        self._state = AuthorizationState(
            revision=42,
            mcp_servers={"demo/crm": CRM},
            policy=policies,
            identity_providers=(),
            context_keys=(KEY,),
            revocations=revocations or RevocationIndex(),
        )
        self._loaded, self._stale, self._error = loaded, stale, error

    def current(self) -> AuthorizationState | None:
        return self._state if self._loaded else None

    def stale(self) -> bool:
        return self._stale

    async def authenticate(
        self, authorization_headers: Sequence[str], *, resource_url: str, namespace: str, deadline: float, presentation: Presentation
    ) -> Principal:
        if self._error is not None:
            raise self._error
        if not authorization_headers:
            raise AuthenticationError(Reason.ACCESS_TOKEN_MISSING, "no token")
        return self._principal


class Credentials:
    def __init__(self, headers: list[tuple[str, str]] | None = None, error: CredentialError | None = None, wait: float = 0) -> None:
        self._headers, self._error, self._wait = headers or [], error, wait

    async def headers_for(self, mcp_server: McpServer, deadline: float) -> list[tuple[str, str]]:
        await asyncio.sleep(self._wait)
        if self._error:
            raise self._error
        return self._headers


class Audit:
    def __init__(self, *, broken: bool = False) -> None:
        self.records: list[AuditRecord] = []
        self._broken = broken

    async def append(self, record: AuditRecord) -> None:
        if self._broken:
            raise AuditError("disk full")
        self.records.append(record)


def decider(
    policies: Policies,
    audit: Audit,
    *,
    state: State | None = None,
    credentials: Credentials | None = None,
    timeout_ms: int = 60_000,
    clock: Callable[[], float] = time.time,
) -> Decider:
    return Decider(
        state=state or State(policies),
        door=Door(gateway_url="https://gw.example", allowed_origins=("https://app.example",)),
        credentials=credentials or Credentials(),
        audit=audit,
        timeout_ms=timeout_ms,
        clock=clock,
    )


def call(tool: str = "update", *, modern: bool = False, headers: dict[str, list[str]] | None = None, **changes: object) -> CheckInput:
    params: dict[str, object] = {"name": tool, "arguments": {"id": 7, "note": "s3cret-note"}}
    given = {"authorization": ["Bearer s3cret-token"], "content-type": ["application/json"]}
    if modern:
        params["_meta"] = {META_VERSION: "2026-07-28", META_CAPABILITIES: {}}
        given |= {"mcp-protocol-version": ["2026-07-28"], "mcp-method": ["tools/call"], "mcp-name": [tool]}
    body = json.dumps({"jsonrpc": "2.0", "id": "q1", "method": "tools/call", "params": params}).encode()
    values: dict[str, object] = {
        "listener": "ingress", "http_method": "POST", "path": "/servers/demo/crm/mcp", "host": "gw.example", "body": body,
        "headers": {**given, **(headers or {})}, "downstream_address": "10.0.0.9",
    }  # fmt: skip
    return CheckInput(**{**values, **changes})  # type: ignore[arg-type]


def body_of(decision: Decision) -> dict[str, object]:
    assert decision.answer is not None
    parsed = json.loads(decision.answer.body)
    assert isinstance(parsed, dict)
    return parsed


async def test_an_allowed_call_goes_to_the_registered_cluster_and_path_and_nowhere_else() -> None:
    audit = Audit()

    decision = await decider(Policies("update"), audit).decide(call(path="/servers/demo/crm/mcp?evil=1"))

    assert decision.answer is None
    assert decision.passage is not None
    assert (decision.passage.cluster, decision.passage.lane, decision.passage.path) == ("mcp-u1", "direct", "/mcp?tenant=7")
    (record,) = audit.records
    assert (record.decision, record.event, record.tool, record.principal) == (AuditDecision.ALLOW, AuditEvent.TOOL_CALL, "update", ANN)
    assert (record.revision, record.determining_policies, record.roles) == (42, ("demo/may",), ("demo/marketing",))


async def test_the_callers_token_never_goes_upstream() -> None:
    without = await decider(Policies("update"), Audit()).decide(call())
    replaced = await decider(Policies("update"), Audit(), credentials=Credentials([("authorization", "Bearer upstream")])).decide(call())

    assert without.passage is not None and replaced.passage is not None  # noqa: PT018
    assert "authorization" in without.passage.remove_headers
    assert ("authorization", "Bearer upstream") in replaced.passage.set_headers
    assert "authorization" not in replaced.passage.remove_headers


async def test_a_denied_call_is_still_on_the_record() -> None:
    audit = Audit()

    decision = await decider(Policies(), audit).decide(call())

    assert decision.passage is None
    (record,) = audit.records
    assert (record.decision, record.reason, record.tool) == (AuditDecision.DENY, "no_matching_permit", "update")
    assert record.arguments_digest.startswith("sha256:")


async def test_a_denial_is_a_json_rpc_error_with_the_id_403_for_modern_and_200_for_legacy_clients() -> None:
    policies = Policies()

    modern = await decider(policies, Audit()).decide(call(modern=True))
    legacy = await decider(policies, Audit()).decide(call())

    assert modern.answer is not None and legacy.answer is not None  # noqa: PT018
    assert (modern.answer.status, legacy.answer.status) == (403, 200)
    for decision in (modern, legacy):
        body = body_of(decision)
        assert body["id"] == "q1"
        assert body["error"]["code"] == 40300  # type: ignore[index]
        assert body["error"]["data"] == {"reason": "no_matching_permit", "decision_id": decision.decision_id}  # type: ignore[index]


async def test_an_unknown_tool_is_denied_and_not_named() -> None:
    unknown = await decider(Policies("dropp_table"), Audit()).decide(call("dropp_table"))
    denied = await decider(Policies(), Audit()).decide(call("update"))

    assert unknown.reason is Reason.TOOL_UNKNOWN
    assert "dropp_table" not in json.dumps(body_of(unknown))
    assert unknown.answer is not None and denied.answer is not None  # noqa: PT018
    assert unknown.answer.body.replace(unknown.decision_id, "") == denied.answer.body.replace(denied.decision_id, "")


async def test_a_forbid_stops_the_handshake_and_lists_too_which_need_no_permit() -> None:
    class Forbidding(Policies):
        def evaluate(self, request: AuthorizationRequest) -> Evaluation:
            if request.action is Action.TOOLS_LIST:
                return Evaluation(allowed=False, reason=Reason.FORBIDDEN_BY_POLICY, determining_policies=("demo/no",))
            return super().evaluate(request)

    listing = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
    ping = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()

    assert (await decider(Policies(), Audit()).decide(call(body=listing))).passage is not None
    assert (await decider(Forbidding(), Audit()).decide(call(body=ping))).passage is not None
    assert (await decider(Forbidding(), Audit()).decide(call(body=listing))).reason is Reason.FORBIDDEN_BY_POLICY


async def test_a_header_that_copies_an_argument_says_what_it_says_or_the_call_is_refused() -> None:
    audit = Audit()
    lying = {"mcp-param-note": ["another"]}

    honest = await decider(Policies("copied"), audit).decide(call("copied", modern=True, headers={"mcp-param-note": ["s3cret-note"]}))
    refused = [await decider(Policies("copied"), audit).decide(call("copied", modern=True, headers=given)) for given in (lying, {})]
    denied = await decider(Policies(), audit).decide(call("copied", modern=True, headers=lying))
    legacy = await decider(Policies("copied"), audit).decide(call("copied", headers=lying))

    assert honest.passage is not None
    assert [decision.reason for decision in refused] == [Reason.HEADER_MISMATCH] * 2
    assert [body_of(decision)["id"] for decision in refused] == ["q1"] * 2
    assert denied.reason is Reason.NO_MATCHING_PERMIT
    assert legacy.passage is not None
    assert "mcp-param-note" in legacy.passage.remove_headers


def task_request(method: str) -> CheckInput:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"taskId": "t"}}).encode()
    return call(body=body)


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel"])
async def test_a_task_needs_a_permit_of_its_own_since_nothing_shows_whose_it_is(method: str) -> None:
    audit, policies = Audit(), Policies("")

    denied = await decider(Policies("update"), audit).decide(task_request(method))
    permitted = await decider(policies, audit).decide(task_request(method))

    assert denied.reason is Reason.NO_MATCHING_PERMIT
    assert permitted.passage is not None
    assert [asked.action.value for asked in policies.asked] == ["tasks/get" if method == "tasks/result" else method]
    assert [record.method for record in audit.records] == [method, method]


async def test_unknown_and_invisible_servers_answer_the_same_404() -> None:
    unknown = await decider(Policies("update"), Audit()).decide(call(path="/servers/demo/nothing/mcp"))
    invisible = await decider(Policies("update", visible=False), Audit()).decide(call())

    assert unknown.answer is not None and invisible.answer is not None  # noqa: PT018
    assert unknown.answer.status == invisible.answer.status == 404
    assert unknown.answer.body.replace(unknown.decision_id, "") == invisible.answer.body.replace(invisible.decision_id, "")
    assert unknown.answer.headers == invisible.answer.headers


@pytest.mark.parametrize("path", ["/servers/demo/crm", "/servers/demo/crm/mcp/", "/servers/Demo/crm/mcp", "/servers//crm/mcp", "/x", "/"])
async def test_a_path_that_names_no_server_is_a_404_before_anything_else(path: str) -> None:
    decision = await decider(Policies("update"), Audit()).decide(call(path=path))

    assert decision.answer is not None
    assert decision.answer.status == 404


async def test_no_token_is_a_401_with_a_challenge_and_no_parse() -> None:
    audit = Audit()

    decision = await decider(Policies("update"), audit).decide(call(headers={"authorization": []}, body=b"{ not json"))

    assert decision.answer is not None
    assert decision.answer.status == 401
    challenge = dict(decision.answer.headers)["www-authenticate"]
    assert 'resource_metadata="https://gw.example/.well-known/oauth-protected-resource/servers/demo/crm/mcp"' in challenge
    assert body_of(decision)["id"] is None
    assert audit.records[0].principal is None


async def test_a_revoked_caller_is_a_401_on_the_record_by_name_at_both_listeners() -> None:
    audit = Audit()
    revoked = RevocationIndex([Revocation(id="system/ann-left", kind=RevokedKind.SUBJECT, revoked="okta/ann")])
    for_ann = {"legation-context": [sign_egress_context(_context_of(ANN), KEY)]}

    ingress = await decider(Policies("update"), audit, state=State(Policies("update"), revocations=revoked)).decide(call())
    egress = await decider(Policies("update"), audit, state=State(Policies("update"), revocations=revoked)).decide(
        call(listener="egress", headers=for_ann)
    )

    assert ingress.answer is not None
    assert ingress.answer.status == 401
    assert 'error="invalid_token"' in dict(ingress.answer.headers)["www-authenticate"]
    assert "ann-left" not in ingress.answer.body
    assert ingress.passage is egress.passage is None
    assert [(r.reason, r.revocation, r.principal) for r in audit.records] == [("revoked", "system/ann-left", ANN)] * 2


def _context_of(principal: Principal) -> EgressContext:
    return EgressContext(
        decision_id="d", principal=principal, mcp_server_id="demo/crm", revision=1, expires_at_unix=time.time() + 60, kind="call"
    )


async def test_metadata_is_the_same_for_servers_that_exist_and_that_do_not() -> None:
    prefix = "/.well-known/oauth-protected-resource"
    there = await decider(Policies(), Audit()).decide(call(http_method="GET", path=f"{prefix}/servers/demo/crm/mcp", body=b""))
    absent = await decider(Policies(), Audit()).decide(call(http_method="GET", path=f"{prefix}/servers/demo/none/mcp", body=b""))

    assert there.answer is not None and absent.answer is not None  # noqa: PT018
    assert (there.answer.status, absent.answer.status) == (200, 200)
    assert there.answer.body.replace("crm", "none") == absent.answer.body
    assert there.passage is None


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"host": "evil.example"}, 421, Reason.HOST_REFUSED),
        ({"headers": {"origin": ["https://evil.example"], "authorization": ["Bearer x"]}}, 403, Reason.ORIGIN_REFUSED),
        ({"headers": {"origin": ["null"], "authorization": ["Bearer x"]}}, 403, Reason.ORIGIN_REFUSED),
        ({"http_method": "PUT"}, 405, Reason.HTTP_METHOD_REFUSED),
        ({"body": b"x" * 2001}, 413, Reason.BODY_TOO_LARGE),
        ({"body": b"{"}, 400, Reason.PARSE_ERROR),
        ({"path": "/servers/demo/crm/mcp?access_token=x"}, 401, Reason.ACCESS_TOKEN_MISSING),
    ],
)
async def test_what_cannot_be_served_is_refused_and_recorded(changes: dict[str, object], status: int, reason: Reason) -> None:
    audit = Audit()

    decision = await decider(Policies("update"), audit).decide(call(**changes))  # type: ignore[arg-type]

    assert decision.answer is not None
    assert (decision.answer.status, decision.reason) == (status, reason)
    assert json.loads(decision.answer.body)["error"]["data"]["reason"] == reason.value
    assert audit.records[0].reason == reason.value


async def test_a_loopback_gateway_serves_loopback_names_only() -> None:
    door = Door(gateway_url="http://127.0.0.1:8080")

    def refused(host: str, origin: str = "") -> Reason | None:
        place = door.enter("ingress", "POST", "/servers/demo/crm/mcp", host, {"origin": [origin]} if origin else {})
        assert place is not None
        return place.refused

    assert refused("127.0.0.1:8080") is refused("localhost:9999") is refused("[::1]:1", "http://localhost:3000") is None
    assert refused("rebound.example:8080") is Reason.HOST_REFUSED
    assert refused("localhost.evil.example") is Reason.HOST_REFUSED
    assert refused("127.0.0.1:8080", "http://localhost.evil.example") is Reason.ORIGIN_REFUSED


async def test_without_a_record_there_is_no_call() -> None:
    decision = await decider(Policies("update"), Audit(broken=True)).decide(call())

    assert decision.passage is None
    assert decision.answer is not None
    assert (decision.answer.status, decision.reason) == (503, Reason.AUDIT_UNAVAILABLE)


@pytest.mark.parametrize(("loaded", "stale", "reason"), [(False, False, Reason.NOT_READY), (True, True, Reason.REGISTRY_STALE)])
async def test_without_a_fresh_registry_every_call_is_refused(loaded: bool, stale: bool, reason: Reason) -> None:
    policies = Policies("update")

    decision = await decider(policies, Audit(), state=State(policies, loaded=loaded, stale=stale)).decide(call())

    assert decision.answer is not None
    assert (decision.answer.status, decision.reason) == (503, reason)
    assert dict(decision.answer.headers)["retry-after"]


async def test_a_failure_inside_is_a_denial_on_the_record() -> None:
    class Failing(Policies):
        def evaluate(self, request: AuthorizationRequest) -> Evaluation:
            raise RuntimeError("bug with s3cret-token")

    audit = Audit()

    decision = await decider(Failing(), audit).decide(call())

    assert decision.passage is None
    assert decision.answer is not None
    assert (decision.answer.status, audit.records[0].decision) == (503, AuditDecision.ERROR)
    assert "s3cret" not in decision.answer.body


async def test_a_credential_that_cannot_be_had_is_a_502_and_late_ones_are_not_waited_for() -> None:
    failing = await decider(Policies("update"), Audit(), credentials=Credentials(error=CredentialError("no"))).decide(call())
    late = await decider(Policies("update"), Audit(), credentials=Credentials(wait=60), timeout_ms=1000).decide(call())

    for decision in (failing, late):
        assert decision.answer is not None
        assert (decision.answer.status, decision.reason) == (502, Reason.UPSTREAM_CREDENTIAL_UNAVAILABLE)


async def test_a_cancelled_check_is_recorded_as_abandoned() -> None:
    audit = Audit()
    task = asyncio.create_task(decider(Policies("update"), audit, credentials=Credentials(wait=5), timeout_ms=9000).decide(call()))
    await asyncio.sleep(0.05)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert audit.records[0].abandoned


async def test_a_decision_that_comes_too_late_is_no_call_and_says_so() -> None:
    class Slow(Policies):
        def evaluate(self, request: AuthorizationRequest) -> Evaluation:
            time.sleep(0.12)
            return super().evaluate(request)

    audit = Audit()

    decision = await decider(Slow("update"), audit, timeout_ms=100).decide(call())

    assert decision.passage is None
    assert (decision.reason, audit.records[0].abandoned) == (Reason.DECISION_TOO_LATE, True)


async def test_a_large_body_for_a_server_that_the_caller_cannot_see_is_not_even_parsed() -> None:
    audit = Audit()

    decision = await decider(Policies(visible=False), audit).decide(call(body=b"{" + b" " * 20_000))

    assert decision.reason is Reason.SERVER_NOT_FOUND
    assert audit.records[0].method == ""


async def test_a_body_that_envoy_cut_off_is_refused() -> None:
    decision = await decider(Policies("update"), Audit()).decide(call(headers={"x-envoy-auth-partial-body": ["true"]}))

    assert decision.answer is not None
    assert (decision.answer.status, decision.reason) == (413, Reason.BODY_INCOMPLETE)


async def test_no_secret_reaches_the_record() -> None:
    audit = Audit()
    await decider(Policies("update"), audit).decide(call(headers={"user-agent": ["sdk/1"]}))
    await decider(Policies(), audit).decide(call())

    for record in audit.records:
        assert "s3cret" not in repr(record)


async def test_a_legacy_call_loses_headers_that_only_modern_servers_may_trust() -> None:
    headers = {"mcp-method": ["tools/list"], "mcp-name": ["harmless"], "mcp-param-x": ["1"]}

    decision = await decider(Policies("update"), Audit()).decide(call(headers=headers))

    assert decision.passage is not None
    assert {"mcp-method", "mcp-name", "mcp-param-x"} <= set(decision.passage.remove_headers)


@pytest.mark.parametrize(
    ("seconds_left", "header"),
    [
        (30, "30000"),
        (0.0004, "1"),  # 0 would mean for ever
        (MAX_STREAM_SECONDS - 1, str((MAX_STREAM_SECONDS - 1) * 1000)),
        (MAX_STREAM_SECONDS, None),
        (31 * 86_400, None),
        (None, None),
    ],
)
async def test_a_stream_is_told_when_its_callers_token_ends(seconds_left: float | None, header: str | None) -> None:
    now, policies = 1_800_000_000.0, Policies("update")
    ann = replace(ANN, expires_at_unix=0.0 if seconds_left is None else now + seconds_left)

    decision = await decider(policies, Audit(), state=State(policies, principal=ann), clock=lambda: now).decide(
        call(http_method="GET", body=b"")
    )

    assert decision.passage is not None
    assert dict(decision.passage.set_headers).get("x-envoy-upstream-rq-timeout-ms") == header
    assert decision.passage.of_one is (header is not None)


async def test_a_call_is_not_told_when_its_callers_token_ends() -> None:
    """It is answered like every other call of the tool, from memory, and is not cut off while it does something."""
    policies = Policies("read")
    state = State(policies, principal=replace(ANN, expires_at_unix=time.time() + 3))

    decision = await decider(policies, Audit(), state=state).decide(call("read"))

    assert decision.passage is not None
    assert "x-envoy-upstream-rq-timeout-ms" not in dict(decision.passage.set_headers)
    assert not decision.passage.of_one


async def test_a_stream_goes_to_its_own_lane_and_only_safe_calls_are_retried() -> None:
    stream = await decider(Policies("update"), Audit()).decide(call(http_method="GET", body=b""))
    write = await decider(Policies("update"), Audit()).decide(call("update"))
    read = await decider(Policies("read"), Audit()).decide(call("read"))

    assert stream.passage is not None and write.passage is not None and read.passage is not None  # noqa: PT018
    assert stream.passage.lane == "stream"
    assert dict(write.passage.set_headers)["x-envoy-retry-on"] == "connect-failure,refused-stream"
    assert dict(read.passage.set_headers)["x-envoy-retry-on"] == "connect-failure,refused-stream,reset"


def prober_context(**changes: object) -> dict[str, list[str]]:
    values: dict[str, object] = {
        "decision_id": "", "principal": PROBER, "mcp_server_id": "demo/crm", "revision": 1, "kind": "prober",
        "expires_at_unix": time.time() + 60,
    }  # fmt: skip
    return {"legation-context": [sign_egress_context(EgressContext(**{**values, **changes}), KEY)]}  # type: ignore[arg-type]


async def test_the_prober_reads_lists_through_egress_and_calls_nothing() -> None:
    lists = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
    policies = Policies("update")

    read = await decider(policies, Audit()).decide(call(listener="egress", headers=prober_context(), body=lists))
    called = await decider(policies, Audit()).decide(call(listener="egress", headers=prober_context()))
    elsewhere = await decider(policies, Audit()).decide(call(listener="egress", headers=prober_context(mcp_server_id="demo/x"), body=lists))
    unsigned = await decider(policies, Audit()).decide(call(listener="egress", body=lists))

    assert read.passage is not None
    assert "legation-context" in read.passage.remove_headers
    assert called.passage is elsewhere.passage is unsigned.passage is None
    assert policies.asked == []  # the prober is no subject of policies


async def test_a_signed_context_means_nothing_at_the_ingress() -> None:
    decision = await decider(Policies("update"), Audit()).decide(call(headers={**prober_context(), "authorization": []}))

    assert decision.answer is not None
    assert decision.answer.status == 401


async def test_a_decision_has_no_truth_value() -> None:
    decision = await decider(Policies(), Audit()).decide(call())

    with pytest.raises(TypeError):
        bool(decision)
