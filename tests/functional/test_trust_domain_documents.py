"""Trust domains through the registry and its API: what is refused at apply, whom names mean, what stands in their way when they go.

And, in a real control plane with a real Workload API: their status, and what it says of its own readiness.
"""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controlplane.development_issuer import mint_token
from controlplane.registry.installation import prepare
from extauthz.runtime import Deployment
from tests.functional.api import DEMO, GATEWAY_URL, Api, running_api
from tests.functional.test_control_plane_process import _environment, _start, _until_listening
from tests.spiffe_ca import SpiffeCa, x509_jwk
from tests.workload_api import WorkloadApi

SECONDS = 60.0
CA = SpiffeCa("prod.example")
DOCUMENT: dict[str, Any] = json.loads(CA.bundle_document())
OTHER: dict[str, Any] = json.loads(SpiffeCa("other.example").bundle_document())
LEAF = DOCUMENT | {"keys": [*DOCUMENT["keys"], x509_jwk(CA.x509_svid().leaf)]}
HTTPS = "https://bundles.example/prod.json"
BY_SPIFFE = {"url": HTTPS, "profile": "https_spiffe", "endpointSpiffeId": "spiffe://prod.example/bundles"}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        assert (await running.apply(DEMO)).status == 200
        yield running


def document(kind: str, name: str, spec: dict[str, Any], *, namespace: str = "system") -> str:
    metadata = {"namespace": namespace, "name": name}
    return json.dumps({"apiVersion": "legation/v1", "kind": kind, "metadata": metadata, "spec": spec})


def trust_domain(name: str = "prod", *, namespace: str = "system", **spec: Any) -> str:
    given: dict[str, Any] = {"trustDomain": "prod.example", "bundle": {"document": DOCUMENT}, **spec}
    return document("TrustDomain", name, given, namespace=namespace)


def role_binding(*subjects: tuple[str, str], namespace: str = "demo") -> str:
    named = [{"kind": kind, "name": name} for kind, name in subjects]
    return document("RoleBinding", "agents", {"role": "agents", "subjects": named}, namespace=namespace)


def together(*documents: str) -> str:
    return "\n---\n".join(documents)


