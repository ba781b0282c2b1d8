"""Clients of an authorization server as its token endpoint sees them: found wherever they come from, and proved in exactly one way."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest

from controlplane.authorization_server.clients.assertion import ASSERTION_TYPE
from controlplane.authorization_server.clients.authentication import ClientAuthenticator
from controlplane.authorization_server.clients.client import (
    ClientRules,
    MetadataDocumentRules,
    RegisteredClient,
    RegistrationRules,
)
from controlplane.authorization_server.clients.client_keys import ClientKeys
from controlplane.authorization_server.clients.directory import ClientDirectory, check_static_client
from controlplane.authorization_server.clients.refusal import ClientAuthenticationError, RegistrationError, UnknownClientError
from controlplane.authorization_server.clients.secret import digest_of
from controlplane.authorization_server.clients.store import SqlClientStore
from controlplane.database import open_database, sqlite_url
from extauthz.address import AddressRules
from extauthz.errors import ConfigurationError
from tests.client_documents import ClientSite, server_tls
from tests.issuer import SigningKey, key_set, unsigned

ISSUER = "https://gateway.example/oauth/main"
TOKEN_ENDPOINT = f"{ISSUER}/token"
AUDIENCES = (ISSUER, TOKEN_ENDPOINT)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECRET = "s3cret: +%/\u00e9"
KEY, OTHER_KEY = SigningKey("k1"), SigningKey("k2")
RSA_KEY = SigningKey("r1", "RS256")

BASIC = RegisteredClient(
    client_id="ci:1",
    name="CI",
    grant_types=frozenset({"client_credentials"}),
    token_endpoint_auth_method="client_secret_basic",
    secret_digest=digest_of(SECRET),
)
POST = replace(BASIC, client_id="ci-post", token_endpoint_auth_method="client_secret_post")
PUBLIC = RegisteredClient(client_id="ide", name="IDE", redirect_uris=("http://127.0.0.1/cb",))
SIGNING = RegisteredClient(
    client_id="robot",
    name="Robot",
    grant_types=frozenset({"client_credentials"}),
    token_endpoint_auth_method="private_key_jwt",
    jwks_json=key_set(KEY, RSA_KEY),
)
OTHER_SIGNING = replace(SIGNING, client_id="robot-2", jwks_json=key_set(OTHER_KEY))
RULES = ClientRules(server_uid="uid-1", static_clients=(BASIC, POST, PUBLIC, SIGNING, OTHER_SIGNING), scopes=("crm:read",))
ALLOWED = AddressRules(["127.0.0.0/8", "::1/128"])
METADATA = {"client_name": "IDE", "redirect_uris": ["http://localhost/cb"], "token_endpoint_auth_method": "client_secret_post"}


@dataclass(kw_only=True)
class World:
    """A directory and an authenticator over a real database and a real key source, at a time that the test says."""

    store: SqlClientStore
    keys: ClientKeys
    ca_file: str
    running: contextlib.AsyncExitStack
    now: datetime = NOW
    directory: ClientDirectory = field(init=False)
    authenticator: ClientAuthenticator = field(init=False)

    async def under(self, rules: ClientRules) -> None:
        """From now on the entry says this: another directory takes the place of the one before."""
        directory = ClientDirectory(
            rules, store=self.store, address_rules=ALLOWED, ca_file=self.ca_file, fetch_timeout_seconds=30, clock=lambda: self.now
        )
        self.directory = await self.running.enter_async_context(directory)
        self.authenticator = ClientAuthenticator(directory=directory, keys=self.keys, memory=self.store, clock=lambda: self.seconds)

    @property
    def seconds(self) -> float:
        return self.now.timestamp()

    async def authenticate(self, *form: tuple[str, str], authorization: tuple[str, ...] = ()) -> RegisteredClient:
        return await self.authenticator.authenticate(authorization=authorization, form=form, audiences=AUDIENCES)

    def claims(self, client_id: str = "robot", **changes: Any) -> dict[str, Any]:
        now = int(self.now.timestamp())
        claims = {"iss": client_id, "sub": client_id, "aud": TOKEN_ENDPOINT, "iat": now, "exp": now + 60, "jti": "j1"}
        return {name: value for name, value in (claims | changes).items() if value is not ...}

    def assertion(self, key: SigningKey = KEY, *, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        return key.sign(self.claims(**changes), headers={"typ": "JWT", **(headers or {})})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new database, and a site's certificate: made once, each test has a copy of the former."""
    directory = tmp_path_factory.mktemp("prepared")
    open_database(sqlite_url(directory / "registry.db")).dispose()
    server_tls(directory)
    return directory


