"""What is listed is what may be called: the view of random principals in random worlds, compared with decisions about calls.

`LEGATION_TEST_POLICY_CASES` raises the number of worlds.
"""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import replace
from types import MappingProxyType

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extauthz.authorization import authorize
from extauthz.catalog.virtual import DefinitionKind, Exposed, Member, VirtualServer
from extauthz.effective_view import is_visible, listed, single
from extauthz.errors import Reason
from extauthz.identity.principal import PROBER
from extauthz.mcp.era import Era
from extauthz.mcp.request import McpRequest, Target
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.entities import view_of
from extauthz.policy.model import Action, Caller, ResourceKind
from extauthz.policy.possibility import _reads_arguments
from extauthz.state import AuthorizationState
from tests.unit.policy_world import CRM, ENGINEERING, MCP_SERVERS, document, engine_of, make_principal, make_tool
from tests.unit.test_policy_plain_cedar import random_request, random_world

WORLDS = int(os.environ.get("LEGATION_TEST_POLICY_CASES", "60"))
TOOL, PROMPT = DefinitionKind.TOOL, DefinitionKind.PROMPT
RESOURCE, TEMPLATE = DefinitionKind.RESOURCE, DefinitionKind.RESOURCE_TEMPLATE
USE = {
    TOOL: (Action.TOOLS_CALL, ResourceKind.TOOL),
    PROMPT: (Action.PROMPTS_GET, ResourceKind.PROMPT),
    RESOURCE: (Action.RESOURCES_READ, ResourceKind.MCP_RESOURCE),
}
ARGUMENTS = [
    {name: value for name, value in (("amount", amount), ("who", who)) if value != "absent"}
    for amount, who in itertools.product(["absent", 1, 4, 9], ["absent", "u0", "u1", "x"])
]
NOW = Caller(era="modern", now_unix=1.8e9)


def virtual_server(servers, *, renamed=""):
    """Everything that these servers have, under names of its own when `renamed`."""
    items = {kind: {} for kind in DefinitionKind}

    def offer(kind, server, own):
        name = f"{renamed}{server.name}-{own}" if renamed else own
        items[kind].setdefault(name, Exposed(kind=kind, name=name, mcp_server_id=server.id, own_name=own))

    for server in servers:
        for tool in server.tools:
            offer(TOOL, server, tool)
        offer(PROMPT, server, "p0")
        offer(RESOURCE, server, "file:///x")
        offer(TEMPLATE, server, "file:///{name}")
    return VirtualServer(
        uid="uid-vs",
        namespace="demo",
        name="all",
        members=tuple(Member(mcp_server_id=server.id) for server in servers),
        items=MappingProxyType({kind: MappingProxyType(named) for kind, named in items.items()}),
    )


def state_of(policy, servers=MCP_SERVERS):
    return AuthorizationState(revision=1, mcp_servers=servers, policy=policy, identity_providers=(), context_keys=())


def use(state, principal, exposed, caller, arguments=MappingProxyType({})):
    action, kind = USE[exposed.kind]
    request = McpRequest(
        era=Era(caller.era),
        protocol_version="",
        method=action.value,
        targets=(Target(action=action, kind=kind, name=exposed.own_name),),
        arguments=arguments,
    )
    return authorize(state, principal, exposed.mcp_server_id, request, caller)


def names(exposed):
    return [e.name for e in exposed]


