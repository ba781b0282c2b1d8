"""An authorization server in front of a real OpenID provider (npm `oidc-provider`), through the real API: everything but Envoy.

`AuthorizationWorld.through` takes the steps of a browser one by one, so that a test can do another thing at any of them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urljoin, urlsplit

import aiohttp
import jwt
import pytest
from aiohttp import web

from controlplane.api.application import make_api, make_routes
from controlplane.api.audit import AuditAccess
from controlplane.api.auth import OperatorAuthenticator
from controlplane.api.foreign import only_our_names
from controlplane.app import identity_providers_of
from controlplane.audit.database import open_audit_database
from controlplane.audit.store import AuditStore
from controlplane.authorization_server.issuers import Issuers
from controlplane.authorization_server.oversight import Oversight
from controlplane.authorization_server.store import GrantStore
from controlplane.authorization_server.throttle import PEER_HEADER
from controlplane.xds.authorizer_resources import build_authorization_state
from extauthz.address import AddressRules
from extauthz.door import Door
from extauthz.http_site import MAX_HEAD_BYTES
from extauthz.identity.authenticator import Authenticator
from extauthz.identity.jwks import KeySource
from extauthz.identity.principal import Principal
from extauthz.state import AuthorizationState
from tests import toolchain
from tests.e2e.stack import free_port
from tests.functional.api import ScriptedRollout
from tests.functional.registry import Registry, open_registry
from tests.functional.scripted_browser import Forms

OIDC_PROVIDER = "oidc-provider@9.13.3"
LOOPBACK = AddressRules(("127.0.0.0/8",))
GATEWAY_SECRET = "the gateway's own: +%/ secret"
PEOPLE = {
    "ann": {"groups": ["marketing", "sales"], "department": "crm"},
    "ben": {"groups": ["engineering"]},
    "client:ci": {},
}
WEB_CALLBACK = "https://app.example.com/callback"
NATIVE_CALLBACK = "http://127.0.0.1/callback"
REGISTRY = """
apiVersion: legation/v1
kind: AuthorizationServer
metadata: {{namespace: system, name: {name}}}
spec:
  login:
    issuer: {idp}
    clientId: gateway
    clientSecret: {{value: "the gateway's own: +%/ secret"}}
    allowInsecureHttp: true
    mapping: {{claims: [department]}}
  scopes: [crm.read, crm.write]
  trustedNamespaces: [demo]
  clients:
    web: {{name: The web client, redirectUris: ["https://app.example.com/callback"]}}
    native: {{name: The native client, redirectUris: ["http://127.0.0.1/callback"], scopes: [crm.read]}}
    ci:
      name: Nightly job
      grantTypes: [client_credentials]
      tokenEndpointAuthMethod: client_secret_basic
      secret: {{value: s3cret-of-ci}}
      scopes: [crm.read]
    confidential:
      name: A server
      redirectUris: ["https://server.example.com/cb"]
      tokenEndpointAuthMethod: client_secret_post
      secret: {{value: s3cret-of-server}}
  registration: {{dynamic: open}}
