"""What a policy decision costs, and how soon an edit decides: `python bench/policy.py`.

World: servers with 10 tools each, 60 roles; of the policies 70 % are grants of a role on a tool, 20 % have conditions on the
context, 10 % are conditional forbids on a server. Times are microseconds of one thread unless they say ms.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from types import MappingProxyType

from extauthz.catalog.server import ArgumentType, Effect, McpServer, Tool
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.check import check_policies
from extauthz.policy.model import Action, AuthorizationRequest, Caller, PolicyDocument, ResourceKind, RoleBinding

ROLES = tuple(f"role-{i}" for i in range(60))


def make_servers(count: int) -> dict[str, McpServer]:
    arguments = MappingProxyType({"amount": ArgumentType.LONG})
    tools = {f"tool-{i}": Tool(name=f"tool-{i}", effect=list(Effect)[i % 3], arguments=arguments) for i in range(10)}
    servers = (
        McpServer(uid=f"u{i}", namespace="demo", name=f"server-{i}", cluster=f"c{i}", path="/mcp", tools=tools) for i in range(count)
    )
    return {server.id: server for server in servers}


def make_documents(rng: random.Random, policies: int, servers: list[str], per_set: int = 50) -> list[PolicyDocument]:
    texts = []
    for i in range(policies):
        role, server = rng.choice(ROLES), rng.choice(servers)
        tool = f'resource == Tool::"{server}/tool-{rng.randrange(10)}"'
        action = 'action == Action::"tools/call"'
        if i % 10 < 7:
            texts.append(f'@id("p{i}") permit (principal in Role::"demo/{role}", {action}, {tool});')
        elif i % 10 < 9:
            condition = "context.arguments has amount && context.arguments.amount < 1000 && !context.caller.mtls"
            texts.append(f'@id("p{i}") permit (principal in Role::"demo/{role}", {action}, {tool}) when {{ {condition} }};')
        else:
            texts.append(
                f'@id("p{i}") forbid (principal, action, resource in McpServer::"{server}") when {{ context.caller.era == "other" }};'
            )
    chunks = [texts[i : i + per_set] for i in range(0, policies, per_set)]
    return [PolicyDocument(namespace="demo", name=f"set-{i}", cedar="\n".join(chunk)) for i, chunk in enumerate(chunks)]


def make_bindings(rng: random.Random, users: int = 500) -> list[RoleBinding]:
    held = {role: tuple(("User", f"local/u{rng.randrange(users)}") for _ in range(25)) for role in ROLES}
    return [RoleBinding(namespace="demo", name=role, role=role, subjects=subjects) for role, subjects in held.items()]


def make_requests(rng: random.Random, servers: list[McpServer], count: int) -> list[AuthorizationRequest]:
    def request() -> AuthorizationRequest:
        user = f"u{rng.randrange(500)}"
        return AuthorizationRequest(
            principal=Principal(
                kind=PrincipalKind.USER, id=f"local/{user}", provider="local", subject=user, groups=("local/g1", "local/g2")
            ),
            action=Action.TOOLS_CALL,
            resource_kind=ResourceKind.TOOL,
            mcp_server=rng.choice(servers),
            name=f"tool-{rng.randrange(10)}",
            arguments={"amount": 5},
            caller=Caller(era="modern", address="10.0.0.1", now_unix=1.8e9),
        )

    return [request() for _ in range(count)]


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def quantiles(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    return f"{statistics.median(ordered) * 1e6:7.0f} / {ordered[int(len(ordered) * 0.99)] * 1e6:7.0f}"


def conditional(engine: CedarEngine, request: AuthorizationRequest) -> bool:
    seen: list[object] = []
    original = engine._slices.evaluate  # noqa: SLF001 - the bench looks inside to tell the two paths apart

    class _Watching:
        def evaluate(self, *arguments: object) -> object:
            seen.append(arguments)
            return original(*arguments)  # type: ignore[arg-type]

    kept, engine._slices = engine._slices, _Watching()  # type: ignore[assignment]  # noqa: SLF001
    try:
        engine.evaluate(request)
    finally:
        engine._slices = kept  # noqa: SLF001
    return bool(seen)


def measure(policies: int, server_count: int) -> None:
    rng = random.Random(policies)
    servers = make_servers(server_count)
    governed = sorted(servers)[:50]
    documents, bindings = make_documents(rng, policies, governed), make_bindings(rng)
    engine_cell: list[CedarEngine] = []
    built = timed(lambda: engine_cell.append(CedarEngine.build(documents, bindings, servers)))
    engine = engine_cell[0]
    requests = make_requests(rng, [servers[s] for s in governed], 2000)
    native = [r for r in requests if not conditional(engine, r)]
    sliced = [r for r in requests if conditional(engine, r)]
    cold = CedarEngine.build(documents, bindings, servers)
    print(f"\n{policies} policies, {server_count} servers              p50 /     p99")
    print(f"  condition-free, first time      {quantiles([timed(lambda r=r: cold.evaluate(r)) for r in native])}")
    print(f"  condition-free                  {quantiles([timed(lambda r=r: engine.evaluate(r)) for r in native])}")
    print(f"  with conditions, first time     {quantiles([timed(lambda r=r: cold.evaluate(r)) for r in sliced])}")
    print(f"  with conditions                 {quantiles([timed(lambda r=r: engine.evaluate(r)) for r in sliced])}")
    print(
        f"  visible                         {quantiles([timed(lambda r=r: engine.visible(r.principal, r.mcp_server)) for r in requests])}"
    )
    print(f"  explain                         {quantiles([timed(lambda r=r: engine.explain(r)) for r in requests[:200]])}")
    edited = [
        *documents[:-1],
        PolicyDocument(namespace="demo", name=documents[-1].name, cedar=documents[-1].cedar + "\nforbid (principal, action, resource);"),
    ]
    changed_catalog = {**servers, governed[0]: servers[governed[0]]}
    changed_bindings = [*bindings[:-1], RoleBinding(namespace="demo", name="x", role="role-0", subjects=(("User", "local/u1"),))]
    print(f"  build from nothing              {built * 1e3:7.1f} ms")
    print(f"  rebuilt after a policy edit     {timed(lambda: engine.rebuilt(edited, bindings, servers)) * 1e3:7.1f} ms")
    print(f"  rebuilt after a binding edit    {timed(lambda: engine.rebuilt(documents, changed_bindings, servers)) * 1e3:7.1f} ms")
    print(f"  rebuilt after a catalog edit    {timed(lambda: engine.rebuilt(documents, bindings, changed_catalog)) * 1e3:7.1f} ms")

    def check() -> object:
        roles = {f"demo/{role}" for role in ROLES}
        return check_policies(documents, mcp_servers=servers, roles=roles, namespaces={"demo"}, probed=set(servers))

    print(f"  check at apply, first time      {timed(check) * 1e3:7.1f} ms")
    print(f"  check at apply, again           {timed(check) * 1e3:7.1f} ms")


def main() -> None:
    for policies, servers in ((100, 50), (1000, 1000), (10_000, 10_000)):
        measure(policies, servers)


if __name__ == "__main__":
    main()
