"""Policies that are tried out: judged beside those in force, on the record, and without any say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from extauthz import discovery
from extauthz.address import AddressRules
from extauthz.audit.record import Shadow
from extauthz.door import Place
from extauthz.identity.jwks import KeySource
from extauthz.identity.principal import PROBER, Principal, PrincipalKind
from extauthz.mcp.era import Era
from extauthz.mcp.request import McpRequest, Target
from extauthz.policy.model import Action, Caller, PolicyCandidate, PolicyDocument, ResourceKind
from extauthz.shadow import shadow_documents, shadow_of
from extauthz.subscription import Subscription
from extauthz.v1 import registry_pb2 as pb

ANN = Principal(kind=PrincipalKind.USER, id="local/ann", provider="local", subject="ann")
PLACE = Place(namespace="demo", name="crm", resource_url="http://127.0.0.1/servers/demo/crm/mcp")
PERMIT = '@id("all") permit (principal, action, resource in McpServer::"demo/crm");'
FORBID = '@id("no-refunds") forbid (principal, action, resource == Tool::"demo/crm/refund");'


def resources(cedar: str, **candidates: str) -> dict[str, dict[str, bytes]]:
    server = pb.McpServer(
        uid="u", namespace="demo", name="crm", cluster="c", path="/mcp", tools=[pb.Tool(name="find"), pb.Tool(name="refund")]
    )
    tried = {
        f"demo/{name}": pb.PolicyCandidate(policies=pb.PolicySet(namespace="demo", name=name, cedar=text)).SerializeToString()
        for name, text in candidates.items()
    }
    return {
        discovery.MCP_SERVER: {"demo/crm": server.SerializeToString()},
        discovery.POLICY_SET: {"demo/rules": pb.PolicySet(namespace="demo", name="rules", cedar=cedar).SerializeToString()},
        discovery.POLICY_CANDIDATE: tried,
    }


@pytest.fixture
async def subscription() -> Subscription:
    return Subscription(key_source=KeySource(AddressRules(())), cache_file=None, max_staleness_seconds=60)


def call(subscription: Subscription, tool: str, principal: Principal = ANN) -> Shadow | None:
    target = Target(action=Action.TOOLS_CALL, kind=ResourceKind.TOOL, name=tool)
    request = McpRequest(era=Era.MODERN, protocol_version="2026-07-28", method="tools/call", targets=(target,))
    state = subscription.current()
    assert state is not None
    return shadow_of(state, principal, PLACE, request, Caller(era="modern"))


def document(name: str, cedar: str = "") -> PolicyDocument:
    return PolicyDocument(namespace="demo", name=name, cedar=cedar)


def test_a_candidate_stands_for_the_set_of_its_name_and_those_that_it_replaces():
    documents = [document("a"), document("b"), document("c"), PolicyDocument(namespace="other", name="a", cedar="")]

    tried = shadow_documents(documents, [PolicyCandidate(document=document("a", "new"), replaces=("c",))])

    assert [(one.namespace, one.name, one.cedar) for one in tried] == [("demo", "b", ""), ("other", "a", ""), ("demo", "a", "new")]


async def test_without_candidates_nothing_is_judged(subscription: Subscription):
    subscription.take(resources(PERMIT), 1)

    assert subscription.current().shadow is None  # type: ignore[union-attr]
    assert call(subscription, "find") is None


async def test_what_they_would_decide_is_told_and_decides_nothing(subscription: Subscription):
    subscription.take(resources(PERMIT, stricter=FORBID), 1)
    state = subscription.current()
    assert state is not None

    assert call(subscription, "find") == Shadow(allowed=True, reason="allowed", determining_policies=("demo/all",))
    assert call(subscription, "refund") == Shadow(allowed=False, reason="forbidden_by_policy", determining_policies=("demo/no-refunds",))
    assert state.policy.visible(ANN, state.mcp_servers["demo/crm"])
    assert state.shadow is not None
    assert state.policy is not state.shadow.policy
    assert call(subscription, "find", PROBER) is None


async def test_a_candidate_of_the_same_name_takes_its_place_and_leaves_with_it(subscription: Subscription):
    subscription.take(resources(PERMIT, rules=FORBID), 1)
    assert call(subscription, "find") == Shadow(allowed=False, reason="server_not_found")

    subscription.take(resources(PERMIT), 2)
    assert call(subscription, "find") is None


async def test_a_candidate_that_cannot_be_built_holds_up_nothing(subscription: Subscription):
    subscription.take(resources(PERMIT, broken="permit (nonsense"), 1)

    state = subscription.current()
    assert state is not None
    assert state.shadow is None
    assert state.revision == 1


async def test_what_fails_while_it_is_tried_is_an_answer_and_no_failure(subscription: Subscription):
    subscription.take(resources(PERMIT, stricter=FORBID), 1)
    state = subscription.current()
    assert state is not None
    broken = replace(state, shadow=replace(state, mcp_servers=None))  # type: ignore[type-var]
    request = McpRequest(era=Era.MODERN, protocol_version="2026-07-28", method="tools/call", targets=())

    found = shadow_of(broken, ANN, PLACE, request, Caller())

    assert found is not None
    assert not found.allowed
    assert found.reason.startswith("error: ")
