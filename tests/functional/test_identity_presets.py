"""Every recipe of docs/identity.md: the registry takes it, and the emulated product's tokens make the right principals, or none."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from controlplane.registry.permissions import permissions_of
from controlplane.registry.refusal import InvalidDocumentsError
from controlplane.registry.spec import IdentityProviderSpec
from controlplane.registry.state import Entry
from controlplane.xds.authorizer_resources import make_identity_provider
from extauthz.address import AddressRules
from extauthz.errors import AuthenticationError
from extauthz.identity.authenticator import Authenticator
from extauthz.identity.jwks import KeySource
from extauthz.identity.principal import Principal
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.model import RoleBinding
from extauthz.state import identity_provider_from_message
from tests.emulated_idp import API, CLIENT, EMULATED, SECRET, TENANT, Auth0, EmulatedIdp, Google, Keycloak
from tests.functional.registry import Registry, open_registry

PAGE = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()
RECIPES: dict[str, dict[str, Any]] = {
    document["spec"]["preset"]: document
    for text in re.findall(r"```yaml\n(.*?)```", PAGE.split("## Presets")[1], re.DOTALL)
    if (document := yaml.safe_load(text))["kind"] == "IdentityProvider"
}
BLOCKS = {
    f"{heading} {number}": text
    for heading, section in re.findall(r"^##+ (.*?)$(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL), 1)
}
"""Everything on the page that can be applied."""


@dataclass(kw_only=True)
class Trusted:
    """An emulated product, and a verifier that trusts it by the recipe of the page."""

    idp: EmulatedIdp
    authenticator: Authenticator

    async def principal(self, token: str) -> Principal:
        return await self.authenticator.authenticate([f"Bearer {token}"], resource_url=API, namespace="demo")

    async def refused(self, token: str) -> str:
        with pytest.raises(AuthenticationError) as caught:
            await self.principal(token)
        assert token not in caught.value.sentence
        return f"{caught.value.reason.value}: {caught.value.sentence}"

    async def granted(self, **form: str) -> dict[str, str]:
        """The token endpoint's answer, by HTTP."""
        full = {"client_id": CLIENT, "client_secret": SECRET, **form}
        async with aiohttp.ClientSession() as session, session.post(f"{self.idp.origin}/token", data=full) as answer:
            found: dict[str, str] = {**await answer.json(), "status": str(answer.status)}
            return found

    async def of_client(self, **form: str) -> Principal:
        return await self.principal((await self.granted(grant_type="client_credentials", **form))["access_token"])

    async def of_user(self, user: str = "ann", **claims: Any) -> Principal:
        return await self.principal((await self.login(user, **claims))["access_token"])

    async def login(self, user: str = "ann", **claims: Any) -> dict[str, str]:
        return await self.granted(grant_type="authorization_code", code=self.idp.code_for(user, **claims))


@asynccontextmanager
async def trusted(product: str, **spec: Any) -> AsyncIterator[Trusted]:
    recipe = RECIPES[product]
    async with EMULATED[product]() as idp, KeySource(AddressRules(["127.0.0.0/8"])) as key_source:
        changed = {**recipe["spec"], "issuer": idp.issuer, "allowInsecureHttp": True, **spec}
        parsed = IdentityProviderSpec.model_validate(changed)
        entry = Entry(uid="u", namespace="system", name=product, spec=parsed, resource_revision=1)
        provider = identity_provider_from_message(make_identity_provider(entry))
        yield Trusted(idp=idp, authenticator=Authenticator((provider,), key_source))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(f"sqlite:///{tmp_path / 'registry.db'}")


def test_there_is_a_recipe_for_each_preset() -> None:
    assert set(RECIPES) == set(EMULATED)


@pytest.mark.parametrize("product", RECIPES)
def test_the_registry_takes_the_recipe(registry: Registry, product: str) -> None:
    result = registry.apply(yaml.safe_dump(RECIPES[product]).encode())

    assert [applied.action for applied in result.results] == ["created"]


def test_every_block_of_the_page_is_found() -> None:
    assert len(BLOCKS) == PAGE.count("```yaml\n") >= len(RECIPES) + 3