def endpoint(**members: Any) -> dict[str, Any]:
    return {"bundle": {"endpoint": {"url": HTTPS, **members}}}


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        (trust_domain(bundle={"document": OTHER}), "spec.bundle.document.keys[0].x5c", "other.example"),
        (trust_domain(bundle={"document": LEAF}), "spec.bundle.document.keys[2].x5c", "authority"),
        (trust_domain(bundle={"document": {}}), "spec.bundle.document.keys", "list"),
        (trust_domain(bundle={"document": DOCUMENT | {"spiffe_sequence": "7"}}), "spec.bundle.document.spiffe_sequence", "whole number"),
        (trust_domain(bundle={"document": {"keys": [{"kty": "EC", "d": "x"}]}}), "spec.bundle.document.keys[0]", "secret key"),
        (trust_domain(bundle={"pem": CA.x509_svid().chain_pem}), "spec.bundle.pem", "certificate 1 is not"),
        (trust_domain(bundle={"pem": "-----BEGIN RUBBISH"}), "spec.bundle.pem", "no certificates"),
        (trust_domain(bundle={"file": "bundle.json"}), "spec.bundle.file", "LEGATION_SECRETS_DIR"),
        (trust_domain(bundle={"document": DOCUMENT, "file": "x"}), "spec.bundle", "exactly one"),
        (trust_domain(**endpoint(url="https://169.254.169.254/b")), "spec.bundle.endpoint.url", "metadata"),
        (trust_domain(**endpoint(url="https://10.0.0.1/b")), "spec.bundle.endpoint.url", "private"),
        (trust_domain(**endpoint(url="http://bundles.example/b")), "spec.bundle.endpoint.url", "https"),
        (trust_domain(**endpoint(caFile="ca.pem")), "spec.bundle.endpoint.caFile", "LEGATION_SECRETS_DIR"),
        (trust_domain(**endpoint(bootstrap=DOCUMENT)), "spec.bundle.endpoint.bootstrap", "https_spiffe"),
        (trust_domain(bundle={"endpoint": BY_SPIFFE}), "spec.bundle.endpoint.bootstrap", "is missing"),
        (
            trust_domain(bundle={"endpoint": BY_SPIFFE | {"bootstrap": OTHER}}),
            "spec.bundle.endpoint.bootstrap.keys[0].x5c",
            "other.example",
        ),
        (
            trust_domain(bundle={"endpoint": BY_SPIFFE | {"bootstrap": {"keys": []}}}),
            "spec.bundle.endpoint.bootstrap",
            "no X.509 authority",
        ),
        (
            trust_domain(bundle={"endpoint": BY_SPIFFE | {"endpointSpiffeId": "spiffe://host.example/bundles"}}),
            "spec.bundle.endpoint.endpointSpiffeId",
            "register it first",
        ),
        (trust_domain(namespace="demo", trustedNamespaces=["demo"]), "spec.trustedNamespaces", "namespace system"),
        (trust_domain("local"), "metadata.name", "IdentityProvider"),
        (together(trust_domain(), trust_domain("twin")), "spec.trustDomain", "another entry"),
        (together(trust_domain(), trust_domain("twin", namespace="demo")), "spec.trustDomain", "another entry"),
        (trust_domain(workloads=[{"spiffeId": "spiffe://other.example/a"}]), "spec", "another trust domain"),
    ],
)
async def test_what_is_no_trust_domain_is_refused_with_its_place(api: Api, text: str, path: str, said: str) -> None:
    answer = await api.apply(text)

    assert answer.status == 422, answer.text
    assert path in [error["path"] for error in answer.body["errors"]]
    assert said in " ".join(error["message"] for error in answer.body["errors"] if error["path"] == path)
    assert "BEGIN" not in answer.text
    assert not api.live.state.trust_domains


@pytest.mark.parametrize(
    "bundle",
    [
        {"document": DOCUMENT},
        {"document": {"keys": []}},
        {"pem": CA.bundle_pem()},
        {"workloadApi": {}},
        {"endpoint": {"url": HTTPS}},
        {"endpoint": BY_SPIFFE | {"bootstrap": DOCUMENT}},
    ],
)
async def test_every_source_is_taken_and_read_back_as_it_was_written(api: Api, bundle: dict[str, Any]) -> None:
    applied = await api.apply(trust_domain(bundle=bundle))
    shown = await api.call("GET", "/v1/namespaces/system/trust-domains/prod")

    assert applied.status == 200, applied.text
    assert shown.body["spec"]["bundle"] == bundle


async def test_an_endpoint_may_be_of_another_trust_domain_that_is_registered_and_not_of_another_tenants(api: Api) -> None:
    host = {"trustDomain": "host.example", "bundle": {"document": {"keys": []}}}
    chained = {"endpoint": BY_SPIFFE | {"endpointSpiffeId": "spiffe://host.example/bundles"}}
    tenant = json.dumps({"apiVersion": "legation/v1", "kind": "Namespace", "metadata": {"name": "other"}, "spec": {}})
    foreign = together(tenant, document("TrustDomain", "host", host, namespace="other"), trust_domain(namespace="demo", bundle=chained))

    refused = await api.apply(foreign)
    accepted = await api.apply(together(document("TrustDomain", "host", host), trust_domain(namespace="demo", bundle=chained)))

    assert (refused.status, accepted.status) == (422, 200), refused.text + accepted.text


async def test_one_name_qualifies_one_kind_of_principals(api: Api) -> None:
    assert (await api.apply(trust_domain())).status == 200
    jwks = {"keys": [CA.jwt_authorities[0].public_jwk()]}

    answer = await api.apply(document("IdentityProvider", "prod", {"issuer": "urn:prod", "jwks": jwks}))

    assert answer.status == 422
    assert "TrustDomain" in answer.body["errors"][0]["message"]


