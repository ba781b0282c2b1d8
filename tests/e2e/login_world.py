"""One deployment that trusts a real OpenID provider (npm `oidc-provider`), recording upstreams, and people with a scripted browser.

Whatever a caller sends to the provider or gets from it is remembered as a secret (`LoginWorld.http`), and looked for at the end.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.oauth2 import TokenStorage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from controlplane.certificates import write_certificates
from tests import toolchain
from tests.attacks.leaks import SHORTEST, Secrets
from tests.attacks.upstreams.recorder import Recorder, recording
from tests.dpop import ProofKey
from tests.e2e.light_upstream import light_upstream, tool
from tests.e2e.stack import ROOT, Stack, eventually, free_port, running_stack
from tests.e2e.upstream import running_module
from tests.functional.scripted_browser import visit
from tests.spiffe_ca import IssuedX509Svid, SpiffeCa

OIDC_PROVIDER = "oidc-provider@9.13.3"
PROVIDER = ROOT / "examples" / "identity_provider" / "provider.mjs"
CRM, OTHER, GONE = "demo/crm", "demo/other", "demo/gone"
BRIEF_SECONDS = 2
WORKLOAD = "/agents/report"
SECRET_CLIENT, KEY_CLIENT, BOUND_CLIENT = "nightly-report", "key-holder", "key-prover"
SENT_SECRETS = ("client_secret", "refresh_token", "code", "code_verifier", "client_assertion")
GOT_SECRETS = ("access_token", "refresh_token", "id_token", "client_secret", "registration_access_token")

REGISTRY = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: demo}}
spec: {{}}
---
apiVersion: legation/v1
kind: IdentityProvider
metadata: {{namespace: system, name: acme}}
spec:
  issuer: {issuer}
  allowInsecureHttp: true
  scopes: [crm:use]
  tokenBinding: optional
  mapping: {{kind: {{claim: gty, agents: [client-credentials]}}}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: demo, name: crm}}
spec:
  endpoints: [{{url: "http://127.0.0.1:{crm}/mcp"}}]
  requiredScopes: {{connect: [crm:use], tools: {{update_contact: [crm:write]}}}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: demo, name: other}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{crm}/mcp"}}]}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: demo, name: gone}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{gone}/mcp"}}]}}
---
apiVersion: legation/v1
kind: TrustDomain
metadata: {{namespace: system, name: prod}}
spec:
  trustDomain: prod.example
  bundle: {{document: {bundle}}}
  workloads: [{{spiffeId: "spiffe://prod.example/agents/*", scopes: [crm:use]}}]
---
apiVersion: legation/v1
kind: Gateway
metadata: {{namespace: system, name: workloads}}
spec:
  url: "https://127.0.0.1:{tls}"
  listen: "127.0.0.1:{tls}"
  tls: {{certificates: {{a: {{files: {{chain: edge.crt, key: edge.key}}}}}}, clientCertificates: {{mode: optional}}}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: demo, name: sales}}
spec:
  role: sales
  subjects:
  - {{kind: Group, name: acme/sales}}
  - {{kind: Group, name: local/sales}}
  - {{kind: Agent, name: acme/nightly-report}}
  - {{kind: Agent, name: acme/key-holder}}
  - {{kind: Agent, name: acme/key-prover}}
  - {{kind: Workload, name: "spiffe://prod.example/agents/*"}}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: demo, name: sales}}
spec:
  cedar: |
    permit (principal in Role::"demo/sales", action == Action::"tools/list", resource in Namespace::"demo");
    permit (principal in Role::"demo/sales", action == Action::"tools/call", resource in Namespace::"demo");
    forbid (principal, action == Action::"tools/call", resource == Tool::"demo/crm/delete_contact");
"""


class Tokens(TokenStorage):
    """What a client remembers, in memory; `seen` are all access tokens it ever had."""

    def __init__(self) -> None:
        self.current: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None
        self.seen: list[str] = []

    async def get_tokens(self) -> OAuthToken | None:
        return self.current

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.current = tokens
        self.seen.append(tokens.access_token)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@dataclass(kw_only=True)
