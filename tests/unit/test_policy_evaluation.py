"""What the policy engine answers, one promise per test."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from extauthz.catalog.server import ArgumentType, Effect
from extauthz.errors import PolicyError, Reason
from extauthz.identity.principal import PROBER, PrincipalKind
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.model import Action, Caller, ResourceKind, RoleBinding
from tests.unit.policy_world import (
    CRM,
    ENGINEERING,
    MARKETING,
    MCP_SERVERS,
    PAYROLL,
    document,
    engine_of,
    make_mcp_server,
    make_principal,
    make_request,
    make_tool,
)

_TOOL = 'resource == Tool::"demo/crm/update_contact"'
UPDATE = f'@id("update") permit (principal in Role::"demo/marketing", action == Action::"tools/call", {_TOOL});'
AGENT = make_principal("marketing-agent")


def test_a_role_given_to_the_user_permits():
    evaluation = engine_of(UPDATE).evaluate(make_request(AGENT))

    assert evaluation.allowed
    assert evaluation.reason is Reason.ALLOWED
    assert evaluation.determining_policies == ("demo/update",)
    assert evaluation.roles == ("demo/marketing",)


def test_a_role_given_to_a_group_permits_its_members():
    evaluation = engine_of(UPDATE).evaluate(make_request(make_principal("ann", groups=("local/marketing",))))

    assert evaluation.allowed


def test_the_same_group_name_of_another_provider_is_another_group():
    evaluation = engine_of(UPDATE).evaluate(make_request(make_principal("ann", groups=("evil/marketing",))))

    assert evaluation.reason is Reason.NO_MATCHING_PERMIT


def test_a_binding_of_a_user_is_not_one_of_an_agent():
    evaluation = engine_of(UPDATE).evaluate(make_request(make_principal("marketing-agent", kind=PrincipalKind.AGENT)))

    assert not evaluation.allowed


def test_without_policies_everything_is_denied():
    evaluation = engine_of().evaluate(make_request(AGENT))

    assert evaluation.reason is Reason.NO_MATCHING_PERMIT


def test_forbid_wins_and_is_named():
    engine = engine_of(UPDATE, '@id("stop") forbid (principal, action, resource in Effect::"write");')

    evaluation = engine.evaluate(make_request(AGENT))

    assert evaluation.reason is Reason.FORBIDDEN_BY_POLICY
    assert evaluation.determining_policies == ("demo/stop",)


def test_a_policy_without_an_id_is_named_by_its_set_and_place():
    engine = engine_of(document("// first\n" + UPDATE + "\npermit (principal is User, action, resource);", name="both"))

    evaluation = engine.evaluate(make_request(AGENT))

    assert evaluation.determining_policies == ("demo/update", "demo/both#1")


def test_an_unknown_tool_is_denied_even_when_the_whole_server_is_permitted():
    evaluation = engine_of("permit (principal, action, resource);").evaluate(make_request(AGENT, "no_such_tool"))

    assert evaluation.reason is Reason.TOOL_UNKNOWN


def test_a_role_of_one_namespace_counts_in_no_other():
    binding = RoleBinding(namespace="demo", name="x", role="payer", subjects=(("User", "local/ann"),))
    pay = document(
        'permit (principal in Role::"demo/payer", action, resource); permit (principal in Role::"acme/payer", action, resource);',
        namespace="acme",
    )
    engine = engine_of(pay, bindings=(binding,))

    evaluation = engine.evaluate(make_request(make_principal(), "pay", mcp_server=PAYROLL))

    assert evaluation.reason is Reason.NO_MATCHING_PERMIT
    assert engine.roles_of(make_principal(), "acme") == ()
    assert engine.roles_of(make_principal(), "demo") == ("demo/payer",)


def test_a_role_of_system_counts_everywhere():
    binding = RoleBinding(namespace="system", name="x", role="auditors", subjects=(("User", "local/ann"),))
    policy = document('permit (principal in Role::"system/auditors", action, resource in Effect::"read");', namespace="system")
    engine = engine_of(policy, bindings=(binding,))

    assert engine.evaluate(make_request(make_principal(), "query", mcp_server=ENGINEERING)).allowed
    assert not engine.evaluate(make_request(make_principal(), "pay", mcp_server=PAYROLL)).allowed
    assert engine.roles_of(make_principal(), "acme") == ("system/auditors",)


def test_operator_roles_are_no_cedar_roles():
    binding = RoleBinding(namespace="demo", name="x", role="legation:administrator", subjects=(("User", "local/ann"),))
    engine = engine_of('permit (principal in Role::"demo/legation:administrator", action, resource);', bindings=(binding,))

    assert engine.roles_of(make_principal(), "demo") == ()
    assert not engine.evaluate(make_request(make_principal())).allowed


def test_a_policy_governs_its_own_namespace_only():
    engine = engine_of(document('permit (principal, action, resource); permit (principal, action, resource == Tool::"acme/payroll/pay");'))

    assert engine.evaluate(make_request(AGENT)).allowed
    assert engine.evaluate(make_request(AGENT, "pay", mcp_server=PAYROLL)).reason is Reason.NO_MATCHING_PERMIT


def test_a_policy_of_system_governs_every_namespace():
    engine = engine_of(UPDATE, document('@id("freeze") forbid (principal, action, resource);', namespace="system"))

    assert engine.evaluate(make_request(AGENT)).determining_policies == ("system/freeze",)


@pytest.mark.parametrize(
    ("tool", "allowed"),
    [("search_contacts", True), ("update_contact", False), ("delete_contact", False)],
    ids=["read", "write", "destructive"],
)
def test_effects_are_groups_of_tools(tool, allowed):
    engine = engine_of('permit (principal, action, resource in Effect::"read");')

    assert engine.evaluate(make_request(AGENT, tool)).allowed is allowed


def test_is_and_equals_are_exact():
    engine = engine_of(
        'permit (principal is Agent, action == Action::"tools/call", resource);'
        'permit (principal is User in Group::"local/g", action, resource is Prompt in McpServer::"demo/crm");'
        'permit (principal, action, resource == McpServer::"demo/crm");'
    )
    member = make_principal(groups=("local/g",))

    assert engine.evaluate(make_request(make_principal(kind=PrincipalKind.AGENT))).allowed
    assert not engine.evaluate(make_request(member)).allowed
    assert engine.evaluate(make_request(member, "greeting", action=Action.PROMPTS_GET, resource_kind=ResourceKind.PROMPT)).allowed
    assert engine.evaluate(make_request(member, "", action=Action.TOOLS_LIST, resource_kind=ResourceKind.MCP_SERVER)).allowed


def test_an_action_that_does_not_apply_to_the_resource_is_an_error():
    request = make_request(AGENT, "greeting", action=Action.TOOLS_CALL, resource_kind=ResourceKind.PROMPT)

    assert engine_of("permit (principal, action, resource);").evaluate(request).reason is Reason.POLICY_EVALUATION_ERROR


def test_the_gateways_own_principals_get_nothing_by_policy():
    engine = engine_of("permit (principal, action, resource);")

    assert engine.evaluate(make_request(PROBER)).reason is Reason.NO_MATCHING_PERMIT
    assert not engine.visible(PROBER, CRM)
    assert engine.roles_of(PROBER, "demo") == ()
    assert engine.explain(make_request(PROBER)).missing_roles == ()


@pytest.mark.parametrize(
    ("condition", "caller", "allowed"),
    [
        ("context.caller.mtls", Caller(mtls=True), True),
        ("context.caller.mtls", Caller(), False),
        ('context.caller.era == "modern"', Caller(era="modern"), True),
        ('context.caller.issuer == "https://idp"', Caller(issuer="https://idp"), True),
        ('context.caller has address && context.caller.address.isInRange(ip("10.0.0.0/8"))', Caller(address="10.1.2.3"), True),
        ('context.caller has address && context.caller.address.isInRange(ip("10.0.0.0/8"))', Caller(address="::ffff:10.1.2.3"), True),
        ('context.caller has address && context.caller.address.isInRange(ip("10.0.0.0/8"))', Caller(), False),
        ('context.caller.now < datetime("2026-01-01")', Caller(now_unix=0.0), True),
        ('context.caller.now >= datetime("2026-11-22T02:00:00Z")', Caller(now_unix=1795312800.0), True),
        ('principal.provider == "local" && principal.subject == "marketing-agent"', Caller(), True),
        ('principal in Role::"demo/marketing" && resource in Namespace::"demo"', Caller(), True),
        ('resource.name like "update_*"', Caller(), True),
    ],
)
def test_conditions_read_the_caller_and_the_principal(condition, caller, allowed):
    engine = engine_of(f"permit (principal, action, resource) when {{ {condition} }};")

    assert engine.evaluate(make_request(AGENT, caller=caller)).allowed is allowed


def test_an_unreadable_address_denies():
    engine = engine_of(
        UPDATE, "forbid (principal, action, resource) when { context.caller has address && context.caller.address.isMulticast() };"
    )

    evaluation = engine.evaluate(make_request(AGENT, caller=Caller(address="nonsense")))

    assert evaluation.reason is Reason.POLICY_EVALUATION_ERROR


def test_an_error_in_any_matching_condition_denies_although_a_permit_matched():
    engine = engine_of(UPDATE, '@id("odd") forbid (principal, action, resource) when { context.arguments.amount > 5 };')

    evaluation = engine.evaluate(make_request(AGENT))

    assert evaluation.reason is Reason.POLICY_EVALUATION_ERROR
    assert "demo/odd" in evaluation.errors[0]


def test_evaluation_never_raises():
    broken = make_request(AGENT, arguments=None)
    object.__setattr__(broken, "arguments", 7)
    engine = engine_of("permit (principal, action, resource) when { context.arguments has amount };")

    evaluation = engine.evaluate(broken)

    assert evaluation.reason is Reason.POLICY_EVALUATION_ERROR


def test_an_evaluation_has_no_truth_value():
    with pytest.raises(TypeError):
        bool(engine_of(UPDATE).evaluate(make_request(AGENT)))


def test_explain_names_the_roles_that_would_permit():
    engine = engine_of(
        UPDATE,
        'permit (principal, action, resource) when { principal in Role::"demo/owners" };'
        'permit (principal in Role::"demo/readers", action, resource in Effect::"read");'
        'permit (principal in Role::"acme/owners", action, resource);'
        'permit (principal in Role::"demo/strict", action, resource) when { context.caller.mtls };',
    )

    evaluation = engine.explain(make_request(make_principal("bob")))

    assert evaluation.reason is Reason.NO_MATCHING_PERMIT
    assert evaluation.missing_roles == ("demo/marketing", "demo/owners")


def test_explain_proposes_no_role_that_a_forbid_would_take_back():
    engine = engine_of(UPDATE, 'forbid (principal, action, resource) when { principal in Role::"demo/marketing" };')

    assert engine.explain(make_request(make_principal("bob"))).missing_roles == ()


def test_explain_of_a_forbidden_call_names_the_forbid():
    engine = engine_of(UPDATE, '@id("stop") forbid (principal, action, resource);')

    evaluation = engine.explain(make_request(AGENT))

    assert evaluation == engine.evaluate(make_request(AGENT))
    assert evaluation.determining_policies == ("demo/stop",)


@pytest.mark.parametrize(
    ("policy", "crm", "engineering"),
    [
        (UPDATE, True, False),
        ('permit (principal in Role::"demo/marketing", action, resource in McpServer::"demo/engineering-db");', False, True),
        ('permit (principal in Role::"demo/other", action, resource);', False, False),
        ("permit (principal is Agent, action, resource);", False, False),
        ('permit (principal, action, resource in Effect::"write") when { false };', True, False),
        ('permit (principal, action, resource in Namespace::"demo");', True, True),
        ('permit (principal, action, resource == McpResource::"demo/crm/file:///x");', True, False),
        ('permit (principal, action, resource == Tool::"demo/crm-2/x");', False, False),
        ("forbid (principal, action, resource);", False, False),
    ],
)
def test_a_server_is_visible_to_whom_a_permit_could_match_in_it(policy, crm, engineering):
    engine = engine_of(policy)

    assert engine.visible(AGENT, CRM) is crm
    assert engine.visible(AGENT, ENGINEERING) is engineering


def test_what_is_allowed_is_visible():
    engine = engine_of(UPDATE)

    assert engine.evaluate(make_request(AGENT)).allowed
    assert engine.visible(AGENT, CRM)


def test_visibility_follows_the_catalog():
    engine = engine_of('permit (principal, action, resource in Effect::"read");')

    assert not engine.visible(AGENT, make_mcp_server("demo", "new"))
    assert engine.visible(AGENT, make_mcp_server("demo", "new", make_tool("look", Effect.READ)))


def test_a_rebuilt_engine_answers_anew_and_the_old_one_as_before():
    before = engine_of(document(UPDATE))
    after = before.rebuilt([document(UPDATE.replace("permit", "forbid"))], (MARKETING,), MCP_SERVERS)

    assert before.evaluate(make_request(AGENT)).allowed
    assert after.evaluate(make_request(AGENT)).reason is Reason.FORBIDDEN_BY_POLICY


def test_a_rebuilt_engine_forgets_removed_bindings():
    before = engine_of(document(UPDATE))
    after = before.rebuilt([document(UPDATE)], (), MCP_SERVERS)

    assert before.evaluate(make_request(AGENT)).allowed
    assert not after.evaluate(make_request(AGENT)).allowed


def test_a_rebuilt_engine_compiles_only_what_changed():
    same = document(UPDATE, name="same")
    before = engine_of(same, document(UPDATE, namespace="acme"))
    after = before.rebuilt([same, document("permit (principal, action, resource);", namespace="acme")], (MARKETING,), {})

    assert after._policies["demo"] is before._policies["demo"]
    assert after._policies["acme"] is not before._policies["acme"]
    assert after._roles is before._roles


def test_a_changed_effect_counts_at_once():
    engine = engine_of('permit (principal, action, resource) when { resource in Effect::"read" };')
    as_read = make_mcp_server("demo", "crm", make_tool("x", Effect.READ))
    as_write = make_mcp_server("demo", "crm", make_tool("x", Effect.WRITE))

    assert engine.evaluate(make_request(AGENT, "x", mcp_server=as_read)).allowed
    assert not engine.evaluate(make_request(AGENT, "x", mcp_server=as_write)).allowed


def test_threads_share_one_engine():
    engine = engine_of(
        UPDATE, "forbid (principal, action, resource) when { context.arguments has amount && context.arguments.amount > 5 };"
    )
    requests = [make_request(make_principal(f"u{i % 7}", groups=("local/marketing",)), arguments={"amount": i % 10}) for i in range(400)]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(engine.evaluate, requests))

    assert [a.allowed for a in answers] == [i % 10 <= 5 for i in range(400)]


def test_build_reports_every_broken_policy():
    with pytest.raises(PolicyError) as caught:
        CedarEngine.build(
            [
                document("permit (principal, action);\n\npermit (principal == ?principal, action, resource);"),
                document("nonsense", name="other"),
            ],
            (),
            {},
        )

    assert len(caught.value.problems) == 3
    assert "demo/crm, policy at line 3: is a template" in caught.value.problems[1]


def test_two_documents_of_one_name_are_refused():
    with pytest.raises(PolicyError, match="registered twice"):
        CedarEngine.build([document(UPDATE), document(UPDATE + " ")], (), {})


def test_sixty_conditions_in_one_policy_are_evaluated():
    chain = " && ".join(["context.caller.mtls == false"] * 60)
    engine = engine_of(f"permit (principal, action, resource) when {{ {chain} }};")

    assert engine.evaluate(make_request(AGENT)).allowed


def test_arguments_are_present_and_empty_when_none_are_sent():
    engine = engine_of("permit (principal, action, resource) when { context has arguments && !(context.arguments has amount) };")
    server = make_mcp_server("demo", "crm", make_tool("x", amount=ArgumentType.LONG))

    assert engine.evaluate(make_request(AGENT, "x", mcp_server=server)).allowed
    assert not engine.evaluate(make_request(AGENT, "x", mcp_server=server, arguments={"amount": 1})).allowed


def test_long_names_that_a_caller_made_up_are_not_remembered():
    """Thousands of them, of kilobytes each, would stay in memory as long as the revision does."""
    engine = engine_of(UPDATE)

    def ask(numbers):
        for number in numbers:
            name = f"test://{number}/" + "x" * 1900
            question = make_request(AGENT, name, action=Action.RESOURCES_READ, resource_kind=ResourceKind.MCP_RESOURCE)
            assert not engine.evaluate(question).allowed

    ask(range(1))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ask(range(1, 301))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert grown < 300 * 1900 / 4
