"""Names come from clients, tokens and servers; no name becomes another entity."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extauthz.catalog.server import ArgumentType
from extauthz.errors import Reason
from extauthz.policy.compiled import parse_policy
from extauthz.policy.model import Action, ResourceKind, RoleBinding
from extauthz.policy.schema import cedar_string, parsed_schema, schema_text
from tests.unit.policy_world import engine_of, make_mcp_server, make_principal, make_request, make_tool

HOSTILE = [
    'ann"} , {"uid',
    'ann" || true || "',
    'x"); permit (principal, action, resource); //',
    'User::"ann"',
    "ann\n\r\t\0",
    "ann\u2028\u2029\ufeff",
    "\\u{22}\\",
    "{{7*7}}",
    "x" * 100_000,
    "../../demo/crm/update_contact",
    "Ann",
    "änn",
    "a\u0308nn",
    "😀",
    "",
]
ROLE_POLICY = (
    'permit (principal in Role::"demo/marketing", action, resource) when { context.caller.mtls == false };'
    'permit (principal == User::"local/ann", action, resource);'
)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "policy", [ROLE_POLICY, 'permit (principal == User::"local/ann", action, resource) when { principal == User::"local/ann" };']
)
def test_a_hostile_principal_is_nobody_else(policy, name):
    evaluation = engine_of(policy).evaluate(make_request(make_principal(name, groups=(f"local/{name}",))))

    assert evaluation.reason is Reason.NO_MATCHING_PERMIT


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_principal_can_be_given_a_role(name):
    binding = RoleBinding(namespace="demo", name="x", role="marketing", subjects=(("User", f"local/{name}"),))

    evaluation = engine_of(ROLE_POLICY, bindings=(binding,)).evaluate(make_request(make_principal(name)))

    assert evaluation.allowed


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tool_is_no_other_tool(name):
    server = make_mcp_server("demo", "crm", make_tool(name), make_tool("update_contact"))
    native = engine_of('permit (principal, action, resource == Tool::"demo/crm/update_contact");')
    conditional = engine_of('permit (principal, action, resource) when { resource == Tool::"demo/crm/update_contact" };')
    whole_server = engine_of('permit (principal, action, resource) when { resource in McpServer::"demo/crm" };')

    request = make_request(make_principal(), name, mcp_server=server)

    assert native.evaluate(request).reason is Reason.NO_MATCHING_PERMIT
    assert conditional.evaluate(request).reason is Reason.NO_MATCHING_PERMIT
    assert whole_server.evaluate(request).allowed


@pytest.mark.parametrize("uri", HOSTILE)
def test_a_hostile_uri_stays_in_its_server(uri):
    conditional = engine_of('permit (principal, action, resource) when { resource in McpServer::"demo/engineering-db" };')

    request = make_request(make_principal(), uri, action=Action.RESOURCES_READ, resource_kind=ResourceKind.MCP_RESOURCE)

    assert conditional.evaluate(request).reason is Reason.NO_MATCHING_PERMIT


@pytest.mark.parametrize("policy", ["permit (principal, action, resource);", "permit (principal, action, resource) when { true };"])
def test_names_that_are_not_unicode_are_denied(policy):
    engine = engine_of(policy)
    server = make_mcp_server("demo", "crm", make_tool("a\ud800"), make_tool("update_contact"))

    assert engine.evaluate(make_request(make_principal(), "a\ud800", mcp_server=server)).reason is Reason.POLICY_EVALUATION_ERROR
    assert engine.evaluate(make_request(make_principal("a\ud800"))).reason is Reason.POLICY_EVALUATION_ERROR
    assert engine.evaluate(make_request(make_principal(groups=("local/\udfff",)))).reason is Reason.POLICY_EVALUATION_ERROR


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_name_survives_in_cedar_text(name):
    policy = parse_policy(f"permit (principal == User::{cedar_string(name)}, action, resource);")

    assert policy.principal.entity == ("User", name)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=20), st.sampled_from(ArgumentType), max_size=5))
def test_any_argument_names_make_a_schema(arguments):
    parsed_schema(schema_text(arguments))
