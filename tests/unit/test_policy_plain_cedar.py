"""Index and slices answer exactly what plain Cedar answers over all documents at once, in random worlds.

`LEGATION_TEST_POLICY_CASES` raises the number of worlds (each asks some sixty questions).
"""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import dataclass
from types import MappingProxyType

import cedarpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.registry.preset import cedar_of
from controlplane.registry.spec import PolicySetSpec
from extauthz.catalog.server import ArgumentType, Effect, McpServer
from extauthz.errors import Reason
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.model import Action, AuthorizationRequest, Caller, PolicyDocument, ResourceKind, RoleBinding
from extauthz.policy.schema import RESOURCES_OF_ACTION
from tests.unit.policy_world import make_mcp_server, make_tool

WORLDS = int(os.environ.get("LEGATION_TEST_POLICY_CASES", "60"))
NAMESPACES = ("demo", "acme")
GROUPS = ("local/g0", "local/g1", "other/g0")
ROLES = ("r0", "r1", "r2")
USERS = ("local/u0", "local/u1", "other/u0")
KINDS = (PrincipalKind.USER, PrincipalKind.AGENT, PrincipalKind.WORKLOAD)
CONDITIONS = (
    "context.caller.mtls",
    'context.caller.era == "modern"',
    "context has arguments && context.arguments has amount && context.arguments.amount > 5",
    "context has arguments && context.arguments has who && context.arguments.who == principal.subject",
    "context.arguments.amount < 3",
    'context.caller.now > datetime("2026-01-01")',
    'context.caller has address && context.caller.address.isInRange(ip("10.0.0.0/8"))',
    "context.caller.address.isLoopback()",
    'principal in Role::"demo/r1"',
    'principal in [Group::"local/g1", Role::"system/r0"]',
    "principal is Agent",
    'resource in Effect::"read"',
    'resource in [Effect::"write", Effect::"destructive"]',
    'resource in Effect::""',
    "resource in []",
    'resource in [Effect::"read", McpServer::"demo/s0"]',
    'resource in Effect::"read" && context.caller.mtls',
    'resource in Effect::"read" || resource in McpServer::"demo/s0"',
    'resource is Tool in McpServer::"acme/s0"',
    'resource.name like "t*"',
    'action in [Action::"tools/call", Action::"prompts/get"]',
    "principal.missing == 1",
    "true",
)


@dataclass(frozen=True)
class World:
    documents: tuple[PolicyDocument, ...]
    bindings: tuple[RoleBinding, ...]
    mcp_servers: dict[str, McpServer]


def entities():
    """Every entity that a scope may name, existing or not."""
    servers = [f"{n}/s{i}" for n, i in itertools.product(NAMESPACES, range(3))]
    yield from (("Namespace", n) for n in NAMESPACES)
    yield from (("McpServer", s) for s in servers)
    yield from (("Tool", f"{s}/t{i}") for s, i in itertools.product(servers, range(3)))
    yield from (("Prompt", f"{s}/p0") for s in servers)
    yield from (("McpResource", f"{s}/file:///x") for s in servers)
    yield from (("Effect", e.value) for e in Effect)


def subjects():
    yield from (("Group", g) for g in GROUPS)
    yield from ((k.value, u) for k, u in itertools.product(KINDS, USERS))
    yield from (("Role", f"{n}/{r}") for n, r in itertools.product((*NAMESPACES, "system"), ROLES))


RESOURCES = tuple(entities())
SUBJECTS = tuple(subjects())


def random_policy(rng, number):
    def scope(variable, choices, types):
        entity_type, entity_id = rng.choice(choices)
        uid = f'{entity_type}::"{entity_id}"'
        forms = [
            variable,
            f"{variable} is {rng.choice(types)}",
            f"{variable} == {uid}",
            f"{variable} is {rng.choice(types)} in {uid}",
            f"{variable} in {uid}",
        ]
        return rng.choices(forms, weights=[2, 1, 2, 1, 4])[0]

    actions = rng.sample([f'Action::"{a.value}"' for a in Action], 2)
    action = rng.choice(["action", "action", f"action == {actions[0]}", f"action in [{', '.join(actions)}]", f"action in {actions[0]}"])
    effect = rng.choices(["permit", "forbid"], weights=[3, 1])[0]
    principal = scope("principal", SUBJECTS, [k.value for k in KINDS])
    resource = scope("resource", RESOURCES, [k.value for k in ResourceKind])
    conditions = [f"{rng.choice(['when', 'unless'])} {{ {rng.choice(CONDITIONS)} }}" for _ in range(rng.choices([0, 1, 2], [6, 3, 1])[0])]
    return f'@id("{number}") {effect} ({principal}, {action}, {resource}) {" ".join(conditions)};'


