"""An authorization server through the real API, with a real OpenID provider behind it: what is given, to whom, and how often."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

import jwt
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

from controlplane.authorization_server.issuers import Issuers
from controlplane.authorization_server.oversight import Oversight
from controlplane.authorization_server.throttle import FairThrottle, Rate
from controlplane.registry.precondition import Precondition
from controlplane.registry.refusal import EntryNotFoundError, NotPermittedError
from controlplane.registry.signing_key import PUBLISHED_AHEAD, SIGNS_FOR
from controlplane.registry.spec import Kind
from tests.functional.authorization_world import (
    GATEWAY_SECRET,
    LOOPBACK,
    REGISTRY,
    WEB_CALLBACK,
    AuthorizationWorld,
    pkce,
    registry_books,
    running_world,
    unverified,
)
from tests.functional.registry import ADMIN, operator
from tests.issuer import SigningKey

pytestmark = [
    pytest.mark.external,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first run installs the provider
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AuthorizationWorld]:
    async with running_world(tmp_path_factory.mktemp("authorization")) as running:
        yield running


async def test_a_person_logs_in_allows_a_client_and_authorizers_know_who_it_is(world: AuthorizationWorld) -> None:
    code, verifier = await world.code(world.browser())
    answer = await world.redeem(code, verifier)

    assert answer.status == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    claims = unverified(answer.json["access_token"])
    assert (claims["iss"], claims["aud"], claims["client_id"], claims["sub"]) == (world.issuer, world.resource(), "web", "ann")
    assert claims["exp"] - claims["iat"] == 300
    principal = await world.principal(answer.json["access_token"])
    assert (principal.id, principal.kind.value) == ("front/ann", "User")
    assert principal.groups == ("front/marketing", "front/sales")
    assert principal.attributes == ("front/department=crm",)
    assert principal.scopes == ("crm.read",)


async def test_its_metadata_is_found_where_clients_look_and_says_what_it_does(world: AuthorizationWorld) -> None:
    documents = []
    for path in (
        "/.well-known/oauth-authorization-server/oauth/front",
        "/.well-known/openid-configuration/oauth/front",
        "/oauth/front/.well-known/openid-configuration",
    ):
        answer = await world.browser().get(world.url + path)
        assert answer.status == 200
        documents.append(answer.json)

    assert documents[0] == documents[1] == documents[2]
    metadata = AuthorizationServerMetadata(documents[0])
    metadata.validate()
    assert metadata["issuer"] == world.issuer
    assert metadata["code_challenge_methods_supported"] == ["S256"]
    assert metadata["authorization_response_iss_parameter_supported"] is True
    keys = (await world.browser().get(metadata["jwks_uri"])).json["keys"]
    assert [sorted(key) for key in keys] == [["alg", "crv", "kid", "kty", "use", "x", "y"]]
    assert (await world.browser().get(f"{world.url}/oauth/nobody/jwks.json")).status == 404


async def test_who_says_no_is_told_to_the_client_and_nothing_is_given(world: AuthorizationWorld) -> None:
    browser = world.browser()
    page, _ = await world.asked(browser, prompt="consent")

    reply = await world.answer(browser, page, "deny")

    assert reply.location.startswith(f"{WEB_CALLBACK}?")
    assert (reply.answer["error"], reply.answer["state"], reply.answer["iss"]) == ("access_denied", "a state of the client", world.issuer)
    assert world.events()[-1]["event"] == "consent.refused"


async def test_the_page_says_who_asks_for_what_and_where_the_answer_goes(world: AuthorizationWorld) -> None:
    page, _ = await world.asked(
        world.browser(), client_id="native", redirect_uri="http://127.0.0.1:5000/callback", scope="crm.read", prompt="consent"
    )

    for text in ("The native client", "native", "127.0.0.1:5000", "crm.read", world.resource(), "ann"):
        assert text in page.text
    assert "src=" not in page.text
    assert "href=" not in page.text


async def test_a_refresh_token_is_renewed_and_the_old_one_is_worth_nothing(world: AuthorizationWorld) -> None:
    first = (await world.redeem(*await world.code(world.browser()))).json
    second = (await world.refresh(first["refresh_token"])).json
    principal = await world.principal(second["access_token"])
    assert second["refresh_token"] != first["refresh_token"]
    assert principal.id == "front/ann"

    stolen = await world.refresh(first["refresh_token"])

    assert (stolen.status, stolen.json["error"]) == (400, "invalid_grant")
    assert (await world.refresh(second["refresh_token"])).json["error"] == "invalid_grant"
    assert world.is_revoked(principal)
    assert world.is_revoked(await world.principal(first["access_token"]))
    assert "refresh_token.reused" in [event["event"] for event in world.events()]


async def test_a_refresh_token_gives_no_more_than_was_allowed(world: AuthorizationWorld) -> None:
    given = (await world.redeem(*await world.code(world.browser(), scope="crm.read crm.write"))).json

    wider = await world.refresh(given["refresh_token"], scope="crm.read crm.admin")
    elsewhere = await world.refresh(given["refresh_token"], resource=world.resource("demo/other"))
    by_another = await world.refresh(given["refresh_token"], client_id="confidential", client_secret="s3cret-of-server")
    narrower = await world.refresh(given["refresh_token"], scope="crm.read")

    assert [answer.json["error"] for answer in (wider, elsewhere, by_another)] == ["invalid_scope", "invalid_target", "invalid_grant"]
    assert unverified(narrower.json["access_token"])["scope"] == "crm.read"


@pytest.mark.parametrize(
    ("resource", "error"),
    [
        ("", "invalid_target"),
        ("https://elsewhere.example/servers/demo/crm/mcp", "invalid_target"),
        ("{url}/v1", "invalid_target"),
        ("{url}/servers/demo/crm/mcp/", "invalid_target"),
        ("{url}/servers/demo/crm/mcp?x=y", "invalid_target"),
        ("{url}.evil.example/servers/demo/crm/mcp", "invalid_target"),
        ("{url}/servers/other/crm/mcp", "invalid_target"),  # a namespace where our tokens are not good
        ("{url}/servers/demo/there-is-no-such-server/mcp", ""),  # which servers exist is not told
    ],
)
async def test_a_token_is_for_one_resource_of_this_gateway(world: AuthorizationWorld, resource: str, error: str) -> None:
    resource = resource.replace("{url}", world.url)

    asked = await world.authorize(world.browser(), world.request(pkce()[1], resource=resource))
    form = {"grant_type": "client_credentials", "scope": "crm.read", **({"resource": resource} if resource else {})}
    granted = await world.token(basic=("ci", "s3cret-of-ci"), **form)

    assert asked.answer.get("error", "") == error
    assert granted.json.get("error", "") == error
    if not error:
        assert unverified(granted.json["access_token"])["aud"] == resource


async def test_a_client_with_a_secret_acts_for_itself_as_an_agent(world: AuthorizationWorld) -> None:
    form = {"grant_type": "client_credentials", "resource": world.resource()}
    granted = await world.token(basic=("ci", "s3cret-of-ci"), scope="crm.read", **form)
    principal = await world.principal(granted.json["access_token"])

    assert (principal.id, principal.kind.value, principal.groups) == ("front/client:ci", "Agent", ())
    assert "refresh_token" not in granted.json
    refused = [
        await world.token(basic=("ci", "wrong"), **form),
        await world.token(client_id="ci", client_secret="s3cret-of-ci", **form),
        await world.token(client_id="ci", **form),
        await world.token(basic=("ci", "s3cret-of-ci"), scope="crm.write", **form),
        await world.token(client_id="web", **form),
        await world.token(basic=("ci", "s3cret-of-ci"), grant_type="password", username="a", password="b"),
    ]
    errors = ["invalid_client", "invalid_client", "invalid_client", "invalid_scope", "unauthorized_client", "unsupported_grant_type"]
    assert [answer.json["error"] for answer in refused] == errors
    assert [answer.status for answer in refused] == [401, 401, 401, 400, 400, 400]
    assert refused[0].headers["WWW-Authenticate"].startswith("Basic ")


async def test_nobody_who_logs_in_can_be_taken_for_a_client(world: AuthorizationWorld) -> None:
    """The subject of a client that acts for itself is `client:<id>`: a person of that name is refused."""
    browser = world.browser()
    reply = await world.authorize(browser, world.request(pkce()[1]))

    back = await browser.get(await world.log_in(browser, reply, "client:ci"))

    assert (back.answer["error"], "code" in back.answer) == ("access_denied", False)


async def test_a_confidential_client_proves_itself_for_its_code(world: AuthorizationWorld) -> None:
    uri = "https://server.example.com/cb"
    code, verifier = await world.code(world.browser(), client_id="confidential", redirect_uri=uri)
    said = {"client_id": "confidential", "redirect_uri": uri}

    refused = await world.redeem(code, verifier, **said)
    good = await world.redeem(code, verifier, **said, client_secret="s3cret-of-server")

    assert (refused.status, refused.json["error"], good.status) == (401, "invalid_client", 200)


async def test_a_client_gives_up_what_it_has(world: AuthorizationWorld) -> None:
    given = (await world.redeem(*await world.code(world.browser()))).json
    other = (await world.redeem(*await world.code(world.browser()))).json

    async def revoke(token: str, **client: str) -> int:
        async with world.session.post(f"{world.issuer}/revoke", data={"token": token, **client}) as response:
            return response.status

    assert await revoke(given["refresh_token"], client_id="confidential", client_secret="s3cret-of-server") == 200  # not its own
    assert (await world.refresh(given["refresh_token"])).status == 200
    assert await revoke(other["refresh_token"], client_id="web") == 200
    assert (await world.refresh(other["refresh_token"])).json["error"] == "invalid_grant"
    assert world.is_revoked(await world.principal(other["access_token"]))
    assert await revoke(given["access_token"], client_id="confidential", client_secret="s3cret-of-server") == 200
    assert not world.is_revoked(await world.principal(given["access_token"]))
    assert await revoke(given["access_token"], client_id="web") == 200
    assert world.is_revoked(await world.principal(given["access_token"]))
    assert await revoke("nobody's", client_id="web") == 200
    assert await revoke(given["access_token"], client_id="nobody") == 401


async def test_who_is_revoked_gets_no_tokens_any_more(world: AuthorizationWorld) -> None:
    given = (await world.redeem(*await world.code(world.browser(), "ben"))).json
    code, verifier = await world.code(world.browser(), "ben", client_id="native", redirect_uri="http://127.0.0.1:5005/callback")
    world.registry.apply(b"""