@pytest.mark.parametrize("block", BLOCKS)
def test_the_registry_takes_each_block_of_the_page_as_it_stands_there(registry: Registry, block: str) -> None:
    documents = list(yaml.safe_load_all(BLOCKS[block]))

    result = registry.apply(BLOCKS[block].encode(), dry_run=True)

    assert [applied.action for applied in result.results] == ["created"] * len(documents)


# --- who comes out of each product's tokens

OF_CLIENT = {
    "okta": ({"scope": "crm.read"}, f"okta/{CLIENT}"),
    "entra": ({"scope": "api/.default"}, "entra/oid-of-service-principal"),
    "ping": ({}, f"ping/{CLIENT}"),
    "keycloak": ({}, "keycloak/uuid-of-service-account"),
    "auth0": ({"audience": API}, f"auth0/{CLIENT}@clients"),
}
OF_ANN = {
    "okta": ("okta/ann@example.com", ("okta/marketing",), ""),
    "entra": ("entra/oid-of-ann", ("entra/aaaaaaaa-0000-0000-0000-000000000001",), TENANT),
    "ping": ("ping/uuid-of-ann", ("ping/marketing",), ""),
    "keycloak": ("keycloak/uuid-of-ann", ("keycloak/offline_access", "keycloak/marketing", "keycloak/editor"), ""),
    "auth0": ("auth0/auth0|ann", ("auth0/marketing",), ""),
}


@pytest.mark.parametrize("product", OF_ANN)
async def test_a_person_is_a_user_with_groups_and_the_client(product: str) -> None:
    async with trusted(product) as it:
        principal = await it.of_user()

    assert (principal.id, principal.groups, principal.tenant) == OF_ANN[product]
    assert (principal.kind.value, principal.oauth_client_id) == ("User", CLIENT)


@pytest.mark.parametrize("product", OF_CLIENT)
async def test_a_client_with_its_own_credentials_is_an_agent(product: str) -> None:
    form, principal_id = OF_CLIENT[product]
    async with trusted(product) as it:
        principal = await it.of_client(**form)

    assert (principal.kind.value, principal.id, principal.oauth_client_id) == ("Agent", principal_id, CLIENT)


@pytest.mark.parametrize("product", OF_ANN)
async def test_an_id_token_is_no_access_token_even_for_the_right_audience(product: str) -> None:
    async with trusted(product, audiences=[CLIENT, *RECIPES[product]["spec"].get("audiences", ())]) as it:
        told = await it.refused((await it.login())["id_token"])

    assert told.startswith("access_token_invalid:")


@pytest.mark.parametrize("product", [name for name in EMULATED if name != "google"])
async def test_a_token_of_another_product_does_not_pass_as_this_ones(product: str) -> None:
    """The same keys and issuer, claims of a plain issuer: what makes the product's tokens recognisable is missing."""
    async with trusted(product) as it:
        plain = it.idp.sign({"sub": "ann", "aud": it.idp.audience, "jti": "j", "oid": "ann", "tid": TENANT, "typ": "Bearer"})
        told = await it.refused(plain)

    assert "which client it was issued to" in told


# --- what each product refuses, and what must be refused of it


@pytest.mark.parametrize(
    ("product", "form", "error"),
    [
        ("okta", {}, "invalid_scope"),
        ("okta", {"scope": "openid"}, "invalid_scope"),
        ("entra", {"scope": "crm.read"}, "invalid_scope"),
        ("entra", {"scope": "api/.default", "resource": API}, "invalid_request"),
        ("google", {}, "unsupported_grant_type"),
        ("keycloak", {"scope": "unknown"}, "invalid_scope"),
        ("auth0", {}, "access_denied"),
        ("auth0", {"audience": "https://other.example"}, "access_denied"),
        ("ping", {"client_secret": "wrong"}, "invalid_client"),
    ],
)
async def test_the_emulation_refuses_what_the_product_refuses(product: str, form: dict[str, str], error: str) -> None:
    async with trusted(product) as it:
        answer = await it.granted(grant_type="client_credentials", **form)

    assert answer["error"] == error
    assert "access_token" not in answer


