"""Attacks on the authorization server: where answers go (87), what comes twice or from elsewhere (88), consent that nobody gave (89).

Through the real API, with a real OpenID provider behind it. Envoy passes these paths on as they are (`tests/e2e`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest
import pytest_asyncio

from tests.functional.authorization_world import NATIVE_CALLBACK, WEB_CALLBACK, AuthorizationWorld, Reply, pkce, running_world

pytestmark = [
    pytest.mark.external,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first run installs the provider
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def facade(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AuthorizationWorld]:
    async with running_world(tmp_path_factory.mktemp("authorization")) as running:
        yield running


def refused_by_a_page(reply: Reply, status: int = 400) -> None:
    """Nobody is redirected, and the page cannot be framed."""
    assert reply.status == status, reply
    assert "Location" not in reply.headers
    assert reply.headers["Content-Type"].startswith("text/html")
    assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]


def with_parameters(url: str, **changes: str | None) -> str:
    """The URL with these parameters; None leaves one out."""
    parts = urlsplit(url)
    said = dict(parse_qsl(parts.query)) | changes
    return urlunsplit(parts._replace(query=urlencode({name: value for name, value in said.items() if value is not None})))


# 87: redirect URIs

HOSTILE_WEB = {
    "87-suffix": f"{WEB_CALLBACK}/more",
    "87-suffix-of-a-name": f"{WEB_CALLBACK}evil",
    "87-slash": f"{WEB_CALLBACK}/",
    "87-query": f"{WEB_CALLBACK}?next=https://evil.example",
    "87-fragment": f"{WEB_CALLBACK}#x",
    "87-empty-query": f"{WEB_CALLBACK}?",
    "87-host-suffix": "https://app.example.com.evil.example/callback",
    "87-host-prefix": "https://evil-app.example.com/callback",
    "87-below-the-host": "https://x.app.example.com/callback",
    "87-user-name": "https://app.example.com@evil.example/callback",
    "87-user-name-before": "https://evil.example@app.example.com/callback",
    "87-backslash": "https://evil.example\\@app.example.com/callback",
    "87-upper-case-host": "https://APP.example.com/callback",
    "87-upper-case-scheme": "HTTPS://app.example.com/callback",
    "87-http": "http://app.example.com/callback",
    "87-usual-port": "https://app.example.com:443/callback",
    "87-other-port": "https://app.example.com:8443/callback",
    "87-dot-of-the-root": "https://app.example.com./callback",
    "87-escaped-letter": "https://app.example.com/c%61llback",
    "87-escaped-slash": "https://app.example.com%2Fcallback",
    "87-twice-escaped": "https://app.example.com/%2563allback",
    "87-dot-segments": "https://app.example.com/x/../callback",
    "87-empty-segment": "https://app.example.com//callback",
    "87-parameter": "https://app.example.com/callback;x",
    "87-no-scheme": "//app.example.com/callback",
    "87-script": "javascript:alert(1)//https://app.example.com/callback",
    "87-data": "data:text/html,https://app.example.com/callback",
    "87-line-break": f"{WEB_CALLBACK}\r\nX: y",
    "87-null": f"{WEB_CALLBACK}\x00",
    "87-look-alike": "https://app.ex\u0430mple.com/callback",
    "87-space-before": f" {WEB_CALLBACK}",
    "87-of-another-client": "https://server.example.com/cb",
    "87-none": "",
}
HOSTILE_NATIVE = {
    "87-native-other-path": "http://127.0.0.1:5000/other",
    "87-native-suffix": "http://127.0.0.1:5000/callback/more",
    "87-native-name": "http://localhost:5000/callback",
    "87-native-ipv6": "http://[::1]:5000/callback",
    "87-native-other-loopback": "http://127.0.0.2:5000/callback",
    "87-native-number": "http://2130706433:5000/callback",
    "87-native-host-suffix": "http://127.0.0.1.evil.example:5000/callback",
    "87-native-user-name": "http://127.0.0.1:5000@evil.example/callback",
    "87-native-no-port": "http://127.0.0.1:/callback",
    "87-native-large-port": "http://127.0.0.1:99999/callback",
    "87-native-https": "https://127.0.0.1:5000/callback",
    "87-native-query": "http://127.0.0.1:5000/callback?x=y",
}


@pytest.mark.parametrize("redirect_uri", HOSTILE_WEB.values(), ids=HOSTILE_WEB)
async def test_a_redirect_uri_is_exactly_what_was_registered(facade: AuthorizationWorld, redirect_uri: str) -> None:
    reply = await facade.authorize(facade.browser(), facade.request(pkce()[1], redirect_uri=redirect_uri))

    refused_by_a_page(reply)
    assert "evil" not in reply.text


@pytest.mark.parametrize("redirect_uri", HOSTILE_NATIVE.values(), ids=HOSTILE_NATIVE)
async def test_of_a_native_client_only_the_port_may_differ(facade: AuthorizationWorld, redirect_uri: str) -> None:
    reply = await facade.authorize(facade.browser(), facade.request(pkce()[1], client_id="native", redirect_uri=redirect_uri))

    refused_by_a_page(reply)


async def test_e87_a_redirect_uri_that_is_given_twice_or_by_nobody_known_is_refused(facade: AuthorizationWorld) -> None:
    asked = list(facade.request(pkce()[1]).items())

    for pairs in (
        [*asked, ("redirect_uri", WEB_CALLBACK)],
        [*asked, ("redirect_uri", "https://evil.example/")],
        [*asked, ("client_id", "native")],
        [(name, value) for name, value in asked if name != "client_id"],
        [(name, "nobody" if name == "client_id" else value) for name, value in asked],
        [(name, "dynamic-" + 32 * "A" if name == "client_id" else value) for name, value in asked],
    ):
        refused_by_a_page(await facade.authorize(facade.browser(), pairs))


async def test_e87_a_code_is_good_with_its_own_redirect_uri_only(facade: AuthorizationWorld) -> None:
    code, verifier = await facade.code(facade.browser(), client_id="native", redirect_uri="http://127.0.0.1:5001/callback")

    for redirect_uri in ("", NATIVE_CALLBACK, "http://127.0.0.1:5002/callback", WEB_CALLBACK):
        answer = await facade.redeem(code, verifier, client_id="native", redirect_uri=redirect_uri)
        assert (answer.status, answer.json["error"]) == (400, "invalid_grant")
    good = await facade.redeem(code, verifier, client_id="native", redirect_uri="http://127.0.0.1:5001/callback")
    assert good.status == 200


async def test_e87_errors_are_not_sent_to_clients_that_nobody_knows(facade: AuthorizationWorld) -> None:
    """Whoever registers a client could otherwise lead people from the gateway's own address to his."""
    client_id = await register(facade, "https://evil.example/landing")
    asked = facade.request(pkce()[1], client_id=client_id, redirect_uri="https://evil.example/landing", scope="no.such.scope")

    refused_by_a_page(await facade.authorize(facade.browser(), asked))