apiVersion: legation/v1
kind: Revocation
metadata: {namespace: system, name: ben}
spec: {subject: front/ben}
""")

    browser = world.browser()
    again = await browser.get(await world.log_in(browser, await world.authorize(browser, world.request(pkce()[1])), "ben"))

    assert (await world.refresh(given["refresh_token"])).json["error"] == "invalid_grant"
    redeemed = await world.redeem(code, verifier, client_id="native", redirect_uri="http://127.0.0.1:5005/callback")
    assert redeemed.json["error"] == "invalid_grant"
    assert again.answer["error"] == "access_denied"


async def test_a_client_that_registers_itself_can_be_allowed(world: AuthorizationWorld) -> None:
    metadata = {"client_name": "Somebody's editor", "redirect_uris": ["http://127.0.0.1/cb"], "token_endpoint_auth_method": "none"}
    async with world.session.post(f"{world.issuer}/register", json=metadata) as response:
        assert response.status == 201
        client_id = (await response.json())["client_id"]
    said = {"client_id": client_id, "redirect_uri": "http://127.0.0.1:6001/cb"}

    answer = await world.redeem(*await world.code(world.browser(), **said), **said)

    assert (await world.principal(answer.json["access_token"])).oauth_client_id == client_id
    assert ("client.registered", client_id) in [(event["event"], event["client_id"]) for event in world.events()]


async def test_what_was_changed_in_the_registry_holds_for_the_next_request(world: AuthorizationWorld) -> None:
    given = (await world.redeem(*await world.code(world.browser(), scope="crm.read crm.write"))).json
    before = REGISTRY.format(name="front", idp=world.idp)
    world.registry.apply(before.replace("scopes: [crm.read, crm.write]", "scopes: [crm.read]").encode())
    try:
        assert (await world.refresh(given["refresh_token"])).json["error"] == "invalid_grant"
        assert (await world.authorize(world.browser(), world.request(pkce()[1], scope="crm.write"))).answer["error"] == "invalid_scope"
    finally:
        world.registry.apply(before.encode())
    assert (await world.refresh(given["refresh_token"])).status == 200


async def test_keys_are_rotated_with_overlap(world: AuthorizationWorld) -> None:
    code, verifier = await world.code(world.browser())
    old = (await world.redeem(code, verifier)).json["access_token"]
    (entry,) = world.registry.live.state.authorization_servers.values()
    world.registry.service.rotate_signing_keys(datetime.now(UTC) + SIGNS_FOR - PUBLISHED_AHEAD)
    kids = [key.kid for key in world.registry.live.state.signing_keys[entry.uid]]

    published = (await world.browser().get(f"{world.issuer}/jwks.json")).json["keys"]
    new = (await world.redeem(*await world.code(world.browser()))).json["access_token"]

    assert len(kids) == 2
    assert [key["kid"] for key in published] == kids  # the next one is known before it signs
    assert [jwt.get_unverified_header(token)["kid"] for token in (old, new)] == [kids[0], kids[0]]
    assert (await world.principal(old)).id == (await world.principal(new)).id == "front/ann"


async def test_every_step_is_on_the_record_and_no_secret_is(world: AuthorizationWorld) -> None:
    code, verifier = await world.code(world.browser())
    given = (await world.redeem(code, verifier)).json
    renewed = (await world.refresh(given["refresh_token"])).json

    last = [event["event"] for event in world.events()[-4:]]
    assert last == ["login.succeeded", "code.issued", "token.issued", "token.refreshed"]  # consent was given before
    everything = Path(str(world.registry.store.engine.url.database)).parent
    written = b"".join(file.read_bytes() for file in everything.iterdir() if file.is_file())
    secrets = [code, verifier, given["access_token"], given["refresh_token"], renewed["access_token"], renewed["refresh_token"]]
    assert [secret for secret in (*secrets, GATEWAY_SECRET, "s3cret-of-ci") if secret.encode() in written] == []
    assert b"marketing" not in written  # what the provider says of people is sealed


async def test_another_replica_knows_the_same(world: AuthorizationWorld) -> None:
    code, verifier = await world.code(world.browser())
    second = Issuers(
        state=lambda: world.registry.live.state,
        service=world.registry.service,
        engine=world.registry.store.engine,
        key=world.registry.key,
        configured_url=world.url,
        address_rules=LOOPBACK,
        secrets_dir=None,
    )
    application = web.Application()
    second.attach(application)
    form = {"grant_type": "authorization_code", "client_id": "web", "redirect_uri": WEB_CALLBACK, "code": code, "code_verifier": verifier}
    async with second, TestClient(TestServer(application)) as client:
        async with client.post("/oauth/front/token", data=form) as response:
            given = await response.json()
        assert (await world.principal(given["access_token"])).id == "front/ann"
        assert (await world.redeem(code, verifier)).json["error"] == "invalid_grant"  # used up there


async def test_an_authorization_server_that_is_deleted_is_gone_and_so_are_its_keys(world: AuthorizationWorld) -> None:
    document = REGISTRY.format(name="short-lived", idp=world.idp)
    world.registry.apply(document.encode())
    assert (await world.browser().get(f"{world.url}/oauth/short-lived/jwks.json")).status == 200
    key = (Kind.AUTHORIZATION_SERVER, "system", "short-lived")

    world.registry.service.delete(ADMIN, key, precondition=Precondition(if_match=("*",)))

    assert (await world.browser().get(f"{world.url}/oauth/short-lived/jwks.json")).status == 404
    assert "short-lived" not in {provider.id for provider in world.authorizers().identity_providers}
    assert len(world.registry.live.state.signing_keys) == 1


async def test_operators_see_who_allowed_what_and_take_it_away(world: AuthorizationWorld) -> None:
    oversight = Oversight(state=lambda: world.registry.live.state, books=registry_books(world.registry), service=world.registry.service)
    asked = {"client_id": "web", "prompt": "consent", "resource": world.resource("demo/overseen")}
    code, verifier = await world.code(world.browser(), **asked)
    given = (await world.redeem(code, verifier, resource=asked["resource"])).json
    auditor, security_officer = operator("vera", "legation:auditor"), operator("otto", "legation:security-officer")
    (consent,) = [each for each in oversight.consents(auditor, "system", "front") if each["resource"] == asked["resource"]]
    (grant,) = [each for each in oversight.grants(auditor, "system", "front") if each["resource"] == asked["resource"]]
    assert (consent["subject"], consent["redirect_host"], grant["client_id"]) == ("ann", "app.example.com", "web")

    with pytest.raises(NotPermittedError):
        oversight.revoke_consent(auditor, "system", "front", consent["id"])
    assert oversight.revoke_consent(security_officer, "system", "front", consent["id"]) == 1

    assert (await world.refresh(given["refresh_token"])).json["error"] == "invalid_grant"
    assert world.is_revoked(await world.principal(given["access_token"], server="demo/overseen"))
    page, _ = await world.asked(world.browser(), **{name: value for name, value in asked.items() if name != "prompt"})
    assert page.status == 200  # asked again
    assert "consent.revoked" in [event["event"] for event in oversight.events(auditor, "system", "front", before=0, limit=10)]
    with pytest.raises(EntryNotFoundError):
        oversight.revoke_grant(security_officer, "system", "front", grant["id"])


async def test_people_of_another_login_are_others_although_they_have_the_same_name(world: AuthorizationWorld) -> None:
    browser = world.browser()
    given = (
        await world.redeem(*await world.code(browser, resource=world.resource("demo/mine")), resource=world.resource("demo/mine"))
    ).json
    before = REGISTRY.format(name="front", idp=world.idp)
    world.registry.apply(before.replace("mapping: {claims: [department]}", "mapping: {claims: [department], tenant: department}").encode())
    renewed = await world.refresh(given["refresh_token"])
    assert renewed.status == 200  # nothing about who is who
    world.registry.apply(before.replace("mapping: {claims: [department]}", "mapping: {claims: [department], subject: sub}").encode())
    try:
        assert (await world.refresh(renewed.json["refresh_token"])).json["error"] == "invalid_grant"
        page, _ = await world.asked(browser, resource=world.resource("demo/mine"))
        assert page.status == 200  # asked again
    finally:
        world.registry.apply(before.encode())


async def test_a_client_with_a_key_signs_for_each_request_anew(world: AuthorizationWorld) -> None:
    key = SigningKey("k1")
    jwk = {name: value for name, value in key.public_jwk().items() if name != "use"}
    before = REGISTRY.format(name="front", idp=world.idp)
    entry = f"""
    signer:
      name: A signer
      grantTypes: [client_credentials]
      tokenEndpointAuthMethod: private_key_jwt
      jwks: {{keys: [{json.dumps(jwk)}]}}
