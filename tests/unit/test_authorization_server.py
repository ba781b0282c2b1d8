"""Rules of the authorization server that need nobody else: parameters, resources, scopes, turns, keys, documents."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from controlplane.authorization_server import browser
from controlplane.authorization_server.clients.client import RegisteredClient
from controlplane.authorization_server.grant import Event, EventRecord, digest_of
from controlplane.authorization_server.page import consent_page, redirect_host
from controlplane.authorization_server.parameter import ParameterError, read_parameters
from controlplane.authorization_server.protocol import ProtocolRules
from controlplane.authorization_server.throttle import MAX_STRANGERS, PEER_HEADER, FairThrottle, Rate, RefusalLog, Throttle, stranger_of
from controlplane.registry.encryption import RegistryKey
from controlplane.registry.precondition import Precondition
from controlplane.registry.refusal import ConflictError, InvalidDocumentsError
from controlplane.registry.signing_key import (
    PUBLISHED_AFTER,
    PUBLISHED_AHEAD,
    SIGNS_FOR,
    open_signing_key,
    public_key_set,
    rotated_keys,
    signing_key_at,
)
from controlplane.registry.spec import Kind
from extauthz.errors import CredentialError
from tests.functional.registry import ADMIN, Registry, open_registry

KEY = RegistryKey(b"0123456789abcdef0123456789abcdef")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RULES = ProtocolRules(
    issuer="https://gw.example/oauth/front",
    base_urls=("https://gw.example", "https://partners.example:8443"),
    trusted_namespaces=("demo",),
    scopes=("crm.read", "crm.write"),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client_id", ""),
        ("client_id", "a b"),
        ("client_id", "x" * 2001),
        ("client_id", "ä"),
        ("redirect_uri", 'https://a/"'),
        ("redirect_uri", "https://a/\\"),
        ("state", "a\nb"),
        ("state", "x" * 1501),
        ("scope", 'a "b'),
        ("scope", "a  b"),
        ("scope", " a"),
        ("response_type", "code\x00"),
        ("code_challenge", "x" * 42),
        ("code_challenge", "x" * 129),
        ("code", "a b"),
        ("grant_type", "a b"),
        ("resource", "https://a b"),
        ("nonce", "\x7f"),
    ],
)
def test_a_parameter_has_the_characters_and_the_length_that_it_may_have(name: str, value: str) -> None:
    with pytest.raises(ParameterError) as caught:
        read_parameters([(name, value)], name)

    assert caught.value.name == name
    assert not value or value not in str(caught.value)


def test_a_parameter_is_given_once_and_others_are_ignored() -> None:
    assert read_parameters([("state", "a"), ("foo", "1"), ("foo", "2")], "state", "scope") == {"state": "a"}
    with pytest.raises(ParameterError):
        read_parameters([("state", "a"), ("state", "a")], "state")


@pytest.mark.parametrize(
    ("resource", "good"),
    [
        ("https://gw.example/servers/demo/crm/mcp", True),
        ("https://partners.example:8443/servers/demo/any-thing/mcp", True),
        ("https://gw.example/virtual/demo/support/mcp", True),
        ("https://gw.example/virtual/other/support/mcp", False),
        ("https://gw.example/elsewhere/demo/support/mcp", False),
        ("https://gw.example/servers/other/crm/mcp", False),
        ("https://gw.example/servers/demo/CRM/mcp", False),
        ("https://gw.example/servers/demo/crm/mcp#x", False),
        ("https://gw.example/servers/demo/crm/mcp\n", False),
        ("https://gw.example:443/servers/demo/crm/mcp", False),
        ("https://GW.example/servers/demo/crm/mcp", False),
        ("https://gw.example", False),
        ("https://gw.example.evil/servers/demo/crm/mcp", False),
        ("/servers/demo/crm/mcp", False),
        ("", False),
    ],
)
def test_a_resource_is_an_mcp_server_of_this_gateway(resource: str, good: bool) -> None:
    assert RULES.is_resource(resource) is good


@pytest.mark.parametrize(
    ("asked", "of_client", "granted"),
    [
        ("", (), ""),
        ("crm.read", (), "crm.read"),
        ("crm.write crm.read crm.write", (), "crm.write crm.read"),
        ("crm.read offline_access", (), "crm.read offline_access"),
        ("crm.write", ("crm.read",), None),
        ("crm.admin", (), None),
        ("crm.read", ("crm.admin",), None),
        ("openid", (), None),
    ],
)
def test_a_scope_is_granted_whole_or_not_at_all(asked: str, of_client: tuple[str, ...], granted: str | None) -> None:
    assert RULES.granted_scope(asked, RegisteredClient(client_id="c", name="c", scopes=of_client)) == granted


def test_turns_come_back_with_time() -> None:
    now = 0.0
    throttle = Throttle(per_second=2, burst=3, clock=lambda: now)

    assert [throttle.take() for _ in range(4)] == [True, True, True, False]
    now = 1.0
    assert [throttle.take() for _ in range(3)] == [True, True, False]
    now = 1000.0
    assert [throttle.take() for _ in range(4)] == [True, True, True, False]


def test_one_stranger_keeps_nobody_else_out() -> None:
    now = 0.0
    throttle = FairThrottle(each=Rate(per_second=1, burst=2), everybody=Rate(per_second=5, burst=5), clock=lambda: now)

    assert [throttle.take("192.0.2.66") for _ in range(50)] == [True] * 2 + [False] * 48
    assert [throttle.take("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert [throttle.take(f"192.0.2.{number}") for number in (2, 3)] == [True, False]  # more addresses than that can
    now = 1.0
    assert throttle.take("192.0.2.66")
    for number in range(2 * MAX_STRANGERS):
        throttle.take(str(number))
    assert len(throttle._strangers) == MAX_STRANGERS


@pytest.mark.parametrize(
    ("told", "stranger"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("/run/a.sock", ""),
    ],
)
def test_a_stranger_is_an_address_as_envoy_tells_it(told: str, stranger: str) -> None:
    assert stranger_of(make_mocked_request("GET", "/", headers={PEER_HEADER: told, "x-forwarded-for": "192.0.2.99"})) == stranger


def test_a_flood_of_refusals_is_counted_and_none_is_forgotten() -> None:
    now = 0.0
    log = RefusalLog(per_minute=2, clock=lambda: now)
    refused = EventRecord(event=Event.TOKEN_REFUSED, reason="x" * 1000)

    written = [record for _ in range(5) for record in log.admit(refused)]
    now = 61.0
    later = log.admit(refused)

    assert [len(record.reason) for record in written] == [500, 500]
    assert [(record.event, record.count) for record in later] == [(Event.TOKEN_REFUSED, 3), (Event.TOKEN_REFUSED, 1)]
    assert log.counted() == []


def test_a_key_is_published_before_it_signs_and_after_it_signed() -> None:
    first = rotated_keys((), NOW, key=KEY, uid="u")
    assert rotated_keys(first, NOW + timedelta(days=28), key=KEY, uid="u") == first

    both = rotated_keys(first, NOW + SIGNS_FOR - PUBLISHED_AHEAD, key=KEY, uid="u")
    assert both[:1] == first
    assert len(public_key_set(both)["keys"]) == 2  # type: ignore[arg-type]
    switch = NOW + SIGNS_FOR
    assert signing_key_at(both, switch - timedelta(seconds=1)) == both[0]
    assert signing_key_at(both, switch) == both[1]
    assert rotated_keys(both, switch + PUBLISHED_AFTER - timedelta(seconds=1), key=KEY, uid="u") == both
    assert rotated_keys(both, switch + PUBLISHED_AFTER, key=KEY, uid="u") == both[1:]


def test_a_rotation_that_comes_late_still_publishes_first() -> None:
    first = rotated_keys((), NOW, key=KEY, uid="u")
    late = NOW + timedelta(days=200)

    both = rotated_keys(first, late, key=KEY, uid="u")

    assert both[1].signs_from == late + PUBLISHED_AHEAD
    assert signing_key_at(both, late) == first[0]


def test_a_signing_key_opens_for_its_own_server_only() -> None:
    (key,) = rotated_keys((), NOW, key=KEY, uid="u")

    open_signing_key(key, key=KEY, uid="u")
    with pytest.raises(CredentialError):
        open_signing_key(key, key=KEY, uid="another")
    assert "d" not in key.public_jwk
    assert key.sealed not in repr(key)
    with pytest.raises(CredentialError):
        signing_key_at((), NOW)


@pytest.mark.parametrize(
    ("redirect_uri", "shown", "target"),
    [
        ("https://app.example.com:8443/cb", "app.example.com:8443", "https://app.example.com:8443"),
        ("http://127.0.0.1:5000/cb", "127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://[::1]:5000/cb", "[::1]:5000", "http:"),  # a policy cannot name it
        ("com.example.app:/cb", "com.example.app:", "com.example.app:"),
    ],
)
def test_the_page_shows_where_the_answer_goes_and_may_send_its_form_only_there(redirect_uri: str, shown: str, target: str) -> None:
    client = RegisteredClient(client_id="c", name="A client", redirect_uris=(redirect_uri,))
    page = consent_page(
        client=client, person="ann", resource="r", scope="", redirect_uri=redirect_uri, action="/a", ticket="t", remembered_days=0
    )

    assert redirect_host(redirect_uri) == shown
    assert shown in (page.text or "")
    assert f"form-action 'self' {target};" in page.headers["Content-Security-Policy"]


# documents

DOCUMENT: dict[str, Any] = {
    "apiVersion": "legation/v1",
    "kind": "AuthorizationServer",
    "metadata": {"namespace": "system", "name": "front"},
    "spec": {
        "login": {"issuer": "https://login.example.com", "clientId": "gateway", "clientSecret": {"value": "top"}},
        "scopes": ["crm.read"],
        "clients": {"web": {"name": "Web", "redirectUris": ["https://app.example.com/cb"]}},
    },
}


@pytest.fixture
def registry(tmp_path: Any) -> Any:
    opened = open_registry(f"sqlite:///{tmp_path}/registry.db")
    yield opened
    opened.store.close()


def changed(path: str, value: object) -> bytes:
    document: dict[str, Any] = yaml.safe_load(yaml.safe_dump(DOCUMENT))
    place: Any = document
    *steps, last = path.split(".")
    for step in steps:
        place = place.setdefault(step, {})
    place[last] = value
    return yaml.safe_dump(document).encode()


def client(**members: object) -> dict[str, object]:
    return {"name": "x", **members}


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("metadata.namespace", "demo", "metadata.namespace"),
        ("metadata.name", "local", "metadata.name"),
        ("spec.login.issuer", "http://login.example.com", "spec.login.issuer"),
        ("spec.login.issuer", "https://10.0.0.1", "spec.login.issuer"),
        ("spec.login.issuer", "https://user@login.example.com", "spec.login.issuer"),
        ("spec.login.clientSecret", None, "spec.login"),
        ("spec.login.privateKeyJwt", {"key": {"value": "x"}}, "spec.login"),
        ("spec.login.scopes", ["profile"], "spec.login"),
        ("spec.login.preset", "entra", "spec.login.issuer"),
        ("spec.login.mapping", {"agent": "agent"}, "spec.login.mapping.agent"),
        ("spec.login.mapping", {"client": "azp"}, "spec.login.mapping.client"),
        ("spec.login.mapping", {"claims": ["scope"]}, "spec.login.mapping.claims[0]"),
        ("spec.login.mapping", {"claims": ["/a/b"]}, "spec.login.mapping.claims[0]"),
        ("spec.login.tenants", ["t"], "spec.login.tenants"),
        ("spec.initialScopes", ["crm.admin"], "spec"),
        ("spec.lifetimes.accessTokenSeconds", 301, "spec.lifetimes.accessTokenSeconds"),
        ("spec.lifetimes.codeSeconds", 61, "spec.lifetimes.codeSeconds"),
        ("spec.lifetimes.refreshTokenDays", 91, "spec.lifetimes.refreshTokenDays"),
        ("spec.registration.dynamic", "initialAccessToken", "spec.registration"),
        ("spec.registration.clientIdMetadata", {"enabled": True}, "spec.registration.clientIdMetadata.trustedDomains"),
        ("spec.clients.web.redirectUris", ["http://app.example.com/cb"], "spec.clients.web.redirectUris[0]"),
        ("spec.clients.web.redirectUris", ["https://app.example.com/*"], "spec.clients.web.redirectUris[0]"),
        ("spec.clients.web.redirectUris", ["javascript:alert(1)"], "spec.clients.web.redirectUris[0]"),
        ("spec.clients.web.redirectUris", [], "spec.clients.web"),
        ("spec.clients.web.secret", {"value": "x"}, "spec.clients.web"),
        ("spec.clients.web.scopes", ["crm.admin"], "spec"),
        ("spec.clients.bad id", client(redirectUris=["https://a.example/"]), "spec.clients"),
        ("spec.clients.job", client(grantTypes=["client_credentials"]), "spec.clients.job"),
        ("spec.clients.job", client(grantTypes=["client_credentials"], tokenEndpointAuthMethod="private_key_jwt"), "spec.clients.job"),
        (
            "spec.clients.job",
            client(
                grantTypes=["client_credentials"], tokenEndpointAuthMethod="private_key_jwt", jwks={"keys": [{"kty": "oct", "k": "AA"}]}
            ),
            "spec.clients.job.jwks",
        ),
        (
            "spec.clients.job",
            client(grantTypes=["client_credentials"], tokenEndpointAuthMethod="private_key_jwt", jwksUri="http://keys.example/"),
            "spec.clients.job.jwksUri",
        ),
    ],
)
def test_a_document_that_would_not_work_or_not_be_safe_is_refused(registry: Registry, path: str, value: object, told: str) -> None:
    with pytest.raises(InvalidDocumentsError) as caught:
        registry.apply(changed(path, value))

    assert any(error.path.startswith(told) for error in caught.value.errors), caught.value.errors


def test_its_principals_can_be_given_roles_and_then_it_cannot_be_deleted(registry: Registry) -> None:
    registry.apply(yaml.safe_dump(DOCUMENT).encode())
    registry.apply(b"""
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: demo, name: marketing}
spec: {role: marketing, subjects: [{kind: Group, name: front/marketing}, {kind: Agent, name: "front/client:ci"}]}
""")

    with pytest.raises(ConflictError):
        registry.service.delete(ADMIN, (Kind.AUTHORIZATION_SERVER, "system", "front"), precondition=Precondition(if_match=("*",)))


def test_an_identity_provider_cannot_take_its_name(registry: Registry) -> None:
    registry.apply(yaml.safe_dump(DOCUMENT).encode())

    with pytest.raises(InvalidDocumentsError):
        registry.apply(b"""