class Browser:
    """A person at a browser on this machine. `visits` are the pages that clients sent them to."""

    person: str
    redirect_uri: str
    visits: list[str] = field(default_factory=list)
    _answers: asyncio.Queue[AuthorizationCodeResult] = field(default_factory=asyncio.Queue)

    async def open(self, url: str) -> None:
        """Go to the page, log in, say yes to whatever is asked."""
        self.visits.append(url)
        await asyncio.to_thread(visit, url, person=self.person)

    async def answer(self) -> AuthorizationCodeResult:
        """What came back to the client."""
        return await asyncio.wait_for(self._answers.get(), 60)

    async def _returned(self, request: web.Request) -> web.Response:
        said = request.query
        self._answers.put_nowait(AuthorizationCodeResult(code=said.get("code", ""), state=said.get("state"), iss=said.get("iss")))
        return web.Response(text="You can close this page.")


@dataclass(kw_only=True)
class LoginWorld:
    """The deployment, the provider, the upstreams, and what must never be seen again."""

    stack: Stack
    issuer: str
    upstreams: tuple[Recorder, ...]
    secrets: Secrets
    client_secret: str
    client_key: ec.EllipticCurvePrivateKey
    document_url: str
    tools: Path
    workloads: SpiffeCa
    tls_port: int
    directory: Path
    proof_key: ProofKey = field(default_factory=ProofKey)
    kept: dict[tuple[str, str], Any] = field(default_factory=dict)

    def http(self, auth: httpx2.Auth | None = None) -> httpx2.AsyncClient:
        """An HTTP client that remembers every credential it sends and gets."""
        hooks = {"request": [self._sent], "response": [self._got]}
        return httpx2.AsyncClient(auth=auth, event_hooks=hooks, timeout=60)

    @contextlib.asynccontextmanager
    async def mcp_client(self, server: str, auth: httpx2.Auth) -> AsyncIterator[Client]:
        """The official client; it knows the URL and `auth`."""
        url = self.stack.endpoint(server)
        async with self.http(auth) as http, Client(streamable_http_client(url, http_client=http)) as client:
            yield client

    @contextlib.asynccontextmanager
    async def browser(self, person: str) -> AsyncIterator[Browser]:
        """Somebody's browser, which can reach the client that runs beside it."""
        port = free_port()
        browser = Browser(person=person, redirect_uri=f"http://127.0.0.1:{port}/callback")
        app = web.Application()
        app.router.add_get("/callback", browser._returned)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield browser
        finally:
            await runner.cleanup()

    def login(self, server: str, browser: Browser, tokens: Tokens, *, document_url: str | None = None) -> OAuthClientProvider:
        """The SDK's own login with a browser. It registers itself, or brings the document of its own that stands at `document_url`."""
        metadata = OAuthClientMetadata(client_name="Legation tests", redirect_uris=[AnyUrl(browser.redirect_uri)])
        url = self.stack.endpoint(server)
        return OAuthClientProvider(url, metadata, tokens, browser.open, browser.answer, client_metadata_url=document_url)

    @property
    def client_key_pem(self) -> str:
        """The private key that the client `KEY_CLIENT` signs its assertions with."""
        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return self.client_key.private_bytes(*pem).decode()

    def shows_certificate(self, svid: IssuedX509Svid) -> ssl.SSLContext:
        """How a workload connects to the listener with client certificates."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        context.load_cert_chain(*svid.write(self.directory))
        return context

    async def look_for_secrets(self) -> None:
        """Fail when a running process shows one of them."""
        known = json.loads((self.stack.data_dir / "deployment.json").read_text())
        runtime_dir = Path(known["runtime_dir"])
        await self.secrets.look_at_envoy(runtime_dir / "admin.sock")
        self.secrets.look_at_processes([self.stack.process.pid, *self.stack.children().values()])
        found = {file.name: self.secrets.found_in(file.read_bytes()) for file in runtime_dir.iterdir() if file.is_file()}
        assert not any(found.values()), f"secrets were written: {found}"

    async def grant(self, *, basic: tuple[str, str] | None = None, proof: str = "", **form: str) -> dict[str, Any]:
        """What the token endpoint answers a client that we wrote ourselves; `basic` are its id and secret."""
        async with self.http(httpx2.BasicAuth(*basic) if basic else None) as http:
            answer = await http.post(f"{self.issuer}/token", data=form, headers={"dpop": proof} if proof else {})
            assert answer.status_code == 200, answer.text
            granted: dict[str, Any] = answer.json()
            return granted

    async def records(self, principal_id: str, *, after: int = 0, **wanted: str) -> list[dict[str, Any]]:
        """What the audit says of one principal that is as `wanted`, oldest first; waits until there are more than `after`."""

        async def on_the_record() -> list[dict[str, Any]]:
            events = [event for event in await self._events(principal_id) if wanted.items() <= event.items()]
            return sorted(events, key=lambda event: int(event["at_unix_us"])) if len(events) > after else []

        found: list[dict[str, Any]] = await eventually(on_the_record, what=f"{principal_id} on the record with {wanted}")
        return found

    async def calls(self, principal_id: str) -> int:
        """How many calls of this principal the audit knows."""
        return len([event for event in await self._events(principal_id) if event.get("method") == "tools/call"])

    async def _events(self, principal_id: str) -> list[dict[str, Any]]:
        answer = await self.stack.api("GET", f"/v1/audit?limit=1000&principal={principal_id}")
        assert answer.status == 200, answer.text
        return [event for event in answer.json["items"] if event.get("principal", {}).get("id") == principal_id]

    def remember(self, what: str, text: str | None) -> None:
        """A secret from now on."""
        if text and len(text) >= SHORTEST:
            self.secrets.add(what, text)

    async def _sent(self, request: httpx2.Request) -> None:
        self.remember("credential in a header", request.headers.get("authorization", "").rpartition(" ")[2])
        self.remember("DPoP proof", request.headers.get("dpop"))
        if request.headers.get("content-type") == "application/x-www-form-urlencoded":
            for name, value in parse_qsl(request.content.decode()):
                self.remember(name.replace("_", " ") if name in SENT_SECRETS else "", value if name in SENT_SECRETS else None)

    async def _got(self, response: httpx2.Response) -> None:
        if str(response.url).startswith(self.issuer) and "json" in response.headers.get("content-type", ""):
            got = json.loads(await response.aread())
            for name in GOT_SECRETS:
                self.remember(name.replace("_", " "), got.get(name))


@contextlib.asynccontextmanager
async def running_login_world(directory: Path) -> AsyncIterator[LoginWorld]:
    """Start everything; at the end everything that was written is searched for what was secret."""
    try:
        tools = await asyncio.to_thread(toolchain.npm_packages, OIDC_PROVIDER)
    except toolchain.UnavailableError as error:
        pytest.skip(f"the real OpenID provider needs npm: {error}")
    gateway_port, tls_port, kept, workloads = free_port(), free_port(), Secrets(), SpiffeCa()
    client_secret, client_key = secrets.token_urlsafe(32), ec.generate_private_key(ec.SECP256R1())
    kept.add("client secret", client_secret)
    resources = [f"http://127.0.0.1:{gateway_port}/servers/{server}/mcp" for server in (CRM, OTHER, GONE)]
    deployment = directory / "searched"
    deployment.mkdir()
    async with contextlib.AsyncExitStack() as running:
        document_url, authority = await running.enter_async_context(_client_document(directory / "certificates"))
        config = {
            "resources": resources,
            "scopes": ["crm:use", "crm:write"],
            "groups": {"ann": ["sales"], "ben": ["sales"], "cleo": ["sales"], "dora": ["sales"], "eva": ["sales"]},
            "brief": {"ben": BRIEF_SECONDS},
            "clients": _clients(client_secret, client_key),
            "local_documents": True,
        }
        issuer = await running.enter_async_context(_provider(tools, config, authority))
        port = await running.enter_async_context(running_module("controlplane.demo.crm"))
        crm = await running.enter_async_context(recording("crm", port))
        light = await running.enter_async_context(light_upstream([tool("echo", text="string")]))
        gone_stack = await running.enter_async_context(contextlib.AsyncExitStack())
        gone = await gone_stack.enter_async_context(recording("gone", light.port))
        stack = await running.enter_async_context(
            running_stack(
                deployment, port=gateway_port, environ={"LEGATION_LOG_LEVEL": "debug", "LEGATION_PROBE_INTERVAL_SECONDS": "86400"}
            )
        )
        certificates = await asyncio.to_thread(_listener_certificate, directory / "listener", stack.data_dir / "secrets" / "system")
        bundle = json.dumps(json.loads(workloads.bundle_document()))
        await stack.apply(REGISTRY.format(issuer=issuer, crm=crm.port, gone=gone.port, tls=tls_port, bundle=bundle))
        await asyncio.gather(*(stack.accept(server) for server in (CRM, OTHER, GONE)))
        await gone_stack.aclose()
        kept.add("administrator's token", stack.admin_headers()["authorization"].removeprefix("Bearer "))
        world = LoginWorld(
            stack=stack,
            issuer=issuer,
            upstreams=(crm, gone),
            secrets=kept,
            client_secret=client_secret,
            client_key=client_key,
            document_url=document_url,
            tools=tools,
            workloads=workloads,
            tls_port=tls_port,
            directory=certificates,
        )
        kept.add("client key", world.client_key_pem)
        yield world
        await world.look_for_secrets()
    kept.look_below(deployment)
    kept.look_at_upstreams((crm, gone))


def _clients(client_secret: str, client_key: ec.EllipticCurvePrivateKey) -> list[dict[str, Any]]:
    alone = {"grant_types": ["client_credentials"], "response_types": [], "redirect_uris": []}
    public = client_key.public_key().public_numbers()
    jwk = {"kty": "EC", "crv": "P-256", "x": _coordinate(public.x), "y": _coordinate(public.y)}
    by_key = {"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256", "jwks": {"keys": [jwk]}}
    return [
        {"client_id": SECRET_CLIENT, "client_secret": client_secret, **alone},
        {"client_id": KEY_CLIENT, **by_key, **alone},
        {"client_id": BOUND_CLIENT, "client_secret": client_secret, "dpop_bound_access_tokens": True, **alone},
    ]


def _listener_certificate(directory: Path, secrets_dir: Path) -> Path:
    """Certificate and key of a TLS listener, in the registry's folder for files; where its authority is."""
    write_certificates(directory, ("edge",), hosts=("127.0.0.1",))
    secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for end in ("crt", "key"):
        (secrets_dir / f"edge.{end}").write_bytes((directory / f"edge.{end}").read_bytes())
    return directory