@settings(max_examples=WORLDS, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.integers(0, 2**63))
def test_what_may_be_called_is_listed_and_what_is_not_listed_is_denied(seed):
    rng = random.Random(seed)
    world = random_world(rng)
    state = state_of(CedarEngine.build(world.documents, world.bindings, world.mcp_servers), world.mcp_servers)
    front = virtual_server(world.mcp_servers.values(), renamed="x-")
    reading = {
        policy.id
        for own in state.policy._policies.values()
        for group in own.compiled.values()
        for policy in group
        if _reads_arguments(policy)
    }
    for _ in range(3):
        asked = random_request(rng, world)
        principal = asked.principal
        if rng.random() < 0.4:
            principal = replace(principal, workload=random_request(rng, world).principal)
        if rng.random() < 0.2:
            principal = replace(principal, trusted_namespaces=("demo",))
        for kind in USE:
            shown = set(names(listed(state, principal, front, kind, asked.caller)))
            for exposed in front.items[kind].values():
                verdicts = [
                    use(state, principal, exposed, asked.caller, arguments)
                    for arguments in (rng.sample(ARGUMENTS, 5) if kind is TOOL else ARGUMENTS[:1])
                ]
                trusted = principal.trusted_in(exposed.mcp_server_id.partition("/")[0])
                allowed = [trusted and verdict.allowed for verdict in verdicts]
                unlisted = listing_is_stopped(state, principal, exposed, asked.caller)
                assert exposed.name in shown or unlisted or not any(allowed)
                if exposed.name in shown and not reads_arguments(state, principal, exposed, reading):
                    assert all(allowed)


def listing_is_stopped(state, principal, exposed, caller):
    action = {TOOL: Action.TOOLS_LIST, PROMPT: Action.PROMPTS_LIST, RESOURCE: Action.RESOURCES_LIST}[exposed.kind]
    request = McpRequest(
        era=Era(caller.era), protocol_version="", method="", targets=(Target(action=action, kind=ResourceKind.MCP_SERVER),)
    )
    return not authorize(state, principal, exposed.mcp_server_id, request, caller).allowed


def reads_arguments(state, principal, exposed, reading):
    """Whether a policy that reads arguments matches a call of it by anybody here."""
    if exposed.kind is not TOOL:
        return False
    namespace = exposed.mcp_server_id.partition("/")[0]
    server = state.mcp_servers[exposed.mcp_server_id]
    resource = view_of(ResourceKind.TOOL, server, exposed.own_name)
    views = [state.policy._view_of(p, namespace) for p in (principal, principal.workload) if p is not None]
    indexes = list(state.policy._indexes(namespace))
    return any(p.id in reading for view in views for index in indexes for p in index.matching(view, Action.TOOLS_CALL, resource))


PERMIT_ALL = 'permit (principal, action, resource in McpServer::"demo/crm");'
ANN = make_principal()


def shown(policy, *, principal=ANN, caller=NOW, kind=TOOL, front=None, servers=MCP_SERVERS):
    return names(listed(state_of(policy, servers), principal, front or virtual_server([CRM, ENGINEERING]), kind, caller))


def test_nothing_is_listed_without_a_permit():
    assert shown(engine_of()) == []


def test_the_order_is_that_of_the_virtual_server():
    assert shown(engine_of(PERMIT_ALL)) == ["search_contacts", "update_contact", "delete_contact"]


def test_a_permit_that_asks_for_an_argument_lists_the_tool():
    policy = engine_of(
        'permit (principal, action == Action::"tools/call", resource == Tool::"demo/crm/update_contact")'
        " when { context.arguments has amount && context.arguments.amount < 5 };"
    )
    assert shown(policy) == ["update_contact"]


def test_a_forbid_that_asks_for_an_argument_hides_nothing():
    policy = engine_of(PERMIT_ALL, 'forbid (principal, action == Action::"tools/call", resource) when { context.arguments has amount };')
    assert shown(policy) == ["search_contacts", "update_contact", "delete_contact"]


def test_a_forbid_hides():
    policy = engine_of(PERMIT_ALL, 'forbid (principal, action, resource in Effect::"destructive");')
    assert shown(policy) == ["search_contacts", "update_contact"]


