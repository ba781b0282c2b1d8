"""What strangers make us fetch (84), client metadata documents (86), and redirect URIs as they are registered and asked for (87).

Every fetcher of the product is tried with every notation of an address that it must not reach. The deployment allows 127.0.0.1 (where
its honest sites are); the machine within is 127.0.0.2. What a fetcher connects to is read from the event loop itself: it is what counts,
whatever the fetcher says afterwards.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from controlplane.authorization_server.clients.client import (
    ClientRules,
    DynamicClient,
    MetadataDocumentRules,
    RegisteredClient,
    RegistrationRules,
)
from controlplane.authorization_server.clients.client_keys import ClientKeys
from controlplane.authorization_server.clients.directory import ClientDirectory
from controlplane.authorization_server.clients.redirect_uri import redirect_uri_matches
from controlplane.authorization_server.clients.refusal import ClientRefusal, UnknownClientError
from controlplane.xds.bundle_endpoint import fetch_bundle
from controlplane.xds.resolver import Resolver
from extauthz.address import AddressRules
from extauthz.catalog.server import ClientCredentials, McpServer, Secret
from extauthz.credentials import CredentialSource
from extauthz.errors import LegationError
from extauthz.identity.jwks import KeySource
from extauthz.identity.provider import IdentityProvider
from tests.client_documents import ClientSite, server_tls
from tests.issuer import HttpIssuer, SigningKey

ALLOWED = "127.0.0.1"
WITHIN = "127.0.0.2"
RULES = AddressRules([f"{ALLOWED}/32"])
PROVIDER = IdentityProvider(id="idp", namespace="system", name="idp", issuer="https://issuer.example", allow_insecure_http=True)
SIGNING = RegisteredClient(client_id="robot", name="Robot", token_endpoint_auth_method="private_key_jwt")
WAIT_SECONDS = 60.0

HOSTS = {
    "loopback": WITHIN,
    "loopback-short": "127.2",
    "loopback-decimal": "2130706434",
    "loopback-hexadecimal": "0x7f000002",
    "loopback-hexadecimal-parts": "0x7f.0.0.2",
    "loopback-octal": "0177.0.0.2",
    "loopback-with-a-dot": "127.0.0.2.",
    "loopback-mapped": "[::ffff:127.0.0.2]",
    "loopback-mapped-hexadecimal": "[::ffff:7f00:2]",
    "loopback-compatible": "[::127.0.0.2]",
    "loopback-nat64": "[64:ff9b::7f00:2]",
    "loopback-6to4": "[2002:7f00:2::]",
    "loopback-v6": "[::1]",
    "loopback-v6-zone": "[::1%25lo]",
    "any-address": "0.0.0.0",
    "any-address-short": "0",
    "any-address-v6": "[::]",
    "metadata": "169.254.169.254",
    "metadata-decimal": "2852039166",
    "metadata-hexadecimal": "0xa9fea9fe",
    "metadata-mapped": "[::ffff:169.254.169.254]",
    "metadata-v6": "[fd00:ec2::254]",
    "private": "10.0.0.1",
    "private-mapped": "[::ffff:10.0.0.1]",
    "carrier-nat": "100.64.0.1",
    "link-local-v6": "[fe80::1%25eth0]",
    "unique-local-v6": "[fd00::1]",
    "multicast": "224.0.0.1",
    "fullwidth-digits": "\uff11\uff12\uff17.0.0.2",
    "ideographic-dots": "127\u30020\u30020\u30022",
    "user-name": "issuer.example@127.0.0.2",
    "backslash": "issuer.example\\@127.0.0.2",
    "escaped": "127%2e0%2e0%2e2",
}


@dataclass(kw_only=True)
class Network:
    """What sockets of the event loop connected to, and what names mean."""

    connected: list[str] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)

    def resolve(self, host: str, port: int, *_: object, **__: object) -> list[object]:
        """`socket.getaddrinfo`: the next answer for a name, the last one for ever."""
        answers = self.names.get(host, [])
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown here")
        ip = answers.pop(0) if len(answers) > 1 else answers[0]
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (ip, port, 0, 0) if ":" in ip else (ip, port))]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One certificate authority instead of the system's 150, which cost 30 ms for each fetcher that is made."""
    directory = tmp_path_factory.mktemp("authority")
    server_tls(directory)
    return directory / "ca.crt"


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, authority: Path) -> Network:
    """Only connections to this machine are made, each is written down."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setenv("SSL_CERT_DIR", str(authority.parent))
    seen = Network()
    loop_class = asyncio.selector_events.BaseSelectorEventLoop
    connect = loop_class.sock_connect

    async def sock_connect(loop: Any, sock: socket.socket, address: Any) -> None:
        seen.connected.append(address[0])
        if not ip_address(address[0]).is_loopback:
            raise OSError("the network is not there")
        await connect(loop, sock, address)

    monkeypatch.setattr(loop_class, "sock_connect", sock_connect)
    monkeypatch.setattr(socket, "getaddrinfo", seen.resolve)
    return seen


class NoStore:
    """No dynamic client is asked for here."""

    def read(self, server_uid: str, client_id: str) -> DynamicClient | None:
        return None

    def add(self, server_uid: str, client: DynamicClient, rules: RegistrationRules) -> bool:
        return False

    def note_use(self, server_uid: str, client_id: str, at: object) -> None:
        return None

    def remove(self, server_uid: str, client_id: str) -> None:
        return None


def rules_for_any(**changes: Any) -> ClientRules:
    return ClientRules(server_uid="s", documents=MetadataDocumentRules(trusted_domains=("*",), **changes))


async def keys_of_a_provider(url: str, rules: AddressRules) -> None:
    """`IdentityProvider.spec.jwksUrl`."""
    async with KeySource(rules, fetch_timeout_seconds=WAIT_SECONDS) as keys:
        await keys.keys_for(replace(PROVIDER, jwks_url=url), None, asyncio.get_running_loop().time() + WAIT_SECONDS)


async def metadata_of_an_issuer(url: str, rules: AddressRules) -> None:
    """OpenID Connect discovery, RFC 8414."""
    async with KeySource(rules, fetch_timeout_seconds=WAIT_SECONDS) as keys:
        await keys.keys_for(replace(PROVIDER, issuer=url), None, asyncio.get_running_loop().time() + WAIT_SECONDS)


async def keys_that_metadata_names(url: str, rules: AddressRules) -> None:
    """An issuer that is honest but for its `jwks_uri`."""
    async with HttpIssuer(SigningKey("k")) as issuer, KeySource(rules, fetch_timeout_seconds=WAIT_SECONDS) as keys:
        issuer.jwks_uri = url
        await keys.keys_for(replace(PROVIDER, issuer=issuer.issuer), None, asyncio.get_running_loop().time() + WAIT_SECONDS)


async def token_of_an_upstream(url: str, rules: AddressRules) -> None:
    """`McpServer.spec.credential`: client credentials."""
    grant = ClientCredentials(token_url=url, oauth_client_id="c", client_secret=Secret(value=b"s"))
    mcp_server = McpServer(uid="u", namespace="demo", name="crm", cluster="c", path="/mcp", credential=grant)
    async with CredentialSource(None, rules, token_timeout_seconds=WAIT_SECONDS) as credentials:
        await credentials.headers_for(mcp_server, WAIT_SECONDS)


async def client_metadata_document(url: str, rules: AddressRules) -> None:
    """A `client_id` that anybody may name at the authorization server."""
    known = rules_for_any(insecure_loopback=True)
    async with ClientDirectory(known, store=NoStore(), address_rules=rules, fetch_timeout_seconds=WAIT_SECONDS) as directory:
        await directory.find(url)


async def keys_of_a_client(url: str, rules: AddressRules) -> None:
    """`jwks_uri` of a client that nobody but `*` trusts."""
    client = replace(SIGNING, client_id="dynamic-x", source="dynamic", jwks_uri=url)
    async with ClientKeys(rules) as keys:
        await keys.keys_of(client, None, rules_for_any(insecure_loopback=True))


async def keys_of_a_static_client(url: str, rules: AddressRules) -> None:
    """`jwksUri` of a client that an operator wrote down."""
    client = replace(SIGNING, jwks_uri=url)
    async with ClientKeys(rules) as keys:
        await keys.keys_of(client, None, replace(rules_for_any(insecure_loopback=True), static_clients=(client,)))


async def bundle_of_a_trust_domain(url: str, rules: AddressRules) -> None:
    """A SPIFFE bundle endpoint."""
    await fetch_bundle(url, trust_domain="other.example", rules=rules, tls=ssl.create_default_context())


Fetcher = Callable[[str, AddressRules], Awaitable[None]]
FETCHERS: tuple[Fetcher, ...] = (
    keys_of_a_provider,
    metadata_of_an_issuer,
    keys_that_metadata_names,
    token_of_an_upstream,
    client_metadata_document,
    keys_of_a_client,
    keys_of_a_static_client,
    bundle_of_a_trust_domain,
)
each_fetcher = pytest.mark.parametrize("fetch", FETCHERS, ids=[f"E84-{fetch.__name__}" for fetch in FETCHERS])


@pytest.fixture
async def within(tmp_path: Path) -> AsyncIterator[ClientSite]:
    """The machine that must not be reached, on every address of this machine."""
    async with ClientSite(host=WITHIN, listen="0.0.0.0") as site:
        site.publish("/secret", {"keys": []})
        yield site


@each_fetcher
@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_an_inner_address_is_reached_in_no_notation(fetch: Fetcher, scheme: str, network: Network, within: ClientSite) -> None:
    for name, host in HOSTS.items():
        network.connected.clear()
        with pytest.raises(LegationError):
            await fetch(f"{scheme}://{host}:{within.port}/secret", RULES)
        assert set(network.connected) <= {ALLOWED}, name
        assert "/secret" not in within.asked, name


@each_fetcher
async def test_a_name_of_an_inner_address_is_not_connected_to(fetch: Fetcher, network: Network, within: ClientSite) -> None:
    for name, answers in {"one.example": [WITHIN], "mapped.example": ["::ffff:127.0.0.2"], "metadata.example": ["169.254.169.254"]}.items():
        network.connected.clear()
        network.names[name] = answers
        with pytest.raises(LegationError):
            await fetch(f"https://{name}:{within.port}/secret", RULES)
        assert set(network.connected) <= {ALLOWED}, name
    assert "/secret" not in within.asked


@each_fetcher
async def test_a_name_that_means_another_address_the_next_time_gains_nothing(fetch: Fetcher, network: Network, within: ClientSite) -> None:
    """Checked once, connected to what was checked: the second answer is not even asked for, or is refused."""
    network.names["rebind.example"] = [ALLOWED, WITHIN]

    with pytest.raises(LegationError):
        await fetch(f"https://rebind.example:{within.port}/secret", RULES)

    assert set(network.connected) <= {ALLOWED}
    assert "/secret" not in within.asked


@each_fetcher
async def test_a_redirect_to_an_inner_address_is_not_followed(fetch: Fetcher, network: Network, within: ClientSite) -> None:
    async with ClientSite(host=ALLOWED) as honest:
        for status in (301, 302, 303, 307, 308):
            honest.publish("/moved", status=status, headers={"Location": within.url("/secret")})
            with pytest.raises(LegationError):
                await fetch(honest.url("/moved"), RULES)

    assert WITHIN not in network.connected
    assert "/secret" not in within.asked


@pytest.mark.parametrize("fetch", [fetch for fetch in FETCHERS if fetch is not bundle_of_a_trust_domain], ids=lambda fetch: fetch.__name__)
async def test_every_fetcher_would_reach_what_it_may(fetch: Fetcher, network: Network, within: ClientSite) -> None:
    """84: the twin of the attacks. Where the operator allows and names the address, each of these fetchers comes there."""
    url = within.url("/secret")
    if fetch is client_metadata_document:
        named = replace(rules_for_any(), documents=MetadataDocumentRules(trusted_domains=(within.authority,), insecure_loopback=True))
        async with ClientDirectory(named, store=NoStore(), address_rules=AddressRules(["127.0.0.0/8"])) as directory:
            with pytest.raises(UnknownClientError, match="is not its own URL"):
                await directory.find(url)
    elif fetch is keys_of_a_client:
        named = replace(rules_for_any(), documents=MetadataDocumentRules(trusted_domains=(within.authority,), insecure_loopback=True))
        async with ClientKeys(AddressRules(["127.0.0.0/8"])) as keys:
            with pytest.raises(ClientRefusal):
                await keys.keys_of(replace(SIGNING, client_id="dynamic-x", source="dynamic", jwks_uri=url), None, named)
    else:
        with pytest.raises(LegationError):
            await fetch(url, AddressRules(["127.0.0.0/8"]))

    assert WITHIN in network.connected
    assert any(path.startswith("/secret") or path.endswith("/secret") for path in within.asked)


async def test_endpoints_of_servers_are_pinned_to_addresses_that_were_checked(network: Network) -> None:
    """84: the addresses that Envoy is told of."""
    resolver = Resolver(rules=RULES)
    network.names = {"rebind.example": [ALLOWED, WITHIN], "metadata.example": ["169.254.169.254"], "within.example": [WITHIN]}

    await resolver.learn([*HOSTS.values(), *network.names])
    await resolver.refresh()

    assert {host: found for host, found in resolver.resolved.items() if found} == {"rebind.example": (ALLOWED,)}


async def test_what_a_stranger_is_told_of_a_refused_address_says_nothing_about_the_network(network: Network, within: ClientSite) -> None:
    """84: the answer is the same for names that are unknown, that are within, and that nobody answers at."""
    network.names = {"within.example": [WITHIN], "metadata.example": ["169.254.169.254"], "away.example": ["93.184.216.34"]}
    told = set()
    for host in ("unknown.example", *network.names, "10.0.0.1"):
        async with ClientDirectory(rules_for_any(), store=NoStore(), address_rules=RULES) as directory:
            with pytest.raises(UnknownClientError) as caught:
                await directory.find(f"https://{host}/client.json")
        told.add(caught.value.description)

    assert told == {"the metadata document of this client cannot be read"}


LIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "E86-another-clients-id": ({"client_id": "https://app.example/client.json"}, {}),
    "E86-id-with-a-slash": ({"client_id": "{url}/"}, {}),
    "E86-id-with-a-query": ({"client_id": "{url}?"}, {}),
    "E86-id-with-a-fragment": ({"client_id": "{url}#"}, {}),
    "E86-id-in-capitals": ({"client_id": "{URL}"}, {}),
    "E86-id-of-plain-http": ({"client_id": "{http}"}, {}),
    "E86-no-id": ({"client_id": None}, {}),
    "E86-list-of-ids": ({"client_id": ["{url}"]}, {}),
    "E86-huge": ({"x": "x" * 6000}, {}),
    "E86-endless-list": ({"redirect_uris": ["https://a.example/cb"] * 60}, {}),
    "E86-html": ({}, {"content_type": "text/html"}),
    "E86-compressed": ({}, {"headers": {"Content-Encoding": "gzip"}}),
    "E86-not-found": ({}, {"status": 404}),
    "E86-error-page": ({}, {"status": 500}),
    "E86-partial": ({}, {"status": 206}),
    "E86-shared-secret": ({"client_secret": "s"}, {}),
    "E86-secret-method": ({"token_endpoint_auth_method": "client_secret_post"}, {}),
    "E86-keys-within": ({"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "https://169.254.169.254/keys"}, {}),
    "E86-secret-key": ({"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}}, {}),
    "E86-name-that-hides-itself": ({"client_name": "Payroll\u202e"}, {}),
    "E86-link-that-runs": ({"client_uri": "javascript:alert(1)"}, {}),
    "E86-logo-that-runs": ({"logo_uri": "data:image/svg+xml,<svg onload=alert(1)>"}, {}),
}


@pytest.mark.parametrize(("lie", "answer"), LIES.values(), ids=LIES)
async def test_a_document_that_lies_is_no_client(tmp_path: Path, lie: dict[str, Any], answer: dict[str, Any]) -> None:
    async with ClientSite(server_tls(tmp_path)) as site:
        words = {"{url}": site.url(), "{URL}": site.url().upper(), "{http}": site.url().replace("https", "http")}
        text = json.dumps(lie)
        for word, meant in words.items():
            text = text.replace(word, meant)
        site.publish(document=site.document(**json.loads(text)), **answer)
        rules = replace(rules_for_any(), documents=MetadataDocumentRules(trusted_domains=(site.authority,)))
        allowed = AddressRules(["127.0.0.0/8", "::1/128"])
        async with ClientDirectory(rules, store=NoStore(), address_rules=allowed, ca_file=str(tmp_path / "ca.crt")) as directory:
            with pytest.raises(UnknownClientError):
                await directory.find(site.url())

        site.publish()
        async with ClientDirectory(rules, store=NoStore(), address_rules=allowed, ca_file=str(tmp_path / "ca.crt")) as directory:
            assert (await directory.find(site.url())).client_id == site.url(), "the honest document is a client"


@pytest.mark.parametrize("trusted", [(), ("*",), ("127.0.0.1:{port}",)], ids=["E86-http-nobody", "E86-http-any", "E86-http-named"])
async def test_a_document_over_plain_http_is_not_even_asked_for(trusted: tuple[str, ...]) -> None:
    async with ClientSite(host="127.0.0.1") as site:
        url = site.publish()
        domains = tuple(domain.replace("{port}", str(site.port)) for domain in trusted)
        rules = replace(rules_for_any(), documents=MetadataDocumentRules(trusted_domains=domains))
        async with ClientDirectory(rules, store=NoStore(), address_rules=RULES) as directory:
            with pytest.raises(UnknownClientError):
                await directory.find(url)

        assert site.asked == []


REGISTERED = "https://app.example.com/cb"
LISTENER = "http://127.0.0.1/cb"
VARIANTS = {
    "E87-suffix-of-the-path": f"{REGISTERED}/evil",
    "E87-suffix-of-the-name": f"{REGISTERED}evil",
    "E87-prefix": "https://app.example.com/c",
    "E87-query": f"{REGISTERED}?next=https://evil.example",
    "E87-fragment": f"{REGISTERED}#",
    "E87-suffix-of-the-host": "https://app.example.com.evil.example/cb",
    "E87-prefix-of-the-host": "https://evilapp.example.com/cb",
    "E87-host-below": "https://evil.app.example.com/cb",
    "E87-user-name": "https://app.example.com@evil.example/cb",
    "E87-backslash": "https://evil.example\\@app.example.com/cb",
    "E87-port": "https://app.example.com:8443/cb",
    "E87-plain-http": "http://app.example.com/cb",
    "E87-capitals": "https://APP.example.com/cb",
    "E87-capitals-of-the-path": "https://app.example.com/CB",
    "E87-encoded-letter": "https://app.example.com/%63b",
    "E87-encoded-slash": "https://app.example.com%2Fcb",
    "E87-encoded-twice": "https://app.example.com/%2563b",
    "E87-dot-segments": "https://app.example.com/x/../cb",
    "E87-encoded-dot-segments": "https://app.example.com/x/%2e%2e/cb",
    "E87-blank": f"{REGISTERED} ",
    "E87-line-feed": f"{REGISTERED}\n",
    "E87-nul": f"{REGISTERED}\x00",
    "E87-fullwidth": "https://app.example.com/\uff43b",
    "E87-listener-elsewhere": "http://127.0.0.1.evil.example:3000/cb",
    "E87-listener-with-a-user-name": "http://127.0.0.1:3000@evil.example/cb",
    "E87-listener-of-another-name": "http://localhost:3000/cb",
    "E87-listener-with-a-query": "http://127.0.0.1:3000/cb?x=1",
    "E87-listener-over-tls": "https://127.0.0.1:3000/cb",
    "E87-script": "javascript:alert(1)//https://app.example.com/cb",
    "E87-two": f"{REGISTERED} {LISTENER}",
    "E87-empty": "",
}


@pytest.mark.parametrize("uri", VARIANTS.values(), ids=VARIANTS)
def test_an_answer_goes_to_no_variant_of_a_registered_uri(uri: str) -> None:
    client = RegisteredClient(client_id="app", name="App", redirect_uris=(REGISTERED, LISTENER))

    assert not redirect_uri_matches(client, uri)
    assert redirect_uri_matches(client, REGISTERED)
    assert redirect_uri_matches(client, "http://127.0.0.1:51234/cb")


UNREGISTRABLE = {
    "E87-register-script": "javascript:alert(1)",
    "E87-register-data": "data:text/html,x",
    "E87-register-file": "file:///etc/passwd",
    "E87-register-wildcard": "https://*.example.com/cb",
    "E87-register-wildcard-path": "https://app.example.com/*",
    "E87-register-plain-http": "http://app.example.com/cb",
    "E87-register-inner-http": "http://10.0.0.1/cb",
    "E87-register-fragment": "https://app.example.com/cb#x",
    "E87-register-user-name": "https://user@app.example.com/cb",
    "E87-register-encoded-host": "https://app%2eexample.com/cb",
    "E87-register-encoded-slash": "https://app.example.com/x%2F..%2Fcb",
    "E87-register-dot-segments": "https://app.example.com/x/../cb",
    "E87-register-line-feed": "https://app.example.com/cb\r\nSet-Cookie: x=y",
    "E87-register-homoglyph": "https://\u0430pp.example.com/cb",
    "E87-register-own-answer": "https://app.example.com/cb?code=attackers",
    "E87-register-scheme-without-dot": "app:/cb",
}


@pytest.mark.parametrize("uri", UNREGISTRABLE.values(), ids=UNREGISTRABLE)
async def test_a_uri_that_is_not_plain_is_not_registered(uri: str) -> None:
    class Keeping(NoStore):
        def __init__(self) -> None:
            self.kept: list[DynamicClient] = []

        def add(self, server_uid: str, client: DynamicClient, rules: RegistrationRules) -> bool:
            self.kept.append(client)
            return True

    store = Keeping()
    rules = ClientRules(server_uid="s", registration=RegistrationRules(mode="open"))

    def body(*uris: str) -> bytes:
        return json.dumps({"client_name": "App", "redirect_uris": uris, "token_endpoint_auth_method": "none"}).encode()

    async with ClientDirectory(rules, store=store, address_rules=RULES) as directory:
        with pytest.raises(ClientRefusal) as caught:
            await directory.register(body(REGISTERED, uri))
        assert (caught.value.error, store.kept) == ("invalid_redirect_uri", [])

        registration = await directory.register(body(REGISTERED))
    assert [kept.client for kept in store.kept] == [registration.client]
