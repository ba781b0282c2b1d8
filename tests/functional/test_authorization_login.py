"""What is believed of a login: ID tokens of an (emulated) identity provider, and its own words about itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from aiohttp import web

from controlplane.authorization_server.login import Login, LoginCredential, LoginError
from controlplane.registry.spec import AuthorizationServerSpec
from extauthz.address import AddressRules
from tests.emulated_idp import CLIENT, SECRET, TENANT, Entra
from tests.issuer import SigningKey

LOOPBACK = AddressRules(("127.0.0.0/8",))
CALLBACK = "https://gateway.example/oauth/front/callback"
GROUP = "aaaaaaaa-0000-0000-0000-000000000001"
Claims = dict[str, Any]
Change = Callable[[Claims], Claims]


class LoginTenant(Entra):
    """Entra ID as people log in to it: https://learn.microsoft.com/entra/identity-platform/id-token-claims-reference.

    `change` makes another ID token of the honest one, `header` another header, `metadata` other metadata.
    """

    def __init__(self, change: Change = dict, metadata: Claims | None = None) -> None:
        super().__init__()
        self.change = change
        self.metadata = metadata or {}
        self.forms: list[dict[str, str]] = []
        self.signer: SigningKey | None = None

    def id_token(self, who: Claims) -> Claims:
        about = {"sub": "pairwise", "groups": [GROUP], "preferred_username": "ann@example.com", "tid": TENANT, "nonce": "n"}
        return self.change({"aud": CLIENT, "oid": f"oid-of-{who['user']}", **about})

    def check(self, form: dict[str, str]) -> None:
        self.forms.append(form)
        if "client_assertion" in form:
            form["client_secret"] = SECRET

    def sign(self, claims: Claims, *, header: dict[str, Any] | None = None) -> str:
        if self.signer is not None:
            self.key, kept = self.signer, self.key
            try:
                return super().sign(claims, header=header)
            finally:
                self.key = kept
        return super().sign(claims, header=header)

    async def _metadata(self, request: web.Request) -> web.Response:
        told = {
            "issuer": self.issuer,
            "jwks_uri": f"{self.origin}/keys",
            "token_endpoint": f"{self.origin}/token",
            "authorization_endpoint": f"{self.origin}/authorize",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            **self.metadata,
        }
        return web.json_response({name: value for name, value in told.items() if value is not None})


def login_of(idp: LoginTenant, credential: LoginCredential | None = None, **changes: Any) -> Login:
    login = {
        "issuer": idp.issuer,
        "clientId": CLIENT,
        "clientSecret": {"value": "x"},
        "preset": "entra",
        "allowInsecureHttp": True,
        **changes,
    }
    spec = AuthorizationServerSpec.model_validate({"login": {name: value for name, value in login.items() if value is not None}})
    return Login(
        spec,
        provider_id="front",
        callback_url=CALLBACK,
        credential=lambda: credential or LoginCredential(secret=SECRET),
        address_rules=LOOPBACK,
    )


async def finished(idp: LoginTenant, login: Login | None = None, **answer: str) -> Any:
    async with login or login_of(idp) as working:
        return await working.finish({"code": idp.code_for("ann"), **answer}, nonce="n", code_verifier="v" * 43)


async def test_an_id_token_says_who_it_is_by_the_rules_of_its_product() -> None:
    async with LoginTenant() as idp:
        person = await finished(idp)

        assert (person.subject, person.shown, person.groups, person.tenant) == ("oid-of-ann", "ann@example.com", (GROUP,), TENANT)
        (form,) = idp.forms
        assert (form["redirect_uri"], form["code_verifier"]) == (CALLBACK, "v" * 43)
        assert "resource" not in form


FAULTS: dict[str, Change] = {
    "no-nonce": lambda claims: {**claims, "nonce": ...},
    "another-nonce": lambda claims: {**claims, "nonce": "N"},
    "nonce-of-another-type": lambda claims: {**claims, "nonce": ["n"]},
    "for-another-client": lambda claims: {**claims, "aud": "another"},
    "for-two-and-nobody-in-particular": lambda claims: {**claims, "aud": [CLIENT, "another"]},
    "to-another-client": lambda claims: {**claims, "azp": "another"},
    "from-another-issuer": lambda claims: {**claims, "iss": "https://login.microsoftonline.com/common/v2.0"},
    "of-another-tenant-without-tid": lambda claims: {**claims, "tid": ...},
    "old": lambda claims: {**claims, "iat": int(time.time()) - 3600},
    "expired": lambda claims: {**claims, "exp": int(time.time()) - 1},
    "of-the-future": lambda claims: {**claims, "iat": int(time.time()) + 3600},
    "without-iat": lambda claims: {**claims, "iat": ...},
    "nobody": lambda claims: {**claims, "oid": ...},
    "too-many-groups": lambda claims: {**claims, "groups": ..., "_claim_names": {"groups": "src1"}},
    "a-client": lambda claims: {**claims, "oid": "client:nightly"},
    "a-logout": lambda claims: {**claims, "events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
}


@pytest.mark.parametrize("change", FAULTS.values(), ids=FAULTS)
async def test_any_other_id_token_logs_nobody_in(change: Change) -> None:
    async with LoginTenant(change) as idp:
        with pytest.raises(LoginError) as caught:
            await finished(idp)

        assert caught.value.code == "access_denied"
        assert "ann" not in caught.value.sentence


async def test_an_id_token_that_somebody_else_signed_logs_nobody_in() -> None:
    async with LoginTenant() as idp:
        idp.signer = SigningKey(idp.key.kid, "RS256")

        with pytest.raises(LoginError, match="signature"):
            await finished(idp)


@pytest.mark.parametrize(
    ("metadata", "answer"),
    [
        pytest.param({}, {"iss": "https://evil.example"}, id="of-another-issuer"),
        pytest.param({"authorization_response_iss_parameter_supported": True}, {}, id="of-nobody-in-particular"),
        pytest.param({}, {"error": "access_denied"}, id="refused-there"),
        pytest.param({}, {"code": ""}, id="without-a-code"),
        pytest.param({}, {"code": "x y"}, id="with-an-odd-code"),
    ],
)
async def test_an_answer_that_is_not_of_this_login_is_not_even_asked_about(metadata: Claims, answer: dict[str, str]) -> None:
    async with LoginTenant(metadata=metadata) as idp:
        with pytest.raises(LoginError):
            await finished(idp, **answer)

        assert idp.forms == []  # our credential and the code went nowhere


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://login.microsoftonline.com/common/v2.0"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "http://evil.example/authorize"},
        {"authorization_endpoint": "file:///etc/passwd"},
        {"authorization_endpoint": "https://"},
        {"authorization_endpoint": None},
        {"token_endpoint": "http://169.254.169.254/token"},
        {"token_endpoint": "https://x y/"},
        {"token_endpoint": 7},
    ],
)
async def test_a_provider_that_names_odd_endpoints_is_not_asked(metadata: Claims) -> None:
    async with LoginTenant(metadata=metadata) as idp, login_of(idp) as login:
        with pytest.raises(LoginError) as caught:
            await login.begin()

        assert caught.value.code == "temporarily_unavailable"


async def test_a_token_endpoint_within_is_not_sent_our_credential() -> None:
    async with LoginTenant(metadata={"token_endpoint": "https://10.0.0.1/token"}) as idp:
        with pytest.raises(LoginError) as caught:
            await finished(idp)

        assert caught.value.code == "temporarily_unavailable"


async def test_we_prove_ourselves_by_a_signature_where_the_document_says_so() -> None:
    key = SigningKey("k1", "ES256")
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(key.private_key)  # type: ignore[arg-type]
    async with LoginTenant() as idp:
        spec = {"clientSecret": None, "privateKeyJwt": {"key": {"value": "x"}, "keyId": "k1"}}

        await finished(idp, login_of(idp, LoginCredential(private_key=str(jwk)), **spec))

        (form,) = idp.forms
        claims = jwt.decode(
            form["client_assertion"],
            key.private_key.public_key(),
            algorithms=["ES256"],
            audience=idp.issuer,  # type: ignore[arg-type]
        )
        assert (claims["iss"], claims["sub"], jwt.get_unverified_header(form["client_assertion"])["kid"]) == (CLIENT, CLIENT, "k1")
        assert claims["exp"] - claims["iat"] == 60


async def test_a_provider_that_is_away_is_told_as_that() -> None:
    async with LoginTenant() as idp:
        issuer = login_of(idp)
    async with issuer as login:
        with pytest.raises(LoginError) as caught:
            await login.begin()

    assert caught.value.code == "temporarily_unavailable"
