"""An authorization server through the real API, with a real OpenID provider behind it: what is given, to whom, and how often."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.functional.authorization_world import AuthorizationWorld, running_world, unverified

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