apiVersion: legation/v1
kind: IdentityProvider
metadata: {namespace: system, name: front}
spec: {issuer: "https://evil.example"}
""")


def test_its_secrets_stay_with_the_provider_they_were_given_for(registry: Registry) -> None:
    registry.apply(yaml.safe_dump(DOCUMENT).encode())
    shown = registry.reader.read_document(ADMIN, (Kind.AUTHORIZATION_SERVER, "system", "front"))
    assert shown["spec"]["login"]["clientSecret"] == {"encrypted": True}

    registry.apply(changed("spec.login.clientSecret", {"encrypted": True}))
    moved: dict[str, Any] = yaml.safe_load(changed("spec.login.clientSecret", {"encrypted": True}))
    moved["spec"]["login"]["issuer"] = "https://evil.example"
    with pytest.raises(InvalidDocumentsError):
        registry.apply(yaml.safe_dump(moved).encode())


# what browsers keep

PENDING = browser.PendingLogin(parameters={"state": "s"}, nonce="n", code_verifier="v", expires_at=int(time.time()) + 86_400)
STATE = "S" * 43


def kept_by_browser(*, secure: bool, pending: browser.PendingLogin = PENDING) -> Any:
    response = web.Response()
    browser.keep_login(response, pending, state=STATE, server_uid="u", key=KEY, secure=secure)
    browser.keep_consent(response, "M" * 43, ticket="T" * 43, secure=secure)
    return response.cookies


def sent_by_browser(cookies: Any) -> web.Request:
    return make_mocked_request("GET", "/", headers={"Cookie": "; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items())})


def test_over_tls_cookies_are_the_hosts_own() -> None:
    cookies = kept_by_browser(secure=True)
    login, consent = sorted(cookies.values(), key=lambda morsel: "consent" in morsel.key)

    for morsel, same_site in ((login, "Lax"), (consent, "Strict")):
        assert morsel.key.startswith("__Host-legation-")
        assert (morsel["path"], morsel["domain"], morsel["secure"], morsel["httponly"]) == ("/", "", True, True)
        assert (morsel["samesite"], morsel["max-age"]) == (same_site, str(browser.LOGIN_SECONDS))
    assert not any(name.startswith("__Host-") for name in kept_by_browser(secure=False))


def test_a_login_is_opened_by_its_own_server_state_and_time_only() -> None:
    request = sent_by_browser(kept_by_browser(secure=True))
    assert browser.login_of(request, state=STATE, server_uid="u", key=KEY, secure=True) == PENDING
    assert browser.consent_of(request, ticket="T" * 43, secure=True) == "M" * 43

    renamed = make_mocked_request(
        "GET", "/", headers={"Cookie": request.headers["Cookie"].replace(digest_of(STATE)[:16], digest_of("X")[:16])}
    )
    late = sent_by_browser(kept_by_browser(secure=True, pending=replace(PENDING, expires_at=int(time.time()) - 1)))
    for wrong, changes in (
        (request, {"server_uid": "another"}),
        (request, {"state": "X"}),
        (request, {"key": RegistryKey(b"x" * 32)}),
        (request, {"secure": False}),
        (renamed, {"state": "X"}),
        (late, {}),
    ):
        with pytest.raises(browser.BrowserError):
            browser.login_of(wrong, **{"state": STATE, "server_uid": "u", "key": KEY, "secure": True, **changes})  # type: ignore[arg-type]
    with pytest.raises(browser.BrowserError):
        browser.consent_of(request, ticket="X" * 43, secure=True)