def _coordinate(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).decode().rstrip("=")


@contextlib.asynccontextmanager
async def _provider(tools: Path, config: Mapping[str, Any], authority: Path) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        str(toolchain.node(tools)),
        str(PROVIDER),
        str(tools),
        json.dumps(config),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"NODE_EXTRA_CA_CERTS": str(authority)},
    )
    assert process.stdout is not None
    try:
        line = b""
        while not line.startswith(b"{"):
            line = await asyncio.wait_for(process.stdout.readline(), 60)
            assert line, f"the OpenID provider ended with {await process.wait()}"
        yield str(json.loads(line)["issuer"])
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def _client_document(directory: Path) -> AsyncIterator[tuple[str, Path]]:
    """A client metadata document at an https URL (its `client_id` is that URL); gives the URL and the authority of its certificate."""
    await asyncio.to_thread(write_certificates, directory, ("documents",), hosts=("localhost",))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "documents.crt", directory / "documents.key")
    url = f"https://localhost:{(port := free_port())}/client.json"
    document = {
        "client_id": url,
        "client_name": "Legation tests",
        "application_type": "native",
        "redirect_uris": ["http://127.0.0.1/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    }

    async def read(_: web.Request) -> web.Response:
        return web.json_response(document)

    app = web.Application()
    app.router.add_get("/client.json", read)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield url, directory / "ca.crt"
    finally:
        await runner.cleanup()