async def test_entra_does_not_lose_groups_it_refuses_the_token() -> None:
    many = [f"aaaaaaaa-0000-0000-0000-{number:012d}" for number in range(201)]
    async with trusted("entra") as it:
        fits = await it.of_user(groups=many[:200])
        told = await it.refused((await it.login(groups=many))["access_token"])

    assert len(fits.groups) == 200
    assert told.startswith("claims_elsewhere:")


async def test_entra_app_roles_count_beside_groups_and_another_tenant_is_refused() -> None:
    async with trusted("entra", tenants=[TENANT]) as it:
        roles = await it.of_user(groups=[], roles=["Crm.Approver"])
    async with trusted("entra", tenants=["00000000-0000-0000-0000-000000000000"]) as it:
        told = await it.refused((await it.login())["access_token"])

    assert roles.groups == ("entra/Crm.Approver",)
    assert "tenant" in told


async def test_googles_access_token_is_opaque_and_its_id_tokens_are_of_the_domain_and_client_only() -> None:
    async with trusted("google") as it:
        assert isinstance(it.idp, Google)
        answer = await it.login()
        person = await it.principal(answer["id_token"])
        opaque = await it.refused(answer["access_token"])
        private = await it.refused((await it.login(hd=...))["id_token"])
        elsewhere = await it.refused((await it.login(hd="other.example"))["id_token"])
        other_client = await it.refused((await it.login(azp="another-app"))["id_token"])
    async with trusted("google", audiences=[API], oauthClients=[], tenants=[]) as it:
        assert isinstance(it.idp, Google)
        service_account = await it.principal(it.idp.service_account_token(API))

    assert (person.id, person.tenant, person.groups, person.kind.value) == ("google/1ann", "example.com", (), "User")
    assert "not a signed JSON Web Token" in opaque
    assert "tenant" in private
    assert "tenant" in elsewhere
    assert "client that is not admitted" in other_client
    assert (service_account.id, service_account.kind.value) == ("google/10987", "Agent")


async def test_an_address_that_google_did_not_verify_names_nobody() -> None:
    async with trusted("google", mapping={"subject": "email"}) as it:
        verified = await it.principal((await it.login())["id_token"])
        told = await it.refused((await it.login(email_verified=False))["id_token"])

    assert verified.id == "google/ann@example.com"
    assert "email_verified" in told


async def test_keycloak_without_an_audience_mapper_and_its_refresh_token_are_refused() -> None:
    async with trusted("keycloak") as it:
        assert isinstance(it.idp, Keycloak)
        other_audience = await it.refused((await it.login(audience_mapper=False))["access_token"])
        refresh = await it.refused(it.idp.refresh_token())

    assert other_audience.startswith("audience_mismatch:")
    assert refresh.startswith(("access_token_invalid:", "audience_mismatch:"))


async def test_auth0_in_the_profile_of_rfc_9068_is_the_same_and_encrypted_tokens_are_refused() -> None:
    async with trusted("auth0") as it:
        assert isinstance(it.idp, Auth0)
        it.idp.rfc9068 = True
        person, agent = await it.of_user(org_id="org_1"), await it.of_client(audience=API)
        told = await it.refused(it.idp.encrypted_token())

    assert (person.id, person.oauth_client_id, person.tenant, person.kind.value) == ("auth0/auth0|ann", CLIENT, "org_1", "User")
    assert (agent.id, agent.kind.value) == (f"auth0/{CLIENT}@clients", "Agent")
    assert person.access_token_id
    assert "not a signed" in told


# --- what the registry refuses