# 88: PKCE, states, codes, issuers

WITHOUT_PKCE = {
    "88-no-challenge": {"code_challenge": "", "code_challenge_method": ""},
    "88-no-method": {"code_challenge_method": ""},
    "88-plain": {"code_challenge_method": "plain"},
    "88-lower-case-method": {"code_challenge_method": "s256"},
    "88-other-method": {"code_challenge_method": "S512"},
    "88-short-challenge": {"code_challenge": "x" * 42},
    "88-odd-challenge": {"code_challenge": "x" * 42 + "="},
    "88-implicit": {"response_type": "token"},
    "88-hybrid": {"response_type": "code token"},
    "88-fragment": {"response_mode": "fragment"},
    "88-request-object": {"request": "eyJhbGciOiJub25lIn0.e30."},
    "88-request-by-reference": {"request_uri": "http://127.0.0.1:1/"},
}


@pytest.mark.parametrize("changes", WITHOUT_PKCE.values(), ids=WITHOUT_PKCE)
async def test_what_weakens_an_authorization_is_refused_before_anybody_logs_in(facade: AuthorizationWorld, changes: dict[str, str]) -> None:
    reply = await facade.authorize(facade.browser(), facade.request(pkce()[1], **changes))

    assert reply.location.startswith(f"{WEB_CALLBACK}?"), reply
    assert reply.answer["error"] in {
        "invalid_request",
        "unsupported_response_type",
        "request_not_supported",
        "request_uri_not_supported",
    }
    assert (reply.answer["state"], reply.answer["iss"]) == ("a state of the client", facade.issuer)
    assert "code" not in reply.answer


async def test_e88_a_code_needs_its_verifier(facade: AuthorizationWorld) -> None:
    code, verifier = await facade.code(facade.browser())
    challenge = pkce()[1]

    for wrong in ("", pkce()[0], challenge, verifier[:-1], verifier + "x", verifier.swapcase(), "short"):
        answer = await facade.redeem(code, wrong)
        assert (answer.status, answer.json["error"] in {"invalid_grant", "invalid_request"}) == (400, True), answer
    assert (await facade.redeem(code, verifier)).status == 200