"""
    world.registry.apply(
        before.replace("  registration: {dynamic: open}", entry.strip("\n") + "\n  registration: {dynamic: open}").encode()
    )

    def form(**changes: object) -> dict[str, str]:
        now = int(time.time())
        claims = {"iss": "signer", "sub": "signer", "aud": world.issuer, "iat": now, "exp": now + 60, "jti": token_hex(8), **changes}
        return {
            "grant_type": "client_credentials",
            "resource": world.resource(),
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": key.sign(claims, headers={"typ": "JWT"}),
        }

    first = form()
    granted = await world.token(**first)
    refused = [await world.token(**first), await world.token(**form(aud=world.idp)), await world.token(**form(sub="ci", iss="ci"))]

    assert (await world.principal(granted.json["access_token"])).id == "front/client:signer"
    assert [answer.json["error"] for answer in refused] == ["invalid_client"] * 3


async def test_what_comes_too_often_is_sent_away(world: AuthorizationWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    (working,) = [each for each in world.issuers._working.values() if each.issuer.name == "front"]
    for name in ("strangers", "programs"):
        each, everybody = Rate(per_second=0, burst=1), Rate(per_second=0, burst=2)
        monkeypatch.setattr(working.issuer, name, FairThrottle(each=each, everybody=everybody))
    browser = world.browser()
    await world.authorize(browser, world.request(pkce()[1]))
    await world.token(grant_type="client_credentials", client_id="ci")

    page = await world.authorize(browser, world.request(pkce()[1]))
    answer = await world.token(grant_type="client_credentials", client_id="ci")
    another = await world.authorize(world.browser(), world.request(pkce()[1]))

    assert (page.status, answer.status, answer.headers["Retry-After"], another.status) == (429, 429, "1", 303)


async def test_a_client_that_brings_a_document_about_itself_is_shown_with_its_host(world: AuthorizationWorld) -> None:
    async def document(request: web.Request) -> web.Response:
        told = {"client_id": str(request.url), "client_name": "An editor", "redirect_uris": ["http://127.0.0.1/cb"]}
        return web.json_response(told | {"token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"]})

    documents = web.Application()
    documents.router.add_get("/client.json", document)
    async with TestServer(documents) as server:
        client_id = str(server.make_url("/client.json"))
        domain = f"127.0.0.1:{server.port}"
        before = REGISTRY.format(name="front", idp=world.idp)
        after = f'registration: {{dynamic: open, clientIdMetadata: {{enabled: true, trustedDomains: ["{domain}"]}}}}'
        world.registry.apply(before.replace("registration: {dynamic: open}", after).encode())
        said = {"client_id": client_id, "redirect_uri": "http://127.0.0.1:6002/cb"}

        page, _ = await world.asked(world.browser(), **said)
        answer = await world.redeem(*await world.code(world.browser(), **said), **said)

        assert "Its name is what 127.0.0.1 says" in page.text
        assert client_id in page.text
        assert (await world.principal(answer.json["access_token"])).oauth_client_id == client_id
        assert (await world.browser().get(f"{world.issuer}/.well-known/openid-configuration")).json["client_id_metadata_document_supported"]


async def test_without_tls_it_works_on_this_machine_only(world: AuthorizationWorld) -> None:
    careless = Issuers(
        state=lambda: world.registry.live.state,
        service=world.registry.service,
        engine=world.registry.store.engine,
        key=world.registry.key,
        configured_url="http://gateway.internal",
        address_rules=LOOPBACK,
        secrets_dir=None,
    )
    application = web.Application()
    careless.attach(application)
    async with careless, TestClient(TestServer(application)) as client, client.get("/oauth/front/authorize") as response:
        assert response.status == 503


async def test_a_request_that_no_cookie_can_hold_is_told_to_the_client(world: AuthorizationWorld) -> None:
    reply = await world.authorize(world.browser(), world.request(pkce()[1], state="s" * 1500, scope=" ".join(["crm.read"] * 200)))

    assert (reply.answer["error"], reply.answer["state"]) == ("invalid_request", "s" * 1500)
    assert not [cookie for cookie in reply.headers if cookie.lower() == "set-cookie"]
