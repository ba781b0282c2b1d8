"""What people are told: callers nothing new, operators the cause."""

from __future__ import annotations

import pytest

from extauthz.errors import Reason
from extauthz.policy.model import Action, Evaluation, ResourceKind
from extauthz.policy.sentence import operator_sentence, sentence_for
from tests.unit.policy_world import engine_of, make_principal, make_request

UPDATE = '@id("update") permit (principal in Role::"demo/marketing", action, resource == Tool::"demo/crm/update_contact");'
AGENT = make_principal("marketing-agent")
BOB = make_principal("bob")


def test_a_denied_tool_and_an_unknown_tool_get_one_sentence():
    engine = engine_of(UPDATE)
    denied, unknown = make_request(AGENT, "delete_contact"), make_request(AGENT, "no_such_tool")

    sentences = {sentence_for(engine.evaluate(request), request) for request in (denied, unknown)}

    assert sentences == {"You may not call this tool on demo/crm."}


@pytest.mark.parametrize(
    "reason", [Reason.NO_MATCHING_PERMIT, Reason.FORBIDDEN_BY_POLICY, Reason.TOOL_UNKNOWN, Reason.POLICY_EVALUATION_ERROR]
)
@pytest.mark.parametrize("action", Action)
def test_the_callers_sentence_names_no_policy_role_tool_or_error(reason, action):
    evaluation = Evaluation(
        allowed=False,
        reason=reason,
        determining_policies=("demo/secret-policy",),
        errors=("secret error",),
        roles=("demo/secret-role",),
        missing_roles=("demo/other-secret",),
    )

    sentence = sentence_for(evaluation, make_request(AGENT, "secret_tool", action=action), "d-1")

    assert "secret" not in sentence
    assert "Decision d-1 explains it to your administrator." in sentence


def test_an_allowed_call_has_a_sentence_too():
    request = make_request(AGENT)

    assert sentence_for(engine_of(UPDATE).evaluate(request), request) == "You may call this tool on demo/crm."
    assert operator_sentence(engine_of(UPDATE).evaluate(request), request) == (
        "User 'local/marketing-agent' may tools/call on 'demo/crm/update_contact': permitted by demo/update."
    )


def test_operators_learn_the_missing_role():
    request = make_request(BOB)

    sentence = operator_sentence(engine_of(UPDATE).explain(request), request)

    assert sentence.endswith("no policy permits it. No role is held. One of these roles would permit it: demo/marketing.")


@pytest.mark.parametrize(
    ("policies", "tool", "said"),
    [
        (UPDATE + '@id("stop") forbid (principal, action, resource);', "update_contact", "forbidden by demo/stop."),
        (UPDATE + '@id("odd") forbid (principal, action, resource) when { context.arguments.amount > 5 };', "update_contact", "demo/odd"),
        (UPDATE, "no_such_tool", "the catalog of demo/crm has no such tool."),
        (UPDATE, "delete_contact", "Roles held: demo/marketing. No single role would permit it."),
    ],
)
def test_operators_learn_the_cause(policies, tool, said):
    request = make_request(AGENT, tool)

    assert said in operator_sentence(engine_of(policies).explain(request), request)


def test_hostile_names_are_quoted_for_operators():
    request = make_request(make_principal("ann\n[2J"), "", action=Action.TOOLS_LIST, resource_kind=ResourceKind.MCP_SERVER)

    sentence = operator_sentence(engine_of(UPDATE).explain(request), request)

    assert sentence.isprintable()