def random_presets(rng, namespace):
    servers = [
        f"{n}/s{i}" if namespace == "system" else f"s{i}" for n in (NAMESPACES if namespace == "system" else (namespace,)) for i in (0, 1)
    ]
    presets = [
        {"preset": preset, "roles": rng.sample(ROLES, rng.randint(1, 2)), "servers": rng.sample(servers, rng.randint(0, 2))}
        for preset in rng.sample(("read-only", "read-write", "full"), rng.randint(0, 2))
    ]
    spec = PolicySetSpec.model_validate({"presets": presets}) if presets else PolicySetSpec(cedar="// nothing")
    name = f"presets-{namespace}"
    return PolicyDocument(namespace=namespace, name=name, cedar=cedar_of(namespace, name, spec))


def random_world(rng):
    numbers = itertools.count()
    documents = tuple(
        PolicyDocument(namespace=n, name=f"set{i}", cedar="\n".join(random_policy(rng, next(numbers)) for _ in range(rng.randint(1, 8))))
        for n in (*NAMESPACES, "system")
        for i in range(2)
    )
    documents += tuple(random_presets(rng, n) for n in (*NAMESPACES, "system"))
    bindings = tuple(
        RoleBinding(namespace=n, name=r, role=r, subjects=tuple(s for s in SUBJECTS if s[0] != "Role" and rng.random() < 0.15))
        for n in (*NAMESPACES, "system")
        for r in ROLES
    )
    arguments = {"amount": ArgumentType.LONG, "who": ArgumentType.STRING}
    servers = (
        make_mcp_server(n, f"s{i}", *(make_tool(f"t{j}", rng.choice(list(Effect)), **arguments) for j in range(3)))
        for n in NAMESPACES
        for i in range(2)
    )
    return World(documents, bindings, {s.id: s for s in servers})


def random_request(rng, world):
    action = rng.choice([*Action, Action.TOOLS_CALL, Action.TOOLS_CALL])
    kind = rng.choice(sorted(RESOURCES_OF_ACTION[action]))
    name = {ResourceKind.TOOL: f"t{rng.randrange(3)}", ResourceKind.PROMPT: "p0", ResourceKind.MCP_RESOURCE: "file:///x"}.get(kind, "")
    user = rng.choice(USERS)
    provider, _, subject = user.partition("/")
    arguments = {"amount": rng.choice([1, 4, 9, None]), "who": rng.choice(["u0", "x"]), "unread": {"__entity": 1}}
    return AuthorizationRequest(
        principal=Principal(
            kind=rng.choice(KINDS), id=user, provider=provider, subject=subject, groups=tuple(g for g in GROUPS if rng.random() < 0.4)
        ),
        action=action,
        resource_kind=kind,
        mcp_server=rng.choice(list(world.mcp_servers.values())),
        name=name,
        arguments=MappingProxyType({k: v for k, v in arguments.items() if rng.random() < 0.7}),
        caller=Caller(
            era=rng.choice(["modern", "legacy"]),
            mtls=rng.random() < 0.5,
            address=rng.choice(["", "10.0.0.7", "8.8.8.8"]),
            now_unix=rng.choice([0.0, 1.8e9]),
        ),
    )


