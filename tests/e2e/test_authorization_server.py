"""An official client that knows the URL of an MCP server logs in at the gateway's own authorization server, through the real Envoy.

The provider behind it (npm `oidc-provider`) knows one client, the gateway, and neither registrations nor resources.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
import pytest_asyncio
from aiohttp import web
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata
from pydantic import AnyUrl

from tests.e2e.login_world import Tokens
from tests.e2e.stack import Stack, eventually, free_port, running_stack
from tests.functional.authorization_world import GATEWAY_SECRET, PEOPLE, login_provider
from tests.functional.scripted_browser import visit

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.external,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first run installs the provider
]

REGISTRY = """
apiVersion: legation/v1
kind: AuthorizationServer
metadata: {{namespace: system, name: front}}
spec:
  login:
    issuer: {idp}
    clientId: gateway
    clientSecret: {{value: "{secret}"}}
    allowInsecureHttp: true
  registration: {{dynamic: open}}
  clients:
    nightly:
      name: Nightly job
      grantTypes: [client_credentials]
      tokenEndpointAuthMethod: client_secret_basic
      secret: {{value: s3cret-of-nightly}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: demo, name: front-marketing}}
spec:
  role: marketing
  subjects: [{{kind: Group, name: front/marketing}}, {{kind: Agent, name: "front/client:nightly"}}]