async def test_what_its_author_should_know_is_said(api: Api) -> None:
    answer = await api.apply(
        together(
            trust_domain(bundle={"workloadApi": {}}, trustedNamespaces=["demo", "nowhere"]),
            trust_domain("empty", trustDomain="empty.example", bundle={"document": {"keys": []}}),
            role_binding(("Workload", "spiffe://unknown.example/a"), ("Workload", "spiffe://prod.example/a")),
        )
    )

    assert answer.status == 200, answer.text
    said = [" ".join(result["warnings"]) for result in answer.body["results"]]
    assert "LEGATION_WORKLOAD_API" in said[0]
    assert "namespace nowhere does not exist yet" in said[0]
    assert "no SVID of empty.example is believed" in said[1]
    assert "no TrustDomain unknown.example is trusted in this namespace" in said[2]
    assert "prod.example" not in said[2]


AGENTS = [{"spiffeId": "spiffe://prod.example/agents/*", "groups": ["agents", "both"]}]


@pytest.mark.parametrize(
    ("name", "stored"),
    [("prod/agents", "prod/agents"), ("prod/anything", "prod/anything"), ("marketing", "local/marketing"), ("local/both", "local/both")],
)
async def test_a_group_of_workloads_is_named_by_its_trust_domain(api: Api, name: str, stored: str) -> None:
    answer = await api.apply(together(trust_domain(workloads=AGENTS), role_binding(("Group", name))))

    assert answer.status == 200, answer.text
    assert api.live.state.role_bindings["demo/agents"].spec.subjects[0].name == stored


async def test_a_short_name_of_a_group_means_one_group_or_nothing(api: Api) -> None:
    both = await api.apply(together(trust_domain(workloads=AGENTS), role_binding(("Group", "both"))))
    elsewhere = await api.apply(
        together(trust_domain(trustedNamespaces=["system"], workloads=AGENTS), role_binding(("Group", "prod/agents")))
    )
    person = await api.apply(together(trust_domain(workloads=AGENTS), role_binding(("User", "prod/agents"))))

    assert "local/both or prod/both" in both.body["errors"][0]["message"]
    assert "not trusted in namespace demo" in elsewhere.body["errors"][0]["message"]
    assert person.status == 422


async def test_a_group_of_a_tenants_trust_domain_is_named_with_its_namespace(api: Api) -> None:
    answer = await api.apply(together(trust_domain(namespace="demo", workloads=AGENTS), role_binding(("Group", "demo.prod/agents"))))

    assert answer.status == 200, answer.text


@pytest.mark.parametrize(
    "name", ["prod.example/a", "spiffe://PROD.example/a", "spiffe://prod.example", "spiffe://*/a", "spiffe://prod.example/a/../b"]
)
async def test_a_workload_is_named_by_its_spiffe_id_or_a_pattern(api: Api, name: str) -> None:
    answer = await api.apply(together(trust_domain(), role_binding(("Workload", name))))

    assert answer.status == 422
    assert answer.body["errors"][0]["path"] == "spec.subjects[0].name"


@pytest.mark.parametrize("subject", [("Group", "prod/agents"), ("Workload", "spiffe://prod.example/agents/*")])
async def test_a_trust_domain_goes_when_no_role_binding_names_it(api: Api, subject: tuple[str, str]) -> None:
    path = "/v1/namespaces/system/trust-domains/prod"
    assert (await api.apply(together(trust_domain(workloads=AGENTS), role_binding(subject)))).status == 200

    kept = await api.call("DELETE", path, headers={"If-Match": "*"})
    await api.call("DELETE", "/v1/namespaces/demo/role-bindings/agents", headers={"If-Match": "*"})
    gone = await api.call("DELETE", path, headers={"If-Match": "*"})

    assert (kept.status, gone.status) == (409, 200)
    assert "RoleBinding demo/agents" in kept.text