def plain_cedar(world, request):
    """The answer of Cedar to all governing text and every entity of the world: no index, no slice, nothing left out."""
    namespace = request.mcp_server.namespace
    text = "\n".join(d.cedar for d in world.documents if d.namespace in {namespace, "system"})
    graph = {}

    def uid(entity_type, entity_id):
        return {"type": entity_type, "id": entity_id}

    def add(entity_type, entity_id, parents=(), **attrs):
        graph[entity_type, entity_id] = {"uid": uid(entity_type, entity_id), "attrs": attrs, "parents": [uid(*p) for p in parents]}

    def roles(kind, name):
        counting = (b for b in world.bindings if b.namespace in {namespace, "system"})
        return [("Role", f"{b.namespace}/{b.role}") for b in counting if (kind, name) in b.subjects]

    for group in GROUPS:
        add("Group", group, roles("Group", group))
    p = request.principal
    add(
        p.kind.value,
        p.id,
        [("Group", g) for g in p.groups] + roles(p.kind.value, p.id),
        provider=p.provider,
        subject=p.subject,
        oauth_client_id="",
    )
    for server in world.mcp_servers.values():
        add("McpServer", server.id, [("Namespace", server.namespace)])
        for tool in server.tools.values():
            add("Tool", f"{server.id}/{tool.name}", [("McpServer", server.id), ("Effect", tool.effect.value)], name=tool.name)
        add("Prompt", f"{server.id}/p0", [("McpServer", server.id)], name="p0")
        add("McpResource", f"{server.id}/file:///x", [("McpServer", server.id)], name="file:///x")
    caller = {"era": request.caller.era, "mtls": request.caller.mtls, "issuer": ""}
    caller["now"] = {"__extn": {"fn": "datetime", "arg": "1970-01-01" if request.caller.now_unix == 0 else "2027-01-15T08:00:00Z"}}
    if request.caller.address:
        caller["address"] = {"__extn": {"fn": "ip", "arg": request.caller.address}}
    context = {"caller": caller}
    if request.action is Action.TOOLS_CALL:
        context["arguments"] = {k: v for k, v in request.arguments.items() if v is not None and k != "unread"}
    resource_id = f"{request.mcp_server.id}/{request.name}" if request.name else request.mcp_server.id
    question = {
        "principal": uid(p.kind.value, p.id),
        "action": uid("Action", request.action.value),
        "resource": uid(request.resource_kind.value, resource_id),
        "context": context,
    }
    answer = cedarpy.is_authorized(question, text, list(graph.values()))
    assert answer.decision is not cedarpy.Decision.NoDecision, answer.diagnostics.errors
    annotations = answer.diagnostics.id_annotations_by_reason
    return answer.decision is cedarpy.Decision.Allow, {annotations[r] for r in answer.diagnostics.reasons}, bool(answer.diagnostics.errors)


def compare(world, engine, request):
    allowed, reasons, failed = plain_cedar(world, request)
    evaluation = engine.evaluate(request)
    named = {policy_id.partition("/")[2] for policy_id in evaluation.determining_policies}

    if not allowed and reasons:
        assert (evaluation.reason, named) == (Reason.FORBIDDEN_BY_POLICY, reasons)
    elif failed:
        assert (evaluation.reason, named) == (Reason.POLICY_EVALUATION_ERROR, set())
    elif allowed:
        assert (evaluation.reason, named) == (Reason.ALLOWED, reasons)
    else:
        assert (evaluation.reason, named) == (Reason.NO_MATCHING_PERMIT, set())
    assert bool(evaluation.errors) is failed
    assert evaluation.allowed is (evaluation.reason is Reason.ALLOWED)
    return evaluation


@settings(max_examples=WORLDS, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.integers(0, 2**63))
def test_index_and_slices_answer_what_plain_cedar_answers(seed):
    rng = random.Random(seed)
    world = random_world(rng)
    engine = CedarEngine.build(world.documents, world.bindings, world.mcp_servers)

    for _ in range(30):
        request = random_request(rng, world)
        evaluation = compare(world, engine, request)
        assert engine.visible(request.principal, request.mcp_server) or not evaluation.allowed


@settings(max_examples=max(WORLDS // 4, 10), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.integers(0, 2**63))
def test_a_role_that_explain_names_would_have_allowed_it(seed):
    rng = random.Random(seed)
    world = random_world(rng)
    engine = CedarEngine.build(world.documents, world.bindings, world.mcp_servers)

    for _ in range(30):
        request = random_request(rng, world)
        explained, evaluated = engine.explain(request), engine.evaluate(request)
        assert (explained.allowed, explained.reason, explained.determining_policies) == (
            evaluated.allowed,
            evaluated.reason,
            evaluated.determining_policies,
        )
        for role in explained.missing_roles:
            namespace, _, name = role.partition("/")
            given_role = RoleBinding(namespace=namespace, name="new", role=name, subjects=((request.principal.kind, request.principal.id),))
            again = engine.rebuilt(world.documents, (*world.bindings, given_role), world.mcp_servers)
            assert again.evaluate(request).allowed


@settings(max_examples=max(WORLDS // 4, 10), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.integers(0, 2**63))
def test_a_rebuilt_engine_answers_as_one_built_from_nothing(seed):
    rng = random.Random(seed)
    world, other = random_world(rng), random_world(rng)
    mixed = tuple(rng.choice(pair) for pair in zip(world.documents, other.documents, strict=True))
    engine = CedarEngine.build(world.documents, world.bindings, world.mcp_servers)
    for _ in range(10):
        engine.evaluate(random_request(rng, world))

    rebuilt = engine.rebuilt(mixed, other.bindings, other.mcp_servers)
    fresh = CedarEngine.build(mixed, other.bindings, other.mcp_servers)

    for _ in range(30):
        request = random_request(rng, other)
        assert rebuilt.evaluate(request) == fresh.evaluate(request)
        assert rebuilt.visible(request.principal, request.mcp_server) == fresh.visible(request.principal, request.mcp_server)
