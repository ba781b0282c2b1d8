"""Entries over HTTP: apply, read, conditional writes, deletion, history, secrets."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.functional.api import DEMO, Api, binding, running_api

CRM = "/v1/namespaces/demo/mcp-servers/crm"
SECRET = "hunter2-the-secret"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        yield running


def _crm(**spec: object) -> dict[str, object]:
    spec = {"endpoints": [{"url": "http://127.0.0.1:9101/mcp"}], **spec}
    return {"apiVersion": "legation/v1", "kind": "McpServer", "metadata": {"namespace": "demo", "name": "crm"}, "spec": spec}


def _with_secret(**secret: object) -> dict[str, object]:
    return _crm(credential={"staticHeader": {"header": "X-Api-Key", "prefix": "", "secret": secret}})


async def test_a_manifest_becomes_one_revision_and_says_what_happened_to_each_document(api: Api):
    answer = await api.apply(DEMO)

    assert answer.status == 200, answer.text
    assert answer.body["revision"] == 2
    assert [(r["kind"], r["namespace"], r["name"], r["action"]) for r in answer.body["results"]] == [
        ("Namespace", "", "demo", "created"),
        ("McpServer", "demo", "crm", "created"),
        ("RoleBinding", "demo", "marketing", "created"),
        ("PolicySet", "demo", "crm", "created"),
    ]
    assert any("was not read yet" in warning for warning in answer.body["results"][3]["warnings"])


async def test_subjects_are_stored_qualified_by_the_only_provider_for_callers(api: Api):
    await api.apply(DEMO)

    answer = await api.call("GET", "/v1/namespaces/demo/role-bindings/marketing")

    assert [subject["name"] for subject in answer.body["spec"]["subjects"]] == ["local/marketing", "local/marketing-agent"]
    assert (await api.apply(DEMO)).body["results"][2]["action"] == "unchanged"


async def test_every_error_of_a_manifest_comes_at_once_with_document_and_path(api: Api):
    faulty = (
        DEMO.replace('"http://127.0.0.1:9101/mcp"', '"http://10.0.0.1/mcp"').replace("name: marketing}, {kind", "name: nobody/x}, {kind")
        + "---\napiVersion: legation/v1\nkind: McpServer\nmetadata: {namespace: dmeo, name: erp}\nspec: {endpoints: [{url: 'https://e.example.com/'}]}\n"
    )

    answer = await api.apply(faulty)

    assert answer.status == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    found = {(error["document"], error["path"]): error["message"] for error in answer.body["errors"]}
    assert "private address" in found[1, "spec.endpoints[0].url"]
    assert "'nobody'" in found[2, "spec.subjects[0].name"]
    assert "did you mean 'demo'" in found[4, "metadata.namespace"]
    assert api.live.state.revision == 1


async def test_a_misspelt_key_and_a_bad_policy_are_named(api: Api):
    answer = await api.apply(DEMO.replace("endpoints:", "endpionts:"))
    policy = await api.apply(DEMO.replace('Role::"demo/marketing"', 'Role::"demo/marktng"'))

    assert ("spec.endpionts", "is not known; did you mean 'endpoints'?") in [(e["path"], e["message"]) for e in answer.body["errors"]]
    assert [error["path"] for error in policy.body["errors"]] == ["spec.cedar"]
    assert "demo/marktng" in policy.body["errors"][0]["message"]


async def test_a_dry_run_changes_nothing(api: Api):
    answer = await api.apply(DEMO, query="?dry_run=true")

    assert answer.body["dry_run"] is True
    assert api.live.state.revision == 1
    assert any("marketing-updates" in line for line in answer.body["results"][3]["diff"])


async def test_a_misspelt_query_parameter_is_refused_before_anything_is_written(api: Api):
    answer = await api.apply(DEMO, query="?dry-run=true")

    assert answer.status == 400
    assert api.live.state.revision == 1


async def test_two_operators_at_once_and_the_second_gets_412(api: Api):
    await api.apply(DEMO)
    read = await api.call("GET", CRM)
    tag = read.headers["ETag"]

    first, second = await asyncio.gather(
        api.call("PUT", CRM, headers={"If-Match": tag}, json=_crm(timeoutMs=1000)),
        api.call("PUT", CRM, headers={"If-Match": tag}, json=_crm(timeoutMs=2000)),
    )

    assert sorted([first.status, second.status]) == [200, 412]
    winner = first if first.status == 200 else second
    assert winner.headers["ETag"] == '"3"' == (await api.call("GET", CRM)).headers["ETag"]


async def test_conditional_writes(api: Api):
    await api.apply(DEMO)
    tag = (await api.call("GET", CRM)).headers["ETag"]
    fresh = "/v1/namespaces/demo/mcp-servers/fresh"
    document = _crm() | {"metadata": {}}

    async def put(path: str, **headers: str) -> int:
        return (
            await api.call("PUT", path, headers={name.replace("_", "-"): value for name, value in headers.items()}, json=document)
        ).status

    assert await put(CRM) == 428
    assert await put(CRM, If_Match='"1"') == 412
    assert await put(CRM, If_Match=f"W/{tag}") == 412
    assert await put(CRM, If_Match=f'"9", {tag}') == 200
    assert await put(CRM, If_None_Match="*") == 412
    assert await put(CRM, If_Match="nonsense") == 400
    assert await put(fresh, If_Match="*") == 412
    assert await put(fresh, If_None_Match="*") == 201
    assert await put(fresh, If_Match="*") == 200
    assert (await api.call("DELETE", fresh)).status == 428
    assert (await api.call("DELETE", fresh, headers={"If-Match": '"1"'})).status == 412
    assert (await api.call("DELETE", fresh, headers={"If-Match": "*"})).status == 200
    assert (await api.call("DELETE", fresh, headers={"If-Match": "*"})).status == 404
    assert (await api.call("GET", fresh)).status == 404


async def test_a_put_must_be_about_the_entry_of_its_url(api: Api):
    await api.apply(DEMO)

    answer = await api.call("PUT", "/v1/namespaces/demo/mcp-servers/erp", json=_crm())

    assert answer.status == 422
    assert answer.body["errors"][0]["path"] == "metadata"


async def test_a_secret_is_never_seen_again(api: Api, caplog: pytest.LogCaptureFixture):
    await api.apply(DEMO)
    answers = [
        await api.call("PUT", CRM, headers={"If-Match": "*"}, json=_with_secret(value=SECRET)),
        await api.call("PUT", CRM, headers={"If-Match": "*"}, json=_with_secret(value=SECRET + "2")),
        await api.call("GET", CRM),
        await api.call("GET", f"{CRM}/history"),
        await api.apply(json.dumps(_with_secret(value=SECRET + "3")), query="?dry_run=true"),
        await api.apply(json.dumps(_with_secret(value=SECRET, file="x"))),
        await api.apply(json.dumps(_with_secret(value=[SECRET]))),
        await api.apply(json.dumps(_with_secret(value=SECRET + "\n"))),
        await api.apply(json.dumps(_crm(credential={"staticHeader": SECRET}))),
        await api.apply(json.dumps(_crm(credential={"staticHeader": {"secret": {"valeu": SECRET}}}))),
        await api.apply(f"a: {SECRET}: b\n- {SECRET}"),
        await api.call("GET", "/v1/mcp-servers"),
    ]

    assert [answer.status for answer in answers] == [200, 200, 200, 200, 200, 422, 422, 422, 422, 422, 422, 200]
    assert not [answer.text for answer in answers if "hunter2" in answer.text]
    assert not [answer.text for answer in answers if "sealed:" in answer.text]
    assert answers[2].body["spec"]["credential"]["staticHeader"]["secret"] == {"encrypted": True}
    assert answers[4].body["results"][0]["action"] == "updated"
    assert "a secret has a new value" in answers[4].body["results"][0]["diff"][-1]
    assert "hunter2" not in caplog.text
    database = b"".join(path.read_bytes() for path in api.deployment.data_dir.glob("registry.db*"))
    assert b"hunter2" not in database


async def test_a_stored_secret_is_kept_by_what_was_read_and_stays_with_its_address(api: Api):
    await api.apply(DEMO)
    await api.call("PUT", CRM, headers={"If-Match": "*"}, json=_with_secret(value=SECRET))
    read = (await api.call("GET", CRM)).body

    kept = await api.call("PUT", CRM, headers={"If-Match": "*"}, json=read | {"spec": read["spec"] | {"timeoutMs": 5000}})
    same = await api.apply(json.dumps(_with_secret(value=SECRET) | {"spec": _with_secret(value=SECRET)["spec"] | {"timeoutMs": 5000}}))  # type: ignore[operator]
    moved = await api.call(
        "PUT",
        CRM,
        headers={"If-Match": "*"},
        json=read | {"spec": read["spec"] | {"endpoints": [{"url": "https://attacker.example.com/mcp"}]}},
    )
    nothing = await api.apply(json.dumps(_with_secret(encrypted=True)).replace('"crm"', '"erp"'))

    assert kept.status == 200
    assert same.body["results"][0]["action"] == "unchanged"
    assert moved.status == 422
    assert "give the value again" in moved.body["errors"][0]["message"]
    assert nothing.status == 422


async def test_history_tells_who_did_what_newest_first(api: Api):
    await api.apply(DEMO)
    await api.call("PUT", CRM, headers={"If-Match": "*"}, json=_crm(timeoutMs=1000))
    await api.call("DELETE", CRM, headers={"If-Match": "*"})

    items = (await api.call("GET", f"{CRM}/history")).body["items"]

    assert [(item["op"], item["actor"], item["revision"]) for item in items] == [
        ("deleted", "operators/admin", 4),
        ("updated", "operators/admin", 3),
        ("created", "operators/admin", 2),
    ]
    assert items[1]["before"]["spec"] == {"endpoints": [{"url": "http://127.0.0.1:9101/mcp"}]}
    assert items[1]["after"]["spec"]["timeoutMs"] == 1000
    assert (await api.call("GET", "/v1/namespaces/demo/mcp-servers/never/history")).status == 404


async def test_a_namespace_that_holds_entries_cannot_be_deleted(api: Api):
    await api.apply(DEMO)

    answer = await api.call("DELETE", "/v1/namespaces/demo", headers={"If-Match": "*"})
    system = await api.call("DELETE", "/v1/namespaces/system", headers={"If-Match": "*"})

    assert answer.status == 409
    assert "McpServer demo/crm, PolicySet demo/crm, RoleBinding demo/marketing" in answer.body["detail"]
    assert system.status == 409


async def test_an_identity_provider_that_bindings_name_cannot_be_deleted(api: Api):
    await api.apply(DEMO)

    answer = await api.call("DELETE", "/v1/namespaces/system/identity-providers/local", headers={"If-Match": "*"})

    assert answer.status == 409
    assert "RoleBinding demo/marketing" in answer.body["detail"]


async def test_the_last_administrator_cannot_be_removed_in_any_way(api: Api):
    bindings = "/v1/namespaces/system/role-bindings/administrators"
    one = binding("system", "administrators", "legation:viewer", "ann")
    moved = json.dumps(
        {
            "apiVersion": "legation/v1",
            "kind": "RoleBinding",
            "metadata": {"namespace": "system", "name": "administrators"},
            "spec": {"role": "legation:administrator", "subjects": [{"kind": "Workload", "name": "operators/admin"}]},
        }
    )

    deleted = await api.call("DELETE", bindings, headers={"If-Match": "*"})
    changed = await api.apply(one)
    provider = await api.call("DELETE", "/v1/namespaces/system/identity-providers/operators", headers={"If-Match": "*"})
    other_kind = await api.apply(moved)

    assert (deleted.status, changed.status, provider.status, other_kind.status) == (409, 409, 409, 422)
    await api.apply(binding("system", "more", "legation:administrator", "ann"))
    assert (await api.call("DELETE", bindings, headers={"If-Match": "*"})).status == 200
    assert (await api.call("GET", "/v1/namespaces")).status == 403
    assert (await api.call("GET", "/v1/namespaces", token=api.token("ann"))).status == 200


@pytest.mark.parametrize(
    ("kind", "name"), [("Workload", "spiffe://prod.example/ci"), ("Workload", "spiffe://prod.example/**"), ("Group", "prod/ci")]
)
async def test_operator_roles_are_for_those_who_can_log_in(api: Api, kind: str, name: str):
    trust_domain = {
        "apiVersion": "legation/v1",
        "kind": "TrustDomain",
        "metadata": {"namespace": "system", "name": "prod"},
        "spec": {"trustDomain": "prod.example", "bundle": {"document": {"keys": []}}},
    }
    assert (await api.apply(json.dumps(trust_domain))).status == 200

    def given(role: str) -> str:
        spec = {"role": role, "subjects": [{"kind": kind, "name": name}]}
        metadata = {"namespace": "system", "name": "ci"}
        return json.dumps({"apiVersion": "legation/v1", "kind": "RoleBinding", "metadata": metadata, "spec": spec})

    refused = await api.apply(given("legation:administrator"))

    assert refused.status == 422
    assert [error["path"] for error in refused.body["errors"]] == ["spec.subjects[0]"]
    assert "no workload can log in" in refused.body["errors"][0]["message"]
    assert (await api.apply(given("ci"))).status == 200


async def test_adding_a_second_provider_makes_short_names_ambiguous_and_changes_no_stored_one(api: Api):
    await api.apply(DEMO)
    second = "apiVersion: legation/v1\nkind: IdentityProvider\nmetadata: {namespace: system, name: okta}\nspec: {issuer: 'https://okta.example.com'}\n"
    await api.apply(second)

    again = await api.apply(DEMO)

    assert again.status == 422
    assert "local/marketing or okta/marketing" in again.body["errors"][0]["message"]
    stored = await api.call("GET", "/v1/namespaces/demo/role-bindings/marketing")
    assert stored.body["spec"]["subjects"][0]["name"] == "local/marketing"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"issuer": "urn:legation:operators", "jwksUrl": "https://a.example.com/jwks"}, "another identity provider"),
        ({"issuer": "urn:x"}, "must be an https:// URL"),
        ({"issuer": "http://idp.example.com"}, "plain http needs allowInsecureHttp"),
        ({"issuer": "https://10.0.0.1"}, "private address"),
        ({"issuer": "urn:x", "jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}}, "secret key"),
        ({"issuer": "urn:x", "jwks": {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "d": "AA"}]}}, "secret key"),
        ({"issuer": "urn:x", "jwks": {"keys": []}}, "must have a signature key"),
        ({"issuer": "https://a.example.com", "jwks": {"keys": []}, "jwksUrl": "https://a.example.com/k"}, "either jwks or jwksUrl"),
    ],
)
async def test_an_identity_provider_that_cannot_be_trusted_is_refused(api: Api, spec: dict[str, object], message: str):
    document = {"apiVersion": "legation/v1", "kind": "IdentityProvider", "metadata": {"namespace": "system", "name": "new"}, "spec": spec}

    answer = await api.apply(json.dumps(document))

    assert answer.status == 422
    assert any(message in error["message"] for error in answer.body["errors"]), answer.text
    assert "c2VjcmV0" not in answer.text


async def test_deleting_a_server_that_a_policy_names_leaves_other_policies_editable(api: Api):
    await api.apply(DEMO)
    assert (await api.call("DELETE", CRM, headers={"If-Match": "*"})).status == 200

    other = """
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: demo, name: second}
spec: {cedar: 'permit (principal in Role::"demo/marketing", action, resource in Namespace::"demo");'}
"""

    assert (await api.apply(other)).status == 200
    assert (await api.apply(DEMO.split("---")[3])).status == 200, "an unchanged document is no change"


async def test_bodies_of_other_kinds_sizes_and_encodings_are_refused(api: Api):
    too_large = await api.call(
        "POST", "/v1/apply", headers={"Content-Type": "application/yaml"}, data=io.BytesIO(b"#" * (4 * 1024 * 1024 + 1))
    )
    form = await api.call("POST", "/v1/apply", headers={"Content-Type": "application/x-www-form-urlencoded"}, data=b"a=b")
    zipped = await api.call("POST", "/v1/apply", headers={"Content-Type": "application/yaml", "Content-Encoding": "gzip"}, data=b"x")
    deep = await api.call("PUT", CRM, headers={"Content-Type": "application/json"}, data=b"[" * 100_000)

    assert [answer.status for answer in (too_large, form, zipped, deep)] == [413, 415, 415, 400]
    assert all(answer.headers["Content-Type"] == "application/problem+json" for answer in (too_large, form, zipped, deep))
