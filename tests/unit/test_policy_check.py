"""What applying a policy refuses, and what it only warns of."""

from __future__ import annotations

import pytest

from extauthz.catalog.server import ArgumentType
from extauthz.policy.cedar import check_policies
from extauthz.policy.compiled import MAX_BRACKET_DEPTH, MAX_POLICY_CHARACTERS, split_policies
from tests.unit.policy_world import CRM, ENGINEERING, MCP_SERVERS, PAYROLL, document, make_mcp_server, make_tool

ROLES = {"demo/marketing", "acme/payer", "system/auditors", "demo/legation:editor"}
ME = 'principal in Role::"demo/marketing"'
CALL = 'action == Action::"tools/call"'
ARGUMENTS = "context.arguments"
NEW = make_mcp_server("demo", "new")


def check(*cedar, namespace="demo", probed=(CRM.id, ENGINEERING.id, PAYROLL.id), servers=None):
    documents = [c if not isinstance(c, str) else document(c, namespace=namespace, name=f"set-{i}") for i, c in enumerate(cedar)]
    mcp_servers = {**(servers or MCP_SERVERS), NEW.id: NEW}
    errors, warnings = check_policies(documents, mcp_servers=mcp_servers, roles=ROLES, namespaces={"demo", "acme"}, probed=set(probed))
    return [str(e) for e in errors], [str(w) for w in warnings]