"""


def pkce() -> tuple[str, str]:
    """A verifier, and its challenge by S256."""
    verifier = secrets.token_urlsafe(48)
    return verifier, base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    text: str
    url: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def location(self) -> str:
        return urljoin(self.url, self.headers["Location"])

    @property
    def answer(self) -> dict[str, str]:
        """The parameters of the URL that it redirects to."""
        return dict(parse_qsl(urlsplit(self.location).query, keep_blank_values=True))

    def answer_or_none(self) -> dict[str, str]:
        """The same; nothing when it redirects nowhere."""
        return self.answer if "Location" in self.headers else {}


@dataclass(kw_only=True)
class Browser:
    """A browser: cookies, and one request after another; redirects are followed by hand."""

    session: aiohttp.ClientSession

    async def get(self, url: str, **options: Any) -> Reply:
        return await self._request("GET", url, **options)

    async def post(self, url: str, fields: Mapping[str, str], **options: Any) -> Reply:
        return await self._request("POST", url, data=dict(fields), **options)

    async def _request(self, method: str, url: str, **options: Any) -> Reply:
        async with self.session.request(method, url, allow_redirects=False, **options) as response:
            return Reply(status=response.status, headers=response.headers, text=await response.text(), url=url)


@dataclass(kw_only=True)
class AuthorizationWorld:
    """The control plane's door, the registry behind it, and the provider that people log in to."""

    url: str
    idp: str
    registry: Registry
    session: aiohttp.ClientSession
    issuers: Issuers
    _browsers: list[aiohttp.ClientSession] = field(default_factory=list)

    name: str = "front"

    @property
    def issuer(self) -> str:
        return f"{self.url}/oauth/{self.name}"

    def resource(self, server: str = "demo/crm") -> str:
        return f"{self.url}/servers/{server}/mcp"

    def browser(self) -> Browser:
        """A new one, at an address of its own: what Envoy would say of it."""
        session = aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            timeout=aiohttp.ClientTimeout(total=60),
            headers={PEER_HEADER: str(IPv4Address("198.18.0.0") + len(self._browsers))},
        )
        self._browsers.append(session)
        return Browser(session=session)

    def request(self, challenge: str, **changes: str) -> dict[str, str]:
        """A good authorization request of the client `web`; what is changed to an empty text is left out."""
        asked = {
            "response_type": "code",
            "client_id": "web",
            "redirect_uri": WEB_CALLBACK,
            "state": "a state of the client",
            "resource": self.resource(),
            "scope": "crm.read",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **changes,
        }
        return {name: value for name, value in asked.items() if value}

    async def authorize(self, browser: Browser, parameters: Mapping[str, str] | list[tuple[str, str]]) -> Reply:
        """The first step."""
        return await browser.get(f"{self.issuer}/authorize?{urlencode(parameters)}")

    async def log_in(self, browser: Browser, reply: Reply, person: str = "ann") -> str:
        """At the provider, from a redirect to it on, up to the URL that it sends the browser back to."""
        url = reply.location
        for _ in range(12):
            if url.startswith(self.url):
                return url
            page = await browser.get(url)
            while page.status in (302, 303):
                url = page.location
                if url.startswith(self.url):
                    return url
                page = await browser.get(url)
            forms = Forms()
            forms.feed(page.text)
            assert forms.found, page.text
            action, asked = forms.found[0]
            filled = {**asked, **{name: person for name in ("login", "password") if name in asked}}
            page = await browser.post(urljoin(url, action), filled)
            url = page.location
        raise AssertionError("the provider asks for ever")

    async def asked(self, browser: Browser, person: str = "ann", **changes: str) -> tuple[Reply, str]:
        """Up to the page that asks for consent (or whatever comes instead), and the verifier."""
        verifier, challenge = pkce()
        reply = await self.authorize(browser, self.request(challenge, **changes))
        assert reply.status == 303, reply.text
        return await browser.get(await self.log_in(browser, reply, person)), verifier

    async def answer(self, browser: Browser, page: Reply, decision: str = "allow", **options: Any) -> Reply:
        """Press a button of the page that asks."""
        forms = Forms()
        forms.feed(page.text)
        action, asked = forms.found[0]
        return await browser.post(action, {**asked, "decision": decision}, **options)

    async def code(self, browser: Browser, person: str = "ann", **changes: str) -> tuple[str, str]:
        """A code, and the verifier that goes with it."""
        page, verifier = await self.asked(browser, person, **changes)
        reply = page if page.status == 303 else await self.answer(browser, page)
        assert "code" in reply.answer, reply
        return reply.answer["code"], verifier

    async def token(self, *, basic: tuple[str, str] | None = None, **form: str) -> Reply:
        """A token request."""
        pair = base64.b64encode(":".join(map(quote_plus, basic)).encode()).decode() if basic else ""
        headers = {"Authorization": f"Basic {pair}"} if pair else {}
        async with self.session.post(f"{self.issuer}/token", data=form, headers=headers) as response:
            return Reply(status=response.status, headers=response.headers, text=await response.text(), url=str(response.url))

    async def redeem(self, code: str, verifier: str, **changes: str) -> Reply:
        """A code for tokens, by the client `web`."""
        form = {"grant_type": "authorization_code", "client_id": "web", "redirect_uri": WEB_CALLBACK, "resource": self.resource()}
        form |= {"code": code, "code_verifier": verifier, **changes}
        return await self.token(
            **{name: value for name, value in {**form, "code": code, "code_verifier": verifier, **changes}.items() if value}
        )

    async def refresh(self, refresh_token: str, **changes: str) -> Reply:
        """A refresh token for tokens, by the client `web`."""
        form = {"grant_type": "refresh_token", "client_id": "web", "refresh_token": refresh_token, **changes}
        return await self.token(**{name: value for name, value in form.items() if value})

    def authorizers(self) -> AuthorizationState:
        """What authorizers know now."""
        return build_authorization_state(self.registry.live.state, key=self.registry.key, now=datetime.now(UTC), gateway_url=self.url)

    async def principal(self, access_token: str, *, server: str = "demo/crm") -> Principal:
        """Who an authorizer takes the bearer of this token for, without a word to the control plane."""
        async with KeySource(AddressRules()) as keys:
            authenticator = Authenticator(self.authorizers().identity_providers, keys)
            namespace = server.partition("/")[0]
            return await authenticator.authenticate([f"Bearer {access_token}"], resource_url=self.resource(server), namespace=namespace)

    def is_revoked(self, principal: Principal) -> bool:
        """Whether authorizers refuse this caller."""
        return self.authorizers().revocations.find(principal, time.time()) is not None

    def events(self) -> list[dict[str, Any]]:
        """The audit, oldest first."""
        return registry_books(self.registry).read_events(self.name, limit=1000)[::-1]

    def last_event(self) -> tuple[str, str]:
        """What happened last, and why."""
        event = self.events()[-1]
        return event["event"], event["reason"]