def test_what_depends_on_the_caller_is_decided_anew_for_another_one():
    policy = engine_of('permit (principal, action, resource in McpServer::"demo/crm") when { context.caller.mtls };')
    state, front = state_of(policy), virtual_server([CRM])

    assert listed(state, ANN, front, TOOL, NOW) == ()
    assert len(listed(state, ANN, front, TOOL, replace(NOW, mtls=True))) == 3
    assert listed(state, ANN, front, TOOL, NOW) == ()


def test_what_depends_on_the_time_is_decided_anew_each_time():
    policy = engine_of(
        'permit (principal, action, resource in McpServer::"demo/crm") when { context.caller.now < datetime("2027-01-15T08:00:01Z") };'
    )
    state, front = state_of(policy), virtual_server([CRM])

    assert len(listed(state, ANN, front, TOOL, NOW)) == 3
    assert listed(state, ANN, front, TOOL, replace(NOW, now_unix=NOW.now_unix + 2)) == ()


def test_a_further_page_is_the_very_same_view_with_another_token():
    state, front = state_of(engine_of(PERMIT_ALL)), virtual_server([CRM])
    first = listed(state, ANN, front, TOOL, NOW)

    assert listed(state, replace(ANN, access_token_id="new", scopes=("x",)), front, TOOL, replace(NOW, now_unix=9.0)) is first
    assert listed(replace(state), ANN, front, TOOL, NOW) is not first


def test_another_group_is_another_view():
    state, front = state_of(engine_of('permit (principal in Group::"local/g", action, resource);')), virtual_server([CRM])

    assert listed(state, ANN, front, TOOL, NOW) == ()
    assert len(listed(state, make_principal(groups=("local/g",)), front, TOOL, NOW)) == 3


def test_a_condition_on_the_tool_is_asked_for_each_tool():
    assert shown(engine_of('permit (principal, action, resource is Tool) when { resource.name like "*_contact" };')) == [
        "update_contact",
        "delete_contact",
    ]


def test_a_condition_that_fails_lists_nothing_that_it_is_about():
    policy = engine_of(
        PERMIT_ALL, 'forbid (principal, action, resource == Tool::"demo/crm/update_contact") when { principal.missing == 1 };'
    )
    assert shown(policy) == ["search_contacts", "delete_contact"]


def test_a_workload_sees_no_more_than_it_may_do_itself():
    policy = engine_of(PERMIT_ALL, 'forbid (principal == User::"local/robot", action, resource in Effect::"write");')
    assert shown(policy, principal=replace(ANN, workload=make_principal("robot"))) == ["search_contacts", "delete_contact"]


def test_nobody_sees_what_is_in_a_namespace_that_does_not_trust_them():
    policy = engine_of(document("permit (principal, action, resource);", namespace="system"))
    front = virtual_server(MCP_SERVERS.values())

    assert "pay" in shown(policy, front=front)
    assert "pay" not in shown(policy, front=front, principal=replace(ANN, trusted_namespaces=("demo",)))
    assert "query" in shown(policy, front=front, principal=replace(ANN, trusted_namespaces=("demo",)))


def test_members_and_tools_that_are_gone_are_not_listed():
    front = virtual_server([CRM, ENGINEERING])
    without = {CRM.id: replace(CRM, tools=MappingProxyType({"search_contacts": CRM.tools["search_contacts"]}))}
    policy = CedarEngine.build([document("permit (principal, action, resource);")], (), without)

    assert shown(policy, front=front, servers=without) == ["search_contacts"]


def test_a_suspended_member_is_not_listed_and_its_virtual_server_stays():
    servers = {**MCP_SERVERS, CRM.id: replace(CRM, suspended=True)}
    state, front = state_of(CedarEngine.build([document(PERMIT_ALL)], (), servers), servers), virtual_server([CRM])

    assert listed(state, ANN, front, TOOL, NOW) == ()
    assert is_visible(state, ANN, front, NOW)