async def test_e88_a_code_that_is_played_again_ends_what_it_gave(facade: AuthorizationWorld) -> None:
    code, verifier = await facade.code(facade.browser())
    first = await facade.redeem(code, verifier)
    principal = await facade.principal(first.json["access_token"])
    assert not facade.is_revoked(principal)

    again = await facade.redeem(code, verifier)

    assert (again.status, again.json["error"]) == (400, "invalid_grant")
    assert facade.is_revoked(principal)
    assert (await facade.refresh(first.json["refresh_token"])).json["error"] == "invalid_grant"
    assert "code.replayed" in [event["event"] for event in facade.events()]


async def test_e88_a_code_is_nobody_elses(facade: AuthorizationWorld) -> None:
    code, verifier = await facade.code(facade.browser())

    by_another = await facade.redeem(code, verifier, client_id="confidential", client_secret="s3cret-of-server")
    for_another = await facade.redeem(code, verifier, resource=facade.resource("demo/other"))
    by_grant = await facade.redeem(code, verifier, grant_type="client_credentials")

    assert by_another.json["error"] == "invalid_grant"
    assert for_another.json["error"] == "invalid_target"
    assert by_grant.json["error"] == "unauthorized_client"
    assert (await facade.redeem(code, verifier)).status == 200


async def test_e88_the_answer_of_the_login_is_from_the_right_provider(facade: AuthorizationWorld) -> None:
    """Mix-up: an answer that another provider sends, or that does not say who sends it."""
    for issuer in ("https://evil.example", facade.idp + "/", facade.issuer, "", None):
        browser = facade.browser()
        back = await facade.log_in(browser, await facade.authorize(browser, facade.request(pkce()[1])))

        reply = await browser.get(with_parameters(back, iss=issuer))

        assert (reply.status, reply.answer.get("error")) == (303, "access_denied"), issuer
        assert "code" not in reply.answer


async def test_e88_the_answer_of_the_login_comes_once_to_the_browser_that_began(facade: AuthorizationWorld) -> None:
    ann, other = facade.browser(), facade.browser()
    reply = await facade.authorize(ann, facade.request(pkce()[1], prompt="consent"))
    kept = [cookie for cookie in ann.session.cookie_jar if cookie.key.startswith("legation-login")]
    back = await facade.log_in(ann, reply)

    refused_by_a_page(await other.get(back))  # a login of somebody else, put into a victim's browser
    refused_by_a_page(await ann.get(with_parameters(back, state="A" * 43)))
    refused_by_a_page(await ann.get(with_parameters(back, state=None)))
    assert "Allow" in (await ann.get(back)).text
    refused_by_a_page(await ann.get(back))  # the cookie is gone
    ann.session.cookie_jar.update_cookies({cookie.key: cookie.value for cookie in kept})
    assert "code" not in (await ann.get(back)).answer_or_none()  # and with it, the provider does not take its code twice


async def test_e88_the_answers_of_two_logins_cannot_be_swapped(facade: AuthorizationWorld) -> None:
    one, two = facade.browser(), facade.browser()
    of_one = await facade.log_in(one, await facade.authorize(one, facade.request(pkce()[1])), "ann")
    of_two = await facade.log_in(two, await facade.authorize(two, facade.request(pkce()[1])), "ben")
    code_of_two = dict(parse_qsl(urlsplit(of_two).query))["code"]

    reply = await one.get(with_parameters(of_one, code=code_of_two))

    assert "code" not in reply.answer
    assert reply.answer["error"] == "server_error"  # the provider: PKCE


async def test_e88_a_login_of_one_authorization_server_is_not_one_of_another(facade: AuthorizationWorld) -> None:
    browser = facade.browser()
    back = await facade.log_in(browser, await facade.authorize(browser, facade.request(pkce()[1])))
    document = f"""
apiVersion: legation/v1
kind: AuthorizationServer
metadata: {{namespace: system, name: other}}
spec:
  login: {{issuer: "{facade.idp}", clientId: gateway, clientSecret: {{value: x}}, allowInsecureHttp: true}}
"""
    facade.registry.apply(document.encode())

    refused_by_a_page(await browser.get(back.replace("/oauth/front/", "/oauth/other/")))


# 89: consent


async def register(facade: AuthorizationWorld, redirect_uri: str, name: str = "The web client") -> str:
    metadata = {"client_name": name, "redirect_uris": [redirect_uri], "token_endpoint_auth_method": "none"}
    async with facade.session.post(f"{facade.issuer}/register", json=metadata) as response:
        assert response.status == 201, await response.text()
        client_id: str = (await response.json())["client_id"]
        return client_id


