"""Who may do what: every route against everybody who should not, and the rule about granting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.api.routes import Route
from tests.functional.api import DEMO, GATEWAY_URL, Api, binding, running_api

PUBLIC = {"readHealth", "readReadiness", "readOpenApi", "readProtectedResourceMetadata"}

# What a viewer of `demo` may do in `demo`, and an editor of `other` anywhere: reads that filter by namespace themselves.
KINDS = (
    *("McpServer", "PolicySet", "RoleBinding", "IdentityProvider"),
    *("Revocation", "Gateway", "TrustDomain", "AuthorizationServer", "VirtualServer"),
    *("PolicyCandidate", "AuditPolicy", "AuditSink", "CostModel"),
)
PLURALS = [f"{kind[:-1]}ies" if kind.endswith("cy") else f"{kind}s" for kind in KINDS]
FILTERED_READS = {"listNodes", "listReviews", "readRevision", "readStatus", "listNamespaces", *(f"list{plural}" for plural in PLURALS)}
VIEWER = FILTERED_READS | {
    *(f"{verb}{kind}" for kind in ("Namespace", *KINDS) for verb in ("read", "history")),
    *(f"list{plural}In" for plural in PLURALS),
    *("readTools", "showReviews", "listCatalogVersions"),
}
EDITOR_ELSEWHERE = FILTERED_READS | {"listSinkStandings", "readAudit", "readUsage", "showDecision"}

OTHER = "apiVersion: legation/v1\nkind: Namespace\nmetadata: {name: other}\n"
PROVIDER = "---\napiVersion: legation/v1\nkind: IdentityProvider\nmetadata: {namespace: demo, name: own}\nspec: {issuer: 'https://own.example.com'}\n"
BINDINGS = (
    binding("demo", "viewers", "legation:viewer", "vera")
    + binding("other", "editors", "legation:editor", "otto")
    + binding("demo", "editors", "legation:editor", "edith")
    + binding("demo", "owners", "legation:administrator", "olga")
    + binding("demo", "auditors", "legation:auditor", "aude")
    + binding("system", "everywhere", "legation:viewer", "victor")
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        for text in (DEMO, OTHER + PROVIDER, BINDINGS):
            answer = await running.apply(text)
            assert answer.status == 200, answer.text
        yield running


def _path(route: Route) -> str:
    name = "own" if "identity-providers" in route.path else "marketing" if "role-bindings" in route.path else "crm"
    if route.path.startswith("/v1/namespaces/{name}"):
        name = "demo"
    path = route.path.replace("{namespace}", "demo").replace("{name}", name).replace("{revision}", "1")
    return path.replace("{consent}", "0f").replace("{grant}", "0f")


async def _status(api: Api, route: Route, token: str) -> int:
    options: dict[str, object] = {}
    if route.operation_id == "apply":
        options = {"data": DEMO.replace("marketing-agent", "somebody").encode(), "headers": {"Content-Type": "application/yaml"}}
    elif route.operation_id == "explain":
        options = {"json": {"principal": {"as": "ann"}, "server": "demo/crm", "tool": "update_contact"}}
    elif route.operation_id == "explainView":
        options = {"json": {"principal": {"as": "ann"}, "server": "demo/crm"}}
    elif route.method in ("PUT", "POST"):
        options = {"json": {}, "headers": {"If-Match": "*"}}
    elif route.method == "DELETE":
        options = {"headers": {"If-Match": "*"}}
    return (await api.call(route.method, _path(route), token=token, **options)).status  # type: ignore[arg-type]


async def test_nobody_gets_anything_without_a_good_token(api: Api):
    bad = [
        "",
        api.token("vera", audience="http://127.0.0.1:8080/servers/demo/crm/mcp"),
        api.token("vera", audience=GATEWAY_URL),
        "not-a-token",
        api.token("vera")[:-4] + "AAAA",
    ]

    answered = {(route.operation_id, number): await _status(api, route, token) for route in api.routes for number, token in enumerate(bad)}

    assert {asked: status for asked, status in answered.items() if status != 401 and asked[0] not in PUBLIC} == {}


async def test_every_route_denies_a_viewer_what_is_not_listed(api: Api):
    answered = {route.operation_id: await _status(api, route, api.token("vera")) for route in api.routes}

    assert {operation for operation, status in answered.items() if status not in (401, 403)} == PUBLIC | VIEWER
    elsewhere = {f"{verb}{kind}" for kind in KINDS[4:] for verb in ("read", "history")}  # none in demo
    assert {answered[operation] for operation in VIEWER - elsewhere} == {200}
    assert {answered[operation] for operation in elsewhere} <= {200, 404}


async def test_every_route_denies_an_editor_of_another_namespace_what_is_not_listed(api: Api):
    answered = {route.operation_id: await _status(api, route, api.token("otto")) for route in api.routes}

    assert {operation for operation, status in answered.items() if status not in (401, 403)} == PUBLIC | EDITOR_ELSEWHERE


async def test_every_route_denies_a_caller_of_the_data_path_who_is_no_operator(api: Api):
    answered = {route.operation_id: await _status(api, route, api.token("marketing-agent")) for route in api.routes}

    assert {operation for operation, status in answered.items() if status not in (401, 403)} == PUBLIC


async def test_denial_comes_before_existence_is_told(api: Api):
    there = await api.call("GET", "/v1/namespaces/demo/mcp-servers/crm", token=api.token("otto"))
    nowhere = await api.call("GET", "/v1/namespaces/demo/mcp-servers/nothing", token=api.token("otto"))
    no_namespace = await api.call("GET", "/v1/namespaces/nothing/mcp-servers/crm", token=api.token("otto"))

    assert {there.status, nowhere.status, no_namespace.status} == {403}


async def test_lists_hold_only_what_may_be_read(api: Api):
    def ids(answer: object) -> list[str]:
        return [f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}" for item in answer.body["items"]]  # type: ignore[attr-defined]

    mine = ids(await api.call("GET", "/v1/role-bindings", token=api.token("otto")))
    namespaces = ids(await api.call("GET", "/v1/namespaces", token=api.token("otto")))
    servers = ids(await api.call("GET", "/v1/mcp-servers", token=api.token("otto")))
    everything = ids(await api.call("GET", "/v1/role-bindings", token=api.token("victor")))
    counts = (await api.call("GET", "/v1/status", token=api.token("otto"))).body["counts"]

    assert (mine, namespaces, servers) == (["other/editors"], ["/other"], [])
    assert {"demo/marketing", "system/administrators", "other/editors"} <= set(everything)
    assert counts == {"namespaces": 1, "mcp-servers": 0, "policy-sets": 0, "role-bindings": 1, "identity-providers": 0, "revocations": 0}


async def test_an_editor_edits_its_namespace_and_nothing_else(api: Api):
    token = api.token("edith")
    server = "apiVersion: legation/v1\nkind: McpServer\nmetadata: {namespace: NS, name: new}\nspec: {endpoints: [{url: 'https://a.example.com/'}]}\n"

    here = await api.apply(server.replace("NS", "demo"), token=token)
    both = await api.apply(server.replace("NS", "demo").replace("new", "newer") + "---\n" + server.replace("NS", "other"), token=token)
    provider = await api.apply(PROVIDER.removeprefix("---\n"), token=token)
    namespace = await api.apply("apiVersion: legation/v1\nkind: Namespace\nmetadata: {name: fresh}\n", token=token)

    assert (here.status, both.status, provider.status, namespace.status) == (200, 403, 403, 403)
    assert both.body["errors"] == [
        {"document": 1, "path": "", "message": "local/edith does not hold registry:mcp-server:write in namespace other"}
    ]
    assert "demo/newer" not in api.live.state.mcp_servers


@pytest.mark.parametrize(
    ("who", "namespace", "role", "status"),
    [
        ("edith", "demo", "marketing", 200),
        ("edith", "demo", "legation:viewer", 200),
        ("edith", "demo", "legation:editor", 200),
        ("edith", "demo", "legation:auditor", 200),
        ("edith", "demo", "legation:administrator", 403),
        ("edith", "system", "legation:viewer", 403),
        ("edith", "other", "marketing", 403),
        ("olga", "demo", "legation:administrator", 200),
        ("olga", "system", "legation:viewer", 403),
        ("vera", "demo", "marketing", 403),
    ],
)
async def test_nobody_grants_what_they_do_not_hold(api: Api, who: str, namespace: str, role: str, status: int):
    answer = await api.apply(binding(namespace, "granted", role, "friend"), token=api.token(who))

    assert answer.status == status, answer.text


async def test_only_administrators_of_system_register_issuers_or_a_namespace_could_take_everybodys_login(api: Api):
    squatting = PROVIDER.replace("https://own.example.com", "https://login.example.com").replace("name: own", "name: squatter")
    token = api.token("olga")

    applied = await api.apply(squatting, token=token)
    rewritten = await api.apply(PROVIDER.replace("own.example.com", "login.example.com"), token=token)
    put = await api.call(
        "PUT", "/v1/namespaces/demo/identity-providers/new", token=token, json={"spec": {"issuer": "https://l.example.com"}}
    )
    deleted = await api.call("DELETE", "/v1/namespaces/demo/identity-providers/own", token=token, headers={"If-Match": "*"})
    read = await api.call("GET", "/v1/namespaces/demo/identity-providers/own", token=token)
    in_system = await api.apply(squatting.replace("namespace: demo", "namespace: system"))

    assert (applied.status, rewritten.status, put.status, deleted.status) == (403, 403, 403, 403)
    assert "registry:identity-provider:write in namespace system" in applied.body["detail"]
    assert (read.status, in_system.status) == (200, 200)


async def test_nobody_takes_away_or_rewrites_what_they_could_not_grant(api: Api):
    token = api.token("edith")

    deleted = await api.call("DELETE", "/v1/namespaces/demo/role-bindings/owners", token=token, headers={"If-Match": "*"})
    rewritten = await api.apply(binding("demo", "owners", "legation:viewer", "edith"), token=token)
    joined = await api.apply(binding("demo", "owners", "legation:administrator", "edith"), token=token)

    assert (deleted.status, rewritten.status, joined.status) == (403, 403, 403)


async def test_a_permission_that_is_taken_away_is_gone_at_the_next_request(api: Api):
    token = api.token("edith")
    before = await api.call("GET", "/v1/namespaces/demo/mcp-servers", token=token)

    await api.call("DELETE", "/v1/namespaces/demo/role-bindings/editors", headers={"If-Match": "*"})
    after = await api.call("GET", "/v1/namespaces/demo/mcp-servers", token=token)

    assert (before.status, after.status) == (200, 403)


async def test_groups_of_the_token_count_too(api: Api):
    text = binding("demo", "group-editors", "legation:editor", "x").replace(
        "kind: User, name: local/x", "kind: Group, name: local/platform"
    )
    await api.apply(text)

    member = await api.call("GET", "/v1/namespaces/demo/mcp-servers", token=api.token("zoe", groups=("platform",)))
    stranger = await api.call("GET", "/v1/namespaces/demo/mcp-servers", token=api.token("zoe", groups=("other",)))

    assert (member.status, stranger.status) == (200, 403)


async def test_an_unauthenticated_caller_is_told_how_in_the_header(api: Api):
    missing = await api.call("GET", "/v1/status", token="")
    expired = await api.call("GET", "/v1/status", token="x.y.z")

    url = "http://127.0.0.1:8080/.well-known/oauth-protected-resource/v1"
    assert missing.headers["WWW-Authenticate"] == f'Bearer realm="legation", resource_metadata="{url}"'
    assert 'error="invalid_token"' in expired.headers["WWW-Authenticate"]
    assert missing.headers["Cache-Control"] == "no-store"
    assert missing.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_metadata_names_the_issuers_of_operators_and_of_nobody_else(api: Api):
    providers = "".join(
        f"---\napiVersion: legation/v1\nkind: IdentityProvider\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {spec}\n"
        for namespace, name, spec in (
            ("system", "staff", "{issuer: 'https://staff.example.com', operatorsOnly: true, scopes: [registry]}"),
            ("system", "everybody", "{issuer: 'https://everybody.example.com', scopes: [registry, crm]}"),
            ("system", "bound", "{issuer: 'https://bound.example.com', tokenBinding: mtls}"),
        )
    )
    assert (await api.apply(providers)).status == 200

    answer = await api.call("GET", "/.well-known/oauth-protected-resource/v1", token="")

    assert answer.status == 200
    assert answer.body == {
        "resource": "http://127.0.0.1:8080/v1",
        "bearer_methods_supported": ["header"],
        "authorization_servers": ["https://everybody.example.com", "https://staff.example.com"],
        "scopes_supported": ["registry"],
    }