def registry_books(registry: Registry) -> GrantStore:
    """What authorization servers remember."""
    return GrantStore(registry.store.engine, key=registry.key)


def unverified(token: str) -> dict[str, Any]:
    """The claims of a token."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


@contextlib.asynccontextmanager
async def login_provider(config: Mapping[str, Any]) -> AsyncIterator[str]:
    """The issuer of a running provider."""
    try:
        directory = await asyncio.to_thread(toolchain.npm_packages, OIDC_PROVIDER)
    except toolchain.UnavailableError as error:
        pytest.skip(f"the real OpenID provider needs npm: {error}")
    script = Path(__file__).parent / "oidc_provider" / "login.mjs"
    process = await asyncio.create_subprocess_exec(
        toolchain.node(directory), script, directory, json.dumps(config), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        line = b"?"
        while line and not line.startswith(b"{"):
            line = await process.stdout.readline()
        yield json.loads(line)["issuer"]
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def running_world(directory: Path) -> AsyncIterator[AuthorizationWorld]:
    """Everything, with one authorization server `front`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    callbacks = [f"{url}/oauth/{name}/callback" for name in ("front", "other")]
    gateway = {"client_id": "gateway", "client_secret": GATEWAY_SECRET, "redirect_uris": callbacks}
    async with contextlib.AsyncExitStack() as running:
        idp = await running.enter_async_context(login_provider({"clients": [gateway], "people": PEOPLE}))
        registry = open_registry(f"sqlite:///{directory}/registry.db")
        running.callback(registry.store.close)
        record = AuditStore(open_audit_database(f"sqlite:///{directory}/audit.db"), registry.key)
        running.callback(record.close)
        registry.apply(REGISTRY.format(name="front", idp=idp).encode())
        issuers = await running.enter_async_context(
            Issuers(
                state=lambda: registry.live.state,
                service=registry.service,
                engine=registry.store.engine,
                key=registry.key,
                configured_url=url,
                address_rules=LOOPBACK,
                secrets_dir=None,
            )
        )
        keys = await running.enter_async_context(KeySource(LOOPBACK))
        authentication = OperatorAuthenticator(
            state=lambda: registry.live.state,
            key_source=keys,
            providers_of=identity_providers_of,
            resource_url=f"{url}/v1",
            clock=time.time,
        )
        routes = make_routes(
            service=registry.service,
            store=registry.store,
            live=registry.live,
            rollout=ScriptedRollout(),
            audit=AuditAccess(store=record),
            authentication=authentication,
            build_state=lambda state, previous: build_authorization_state(state, key=registry.key, now=datetime.now(UTC)),
            oversight=Oversight(state=lambda: registry.live.state, books=registry_books(registry), service=registry.service),
        )
        application = make_api(routes, authentication)
        application.middlewares.insert(1, only_our_names(Door(gateway_url=url)))
        issuers.attach(application)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1, max_field_size=MAX_HEAD_BYTES)
        await runner.setup()
        running.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", port).start()
        session = await running.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)))
        world = AuthorizationWorld(url=url, idp=idp, registry=registry, session=session, issuers=issuers)
        try:
            yield world
        finally:
            for browser in world._browsers:
                await browser.close()