async def test_e89_a_client_that_registers_itself_is_asked_about_although_another_was_allowed(facade: AuthorizationWorld) -> None:
    """Confused deputy: the provider has a session, and would say yes to the gateway's one client there without a question."""
    browser = facade.browser()
    await facade.code(browser)
    remembered, _ = await facade.asked(browser)
    assert "code" in remembered.answer

    for redirect_uri in (WEB_CALLBACK, "https://evil.example/callback"):
        client_id = await register(facade, redirect_uri)
        page, _ = await facade.asked(browser, client_id=client_id, redirect_uri=redirect_uri)

        assert page.status == 200
        assert "Nobody has checked who made this program" in page.text
        assert urlsplit(redirect_uri).netloc in page.text


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"scope": "crm.read crm.write"}, id="89-more-scopes"),
        pytest.param({"scope": ""}, id="89-other-scopes"),
        pytest.param({"prompt": "consent"}, id="89-asked-for"),
    ],
)
async def test_a_consent_is_for_what_was_asked_then(facade: AuthorizationWorld, changes: dict[str, str]) -> None:
    browser = facade.browser()
    await facade.code(browser)

    page, _ = await facade.asked(browser, **changes)

    assert page.status == 200


async def test_e89_a_consent_is_for_one_resource_and_one_person(facade: AuthorizationWorld) -> None:
    browser = facade.browser()
    await facade.code(browser)

    elsewhere, _ = await facade.asked(browser, resource=facade.resource("demo/another"))
    other, _ = await facade.asked(facade.browser(), "ben")

    assert (elsewhere.status, other.status) == (200, 200)


async def test_e89_programs_on_the_persons_machine_are_asked_about_every_time(facade: AuthorizationWorld) -> None:
    browser = facade.browser()
    for _ in range(2):
        page, _ = await facade.asked(browser, client_id="native", redirect_uri="http://127.0.0.1:5003/callback")

        assert "a program on this computer" in page.text
        assert "code" in (await facade.answer(browser, page)).answer


async def test_e89_only_the_page_that_asked_can_answer_and_once(facade: AuthorizationWorld) -> None:
    browser, other = facade.browser(), facade.browser()
    page, verifier = await facade.asked(browser, prompt="consent")

    refused_by_a_page(await facade.answer(other, page), 403)  # the ticket, in another browser
    marks = [cookie.key for cookie in browser.session.cookie_jar if cookie.key.startswith("legation-consent")]
    other.session.cookie_jar.update_cookies(dict.fromkeys(marks, "A" * 43))
    refused_by_a_page(await facade.answer(other, page), 403)  # and with a mark that was guessed
    foreign = await facade.answer(browser, page, headers={"Origin": "https://evil.example"})
    assert foreign.status == 403
    refused_by_a_page(await facade.answer(browser, page, headers={"Sec-Fetch-Site": "cross-site"}), 403)
    refused_by_a_page(await facade.answer(browser, page, headers={"Sec-Fetch-Site": "same-site"}), 403)
    refused_by_a_page(await facade.answer(browser, page, "maybe"), 403)
    refused_by_a_page(await browser.post(f"{facade.issuer}/consent", {"decision": "allow"}), 403)
    refused_by_a_page(await browser.post(f"{facade.issuer}/consent", {"decision": "allow", "ticket": "A" * 43}), 403)
    assert (await browser.get(f"{facade.issuer}/consent")).status == 405
    kept = {cookie.key: cookie.value for cookie in browser.session.cookie_jar}
    allowed = await facade.answer(browser, page)
    browser.session.cookie_jar.update_cookies(kept)
    refused_by_a_page(await facade.answer(browser, page), 403)  # twice
    assert (await facade.redeem(allowed.answer["code"], verifier)).status == 200


async def test_e89_somebody_elses_consent_cannot_be_finished(facade: AuthorizationWorld) -> None:
    """The attacker's own page and cookie with the victim's ticket, and the other way round."""
    attacker, victim = facade.browser(), facade.browser()
    of_attacker, _ = await facade.asked(attacker, "ben", prompt="consent")
    of_victim, _ = await facade.asked(victim, "ann", prompt="consent")

    refused_by_a_page(await facade.answer(victim, of_attacker), 403)
    refused_by_a_page(await facade.answer(attacker, of_victim), 403)


async def test_e89_the_page_cannot_be_framed_and_runs_nothing(facade: AuthorizationWorld) -> None:
    client_id = await register(facade, "https://evil.example/callback", name="</h1><script>alert(1)</script>\"'")
    page, _ = await facade.asked(facade.browser(), client_id=client_id, redirect_uri="https://evil.example/callback")
    policy = page.headers["Content-Security-Policy"]

    assert "<script" not in page.text
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= {part.strip() for part in policy.split(";")}
    assert "form-action 'self' https://evil.example;" in policy
    assert "script-src" not in policy
    assert (page.headers["X-Frame-Options"], page.headers["Cache-Control"]) == ("DENY", "no-store")