@pytest.fixture
async def world(tmp_path: Path, prepared: Path) -> AsyncIterator[World]:
    shutil.copyfile(prepared / "registry.db", tmp_path / "registry.db")
    engine = open_database(sqlite_url(tmp_path / "registry.db"))
    store = SqlClientStore(engine, clock=lambda: made.now)
    ca_file = str(prepared / "ca.crt")
    async with contextlib.AsyncExitStack() as running, ClientKeys(ALLOWED, ca_file=ca_file) as keys:
        made = World(store=store, keys=keys, ca_file=ca_file, running=running)
        await made.under(RULES)
        yield made
    engine.dispose()


@pytest.fixture
async def site(prepared: Path, world: World) -> AsyncIterator[ClientSite]:
    async with ClientSite(server_tls(prepared)) as found:
        yield found


def basic(client_id: str, secret: str, *, scheme: str = "Basic") -> str:
    return f"{scheme} " + base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()


def signed(assertion: str, **more: str) -> tuple[tuple[str, str], ...]:
    return (("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion), *more.items())


async def test_each_method_proves_its_client(world: World) -> None:
    assert await world.authenticate(authorization=(basic("ci:1", SECRET),)) == BASIC
    assert await world.authenticate(("client_id", "ci:1"), authorization=(basic("ci:1", SECRET, scheme="bASIC"),)) == BASIC
    assert await world.authenticate(("client_id", "ci-post"), ("client_secret", SECRET)) == POST
    assert await world.authenticate(("grant_type", "x"), ("client_id", "ide")) == PUBLIC
    assert await world.authenticate(*signed(world.assertion())) == SIGNING
    assert await world.authenticate(*signed(world.assertion(jti="j2", aud=[ISSUER]), client_id="robot")) == SIGNING
    assert await world.authenticate(*signed(world.assertion(RSA_KEY, jti="j3", headers={"typ": "client-authentication+jwt"}))) == SIGNING


@pytest.mark.parametrize(
    ("form", "authorization", "error", "status"),
    [
        ((), (), "invalid_client", 401),
        ((("client_id", ""),), (), "invalid_client", 401),
        ((("client_id", "nobody"),), (), "invalid_client", 401),
        ((("client_id", "x" * 9000),), (), "invalid_request", 400),
        ((("client_id", "ide"), ("client_id", "ide")), (), "invalid_request", 400),
        ((("client_id", "ci-post"), ("client_secret", SECRET), ("client_secret", SECRET)), (), "invalid_request", 400),
        ((("client_id", "ci-post"), ("client_secret", "wrong")), (), "invalid_client", 401),
        ((("client_id", "ci-post"), ("client_secret", "")), (), "invalid_client", 401),
        ((("client_id", "ci-post"), ("client_secret", SECRET + "x")), (), "invalid_client", 401),
        ((("client_id", "ci-post"),), (), "invalid_client", 401),
        ((("client_secret", SECRET),), (), "invalid_client", 401),
        ((("client_id", "ide"), ("client_secret", "")), (), "invalid_client", 401),
        ((("client_id", "ci:1"), ("client_secret", SECRET)), (), "invalid_client", 401),
        ((), (basic("ci-post", SECRET),), "invalid_client", 401),
        ((), (basic("ide", ""),), "invalid_client", 401),
        ((), (basic("robot", SECRET),), "invalid_client", 401),
        ((), (basic("ci:1", "wrong"),), "invalid_client", 401),
        ((), (basic("", SECRET),), "invalid_client", 401),
        ((), ("Basic " + base64.b64encode(b"ci").decode(),), "invalid_client", 401),
        ((), ("Basic !!!",), "invalid_client", 401),
        ((), ("Basic " + base64.b64encode(b"\xff:\xff").decode(),), "invalid_client", 401),
        ((), ("Basic",), "invalid_client", 401),
        ((), ("",), "invalid_client", 401),
        ((), ("Basic " + "A" * 9000,), "invalid_client", 401),
        ((), ("Bearer x",), "invalid_client", 401),
        ((("client_id", "ide"),), ("Bearer x",), "invalid_client", 401),
        ((), (basic("ci:1", SECRET), basic("ci:1", SECRET)), "invalid_request", 400),
        ((("client_id", "ide"),), (basic("ci:1", SECRET),), "invalid_request", 400),
        ((("client_id", "ci:1"), ("client_secret", SECRET)), (basic("ci:1", SECRET),), "invalid_request", 400),
        ((("client_assertion", "a.b.c"),), (basic("ci:1", SECRET),), "invalid_request", 400),
        ((("client_id", "robot"), ("client_secret", SECRET), ("client_assertion", "a.b.c")), (), "invalid_request", 400),
        ((("client_assertion_type", ASSERTION_TYPE),), (), "invalid_request", 400),
        ((("client_assertion", "a.b.c"),), (), "invalid_request", 400),
        ((("client_assertion_type", ASSERTION_TYPE + "2"), ("client_assertion", "a.b.c")), (), "invalid_request", 400),
        (signed("not-a-jwt"), (), "invalid_client", 401),
        (signed("a.b.c"), (), "invalid_client", 401),
        (signed("e30.W10.c"), (), "invalid_client", 401),
        (signed("\u00e9.b.c"), (), "invalid_client", 401),
        (signed("a" * 9000), (), "invalid_request", 400),
    ],
)  # fmt: skip
async def test_whoever_does_not_prove_itself_in_exactly_one_way_is_refused(
    world: World, form: tuple[tuple[str, str], ...], authorization: tuple[str, ...], error: str, status: int
) -> None:
    with pytest.raises(ClientAuthenticationError) as caught:
        await world.authenticate(*form, authorization=authorization)

    assert (caught.value.error, caught.value.status) == (error, status)
    assert bool(caught.value.challenge) == (bool(authorization) and status == 401)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"aud": "https://other.example/token"}, "alone"),
        ({"aud": TOKEN_ENDPOINT + "/"}, "alone"),
        ({"aud": TOKEN_ENDPOINT + "2"}, "alone"),
        ({"aud": [TOKEN_ENDPOINT, ISSUER]}, "alone"),
        ({"aud": [TOKEN_ENDPOINT, "https://other.example"]}, "alone"),
        ({"aud": []}, "alone"),
        ({"aud": [[TOKEN_ENDPOINT]]}, "alone"),
        ({"aud": ...}, "claim aud"),
        ({"iss": "robot-2"}, "issuer"),
        ({"iss": ISSUER}, "issuer"),
        ({"iss": ...}, "claim iss"),
        ({"sub": ...}, "names no client"),
        ({"sub": 7}, "names no client"),
        ({"exp": ...}, "claim exp"),
        ({"exp": int(NOW.timestamp())}, "expired"),
        ({"exp": int(NOW.timestamp()) - 1}, "expired"),
        ({"exp": int(NOW.timestamp()) + 331}, "more than 5 minutes"),
        ({"exp": int(NOW.timestamp()) + 10 * 365 * 86_400}, "more than 5 minutes"),
        ({"iat": int(NOW.timestamp()) - 86_400}, "more than 5 minutes"),
        ({"iat": int(NOW.timestamp()) + 31}, "not good yet"),
        ({"nbf": int(NOW.timestamp()) + 31}, "not good yet"),
        ({"exp": "soon"}, "not a date"),
        ({"exp": True}, "not a date"),
        ({"exp": 1e300}, "not a date"),
        ({"iat": "x"}, "not a date"),
        ({"nbf": None}, "not a date"),
        ({"jti": ...}, "claim jti"),
        ({"jti": ""}, "no usable jti"),
        ({"jti": "x" * 256}, "no usable jti"),
    ],
)  # fmt: skip
async def test_an_assertion_that_is_not_for_now_and_here_is_refused(world: World, changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(ClientAuthenticationError, match=cause) as caught:
        await world.authenticate(*signed(world.assertion(**changes)))

    assert (caught.value.error, caught.value.status) == ("invalid_client", 401)


async def test_an_assertion_by_another_key_or_algorithm_is_refused(world: World) -> None:
    claims = world.claims()
    hostile = {
        "another client's key": OTHER_KEY.sign(claims, headers={"typ": "JWT"}),
        "another key of the same id": SigningKey("k1").sign(claims, headers={"typ": "JWT"}),
        "no algorithm": unsigned({"alg": "none", "kid": "k1"}, claims),
        "a MAC with the public key": unsigned({"alg": "HS256", "kid": "k1"}, claims, b"x" * 32),
        "an unknown key": SigningKey("k9").sign(claims, headers={"typ": "JWT"}),
        "a key that it brings along": SigningKey("k9").sign(claims, headers={"typ": "JWT", "jwk": SigningKey("k9").public_jwk()}),
        "a critical extension": KEY.sign(claims, headers={"typ": "JWT", "crit": ["x"], "x": 1}),
        "an access token": KEY.sign(claims),
        "a DPoP proof": KEY.sign(claims, headers={"typ": "dpop+jwt"}),
        "a type that is no text": unsigned({"alg": "ES256", "kid": "k1", "typ": 7}, claims),
        "a changed payload": ".".join(
            part if index != 1 else unsigned({}, claims | {"jti": "other"}).split(".")[1]
            for index, part in enumerate(world.assertion().split("."))
        ),
    }
    for name, assertion in hostile.items():
        with pytest.raises(ClientAuthenticationError) as caught:
            await world.authenticate(*signed(assertion))
        assert caught.value.error == "invalid_client", name


async def test_an_assertion_and_its_client_go_together(world: World) -> None:
    with pytest.raises(ClientAuthenticationError, match="two clients"):
        await world.authenticate(*signed(world.assertion(), client_id="robot-2"))
    with pytest.raises(ClientAuthenticationError, match=r"does not have|wrong"):
        await world.authenticate(*signed(world.assertion(client_id="robot-2")))
    with pytest.raises(ClientAuthenticationError, match="is registered for none"):
        await world.authenticate(*signed(world.assertion(client_id="ide")))


async def test_an_assertion_is_good_once(world: World) -> None:
    await world.authenticate(*signed(world.assertion()))

    with pytest.raises(ClientAuthenticationError, match="used before"):
        await world.authenticate(*signed(world.assertion()))
    with pytest.raises(ClientAuthenticationError, match="used before"):
        await world.authenticate(*signed(world.assertion(aud=ISSUER, exp=int(world.now.timestamp()) + 90)))
    other = world.assertion(OTHER_KEY, client_id="robot-2")
    assert await world.authenticate(*signed(other)) == OTHER_SIGNING, "another client may use the same jti"


async def test_an_assertion_that_was_refused_is_not_used_up(world: World) -> None:
    with pytest.raises(ClientAuthenticationError):
        await world.authenticate(*signed(SigningKey("k1").sign(world.claims(), headers={"typ": "JWT"})))

    assert await world.authenticate(*signed(world.assertion())) == SIGNING


async def test_keys_behind_a_url_are_read_and_rotate(world: World, site: ClientSite) -> None:
    site.publish("/keys", {"keys": [KEY.public_jwk()]})
    behind = replace(SIGNING, jwks_json="", jwks_uri=site.url("/keys"))
    await world.under(replace(RULES, static_clients=(behind,)))

    assert await world.authenticate(*signed(world.assertion())) == behind
    site.publish("/keys", {"keys": [OTHER_KEY.public_jwk()]})
    assert await world.authenticate(*signed(world.assertion(OTHER_KEY, jti="j2"))) == behind
    assert site.asked == ["/keys", "/keys"]


async def test_keys_that_cannot_be_read_let_nobody_in(world: World, site: ClientSite) -> None:
    site.publish("/keys", status=503)
    await world.under(replace(RULES, static_clients=(replace(SIGNING, jwks_json="", jwks_uri=site.url("/keys")),)))

    with pytest.raises(ClientAuthenticationError, match="cannot be read"):
        await world.authenticate(*signed(world.assertion()))


async def test_a_client_of_a_metadata_document_proves_itself_by_its_key(world: World, site: ClientSite) -> None:
    site.publish("/keys", {"keys": [KEY.public_jwk()]})
    document = site.document(token_endpoint_auth_method="private_key_jwt", jwks_uri=site.url("/keys"))
    url = site.publish(document=document)
    await world.under(replace(RULES, documents=MetadataDocumentRules(trusted_domains=(site.authority,))))

    client = await world.authenticate(*signed(world.assertion(client_id=url), client_id=url))

    assert (client.client_id, client.source) == (url, "metadata_document")
    with pytest.raises(ClientAuthenticationError, match="private_key_jwt, not for none"):
        await world.authenticate(("client_id", url))
    await world.under(RULES)
    with pytest.raises(ClientAuthenticationError, match="no domain"):
        await world.authenticate(*signed(world.assertion(client_id=url, jti="j2")))


async def test_a_client_registers_proves_itself_and_is_forgotten_when_it_is_not_used(world: World) -> None:
    await world.under(replace(RULES, registration=RegistrationRules(mode="open")))

    registration = await world.directory.register(json.dumps(METADATA).encode())
    form = (("client_id", registration.client.client_id), ("client_secret", registration.client_secret))

    client = await world.authenticate(*form)
    assert client == registration.client
    world.now += timedelta(hours=23)
    await world.directory.note_use(client)
    world.now += timedelta(days=89)
    await world.authenticate(*form)
    world.now += timedelta(days=2)
    with pytest.raises(ClientAuthenticationError, match="forgotten"):
        await world.authenticate(*form)


async def test_whoever_shut_the_door_knows_none_of_those_that_came_through_it(world: World) -> None:
    opened = replace(RULES, registration=RegistrationRules(mode="open"))
    await world.under(opened)
    client = (await world.directory.register(json.dumps(METADATA).encode())).client

    await world.under(RULES)
    with pytest.raises(UnknownClientError):
        await world.directory.find(client.client_id)
    await world.under(replace(opened, server_uid="uid-2"))
    with pytest.raises(UnknownClientError):
        await world.directory.find(client.client_id)
    await world.under(opened)
    assert await world.directory.find(client.client_id) == client


async def test_registration_is_refused_when_it_is_off_too_fast_or_full(world: World) -> None:
    body = json.dumps(METADATA).encode()
    with pytest.raises(RegistrationError, match="access_denied"):
        await world.directory.register(body)

    await world.under(replace(RULES, registration=RegistrationRules(mode="open", max_clients=2, per_minute=4)))
    clients = [(await world.directory.register(body)).client for _ in range(2)]
    for client in clients:
        await world.directory.note_use(client)
    with pytest.raises(RegistrationError, match="no room") as full:
        await world.directory.register(body)
    with pytest.raises(RegistrationError, match="no room"):
        await world.directory.register(body)
    with pytest.raises(RegistrationError, match="too many") as fast:
        await world.directory.register(body)
    assert (full.value.status, fast.value.status) == (503, 503)

    rules = RegistrationRules(mode="open", per_minute=3, per_minute_and_stranger=1)
    await world.under(replace(RULES, registration=rules))
    await world.directory.register(body, stranger="192.0.2.66")
    with pytest.raises(RegistrationError, match="too many"):
        await world.directory.register(body, stranger="192.0.2.66")
    await world.directory.register(body, stranger="192.0.2.1")


@pytest.mark.parametrize("client_id", ["", "IDE", "ide ", "dynamic-", "dynamic-" + "x" * 32, "dynamic-' OR 1=1 --", "javascript:x", "\x00"])
async def test_nobody_else_is_found(world: World, client_id: str) -> None:
    await world.under(replace(RULES, registration=RegistrationRules(mode="open")))

    with pytest.raises(UnknownClientError):
        await world.directory.find(client_id)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"client_id": ""}, "cannot be the id"),
        ({"client_id": "https://app.example/c"}, "cannot be the id"),
        ({"client_id": "dynamic-x"}, "cannot be the id"),
        ({"redirect_uris": ("javascript:alert(1)",)}, "must be https"),
        ({"secret_digest": "sha256:x"}, "do not go together"),
        ({"token_endpoint_auth_method": "client_secret_basic"}, "do not go together"),
    ],
)
def test_a_static_client_is_checked_too(change: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigurationError, match=cause):
        check_static_client(replace(PUBLIC, **change))


async def test_two_clients_of_one_id_are_no_rules(world: World) -> None:
    with pytest.raises(ConfigurationError, match="one id"):
        await world.under(replace(RULES, static_clients=(PUBLIC, PUBLIC)))