def test_a_virtual_server_is_there_for_whom_it_has_something():
    state, front = (
        state_of(engine_of('permit (principal == User::"local/ann", action, resource == Prompt::"demo/crm/p0");')),
        virtual_server([CRM]),
    )

    assert is_visible(state, ANN, front, NOW)
    assert names(listed(state, ANN, front, PROMPT, NOW)) == ["p0"]
    assert not is_visible(state, make_principal("bob"), front, NOW)


def test_a_list_that_is_forbidden_shows_nothing_of_that_server():
    policy = engine_of(
        "permit (principal, action, resource);", 'forbid (principal, action == Action::"tools/list", resource == McpServer::"demo/crm");'
    )

    assert shown(policy) == ["query", "drop_table"]
    assert shown(policy, kind=RESOURCE) == ["file:///x"]


def test_a_definition_that_waits_for_review_is_listed():
    held = replace(CRM, tools=MappingProxyType({"search": replace(make_tool("search"), held=True)}))
    servers = {CRM.id: held}

    assert shown(CedarEngine.build([document(PERMIT_ALL)], (), servers), servers=servers, front=virtual_server([held])) == ["search"]


def test_a_template_is_listed_when_a_policy_names_a_uri_that_it_can_become():
    named = 'permit (principal, action == Action::"resources/read", resource == McpResource::"demo/crm/file:///{}");'

    assert shown(engine_of(named.format("a")), kind=TEMPLATE, front=virtual_server([CRM])) == ["file:///{name}"]
    assert shown(engine_of(named.format("a/b")), kind=TEMPLATE, front=virtual_server([CRM])) == []


def test_a_template_is_listed_when_its_uris_may_be_read_by_a_condition():
    policy = engine_of(
        'permit (principal, action, resource is McpResource) when { resource.name like "file:///open*" };',
        'forbid (principal, action, resource is McpResource) when { resource.name like "file:///secret*" };',
    )
    assert shown(policy, kind=TEMPLATE, front=virtual_server([CRM])) == ["file:///{name}"]
    assert shown(engine_of(PERMIT_ALL, "forbid (principal, action, resource is McpResource);"), kind=TEMPLATE) == []


def test_a_uri_is_listed_when_both_forms_of_it_may_be_read():
    front = replace(virtual_server([CRM]), items=single(CRM, {RESOURCE: ["file:///\u00e9"]}).items)
    forbid = 'forbid (principal, action, resource == McpResource::"demo/crm/file:///%C3%A9");'

    assert shown(engine_of(PERMIT_ALL), kind=RESOURCE, front=front) == ["file:///\u00e9"]
    assert shown(engine_of(PERMIT_ALL, forbid), kind=RESOURCE, front=front) == []


def test_one_server_is_seen_as_a_virtual_server_of_itself():
    front = single(CRM, {RESOURCE: ["file:///x"]})

    assert shown(engine_of(PERMIT_ALL), front=front) == list(CRM.tools)
    assert shown(engine_of(PERMIT_ALL), front=front, kind=PROMPT) == ["greeting"]
    assert shown(engine_of(PERMIT_ALL), front=front, kind=RESOURCE) == ["file:///x"]


def test_names_that_are_no_text_are_not_listed():
    front = single(CRM, {RESOURCE: ["file:///\ud800", "file:///x"]})

    assert shown(engine_of(PERMIT_ALL), front=front, kind=RESOURCE) == ["file:///x"]
    assert shown(engine_of(PERMIT_ALL), principal=make_principal(groups=("local/\udc00",))) == []


def test_the_prober_has_no_view():
    assert shown(engine_of("permit (principal, action, resource);"), principal=PROBER) == []


def test_scopes_do_not_hide():
    state, front = state_of(engine_of(PERMIT_ALL)), virtual_server([CRM])
    exposed = front.items[TOOL]["update_contact"]

    assert use(state, ANN, exposed, NOW).reason is Reason.ALLOWED
    assert exposed in listed(state, replace(ANN, scopes=()), front, TOOL, NOW)
