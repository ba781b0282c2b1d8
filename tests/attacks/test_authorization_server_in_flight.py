"""Attacks on what is under way at the authorization server: taken away in the meantime, given twice, or never meant to be read (88, 89)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from controlplane.authorization_server.browser import MAX_ALL_COOKIES_BYTES
from controlplane.authorization_server.oversight import Oversight
from tests.functional.authorization_world import REGISTRY, AuthorizationWorld, pkce, registry_books, running_world
from tests.functional.registry import operator

pytestmark = [
    pytest.mark.external,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first run installs the provider
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def facade(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AuthorizationWorld]:
    async with running_world(tmp_path_factory.mktemp("authorization")) as running:
        yield running


async def test_who_logged_in_elsewhere_is_not_taken_for_somebody_of_the_new_login(facade: AuthorizationWorld) -> None:
    before = REGISTRY.format(name="front", idp=facade.idp)
    browser = facade.browser()
    page, _ = await facade.asked(browser, prompt="consent")
    facade.registry.apply(before.replace("clientId: gateway", "clientId: another").encode())
    try:
        answered = await facade.answer(browser, page)
    finally:
        facade.registry.apply(before.encode())
    assert (answered.status, "Location" in answered.headers) == (403, False)


async def test_a_person_who_is_revoked_while_asked_for_consent_gets_nothing(facade: AuthorizationWorld) -> None:
    browser = facade.browser()
    page, verifier = await facade.asked(browser, "ben", prompt="consent")
    now = datetime.now(UTC) + timedelta(seconds=1)  # logins count in whole seconds
    document = f"""
apiVersion: legation/v1
kind: Revocation
metadata: {{namespace: system, name: sessions-of-ben}}
spec: {{subject: front/ben, issuedBefore: "{now.isoformat()}", until: "{(now + timedelta(days=90)).isoformat()}", reason: a stolen laptop}}
"""
    facade.registry.apply(document.encode())
    answered = await facade.answer(browser, page)
    refused = await facade.redeem(answered.answer["code"], verifier)
    assert refused.json["error"] == "invalid_grant"


async def test_a_consent_takes_along_the_grants_of_every_time_it_was_given(facade: AuthorizationWorld) -> None:
    oversight = Oversight(state=lambda: facade.registry.live.state, books=registry_books(facade.registry), service=facade.registry.service)
    resource = facade.resource("demo/twice")
    given = []
    for _ in range(2):
        code, verifier = await facade.code(facade.browser(), prompt="consent", resource=resource)
        given.append((await facade.redeem(code, verifier, resource=resource)).json)
    auditor, security_officer = operator("vera", "legation:auditor"), operator("otto", "legation:security-officer")
    (consent,) = [each for each in oversight.consents(auditor, "system", "front") if each["resource"] == resource]

    assert oversight.revoke_consent(security_officer, "system", "front", consent["id"]) == 2

    for each in given:
        assert (await facade.refresh(each["refresh_token"])).json["error"] == "invalid_grant"
        assert facade.is_revoked(await facade.principal(each["access_token"], server="demo/twice"))


async def test_whoever_has_a_browser_begin_many_logins_does_not_stop_it_from_ending_one(facade: AuthorizationWorld) -> None:
    browser = facade.browser()
    for _ in range(60):
        begun = await facade.authorize(browser, facade.request(pkce()[1], state="x" * 500))
        assert begun.status == 303
    sent = browser.session.cookie_jar.filter_cookies(URL(facade.issuer))
    assert sum(len(name) + len(morsel.value) for name, morsel in sent.items()) <= MAX_ALL_COOKIES_BYTES
    code, verifier = await facade.code(browser, prompt="consent")
    assert (await facade.redeem(code, verifier)).status == 200


async def test_tokens_that_are_given_up_by_the_dozen_do_not_each_change_the_registry(facade: AuthorizationWorld) -> None:
    asked = {"grant_type": "client_credentials", "resource": facade.resource()}
    secret = ("ci", "s3cret-of-ci")
    given = [(await facade.token(basic=secret, **asked)).json["access_token"] for _ in range(24)]
    before = facade.registry.live.state.revision

    async def give_up(token: str) -> int:
        body, headers = {"token": token}, {"Authorization": aiohttp.encode_basic_auth(*secret)}
        async with facade.session.post(f"{facade.issuer}/revoke", data=body, headers=headers) as reply:
            return reply.status

    assert await asyncio.gather(*map(give_up, given)) == [200] * 24
    assert [facade.is_revoked(await facade.principal(token)) for token in given] == [True] * 24
    assert facade.registry.live.state.revision - before < 12


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/x-www-form-urlencoded; charset=none", b"ticket=x", 403),
        ("application/x-www-form-urlencoded", b"ticket=\xff\xfe", 403),
        ("application/x-www-form-urlencoded", b"ticket=%ff", 403),
        ("application/x-www-form-urlencoded", b"&".join([b"a=b"] * 100), 403),
        ("application/x-www-form-urlencoded", b"a=" + b"x" * 10_000, 413),
        ("multipart/form-data; boundary=x", b"--x--", 403),
        ("text/plain", b"ticket=x", 403),
    ],
)
async def test_a_form_that_no_page_of_ours_sends_is_answered_by_a_page(
    facade: AuthorizationWorld, content_type: str, body: bytes, status: int
) -> None:
    async with facade.session.post(f"{facade.issuer}/consent", data=body, headers={"Content-Type": content_type}) as reply:
        assert (reply.status, reply.content_type) == (status, "text/html")


async def test_without_a_key_to_sign_with_nothing_is_given_and_nothing_is_used_up(
    facade: AuthorizationWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, verifier = await facade.code(facade.browser(), prompt="consent")
    (working,) = [each for each in facade.issuers._working.values() if each.issuer.name == "front"]
    keyless = replace(facade.registry.live.state, signing_keys=MappingProxyType({}))
    with monkeypatch.context() as lost:
        lost.setattr(working.issuer, "_parts", replace(working.issuer._parts, state=lambda: keyless))
        refused = await facade.redeem(code, verifier)
    assert (refused.status, refused.json) == (503, {"error": "server_error"})
    assert (await facade.redeem(code, verifier)).status == 200
