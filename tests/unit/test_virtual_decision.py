"""Decisions about virtual servers: raw requests to a real decider with real policies, from both sides of an aggregator."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest

from extauthz.audit.record import AuditEvent, AuditRecord
from extauthz.catalog.server import ArgumentType, Effect, McpServer, MirroredArgument, RequiredScopes, Secret, StaticHeader, Tool
from extauthz.catalog.virtual import DefinitionKind, Exposed, Member, Mode, VirtualServer
from extauthz.check_input import CheckInput
from extauthz.decision import Decider, Decision
from extauthz.door import Door
from extauthz.egress_context import EgressContext, sign_egress_context, verify_egress_context
from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.principal import PROBER, Principal, PrincipalKind
from extauthz.identity.revocation import Revocation, RevocationIndex, RevokedKind
from extauthz.mcp.headers import META_CAPABILITIES, META_VERSION
from extauthz.mcp.mapped import task_id_of
from extauthz.mcp.request import TASKS_EXTENSION
from extauthz.passage import AFFINITY_HEADER, AGGREGATOR_CLUSTER
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.model import PolicyDocument
from extauthz.session import bind_session, seal_session
from extauthz.state import AuthorizationState, ContextKey
from tests.unit.test_decision import Audit, Credentials

ANN = Principal(kind=PrincipalKind.USER, id="okta/ann", provider="okta", subject="ann", issuer="https://okta.example")
BOB = replace(ANN, id="okta/bob", subject="bob")
KEY = ContextKey(key_id="k1", key=b"x" * 32, not_before_unix=0, not_after_unix=2**40)
BOTH = frozenset({"modern", "legacy"})
HANDSHAKE: dict[str, object] = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
NOTE = MirroredArgument(header="mcp-param-note", path=("note",), type=ArgumentType.STRING)


def server(name: str, *tools: Tool, **changes: object) -> McpServer:
    values: dict[str, object] = {
        "uid": f"uid-{name}", "namespace": "demo", "name": name, "cluster": f"mcp-{name}", "path": "/own/path",
        "credential": StaticHeader(header="authorization", prefix="", secret=Secret(value=b"of-" + name.encode())),
        "eras": BOTH, "max_body_bytes": 4000, "timeout_ms": 7000,
    }  # fmt: skip
    return McpServer(**{**values, "tools": MappingProxyType({tool.name: tool for tool in tools}), **changes})  # type: ignore[arg-type]


CRM = server(
    "crm",
    Tool(name="search", effect=Effect.READ),
    Tool(name="update", effect=Effect.WRITE, arguments=MappingProxyType({"amount": ArgumentType.LONG, "tenant": ArgumentType.STRING})),
    Tool(name="copied", mirrored=(NOTE,)),
    Tool(name="changed", held=True),
    Tool(name="private"),
    required_scopes=RequiredScopes(effects=MappingProxyType({Effect.WRITE: ("crm:write",)})),
    prompts=frozenset({"greet"}),
)
OLD = server("old", Tool(name="query", effect=Effect.READ), eras=frozenset({"legacy"}), max_body_bytes=2000)
FILES = server("files", Tool(name="open"))
SECRET = server("secret", Tool(name="launch"))
SERVERS = {one.id: one for one in (CRM, OLD, FILES, SECRET)}


def exposed(kind: DefinitionKind, mcp_server: McpServer, own: str, name: str = "", **changes: object) -> Exposed:
    return Exposed(kind=kind, name=name or own, mcp_server_id=mcp_server.id, own_name=own, **changes)  # type: ignore[arg-type]


TOOL, PROMPT, RESOURCE, TEMPLATE = DefinitionKind


def virtual(*items: Exposed, name: str = "desk", **changes: object) -> VirtualServer:
    by_kind = {kind: MappingProxyType({item.name: item for item in items if item.kind is kind}) for kind in DefinitionKind}
    members = (
        Member(mcp_server_id=CRM.id),
        Member(mcp_server_id=OLD.id),
        Member(mcp_server_id=FILES.id, uri_prefix="m.demo.files+"),
        Member(mcp_server_id="demo/gone"),
    )
    values: dict[str, object] = {"uid": f"uid-{name}", "namespace": "demo", "name": name, "members": members, "items": by_kind}
    return VirtualServer(**{**values, **changes})  # type: ignore[arg-type]


ITEMS = (
    exposed(TOOL, CRM, "search"),
    exposed(TOOL, CRM, "update", "change", defaults=MappingProxyType({"tenant": "acme"}), hidden=frozenset({"tenant"})),
    exposed(TOOL, CRM, "copied"),
    exposed(TOOL, CRM, "changed"),
    exposed(TOOL, OLD, "query"),
    exposed(TOOL, FILES, "open"),
    exposed(TOOL, SECRET, "launch"),
    exposed(PROMPT, CRM, "greet"),
    exposed(RESOURCE, CRM, "crm://1"),
    exposed(TEMPLATE, CRM, "crm://contacts/{id}"),
    exposed(RESOURCE, FILES, "file:///a", "m.demo.files+file:///a"),
)
DESK = virtual(*ITEMS)
SEARCHED = virtual(*ITEMS, name="found", mode=Mode.SEARCH)
OTHER = virtual(exposed(TOOL, CRM, "search"), name="other", members=(Member(mcp_server_id=CRM.id),))
FRONTS = {one.id: one for one in (DESK, SEARCHED, OTHER)}

PERMITS = """
permit (principal == User::"okta/ann", action, resource in McpServer::"demo/crm");
permit (principal == User::"okta/ann", action, resource in McpServer::"demo/old");
permit (principal == User::"okta/ann", action, resource in McpServer::"demo/files");
permit (principal == User::"okta/carl", action == Action::"tools/call", resource == Tool::"demo/secret/launch");
"""
LIMIT = """
forbid (principal, action == Action::"tools/call", resource == Tool::"demo/crm/update")
when { context.arguments has tenant && context.arguments.tenant != "acme" };
"""


class State:
    def __init__(self, *policies: str, servers: Mapping[str, McpServer] = SERVERS, fronts: Mapping[str, VirtualServer] = FRONTS) -> None:
        documents = [PolicyDocument(namespace="demo", name=f"p{i}", cedar=cedar) for i, cedar in enumerate(policies or (PERMITS,))]
        self.principal = replace(ANN, scopes=("crm:write",))
        self.state = AuthorizationState(
            revision=42,
            mcp_servers=servers,
            virtual_servers=fronts,
            policy=CedarEngine.build(documents, (), servers),
            identity_providers=(),
            context_keys=(KEY,),
        )

    def current(self) -> AuthorizationState:
        return self.state

    def stale(self) -> bool:
        return False

    async def authenticate(self, authorization_headers: object, **_: object) -> Principal:
        if not authorization_headers:
            raise AuthenticationError(Reason.ACCESS_TOKEN_MISSING, "no token")
        return self.principal


async def decided(check: CheckInput, state: State | None = None) -> tuple[Decision, AuditRecord]:
    audit = Audit()
    decider = Decider(
        state=state or State(),  # type: ignore[arg-type]
        door=Door(gateway_url="https://gw.example"),
        credentials=Credentials([("authorization", "of-upstream")]),
        audit=audit,
        timeout_ms=60_000,
    )
    decision = await decider.decide(check)
    (record,) = audit.records
    return decision, record


def message(
    method: str, params: dict[str, object] | None = None, *, modern: bool = True, path: str = "/virtual/demo/desk/mcp", **changes: object
) -> CheckInput:
    params = dict(params or {})
    headers: dict[str, list[str]] = {"authorization": ["Bearer the-token-of-the-caller"], "content-type": ["application/json"]}
    if modern:
        meta = params.pop("_meta", {META_CAPABILITIES: {}})
        params["_meta"] = {META_VERSION: "2026-07-28", **meta}  # type: ignore[dict-item]
        headers |= {"mcp-protocol-version": ["2026-07-28"], "mcp-method": [method]}
        name = params.get("name") or params.get("uri") or params.get("taskId")
        if name and method in {"tools/call", "prompts/get", "resources/read", "tasks/get"}:
            headers["mcp-name"] = [str(name)]
    headers |= changes.pop("headers", {})  # type: ignore[operator]
    body = json.dumps({"jsonrpc": "2.0", "id": "q", "method": method, "params": params}).encode()
    values: dict[str, object] = {
        "listener": "ingress", "http_method": "POST", "path": path, "host": "gw.example", "headers": headers, "body": body,
        "downstream_address": "10.0.0.9",
    }  # fmt: skip
    return CheckInput(**{**values, **changes})  # type: ignore[arg-type]


def tool(name: str, arguments: dict[str, object] | None = None, **changes: object) -> CheckInput:
    return message("tools/call", {"name": name, **({"arguments": arguments} if arguments is not None else {})}, **changes)  # type: ignore[arg-type]


def inner(check: CheckInput, server_id: str = "demo/crm", **changes: object) -> CheckInput:
    """The same message as an aggregator sends it to a member."""
    values: dict[str, object] = {
        "decision_id": "outer", "principal": replace(ANN, scopes=("crm:write",)), "mcp_server_id": "", "virtual_server_id": "demo/desk",
        "revision": 41, "expires_at_unix": time.time() + 60, "caller_address": "10.0.0.9", "caller_era": "modern",
    }  # fmt: skip
    context = EgressContext(**{**values, **changes})  # type: ignore[arg-type]
    headers = {name: value for name, value in check.headers.items() if name != "authorization"}
    headers["legation-context"] = [sign_egress_context(context, KEY)]
    return replace(check, listener="egress", path=f"/servers/{server_id}/mcp", headers=headers)


def error_of(decision: Decision) -> dict[str, object]:
    assert decision.answer is not None
    found = json.loads(decision.answer.body)["error"]
    assert isinstance(found, dict)
    return found


# which way


async def test_an_unchanged_tool_goes_straight_to_a_modern_member_with_its_credential() -> None:
    decision, record = await decided(tool("search", {"text": "x"}))

    assert decision.passage is not None
    assert (decision.passage.cluster, decision.passage.lane, decision.passage.path) == ("mcp-crm", "direct", "/own/path")
    assert ("authorization", "of-upstream") in decision.passage.set_headers
    assert not [name for name, _ in decision.passage.set_headers if name.startswith("legation")]
    assert (record.namespace, record.mcp_server, record.tool, record.event) == ("demo", "crm", "search", AuditEvent.TOOL_CALL)
    assert (record.virtual_server, record.exposed_name) == ("demo/desk", "search")
    assert record.server is CRM


@pytest.mark.parametrize(
    "check",
    [
        tool("search", modern=False),  # the client is of the other era
        tool("query"),  # the member is
        tool("change", {"amount": 1}),  # renamed
        tool("open"),  # its answer may name resources, which have a prefix here
        message("tools/call", {"name": "search", "_meta": {META_CAPABILITIES: {"extensions": {TASKS_EXTENSION: {}}}}}),
        message("resources/read", {"uri": "m.demo.files+file:///a"}),
        message("completion/complete", {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "a", "value": "b"}}),
        message("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["crm://1"]}}),
        message("tools/list"),
        message("server/discover"),
        message("initialize", HANDSHAKE, modern=False),
        message("ping", modern=False),
        message("tools/list", path="/servers/demo/crm/mcp"),
        message("resources/templates/list", path="/servers/demo/crm/mcp", modern=False),
        tool("query", path="/servers/demo/old/mcp"),  # a server that does not speak the client's era
        message("server/discover", path="/servers/demo/old/mcp"),
    ],
)  # fmt: skip
async def test_everything_else_goes_to_an_aggregator_which_is_told_who_asks(check: CheckInput) -> None:
    decision, record = await decided(replace(check, path=check.path + "?x=1"))

    assert decision.passage is not None
    assert (decision.passage.cluster, decision.passage.lane, decision.passage.path) == (AGGREGATOR_CLUSTER, "aggregate", check.path)
    headers = dict(decision.passage.set_headers)
    context = verify_egress_context(headers["legation-context"], (KEY,), time.time())
    assert (context.kind, context.decision_id, context.revision) == ("call", record.decision_id, 42)
    assert (context.principal.id, context.caller_address) == ("okta/ann", "10.0.0.9")
    assert context.caller_era == ("modern" if "mcp-protocol-version" in check.headers else "legacy")
    own = check.path.removeprefix("/servers/").removesuffix("/mcp")
    assert (context.mcp_server_id, context.virtual_server_id) == ((own, "") if check.path.startswith("/servers/") else ("", "demo/desk"))
    assert len(headers[AFFINITY_HEADER]) == 64
    assert "authorization" in decision.passage.remove_headers
    assert "of-upstream" not in headers.values()
    assert decision.passage.of_one


async def test_a_prompt_and_a_resource_of_a_modern_member_go_straight() -> None:
    for check in (message("prompts/get", {"name": "greet"}), message("resources/read", {"uri": "crm://contacts/7"})):
        decision, record = await decided(check)

        assert decision.passage is not None
        assert (decision.passage.cluster, record.mcp_server) == ("mcp-crm", "crm")


async def test_a_server_that_speaks_the_clients_era_is_reached_as_ever() -> None:
    for check in (tool("search", path="/servers/demo/crm/mcp"), tool("query", path="/servers/demo/old/mcp", modern=False)):
        decision, _ = await decided(check)

        assert decision.passage is not None
        assert decision.passage.lane == "direct"


async def test_a_server_whose_bridge_is_off_or_whose_eras_are_not_known_is_reached_as_ever() -> None:
    for changes in ({"bridged": False}, {"eras": frozenset()}):
        state = State(servers={**SERVERS, OLD.id: replace(OLD, **changes)})  # type: ignore[arg-type]
        decision, _ = await decided(tool("query", path="/servers/demo/old/mcp"), state)

        assert decision.passage is not None
        assert decision.passage.cluster == "mcp-old"


async def test_callers_meet_the_same_aggregator_with_every_token_and_others_another() -> None:
    state, affinities = State(), []
    for principal in (ANN, replace(ANN, access_token_id="t2", expires_at_unix=time.time() + 900), BOB):
        state.principal = principal
        decision, _ = await decided(message("tools/list"), state)
        affinities.append(dict(decision.passage.set_headers)[AFFINITY_HEADER] if decision.passage else "")

    assert affinities[0] == affinities[1] != ""
    assert affinities[2] == ""  # Bob sees nothing here


async def test_a_context_lives_no_longer_than_the_token() -> None:
    state = State()
    state.principal = replace(ANN, expires_at_unix=time.time() + 300)

    decision, _ = await decided(message("tools/list"), state)

    assert decision.passage is not None
    context = verify_egress_context(dict(decision.passage.set_headers)["legation-context"], (KEY,), time.time())
    assert context.expires_at_unix == state.principal.expires_at_unix


async def test_without_a_key_nobody_is_spoken_for() -> None:
    state = State()
    state.state = replace(state.state, context_keys=())

    decision, _ = await decided(message("tools/list"), state)

    assert decision.reason is Reason.NOT_READY


async def test_timeouts_are_those_of_the_member_and_only_what_changes_nothing_is_tried_again() -> None:
    called, _ = await decided(tool("change", {"amount": 1}))
    listed, _ = await decided(message("tools/list"))
    assert called.passage is not None and listed.passage is not None  # noqa: PT018

    assert dict(called.passage.set_headers)["x-envoy-upstream-rq-timeout-ms"] == "7000"
    assert dict(called.passage.set_headers)["x-envoy-retry-on"] == "connect-failure,refused-stream"
    assert "x-envoy-upstream-rq-timeout-ms" not in dict(listed.passage.set_headers)
    assert dict(listed.passage.set_headers)["x-envoy-retry-on"].endswith(",reset")


@pytest.mark.parametrize(
    ("check", "again"),
    [
        (message("prompts/list", path="/servers/demo/crm/mcp"), True),
        (message("resources/list", path="/servers/demo/crm/mcp"), True),
        (message("initialize", HANDSHAKE, modern=False), True),
        (message("ping", modern=False), True),
        (message("server/discover"), True),
        (tool("query"), True),  # it reads, as was accepted
        (tool("open"), False),
    ],
)
async def test_what_an_aggregator_answers_by_itself_and_what_only_reads_may_be_asked_again(check: CheckInput, again: bool) -> None:
    decision, _ = await decided(check)

    assert decision.passage is not None
    assert decision.passage.lane == "aggregate"
    assert dict(decision.passage.set_headers)["x-envoy-retry-on"].endswith(",reset") is again


# who and what


@pytest.mark.parametrize(
    "path",
    ["/virtual/demo/none/mcp", "/virtual/other/desk/mcp", "/virtual/demo/crm/mcp", "/servers/demo/desk/mcp", "/servers/demo/secret/mcp"],
)
async def test_what_does_not_exist_for_a_caller_is_one_and_the_same_404(path: str) -> None:
    decision, _ = await decided(message("tools/list", path=path))
    unseen = State()
    unseen.principal = BOB
    invisible, _ = await decided(message("tools/list"), unseen)

    assert decision.answer is not None and invisible.answer is not None  # noqa: PT018
    assert decision.reason is invisible.reason is Reason.SERVER_NOT_FOUND
    assert decision.answer.status == invisible.answer.status == 404
    assert error_of(decision)["message"] == error_of(invisible)["message"]


async def test_a_large_body_does_not_tell_whether_a_virtual_server_exists() -> None:
    large = message("tools/list").body + b" " * 20_000
    unseen = State()
    unseen.principal = BOB

    for check, state, reason in (
        (message("tools/list", body=large), State(), Reason.BODY_TOO_LARGE),
        (message("tools/list", body=large), unseen, Reason.SERVER_NOT_FOUND),
        (message("tools/list", body=large, path="/virtual/demo/none/mcp"), State(), Reason.SERVER_NOT_FOUND),
    ):
        decision, _ = await decided(check, state)
        assert decision.reason is reason


async def test_a_body_may_be_as_large_as_the_member_that_it_is_for_takes() -> None:
    for name, size, reason in (
        ("search", 4000, Reason.ALLOWED),
        ("search", 4001, Reason.BODY_TOO_LARGE),
        ("query", 2000, Reason.ALLOWED),
        ("query", 2001, Reason.BODY_TOO_LARGE),
    ):
        check = tool(name)
        decision, _ = await decided(replace(check, body=check.body + b" " * (size - len(check.body))))
        assert decision.reason is reason, (name, size)


async def test_the_metadata_of_a_virtual_server_names_its_own_url() -> None:
    decision, record = await decided(
        message("x", path="/.well-known/oauth-protected-resource/virtual/demo/desk/mcp", http_method="GET", body=b"")
    )

    assert decision.answer is not None
    assert json.loads(decision.answer.body)["resource"] == "https://gw.example/virtual/demo/desk/mcp"
    assert (record.virtual_server, record.mcp_server) == ("demo/desk", "")


async def test_a_challenge_leads_to_the_metadata_of_the_virtual_server() -> None:
    decision, _ = await decided(replace(message("tools/list"), headers={"content-type": ["application/json"]}))

    assert decision.answer is not None
    assert "/.well-known/oauth-protected-resource/virtual/demo/desk/mcp" in dict(decision.answer.headers)["www-authenticate"]


async def test_a_suspended_virtual_server_refuses_everything() -> None:
    decision, _ = await decided(tool("search"), State(fronts={DESK.id: replace(DESK, suspended=True)}))

    assert decision.reason is Reason.SERVER_SUSPENDED


# may they


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("update", Reason.TOOL_UNKNOWN),  # the own name of a tool that is renamed here
        ("private", Reason.TOOL_UNKNOWN),  # of the member, and not offered here
        ("launch", Reason.NO_MATCHING_PERMIT),  # offered, of a server that does not exist for this caller
        ("find_tool", Reason.TOOL_UNKNOWN),
        ("call_tool", Reason.TOOL_UNKNOWN),
        ("changed", Reason.DEFINITION_HELD),
        ("search", Reason.ALLOWED),
    ],
)
async def test_policies_decide_about_the_member_and_its_own_name(name: str, reason: Reason) -> None:
    decision, _ = await decided(tool(name))

    assert decision.reason is reason
    if reason in {Reason.TOOL_UNKNOWN, Reason.NO_MATCHING_PERMIT}:
        assert error_of(decision)["data"] == {"reason": "no_matching_permit", "decision_id": decision.decision_id}


async def test_what_waits_for_review_is_told_in_words() -> None:
    decision, _ = await decided(tool("changed", modern=False))

    assert decision.answer is not None
    assert (decision.answer.status, error_of(decision)["code"]) == (200, 40300)
    assert "review" in str(error_of(decision)["message"])


async def test_policies_see_the_arguments_that_the_member_gets() -> None:
    limit = LIMIT.replace('!= "acme"', '== "acme"')  # what nobody gives is filled in, and forbidden

    decision, record = await decided(tool("change", {"amount": 1}), State(PERMITS, limit))

    assert decision.reason is Reason.FORBIDDEN_BY_POLICY
    assert (record.tool, record.exposed_name) == ("update", "change")


@pytest.mark.parametrize("given", ["tenant", "TENANT", "Tenant", "ten\u200bant", "tena\u0274t", "t" * 300])
async def test_a_hidden_argument_is_nobodys_to_give(given: str) -> None:
    decision, _ = await decided(tool("change", {"amount": 1, given: "evil"}))

    assert (decision.reason is Reason.INVALID_PARAMS) is (given != "tena\u0274t")  # that letter is another one to every receiver
    if decision.reason is Reason.INVALID_PARAMS:
        assert error_of(decision)["code"] == -32602


async def test_scopes_of_the_member_count_and_lead_to_a_step_up() -> None:
    state = State()
    state.principal = ANN

    decision, _ = await decided(tool("change", {"amount": 1}), state)

    assert decision.reason is Reason.INSUFFICIENT_SCOPE
    assert decision.answer is not None
    assert 'scope="crm:write"' in dict(decision.answer.headers)["www-authenticate"]
    assert (await decided(tool("search"), state))[0].reason is Reason.ALLOWED


async def test_headers_that_copy_arguments_are_compared_with_what_the_client_wrote() -> None:
    lying, _ = await decided(tool("copied", {"note": "a"}, headers={"mcp-param-note": ["b"]}))
    honest, _ = await decided(tool("copied", {"note": "a"}, headers={"mcp-param-note": ["a"]}))

    assert (lying.reason, honest.reason) == (Reason.HEADER_MISMATCH, Reason.ALLOWED)


async def test_nobody_uses_a_member_of_a_namespace_that_does_not_trust_them() -> None:
    payroll = replace(CRM, namespace="acme", name="payroll", uid="uid-payroll")
    front = virtual(
        exposed(TOOL, payroll, "search"),
        exposed(TOOL, OLD, "query"),
        members=(Member(mcp_server_id=payroll.id), Member(mcp_server_id=OLD.id)),
    )
    state = State(PERMITS, servers={**SERVERS, payroll.id: payroll}, fronts={front.id: front})
    everywhere = PolicyDocument(namespace="acme", name="all", cedar="permit (principal, action, resource);")
    state.state = replace(
        state.state,
        policy=CedarEngine.build([everywhere, PolicyDocument(namespace="demo", name="p", cedar=PERMITS)], (), state.state.mcp_servers),
    )

    assert (await decided(tool("search"), state))[0].reason is Reason.ALLOWED
    state.principal = replace(ANN, trusted_namespaces=("demo",))
    assert (await decided(tool("search"), state))[0].reason is Reason.NO_MATCHING_PERMIT
    assert (await decided(tool("query"), state))[0].reason is Reason.ALLOWED


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("crm://1", Reason.ALLOWED),
        ("crm://contacts/5", Reason.ALLOWED),
        ("m.demo.files+file:///a", Reason.ALLOWED),
        ("crm://2", Reason.INVALID_PARAMS),
        ("file:///a", Reason.INVALID_PARAMS),
        ("m.demo.files+file:///b", Reason.INVALID_PARAMS),
        ("m.demo.files+crm://1", Reason.INVALID_PARAMS),
        ("m.demo.crm+crm://1", Reason.INVALID_PARAMS),
    ],
)
async def test_a_uri_is_of_the_member_that_offers_it(uri: str, reason: Reason) -> None:
    decision, record = await decided(message("resources/read", {"uri": uri}))

    assert decision.reason is reason
    if reason is Reason.ALLOWED:
        assert record.mcp_resource_uri == uri.removeprefix("m.demo.files+")
        assert record.exposed_name == uri


async def test_a_uri_that_is_nowhere_is_told_only_to_who_could_read_it() -> None:
    tools_only = State('permit (principal, action == Action::"tools/call", resource in McpServer::"demo/crm");')

    for state, reason in ((State(), Reason.INVALID_PARAMS), (tools_only, Reason.TOOL_UNKNOWN)):
        decision, _ = await decided(message("resources/read", {"uri": "crm://nowhere"}), state)
        assert decision.reason is reason
    existing, _ = await decided(message("resources/read", {"uri": "crm://1"}), tools_only)
    assert existing.reason is Reason.NO_MATCHING_PERMIT
    assert error_of(existing)["code"] == error_of(decision)["code"] == 40300


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (task_id_of("demo/crm", "t1"), Reason.ALLOWED),
        (task_id_of("demo/secret", "t1"), Reason.TOOL_UNKNOWN),  # no member
        (task_id_of("demo/gone", "t1"), Reason.NO_MATCHING_PERMIT),  # a member that was removed
        ("t1", Reason.TOOL_UNKNOWN),
    ],
)
async def test_a_task_is_of_the_member_that_its_id_names(task: str, reason: Reason) -> None:
    assert (await decided(message("tasks/get", {"taskId": task})))[0].reason is reason


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_whatever_is_done_with_a_task_is_decided_at_its_member(method: str) -> None:
    for task, reason in ((task_id_of("demo/crm", "t1"), Reason.ALLOWED), (task_id_of("demo/secret", "t1"), Reason.TOOL_UNKNOWN)):
        decision, _ = await decided(message(method, {"taskId": task}, headers={"mcp-name": [task]}))
        assert decision.reason is reason


async def test_a_task_needs_a_permit_at_its_member() -> None:
    state = State('permit (principal, action == Action::"tools/call", resource in McpServer::"demo/crm");')

    assert (await decided(message("tasks/get", {"taskId": task_id_of("demo/crm", "t1")}), state))[0].reason is Reason.NO_MATCHING_PERMIT


async def test_everything_that_a_subscription_names_is_decided() -> None:
    def listen(**wanted: object) -> CheckInput:
        return message("subscriptions/listen", {"notifications": wanted})

    for wanted, reason in (
        ({"toolsListChanged": True}, Reason.ALLOWED),
        ({"resourceSubscriptions": ["crm://1", "m.demo.files+file:///a"]}, Reason.ALLOWED),
        ({"resourceSubscriptions": ["crm://1", "crm://2"]}, Reason.TOOL_UNKNOWN),
        ({"taskIds": [task_id_of("demo/crm", "1"), task_id_of("demo/secret", "1")]}, Reason.TOOL_UNKNOWN),
    ):
        assert (await decided(listen(**wanted)))[0].reason is reason


# search mode


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": "search", "arguments": {}}, Reason.ALLOWED),
        ({"name": "search"}, Reason.ALLOWED),
        ({"name": "change", "arguments": {"amount": 1}}, Reason.ALLOWED),
        ({"name": "change", "arguments": {"tenant": "evil"}}, Reason.INVALID_PARAMS),
        ({"name": "update", "arguments": {}}, Reason.TOOL_UNKNOWN),
        ({"name": "launch", "arguments": {}}, Reason.NO_MATCHING_PERMIT),
        ({"name": "changed", "arguments": {}}, Reason.DEFINITION_HELD),
        ({"name": "call_tool", "arguments": {"name": "search"}}, Reason.TOOL_UNKNOWN),
        ({"name": "search", "arguments": []}, Reason.INVALID_PARAMS),
        ({"name": 7}, Reason.INVALID_PARAMS),
        ({}, Reason.INVALID_PARAMS),
        ({"name": "search", "Name": "launch"}, Reason.INVALID_PARAMS),
    ],
)
async def test_a_tool_that_was_found_is_decided_as_if_it_were_called_by_its_name(arguments: dict[str, object], reason: Reason) -> None:
    decision, record = await decided(tool("call_tool", arguments, path="/virtual/demo/found/mcp"))

    assert decision.reason is reason
    if reason is Reason.ALLOWED:
        assert decision.passage is not None
        assert decision.passage.lane == "aggregate"
        assert (record.tool, record.exposed_name) == (
            {"change": "update"}.get(str(arguments["name"]), arguments["name"]),
            arguments["name"],
        )


async def test_a_tool_may_also_be_called_by_its_name_where_tools_are_searched() -> None:
    straight, record = await decided(tool("search", path="/virtual/demo/found/mcp"))
    prompt, _ = await decided(message("prompts/get", {"name": "find_tool"}, path="/virtual/demo/found/mcp"))

    assert straight.passage is not None
    assert (straight.passage.lane, record.tool) == ("direct", "search")
    assert prompt.reason is Reason.TOOL_UNKNOWN  # it is a tool, not a prompt


async def test_finding_needs_no_permit_of_its_own() -> None:
    assert (await decided(tool("find_tool", {"query": "x"}, path="/virtual/demo/found/mcp")))[0].reason is Reason.ALLOWED


# from the other side of an aggregator


async def test_an_aggregator_comes_back_for_the_caller_and_is_decided_anew() -> None:
    decision, record = await decided(inner(tool("update", {"amount": 1, "tenant": "acme"})))

    assert decision.passage is not None
    assert (decision.passage.cluster, decision.passage.lane) == ("mcp-crm", "direct")
    assert (record.parent_decision_id, record.virtual_server, record.exposed_name, record.tool) == (
        "outer",
        "demo/desk",
        "change",
        "update",
    )
    assert record.principal is not None
    assert record.principal.id == "okta/ann"
    assert "legation-context" in decision.passage.remove_headers


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (lambda: inner(tool("change", {"amount": 1})), Reason.TOOL_UNKNOWN),  # the member does not know that name
        (lambda: inner(tool("private")), Reason.TOOL_UNKNOWN),  # the virtual server does not offer it
        (lambda: inner(tool("update", {"tenant": "evil"})), Reason.TOOL_UNKNOWN),  # hidden arguments are what the virtual server says
        (lambda: inner(tool("update", {"amount": 1})), Reason.ALLOWED),
        (lambda: inner(tool("changed")), Reason.DEFINITION_HELD),
        (lambda: inner(tool("launch"), "demo/secret"), Reason.SERVER_NOT_FOUND),  # not a member, whatever is exposed of it
        (lambda: inner(tool("search"), virtual_server_id="demo/none"), Reason.SERVER_NOT_FOUND),
        (lambda: inner(tool("query"), "demo/old", virtual_server_id="demo/other"), Reason.SERVER_NOT_FOUND),  # of another one
        (lambda: inner(tool("update"), virtual_server_id="demo/other"), Reason.TOOL_UNKNOWN),
        (lambda: inner(tool("search"), virtual_server_id="", mcp_server_id="demo/crm"), Reason.ALLOWED),
        (lambda: inner(tool("private"), virtual_server_id="", mcp_server_id="demo/crm"), Reason.ALLOWED),  # a bridge offers all
        (lambda: inner(tool("search"), virtual_server_id="", mcp_server_id="demo/old"), Reason.EGRESS_CONTEXT_INVALID),
        (lambda: inner(tool("search"), virtual_server_id="", mcp_server_id=""), Reason.EGRESS_CONTEXT_INVALID),
        (lambda: inner(tool("search"), mcp_server_id="demo/crm"), Reason.EGRESS_CONTEXT_INVALID),  # one or the other
        (lambda: inner(tool("search"), kind="prober", principal=PROBER), Reason.EGRESS_CONTEXT_INVALID),
        (lambda: inner(tool("search"), principal=BOB), Reason.SERVER_NOT_FOUND),
        (lambda: inner(tool("search"), expires_at_unix=time.time() - 1), Reason.EGRESS_CONTEXT_INVALID),
        (lambda: inner(message("resources/read", {"uri": "crm://1"})), Reason.ALLOWED),
        (lambda: inner(message("resources/read", {"uri": "crm://2"})), Reason.TOOL_UNKNOWN),
        (lambda: inner(message("resources/read", {"uri": "file:///a"}), "demo/files"), Reason.ALLOWED),
        (lambda: inner(message("resources/read", {"uri": "file:///b"}), "demo/files"), Reason.TOOL_UNKNOWN),
        (lambda: inner(message("resources/read", {"uri": "crm://1"}), "demo/files"), Reason.TOOL_UNKNOWN),
        (lambda: inner(message("prompts/get", {"name": "greet"})), Reason.ALLOWED),
        (lambda: inner(message("prompts/get", {"name": "other"})), Reason.TOOL_UNKNOWN),
        (lambda: inner(message("tasks/get", {"taskId": "t1"})), Reason.ALLOWED),
        (lambda: inner(message("tools/list")), Reason.ALLOWED),
        (lambda: inner(message("server/discover")), Reason.ALLOWED),
        (lambda: inner(message("ping", modern=False), "demo/old"), Reason.ALLOWED),
    ],
)  # fmt: skip
async def test_behind_an_aggregator_only_what_its_caller_may_use_there(check: Callable[[], CheckInput], reason: Reason) -> None:
    decision, _ = await decided(check())

    assert decision.reason is reason


async def test_what_is_offered_is_offered_of_its_own_member() -> None:
    ref = {"ref": {"type": "ref/resource", "uri": "crm://contacts/{id}"}, "argument": {"name": "id", "value": "1"}}
    secretive = virtual(exposed(TOOL, CRM, "search", hidden=frozenset({"limit"})))
    for check, state, reason in (
        (inner(message("completion/complete", ref)), State(), Reason.ALLOWED),
        (inner(message("completion/complete", ref), "demo/files"), State(), Reason.TOOL_UNKNOWN),
        (inner(message("resources/read", {"uri": "crm://1"}), "demo/old"), State(), Reason.TOOL_UNKNOWN),
        (inner(tool("search", {"limit": 1})), State(fronts={secretive.id: secretive}), Reason.TOOL_UNKNOWN),  # hidden, and no default
        (inner(tool("search", {})), State(fronts={secretive.id: secretive}), Reason.ALLOWED),
    ):
        assert (await decided(check, state))[0].reason is reason


async def test_no_aggregator_ever_asks_an_aggregator() -> None:
    for check in (
        inner(message("tools/list")),
        inner(message("tools/list"), virtual_server_id="", mcp_server_id="demo/crm"),
        inner(tool("query"), "demo/old"),
    ):
        decision, _ = await decided(check)
        assert decision.passage is not None
        assert decision.passage.lane != "aggregate"
    for changes in ({}, {"virtual_server_id": "", "mcp_server_id": "demo/desk"}):
        decision, _ = await decided(replace(inner(tool("search"), **changes), path="/virtual/demo/desk/mcp"))  # type: ignore[arg-type]
        assert decision.reason is Reason.EGRESS_CONTEXT_INVALID


async def test_a_context_at_the_public_door_is_nothing() -> None:
    decision, _ = await decided(replace(inner(tool("search")), listener="ingress", path="/virtual/demo/desk/mcp"))

    assert decision.reason is Reason.ACCESS_TOKEN_MISSING


async def test_a_caller_who_is_revoked_meanwhile_is_refused_at_the_member() -> None:
    state = State()
    revocation = Revocation(id="demo/r", kind=RevokedKind.SUBJECT, revoked="okta/ann", issued_before_unix=2**50, expires_at_unix=2**50)
    state.state = replace(state.state, revocations=RevocationIndex([revocation]))

    assert (await decided(inner(tool("search")), state))[0].reason is Reason.REVOKED


async def test_policies_about_the_caller_see_how_the_caller_came() -> None:
    policy = 'permit (principal, action, resource) when { context.caller.era == "legacy" && context.caller.address == ip("10.0.0.9") };'
    for era, address, reason in (("legacy", "10.0.0.9", True), ("modern", "10.0.0.9", False), ("legacy", "10.0.0.8", False)):
        check = inner(tool("search"), caller_era=era, caller_address=address)
        decision, _ = await decided(replace(check, downstream_address=""), State(policy))
        assert (decision.reason is Reason.ALLOWED) is reason


# sessions


def sealed(mcp_server: McpServer, principal: Principal = ANN, listener: str = "ingress") -> str:
    envelope = "MTAuMC4wLjE6ODA4MA==;UV:c2Vzc2lvbi0x"
    return seal_session(envelope, bind_session(replace(principal, scopes=("crm:write",)), mcp_server, listener), (KEY,), time.time())


async def test_sessions_of_aggregators_pass_as_they_are() -> None:
    for check in (
        tool("search", modern=False, headers={"mcp-session-id": ["lga1_abc"]}),
        message("ping", modern=False, headers={"mcp-session-id": ["lga1_abc"]}),
    ):
        decision, _ = await decided(check)

        assert decision.passage is not None
        assert "mcp-session-id" not in decision.passage.remove_headers
        assert "mcp-session-id" not in dict(decision.passage.set_headers)
        assert decision.passage.session_binding == ""


async def test_a_bridged_server_has_sessions_of_aggregators() -> None:
    modern_only = replace(CRM, eras=frozenset({"modern"}))
    check = tool("search", modern=False, path="/servers/demo/crm/mcp", headers={"mcp-session-id": ["lga1_abc"]})

    decision, _ = await decided(check, State(servers={**SERVERS, CRM.id: modern_only}))

    assert decision.passage is not None
    assert (decision.passage.lane, "mcp-session-id" in decision.passage.remove_headers) == ("aggregate", False)


async def test_a_list_in_a_session_of_ours_needs_a_good_one_which_stays_here() -> None:
    def listing(session_id: str) -> CheckInput:
        return message("tools/list", path="/servers/demo/crm/mcp", modern=False, headers={"mcp-session-id": [session_id]})

    good, _ = await decided(listing(sealed(CRM)))
    assert good.passage is not None
    assert (good.passage.lane, "mcp-session-id" in good.passage.remove_headers) == ("aggregate", True)
    for stolen in (sealed(CRM, BOB), sealed(OLD), "lga1_abc"):
        assert (await decided(listing(stolen)))[0].passage is None


async def test_at_the_egress_sessions_are_sealed_for_the_caller_as_ever() -> None:
    start = message("initialize", HANDSHAKE, modern=False)
    opened, _ = await decided(inner(start, "demo/old"))
    assert opened.passage is not None
    assert (opened.passage.lane, bool(opened.passage.session_binding)) == ("inspect", True)

    for session_id, allowed in ((sealed(OLD, listener="egress"), True), (sealed(OLD), False), (sealed(OLD, BOB, "egress"), False)):
        check = inner(tool("query", modern=False, headers={"mcp-session-id": [session_id]}), "demo/old")
        assert ((await decided(check))[0].passage is not None) is allowed
