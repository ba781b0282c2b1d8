"""Somebody of an (emulated) identity provider at the real gateway: challenges, scopes, proofs, and what the audit says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import yaml
from mcp.client.auth.utils import extract_resource_metadata_from_www_auth, extract_scope_from_www_auth

from tests.dpop import ProofKey
from tests.e2e.stack import Answer, Stack, eventually, modern_headers, modern_request, running_stack
from tests.emulated_idp import API, CLIENT, Keycloak
from tests.functional.test_identity_presets import RECIPES

SEARCH: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "search_contacts", "arguments": {"query": "a"}},
}
REQUIRED = {"connect": ["crm:use"], "effects": {"read": ["crm:read"]}, "tools": {"search_contacts": ["crm:search"]}}
ROLE = """
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: demo, name: keycloak-marketing}
spec: {role: marketing, subjects: [{kind: Group, name: keycloak/marketing}]}
"""


async def test_a_client_learns_what_to_ask_for_steps_up_once_and_proves_its_key(tmp_path: Path) -> None:
    client = ProofKey()
    async with Keycloak() as idp, running_stack(tmp_path, demo=True) as stack:
        await stack.accept("demo/crm")
        await _trust(stack, idp, scopes=["openid", "crm:use"])
        await stack.apply(ROLE)
        await _require_scopes(
            stack, {"connect": ["crm:use"], "effects": {"read": ["crm:read"]}, "tools": {"search_contacts": ["crm:search"]}}
        )

        # nobody: where to go, and what to ask for at first
        nobody = _as_sdk_sees(await stack.request("POST", "/servers/demo/crm/mcp", json_body=SEARCH))
        metadata_url = extract_resource_metadata_from_www_auth(nobody) or ""
        metadata = (await stack.request("GET", metadata_url.removeprefix(stack.gateway_url))).json
        assert (nobody.status_code, extract_scope_from_www_auth(nobody)) == (401, "openid crm:use")
        assert metadata["authorization_servers"] == [idp.issuer]
        assert metadata["scopes_supported"] == ["openid", "crm:use"]

        # too few scopes: all of the call at once, in both eras
        for answer in (await stack.call(*_SEARCH, access_token=_token(idp)), await _legacy(stack, _token(idp))):
            refused = _as_sdk_sees(answer)
            assert refused.status_code == 403
            assert extract_scope_from_www_auth(refused) == "crm:use crm:read crm:search"
        answer = await stack.call(*_SEARCH, access_token=_token(idp, scope="openid crm:use crm:read crm:search"))
        assert answer.status == 200, answer.text

        # a bound token: its nonce, its proof, and never as bearer
        await _trust(stack, idp, scopes=["openid", "crm:use"], tokenBinding="dpop", dpopNonce=True)
        bound = _token(idp, scope="crm:use crm:read crm:search", typ="DPoP", cnf=client.confirmation)

        async def demanded() -> Answer | None:
            answer = await _proved(stack, bound, client.proof(bound, url=stack.endpoint("demo/crm")))
            return answer if answer.status == 401 and "dpop-nonce" in answer.headers else None

        asked = await eventually(demanded, what="a demand for a nonce")
        proof = client.proof(bound, url=stack.endpoint("demo/crm"), nonce=asked.headers["dpop-nonce"])
        assert asked.headers["www-authenticate"].startswith('DPoP error="use_dpop_nonce"')
        assert [(await _proved(stack, bound, proof)).status for _ in range(2)] == [200, 401]
        assert (await _legacy(stack, bound)).status == 401

        record = await eventually(lambda: _record(stack), what="the call on the record")
        assert (record["principal"]["id"], record["principal"]["kind"]) == ("keycloak/uuid-of-ann", "User")
        assert record["principal"]["oauth_client_id"] == CLIENT


_SEARCH = ("demo/crm", "search_contacts", {"query": "a"})


def _token(idp: Keycloak, **claims: Any) -> str:
    return idp.sign(idp.access_token({"user": "ann"}) | claims)


async def _trust(stack: Stack, idp: Keycloak, **spec: Any) -> None:
    recipe = RECIPES["keycloak"]
    changed = {**recipe["spec"], "issuer": idp.issuer, "allowInsecureHttp": True, "audiences": [API], **spec}
    await stack.apply(yaml.safe_dump({**recipe, "spec": changed}))


async def _require_scopes(stack: Stack, required: dict[str, Any]) -> None:
    path = "/v1/namespaces/demo/mcp-servers/crm"
    read = await stack.api("GET", path)
    document = read.json | {"spec": {**read.json["spec"], "requiredScopes": required}}
    written = await stack.api("PUT", path, json_body=document, headers={"if-match": read.headers["etag"]})
    assert written.status == 200, written.text
    await stack.programmed(int(written.json["metadata"]["resourceRevision"]))


async def _legacy(stack: Stack, token: str) -> Answer:
    headers = {"accept": "application/json, text/event-stream", "authorization": f"Bearer {token}"}
    return await stack.request("POST", "/servers/demo/crm/mcp", json_body=SEARCH, headers=headers)


async def _proved(stack: Stack, token: str, proof: str) -> Answer:
    body = modern_request("tools/call", SEARCH["params"])
    headers = modern_headers("tools/call", "search_contacts") | {"authorization": f"DPoP {token}", "dpop": proof}
    return await stack.request("POST", "/servers/demo/crm/mcp", json_body=body, headers=headers)


async def _record(stack: Stack) -> Any:
    records = (await stack.api("GET", "/v1/audit?limit=50")).json["items"]
    return next((r for r in records if r["decision"] == "allow" and r.get("principal", {}).get("provider") == "keycloak"), None)


def _as_sdk_sees(answer: Answer) -> httpx2.Response:
    return httpx2.Response(answer.status, headers=dict(answer.headers), text=answer.text)