@pytest.mark.parametrize(
    "policy",
    [
        f'permit ({ME}, {CALL}, resource == Tool::"demo/crm/update_contact");',
        f'permit ({ME}, action, resource in Effect::"read");',
        f'permit ({ME}, action in [Action::"tools/call", Action::"tools/list"], resource in McpServer::"demo/crm");',
        'permit (principal in Role::"system/auditors", action, resource in Namespace::"demo");',
        'permit (principal is User in Group::"local/x", action == Action::"prompts/get", resource == Prompt::"demo/crm/greeting");',
        'permit (principal == Agent::"local/x", action == Action::"resources/read", resource == McpResource::"demo/crm/file:///a//b");',
        'permit (principal == Workload::"spiffe://prod.example/agents/buyer", action, resource in McpServer::"demo/crm");',
        f"forbid ({ME}, {CALL}, resource) when {{ context.arguments has amount && context.arguments.amount > 5 }};",
        f"forbid ({ME}, action, resource) when {{ context has arguments && {ARGUMENTS} has amount && {ARGUMENTS}.amount > 5 }};",
        f'permit ({ME}, {CALL}, resource in McpServer::"demo/crm") when {{ {ARGUMENTS} has tags && {ARGUMENTS}.tags.contains("x") }};',
        f'permit ({ME}, {CALL}, resource) when {{ context.arguments has price && context.arguments.price.lessThan(decimal("1.5")) }};',
        f'permit ({ME}, action, resource) when {{ context.caller has address && context.caller.address.isInRange(ip("10.0.0.0/8")) }};',
        f'permit ({ME}, action, resource) when {{ resource in McpServer::"demo/crm" }} unless {{ principal.provider == "x" }};',
        "// nothing but a comment",
    ],
)
def test_a_sound_policy_has_no_problems(policy):
    assert check(policy) == ([], [])


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ('permit (principal in Role::"demo/marktng", action, resource);', "did you mean 'demo/marketing'?"),
        ('permit (principal in Role::"demo/legation:editor", action, resource);', "given to nobody"),
        ('permit (principal in Role::"acme/payer", action, resource);', "of another namespace"),
        (f'permit ({ME}, action, resource) when {{ principal in Role::"demo/ghost" }};', "given to nobody"),
        ('permit (principal in Rolle::"demo/marketing", action, resource);', "unrecognized entity type `Rolle`"),
        ('permit (principal in Group::"marketing", action, resource);', "does not name its identity provider"),
        ('permit (principal == User::"local/", action, resource);', "does not name its identity provider"),
        ('permit (principal == Workload::"spire/spiffe://td/x", action, resource);', "is not a SPIFFE ID: must start with spiffe://"),
        ('permit (principal == Workload::"spiffe://PROD.example/x", action, resource);', "is not a SPIFFE ID: needs a trust domain"),
        ('permit (principal == Workload::"spiffe://prod.example/x/*", action, resource);', "by a RoleBinding with this pattern"),
        (f'permit ({ME}, action == Action::"tools/cal", resource);', "unrecognized action"),
        (f'permit ({ME}, action, resource) when {{ action == Action::"tools/cal" }};', "unrecognized action"),
        (f'permit ({ME}, action, resource in Effect::"reed");', "not declared as a valid eid"),
        (f'permit ({ME}, action, resource in Namespace::"dmo");', "not of namespace demo"),
        (f'permit ({ME}, action, resource in Namespace::"demo/crm");', "not the name of a namespace"),
        (f'permit ({ME}, action, resource in Namespace::"acme");', "not of namespace demo"),
        (f'permit ({ME}, action, resource == Tool::"acme/payroll/pay");', "not of namespace demo"),
        (f'permit ({ME}, action, resource) when {{ resource in McpServer::"acme/payroll" }};', "not of namespace demo"),
        (f'permit ({ME}, action, resource in McpServer::"demo/cmr");', "did you mean 'demo/crm'?"),
        (f'permit ({ME}, action, resource in McpServer::"demo/crm/update_contact");', "a tool is Tool::"),
        (f'permit ({ME}, action, resource == Tool::"demo/crm/updat_contact");', "did you mean 'update_contact'?"),
        (f'permit ({ME}, action, resource == Tool::"demo/crm");', "names nothing"),
        (f'permit ({ME}, action, resource == Prompt::"demo/crm/update_contact");', "has no prompt"),
        (f'permit ({ME}, {CALL}, resource == McpServer::"demo/crm");', "unable to find an applicable action"),
        ("permit (principal == ?principal, action, resource);", "is a template"),
        (f"permit ({ME}, action, resource) when {{ principal.clams == 1 }};", "no principal has"),
        (f'permit ({ME}, action, resource) when {{ principal has clams && principal.clams == "x" }};', "no principal has"),
        (f"permit ({ME}, action, resource) when {{ resource has efect }};", "nothing has"),
        (f"permit ({ME}, action, resource) when {{ context has calller }};", "no request has"),
        (f"permit ({ME}, action, resource) when {{ context.caller has adress }};", "no request has"),
        (f"permit ({ME}, action, resource) when {{ context.caller.address.isLoopback() }};", "test it first"),
        (f"permit ({ME}, {CALL}, resource) when {{ context.arguments.amount > 5 }};", "test it first"),
        (f"permit ({ME}, {CALL}, resource) when {{ context.arguments has amuont }};", "arguments amuont: no tool"),
        (
            f"forbid ({ME}, {CALL}, resource) when {{ context.arguments has amuont && context.arguments.amuont > 5 }};",
            "arguments amuont: no tool",
        ),
        (
            f'permit ({ME}, {CALL}, resource == Tool::"demo/crm/search_contacts") when {{ context.arguments has amount }};',
            "amount: no tool",
        ),
        (f'permit ({ME}, {CALL}, resource) when {{ context.arguments has amount && context.arguments.amount == "5" }};', "not compatible"),
        (f"permit ({ME}, action, resource) when {{ context.arguments has amount }};", "only tools/call has arguments"),
        (f'permit ({ME}, {CALL}, resource) when {{ context.arguments == {{"amount": 5}} }};', "as a whole"),
        (f"permit ({ME}, {CALL}, resource) when {{ (if true then context else context).arguments has amount }};", "as a whole"),
        (f'permit ({ME}, action, resource) when {{ Group::"local/x" in Role::"demo/marketing" }};', "on the left of a comparison"),
        (f'permit ({ME}, action, resource) when {{ User::"local/x".subject == "x" }};', "on the left of a comparison"),
        (f'@id("") permit ({ME}, action, resource);', "@id needs"),
        (f'@id("a\\nb") permit ({ME}, action, resource);', "@id needs"),
        (f'@id("set#0") permit ({ME}, action, resource);', "@id needs"),
        ("permit (principal, action);", "is not Cedar"),
        (f"permit ({ME}, action, resource) when {{ 1 + }};", "is not Cedar"),
        (f"permit ({ME}, action, resource)", "is not Cedar"),
        ('permit (principal, action, resource) when { principal.hasTag("x") && principal.getTag("x") == "x" };', "tag"),
    ],
)
def test_an_unsafe_policy_is_refused(policy, message):
    errors, _ = check(policy)

    assert any(message in error for error in errors), errors


def test_every_fault_of_every_policy_is_reported_at_once():
    errors, _ = check(
        'permit (principal in Role::"demo/ghost", action, resource in McpServer::"demo/ghost");\npermit (principal);\n'
        '@id("x") permit (principal in Role::"demo/ghost", action, resource);'
    )

    assert [error.partition(": ")[0] for error in errors] == ["demo/set-0#0", "demo/set-0#0", "demo/set-0, policy at line 2", "demo/x"]