@pytest.mark.parametrize(
    ("product", "changes", "path", "said"),
    [
        ("okta", {"issuer": "https://example.okta.com"}, "spec.issuer", "custom authorization server"),
        ("okta", {"audiences": []}, "spec.audiences", "api://default"),
        ("entra", {"issuer": "https://login.microsoftonline.com/common/v2.0"}, "spec.issuer", "one tenant"),
        ("entra", {"issuer": f"https://login.microsoftonline.com.evil.example/{TENANT}/v2.0"}, "spec.issuer", "one tenant"),
        ("entra", {"audiences": []}, "spec.audiences", "application id"),
        ("google", {"acceptIdTokens": False}, "spec.acceptIdTokens", "access tokens only Google can read"),
        ("google", {"audiences": []}, "spec.audiences", "client id"),
        ("google", {"issuer": "https://accounts.google.com.evil.example"}, "spec.issuer", "accounts.google.com"),
        ("ping", {"issuer": "https://auth.pingone.eu/no-environment/as"}, "spec.issuer", "environment id"),
        ("keycloak", {"issuer": "https://sso.example.com/realms/acme/"}, "spec.issuer", "realm"),
        ("auth0", {"issuer": "https://example.eu.auth0.com"}, "spec.issuer", "slash"),
        ("okta", {"tenants": ["acme"]}, "spec.tenants", "mapping.tenant"),
        ("okta", {"mapping": {"claims": ["a=b"]}}, "spec.mapping.claims[0]", "form"),
    ],
)
def test_what_cannot_work_or_is_not_safe_with_the_product_is_refused(
    registry: Registry, product: str, changes: dict[str, Any], path: str, said: str
) -> None:
    recipe = RECIPES[product]
    document = {**recipe, "spec": {**recipe["spec"], **changes}}

    with pytest.raises(InvalidDocumentsError) as caught:
        registry.apply(yaml.safe_dump(document).encode())

    assert [(error.path, said in error.message) for error in caught.value.errors] == [(path, True)]


# --- role bindings by claim


async def test_a_role_is_given_to_whoever_has_a_value_in_a_claim(registry: Registry) -> None:
    mapped = {**RECIPES["ping"]["spec"], "mapping": {"claims": ["department", "/org/level"]}}
    provider = {**RECIPES["ping"], "spec": mapped}
    binding = {
        "apiVersion": "legation/v1",
        "kind": "RoleBinding",
        "metadata": {"namespace": "demo", "name": "sales"},
        "spec": {"role": "sales", "subjects": [{"kind": "Claim", "name": "ping/department=sales"}]},
    }
    operators = {
        **binding,
        "metadata": {"namespace": "demo", "name": "editors"},
        "spec": {"role": "legation:editor", "subjects": [{"kind": "Claim", "name": "ping//org/level=3"}]},
    }
    registry.apply(yaml.safe_dump_all([provider, binding, operators]).encode())
    async with trusted("ping", mapping=mapped["mapping"]) as it:
        sales = await it.principal(
            it.idp.sign(it.idp.access_token({"user": "ann"}) | {"department": ["sales", "emea"], "org": {"level": 3}})
        )
        none = await it.of_user()
        odd = await it.refused(it.idp.sign(it.idp.access_token({"user": "ann"}) | {"department": [{"name": "sales"}]}))

    bound = registry.live.state.role_bindings["demo/sales"].spec
    engine = CedarEngine.build(
        [], [RoleBinding(namespace="demo", name="sales", role="sales", subjects=tuple((s.kind, s.name) for s in bound.subjects))], {}
    )
    assert sales.attributes == ("ping/department=sales", "ping/department=emea", "ping//org/level=3")
    assert engine.roles_of(sales, "demo") == ("demo/sales",)
    assert engine.roles_of(none, "demo") == ()
    assert permissions_of(sales, registry.live.state).by_namespace.keys() == {"demo"}
    assert "printable name" in odd


@pytest.mark.parametrize("name", ["ping/department", "ping/team=sales", "ping/=sales", "ping/department="])
def test_a_claim_that_the_provider_does_not_read_gives_nobody_a_role(registry: Registry, name: str) -> None:
    provider = {**RECIPES["ping"], "spec": {**RECIPES["ping"]["spec"], "mapping": {"claims": ["department"]}}}
    binding = {
        "apiVersion": "legation/v1",
        "kind": "RoleBinding",
        "metadata": {"namespace": "demo", "name": "sales"},
        "spec": {"role": "sales", "subjects": [{"kind": "Claim", "name": name}]},
    }

    with pytest.raises(InvalidDocumentsError) as caught:
        registry.apply(yaml.safe_dump_all([provider, binding]).encode())

    assert [error.path for error in caught.value.errors] == ["spec.subjects[0].name"]