# -- a real control plane --


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as short:
        prepared = Deployment(data_dir=tmp_path / "data", runtime_dir=Path(short) / "run")
        prepare(prepared, GATEWAY_URL)
        yield prepared


async def test_a_control_plane_shows_where_a_bundle_came_from_and_whether_its_own_identity_holds(deployment: Deployment) -> None:
    (deployment.secrets_dir / "system").mkdir(parents=True)
    (deployment.secrets_dir / "system" / "bundle.pem").write_text(SpiffeCa("file.example").bundle_pem())
    documents = together(
        trust_domain(bundle={"workloadApi": {}}),
        trust_domain("file", trustDomain="file.example", bundle={"file": "bundle.pem"}),
        trust_domain("away", trustDomain="away.example", bundle={"endpoint": {"url": "https://localhost:9/bundle.json"}}),
    )
    with WorkloadApi(CA, "/gateway", ttl_seconds=5) as server:
        settings = {
            "LEGATION_WORKLOAD_API": server.address,
            "LEGATION_SECRETS_DIR": str(deployment.secrets_dir),
            "LEGATION_ALLOWED_UPSTREAM_NETWORKS": "127.0.0.0/8,::1/128",
        }
        process = _start(_environment(deployment, **settings))
        try:
            await _until_listening(deployment, process)
            async with _client(deployment) as api:
                assert server.calls.total() == 0  # nobody needs it yet
                async with api.post("/v1/apply", data=documents, headers={"Content-Type": "application/yaml"}) as applied:
                    assert applied.status == 200, await applied.text()
                told = await _until(api, "prod", lambda status: status.get("x509Authorities"))
                assert told["conditions"][0]["status"] == "True"
                assert (told["source"], told["x509Authorities"]) == ("workloadApi", 1)
                file = await _until(api, "file", lambda status: status.get("x509Authorities"))
                assert (file["source"], file["jwtAuthorities"], file["ageSeconds"] >= 0) == ("file", 0, True)
                away = await _until(api, "away", lambda status: "could not be fetched" in status["conditions"][0]["message"])
                assert away["conditions"][0]["status"] == "False"
                expired = "an X.509-SVID of this process has expired, and the Workload API has given no new one"
                assert await _until_ready_says(api, expired, said=True)
                async with api.get("/v1/nodes") as nodes:
                    assert (await nodes.json())["problems"] == [expired]
                server.svid_ttl_seconds = 3600
                server.rotate()
                assert await _until_ready_says(api, expired, said=False)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, SECONDS) == 0
        finally:
            process.kill()
            process.communicate()


def _client(deployment: Deployment) -> aiohttp.ClientSession:
    token = mint_token(deployment.admin_credential_file, subject="", audience=f"{GATEWAY_URL}/v1", groups=(), ttl_seconds=300)
    headers = {"Authorization": f"Bearer {token}", "Host": "127.0.0.1:8080"}
    return aiohttp.ClientSession("http://api", connector=aiohttp.UnixConnector(str(deployment.api_socket)), headers=headers)


async def _until(api: aiohttp.ClientSession, name: str, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The status of a TrustDomain, as soon as it is so."""
    async with asyncio.timeout(SECONDS):
        while True:
            async with api.get(f"/v1/namespaces/system/trust-domains/{name}") as answer:
                status: dict[str, Any] = (await answer.json())["status"]
            if holds(status):
                return status
            await asyncio.sleep(0.05)


async def _until_ready_says(api: aiohttp.ClientSession, reason: str, *, said: bool) -> bool:
    async with asyncio.timeout(SECONDS):
        while True:
            async with api.get("/readyz") as answer:
                if (reason in (await answer.json())["reasons"]) is said:
                    return True
            await asyncio.sleep(0.05)