def test_one_id_names_one_policy_of_a_namespace():
    same = f'@id("x") permit ({ME}, action, resource == Tool::"demo/crm/update_contact");'

    errors, _ = check(same, same)
    other_namespace, _ = check(
        document(same),
        document(same.replace("demo", "acme").replace("marketing", "payer").replace("crm/update_contact", "payroll/pay"), namespace="acme"),
    )

    assert errors == ["demo/x: @id is used already by a policy of demo/set-0"]
    assert other_namespace == []


def test_policies_of_system_may_name_every_namespace():
    everywhere = (
        'permit (principal in Role::"acme/payer", action, resource in McpServer::"acme/payroll");'
        'forbid (principal, action, resource in Namespace::"demo");'
    )

    assert check(everywhere, namespace="system") == ([], [])
    assert (
        "namespace 'ghost' does not exist" in check('forbid (principal, action, resource in Namespace::"ghost");', namespace="system")[0][0]
    )


def test_a_tool_of_a_server_that_was_not_read_yet_is_a_warning():
    errors, warnings = check(f'permit ({ME}, action, resource == Tool::"demo/new/anything");')

    assert errors == []
    assert "was not read yet" in warnings[0]


def test_arguments_of_a_server_that_was_not_read_yet_are_a_warning():
    errors, warnings = check(
        f'permit ({ME}, {CALL}, resource in McpServer::"demo/new") when {{ context.arguments has a && context.arguments.a > 5 }}'
        'when { context.arguments has b && context.arguments.b like "x*" };'
    )

    assert errors == []
    assert "arguments a, b cannot be checked" in warnings[0]


def test_what_fits_no_type_is_refused_even_on_a_server_that_was_not_read_yet():
    errors, _ = check(f'permit ({ME}, {CALL}, resource in McpServer::"demo/new") when {{ context.arguments.a > 5 }};')

    assert "test it first" in errors[0]


def test_an_argument_of_two_types_in_one_scope_is_refused():
    servers = {"demo/two": make_mcp_server("demo", "two", make_tool("a", n=ArgumentType.LONG), make_tool("b", n=ArgumentType.STRING))}

    errors, _ = check(
        f'permit ({ME}, {CALL}, resource in McpServer::"demo/two") when {{ context.arguments has n && context.arguments.n > 5 }};',
        servers=servers,
        probed=("demo/two", "demo/new"),
    )

    assert "different types" in errors[0]


def test_a_permit_of_everything_for_everybody_is_a_warning():
    assert "every authenticated caller" in check("permit (principal is User, action, resource);")[1][0]
    assert check(f"permit ({ME}, action, resource);")[1] == []
    assert check("forbid (principal, action, resource);")[1] == []


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 5000 + "true" + ")" * 5000,
        "[" * 5000 + "]" * 5000,
        "true" + " && true" * 5000,
        "1" + "+1" * 20000 + " == 2",
        "context" + ".a" * 20000,
        "if true then true else " * 5000 + "true",
    ],
    ids=["brackets", "sets", "and", "plus", "attributes", "if"],
)
def test_text_that_would_exhaust_cedars_stack_never_reaches_it(condition):
    errors, _ = check(f"permit ({ME}, action, resource) when {{ {condition} }};")

    assert len(errors) == 1
    assert "deeper than" in errors[0] or "operators" in errors[0] or "longer than" in errors[0]


def test_brackets_in_strings_and_comments_do_not_count():
    brackets = "(" * (MAX_BRACKET_DEPTH + 1)

    assert check(f'// {brackets} ; "\npermit ({ME}, action, resource) when {{ principal.subject == "{brackets};\\"//" }}; // "')[0] == []


def test_a_very_long_policy_is_refused():
    errors, _ = check(f'permit ({ME}, action, resource) when {{ principal.subject == "{"x" * MAX_POLICY_CHARACTERS}" }};')

    assert "longer than" in errors[0]


def test_text_is_cut_into_policies_with_their_lines():
    text = (
        "// a ; comment\n\npermit (principal, action, resource); // same line;\r// old line end;\rforbid\n"
        '(principal == User::"a;//\n", action, resource) ;\n\n// end'
    )

    assert [line for line, _ in split_policies(text)] == [3, 3]
    assert "".join(piece for _, piece in split_policies(text)) + "\n\n// end" == text
