"""Arguments in the context: typed and declared, or a denial."""

from __future__ import annotations

from decimal import Decimal

import pytest

from extauthz.catalog.server import ArgumentType
from extauthz.errors import PolicyError, Reason
from extauthz.policy.arguments import UnreadableArgumentError, typed_arguments
from extauthz.policy.compiled import Reads, parse_policy
from extauthz.policy.model import Caller
from tests.unit.policy_world import engine_of, make_mcp_server, make_principal, make_request, make_tool

S, L, D, B, SET = ArgumentType.STRING, ArgumentType.LONG, ArgumentType.DECIMAL, ArgumentType.BOOL, ArgumentType.STRING_SET
PERMIT = "permit (principal, action, resource);"
BIG = (
    'forbid (principal, action == Action::"tools/call", resource) when { context.arguments has amount && context.arguments.amount > 1000 };'
)


def typed(value, kind):
    server = make_mcp_server("demo", "crm", make_tool("x", a=kind))
    request = make_request(make_principal(), "x", mcp_server=server, arguments={"a": value})
    return typed_arguments(request, Reads(arguments=frozenset({"a"})))


@pytest.mark.parametrize(
    ("value", "kind", "built"),
    [
        ("x", S, "x"),
        (5, L, 5),
        (-(2**53) + 1, L, -(2**53) + 1),
        (2**53 - 1, L, 2**53 - 1),
        (True, B, True),
        (["a", "b"], SET, ["a", "b"]),
        (5, D, {"__extn": {"fn": "decimal", "arg": "5.0000"}}),
        (-0.5, D, {"__extn": {"fn": "decimal", "arg": "-0.5000"}}),
        (0.1, D, {"__extn": {"fn": "decimal", "arg": "0.1000"}}),
        (1e3, D, {"__extn": {"fn": "decimal", "arg": "1000.0000"}}),
        (Decimal("12.3456"), D, {"__extn": {"fn": "decimal", "arg": "12.3456"}}),
    ],
)
def test_a_value_of_its_declared_type_enters(value, kind, built):
    assert typed(value, kind) == {"a": built}


def test_null_is_absent():
    assert typed(None, L) == {}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (5, S),
        ("5", L),
        (True, L),
        (5.0, L),
        (2**53, L),
        (-(2**53), L),
        (2**63, L),
        (1, B),
        ("true", B),
        (True, D),
        ("1.0", D),
        (0.00001, D),
        (1e300, D),
        (float("nan"), D),
        (float("inf"), D),
        (Decimal("NaN"), D),
        (2**63, D),
        ("a", SET),
        (["a"], L),
        (["a"], S),
        (["a", 1], SET),
        ([["a"]], SET),
        ({"__entity": {"type": "User", "id": "local/ann"}}, S),
        ({"__extn": {"fn": "decimal", "arg": "1.0"}}, D),
        ([{"__entity": {"type": "User", "id": "local/ann"}}], SET),
    ],
)
def test_a_value_of_another_type_is_refused(value, kind):
    with pytest.raises(UnreadableArgumentError) as caught:
        typed(value, kind)

    assert str(value) not in str(caught.value) or str(value) in {"a", "1"}


def test_an_argument_of_the_wrong_type_denies_when_a_policy_reads_it():
    engine = engine_of(PERMIT, BIG)

    assert engine.evaluate(make_request(make_principal(), arguments={"amount": 5})).allowed
    assert engine.evaluate(make_request(make_principal(), arguments={"amount": 5000})).reason is Reason.FORBIDDEN_BY_POLICY
    assert engine.evaluate(make_request(make_principal(), arguments={"amount": "5000"})).reason is Reason.POLICY_EVALUATION_ERROR


def test_arguments_that_no_policy_reads_never_matter():
    hostile = {"amount": 5, "x": float("nan"), "__entity": {"type": "User", "id": "local/ann"}, "deep": [[[[]]]], "tags": 7}

    assert engine_of(PERMIT, BIG).evaluate(make_request(make_principal(), arguments=hostile)).allowed


def test_an_argument_that_is_read_but_not_declared_denies_when_it_is_sent():
    engine = engine_of(PERMIT, BIG)

    assert engine.evaluate(make_request(make_principal(), "delete_contact")).allowed
    evaluation = engine.evaluate(make_request(make_principal(), "delete_contact", arguments={"amount": 5000}))
    assert evaluation.reason is Reason.POLICY_EVALUATION_ERROR
    assert "'amount'" in evaluation.errors[0]