"""


@dataclass(kw_only=True)
class Deployment:
    """The stack, and the provider behind its authorization server."""

    stack: Stack
    idp: str

    @property
    def issuer(self) -> str:
        return f"{self.stack.gateway_url}/oauth/front"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    port = free_port()
    callback = f"http://127.0.0.1:{port}/oauth/front/callback"
    client = {"client_id": "gateway", "client_secret": GATEWAY_SECRET, "redirect_uris": [callback]}
    directory = tmp_path_factory.mktemp("authorization")
    async with login_provider({"clients": [client], "people": PEOPLE}) as idp, running_stack(directory, demo=True, port=port) as stack:
        await stack.accept("demo/crm")
        before = await stack.request("GET", "/oauth/front/jwks.json")
        assert (before.status, before.headers["content-type"]) == (
            404,
            "text/plain; charset=utf-8",
        )  # Envoy's own: there is no such thing yet
        await stack.apply(REGISTRY.format(idp=idp, secret=GATEWAY_SECRET))
        yield Deployment(stack=stack, idp=idp)


@contextlib.asynccontextmanager
async def person(name: str) -> AsyncIterator[tuple[str, Any, Any, list[str]]]:
    """A redirect URI of a program on this machine, how it opens pages and gets the answer, and the pages that were opened."""
    answers: asyncio.Queue[AuthorizationCodeResult] = asyncio.Queue()
    pages: list[str] = []

    async def returned(request: web.Request) -> web.Response:
        said = request.query
        answers.put_nowait(AuthorizationCodeResult(code=said.get("code", ""), state=said.get("state"), iss=said.get("iss")))
        return web.Response(text="done")

    async def opened(url: str) -> None:
        pages.append(url)
        await asyncio.to_thread(visit, url, person=name)

    port = free_port()
    app = web.Application()
    app.router.add_get("/callback", returned)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/callback", opened, answers.get, pages
    finally:
        await runner.cleanup()


async def search(deployment: Deployment, auth: httpx2.Auth) -> str:
    """The tool that marketing may call."""
    http = httpx2.AsyncClient(auth=auth, timeout=60)
    async with http, Client(streamable_http_client(deployment.stack.endpoint("demo/crm"), http_client=http)) as client:
        result = await client.call_tool("search_contacts", {"query": "harbour"})
        return str(result.content[0].text)  # type: ignore[union-attr]


async def record_of(deployment: Deployment, principal_id: str) -> dict[str, Any]:
    """The call of this principal in the audit."""

    async def found() -> dict[str, Any] | None:
        answer = await deployment.stack.api("GET", f"/v1/audit?limit=200&principal={principal_id}&tool=search_contacts&decision=allow")
        return answer.json["items"][-1] if answer.json["items"] else None

    record: dict[str, Any] = await eventually(found, what=f"{principal_id} on the record")
    return record


async def test_a_client_that_knows_a_url_only_logs_a_person_in_and_goes_on_without_the_control_plane(deployment: Deployment) -> None:
    tokens = Tokens()
    async with person("ann") as (redirect_uri, opened, answered, pages):
        metadata = OAuthClientMetadata(client_name="An editor", redirect_uris=[AnyUrl(redirect_uri)])
        auth = OAuthClientProvider(deployment.stack.endpoint("demo/crm"), metadata, tokens, opened, answered)

        first = await search(deployment, auth)

        assert "Harbour Freight" in first
        assert len(pages) == 1
        assert pages[0].startswith(f"{deployment.issuer}/authorize?")
        record = await record_of(deployment, "front/ann")
        assert record["principal"]["kind"] == "User"
        assert record["principal"]["groups"] == ["front/marketing", "front/sales"]
        assert record["principal"]["issuer"] == deployment.issuer
        assert tokens.client is not None
        assert record["principal"]["oauth_client_id"] == tokens.client.client_id
        assert tokens.current is not None
        assert tokens.current.refresh_token

        # the authorizer verifies by keys that it has
        controlplane = deployment.stack.children()["controlplane"]
        os.kill(controlplane, signal.SIGSTOP)
        try:
            arguments = {"query": "harbour"}
            answer = await deployment.stack.call("demo/crm", "search_contacts", arguments, access_token=tokens.current.access_token)
        finally:
            os.kill(controlplane, signal.SIGCONT)
        assert answer.status == 200, answer.text


async def test_a_client_with_a_secret_does_the_same_by_itself(deployment: Deployment) -> None:
    auth = ClientCredentialsOAuthProvider(
        deployment.stack.endpoint("demo/crm"),
        Tokens(),
        client_id="nightly",
        client_secret="s3cret-of-nightly",
        issuer=deployment.issuer,
    )

    assert await search(deployment, auth)

    record = await record_of(deployment, "front/client:nightly")
    assert record["principal"]["kind"] == "Agent"


async def test_its_paths_are_passed_on_as_they_are_and_no_others(deployment: Deployment) -> None:
    stack = deployment.stack

    metadata = await stack.request("GET", "/.well-known/oauth-protected-resource/servers/demo/crm/mcp")
    served = await stack.request("GET", "/.well-known/oauth-authorization-server/oauth/front")
    page = await stack.request("GET", "/oauth/front/authorize?client_id=nobody&redirect_uri=https%3A%2F%2Fevil.example%2F")

    assert metadata.json["authorization_servers"] == [deployment.issuer]
    assert served.json["issuer"] == deployment.issuer
    assert page.status == 400
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    with_cookies = await stack.request("GET", "/oauth/front/jwks.json", headers={"Cookie": f"a={'x' * 30_000}"})
    assert with_cookies.status == 200
    for path in ("/oauth/front/../front/jwks.json", "/oauth//front/jwks.json", "/oauth/front/%2e%2e/jwks.json", "/oauth/front;x/jwks.json"):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(stack.gateway_url.rsplit(":", 1)[1]))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {stack.gateway_url[7:]}\r\nConnection: close\r\n\r\n".encode())
        status = (await reader.readline()).split()[1]
        writer.close()
        await writer.wait_closed()
        assert status == b"400", path


async def test_one_stranger_keeps_nobody_else_from_logging_in(deployment: Deployment) -> None:
    url = f"{deployment.issuer}/authorize"

    async def statuses(address: str, times: int) -> list[int]:
        async def ask(session: aiohttp.ClientSession, number: int) -> int:
            forged = f"192.0.2.{number % 250}"
            headers = {
                "x-legation-peer": forged,
                "x-forwarded-for": forged,
                "forwarded": f"for={forged}",
                "x-envoy-external-address": forged,
            }
            async with session.get(url, headers=headers) as reply:
                return reply.status

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(address, 0), limit=50)) as session:
            return await asyncio.gather(*(ask(session, number) for number in range(times)))

    assert set(await statuses("127.0.0.2", 350)) == {400, 429}
    assert await statuses("127.0.0.3", 5) == [400] * 5


async def test_explain_says_of_its_people_what_would_be_decided(deployment: Deployment) -> None:
    def asked(**who: object) -> dict[str, object]:
        return {"principal": {"as": "ann", **who}, "server": "demo/crm", "tool": "search_contacts", "arguments": {"query": "x"}}

    by_front = await deployment.stack.api("POST", "/v1/explain", json_body=asked(provider="front", groups=["marketing"]))
    by_nobody = await deployment.stack.api("POST", "/v1/explain", json_body=asked(provider="front"))

    assert (by_front.json["decision"], by_front.json["roles"]) == ("allow", ["demo/marketing"]), by_front.text
    assert by_nobody.json["decision"] == "deny"


async def test_no_token_and_no_code_is_written_anywhere(deployment: Deployment) -> None:
    tokens = Tokens()
    async with person("ann") as (redirect_uri, opened, answered, _):
        metadata = OAuthClientMetadata(client_name="An editor", redirect_uris=[AnyUrl(redirect_uri)])
        await search(deployment, OAuthClientProvider(deployment.stack.endpoint("demo/crm"), metadata, tokens, opened, answered))
    assert tokens.current is not None
    written = [*deployment.stack.data_dir.rglob("*"), deployment.stack.log_file]
    kept = [tokens.current.access_token, tokens.current.refresh_token, GATEWAY_SECRET, "s3cret-of-nightly"]

    found = [file for file in written if _is_file(file) and any(str(secret).encode() in file.read_bytes() for secret in kept)]

    assert found == []


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