def test_a_clients_entity_is_never_an_entity():
    engine = engine_of("permit (principal, action, resource) when { context.arguments has owner && context.arguments.owner == principal };")
    server = make_mcp_server("demo", "crm", make_tool("x", owner=S))
    owner = {"__entity": {"type": "User", "id": "local/ann"}}

    evaluation = engine.evaluate(make_request(make_principal("ann"), "x", mcp_server=server, arguments={"owner": owner}))

    assert not evaluation.allowed


def test_names_that_cedar_gives_a_meaning_are_refused_even_when_declared():
    engine = engine_of('permit (principal, action, resource) when { context.arguments has "__entity" };')
    server = make_mcp_server("demo", "crm", make_tool("x", __entity=S))

    evaluation = engine.evaluate(make_request(make_principal(), "x", mcp_server=server, arguments={"__entity": "x"}))

    assert evaluation.reason is Reason.POLICY_EVALUATION_ERROR


@pytest.mark.parametrize(
    ("condition", "arguments"),
    [
        ('context.arguments has tags && context.arguments.tags.contains("vip")', {"tags": ["vip", "x"]}),
        ('context.arguments has price && context.arguments.price.lessThan(decimal("10.5"))', {"price": 10.25}),
        ("context.arguments has amount && [1, 2].contains(context.arguments.amount)", {"amount": 2}),
        ('{"Value": context.arguments, "Var": 1}.Value has amount', {"amount": 2}),
        ("(if true then context else context).arguments has amount", {"amount": 2}),
        ('context["arguments"] has "amount"', {"amount": 2}),
        ("context has arguments.amount", {"amount": 2}),
    ],
)
def test_every_way_to_read_an_argument_reads_it(condition, arguments):
    engine = engine_of(f'permit (principal, action == Action::"tools/call", resource) when {{ {condition} }};')

    assert engine.evaluate(make_request(make_principal(), arguments=arguments)).allowed
    assert not engine.evaluate(make_request(make_principal())).allowed


@pytest.mark.parametrize(("value", "kind"), [("a" * 4097, S), (["a" * 50] * 100, SET)])
def test_a_text_that_would_make_conditions_slow_cannot_be_read(value, kind):
    with pytest.raises(UnreadableArgumentError):
        typed(value, kind)


def test_a_pattern_that_would_make_conditions_slow_is_refused():
    text = f'forbid (principal, action == Action::"tools/call", resource) when {{ context.arguments.a like "*{"a" * 600}b" }};'

    with pytest.raises(PolicyError, match="like"):
        parse_policy(text)


@pytest.mark.parametrize("key", ["AMOUNT", "Amount", "amo\u200bunt", "\uff41mount", "amount\0", "amount ", "x\0", "x" * 300])
def test_an_argument_that_a_server_could_take_for_the_one_that_is_read_denies(key):
    engine = engine_of(PERMIT, BIG)

    for arguments in ({key: 5000}, {key: 5000, "amount": 5}, {"amount": 5, key: 5000}):
        assert engine.evaluate(make_request(make_principal(), arguments=arguments)).reason is Reason.POLICY_EVALUATION_ERROR


def test_arguments_that_differ_in_case_are_two_where_the_tool_declares_both():
    server = make_mcp_server("demo", "crm", make_tool("x", a=L, A=L))
    request = make_request(make_principal(), "x", mcp_server=server, arguments={"a": 1, "A": 2})

    assert typed_arguments(request, Reads(arguments=frozenset({"a"}))) == {"a": 1}


def test_other_arguments_with_too_many_letters_outside_ascii_deny():
    """Each is compared with what the policy reads, by a form that may be 18 times as long."""
    server = make_mcp_server("demo", "crm", make_tool("x", amount=L, **{"\xe4" * 300: L}))
    few = {"\ufdfa" * 100: 1, "\xe4" * 300: 1, "amount": 1}
    many = few | {f"{number}" + "\ufdfa" * 100: 1 for number in range(20)}
    reads = Reads(arguments=frozenset({"amount"}))

    assert typed_arguments(make_request(make_principal(), "x", mcp_server=server, arguments=few), reads) == {"amount": 1}
    with pytest.raises(UnreadableArgumentError, match="outside ASCII"):
        typed_arguments(make_request(make_principal(), "x", mcp_server=server, arguments=many), reads)


@pytest.mark.parametrize(
    ("address", "allowed"), [("2001:db8::1", True), ("::ffff:10.0.0.1", True), ("10.0.0.1", True), ("2001:db8::2", False), ("", False)]
)
def test_an_address_is_read_in_the_form_that_policies_name(address, allowed):
    either = 'context.caller.address == ip("2001:db8::1") || context.caller.address == ip("10.0.0.1")'
    engine = engine_of(f"permit (principal, action, resource) when {{ context.caller has address && ({either}) }};")

    assert engine.evaluate(make_request(make_principal(), caller=Caller(era="modern", address=address))).allowed is allowed
