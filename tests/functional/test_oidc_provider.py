"""A real OpenID provider (npm `oidc-provider`): its access tokens are ours to verify, and to fetch for upstreams.

The client credentials grant of `extauthz.credentials` asks the provider, and what it gets is verified by the authenticator:
both ends of OAuth meet a third party's implementation. Skipped, with the reason, where Node cannot be had.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest

from extauthz.address import AddressRules
from extauthz.catalog.server import ClientCredentials, McpServer, Secret
from extauthz.credentials import CredentialSource
from extauthz.errors import AuthenticationError, CredentialError, Reason
from extauthz.identity.authenticator import Authenticator
from extauthz.identity.jwks import KeySource
from extauthz.identity.provider import IdentityProvider
from tests import toolchain

pytestmark = [pytest.mark.external, pytest.mark.timeout(600)]  # the first run installs the provider

OIDC_PROVIDER = "oidc-provider@9.13.3"
RESOURCE_URL = "https://gateway.example/servers/demo/crm/mcp"
SECRET = "a secret: +%/"
OTHER_URL = "https://gateway.example/servers/demo/engineering-db/mcp"
LOOPBACK = AddressRules(["127.0.0.0/8"])


@dataclass(frozen=True, kw_only=True)
class RunningProvider:
    """A provider that serves, and its process."""

    issuer: str
    token_url: str
    process: subprocess.Popen[str]

    @property
    def entry(self) -> IdentityProvider:
        return IdentityProvider(id="acme", namespace="system", name="acme", issuer=self.issuer, allow_insecure_http=True)


def _start() -> RunningProvider:
    try:
        directory = toolchain.npm_packages(OIDC_PROVIDER)
    except toolchain.UnavailableError as error:
        pytest.skip(f"the real OpenID provider needs npm: {error}")
    script = Path(__file__).parent / "oidc_provider" / "server.mjs"
    command = [toolchain.node(directory), script, directory, RESOURCE_URL, OTHER_URL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    while line and not line.startswith("{"):
        line = process.stdout.readline()
    if not line:
        process.wait(10)
        pytest.fail(f"the OpenID provider ended with {process.returncode}")
    return RunningProvider(**json.loads(line), process=process)


def _stop(running: RunningProvider) -> None:
    running.process.kill()
    running.process.wait(10)
    assert running.process.stdout is not None
    running.process.stdout.close()


@pytest.fixture(scope="module")
def idp() -> Iterator[RunningProvider]:
    running = _start()
    yield running
    _stop(running)


async def fetch_token(idp: RunningProvider, *, resource: str = RESOURCE_URL, algorithm: str = "ES256", secret: str = SECRET) -> str:
    """An access token of the client credentials grant, as the gateway fetches it for an upstream."""
    credential = ClientCredentials(
        token_url=idp.token_url,
        oauth_client_id=f"agent {algorithm}",
        client_secret=Secret(value=secret.encode()),
        scopes=("call",) if resource else (),
        resource=resource,
    )
    mcp_server = McpServer(uid="u", namespace="demo", name="crm", cluster="c", path="/mcp", credential=credential)
    async with CredentialSource(None, LOOPBACK) as credentials:
        ((name, value),) = await credentials.headers_for(mcp_server, 5.0)
    assert name == "authorization"
    return value.removeprefix("Bearer ")


async def refusal(authenticator: Authenticator, access_token: str, resource_url: str = RESOURCE_URL) -> Reason:
    with pytest.raises(AuthenticationError) as caught:
        await authenticator.authenticate([f"Bearer {access_token}"], resource_url=resource_url, namespace="demo")
    return caught.value.reason


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
async def test_its_access_tokens_are_accepted_for_their_resource_only(idp: RunningProvider, algorithm: str) -> None:
    access_token = await fetch_token(idp, algorithm=algorithm)
    header = jwt.get_unverified_header(access_token)
    async with KeySource(LOOPBACK) as key_source:
        authenticator = Authenticator([idp.entry], key_source)

        principal = await authenticator.authenticate([f"Bearer {access_token}"], resource_url=RESOURCE_URL, namespace="demo")

        assert (header["typ"], header["alg"]) == ("at+jwt", algorithm)
        assert principal.id == f"acme/agent {algorithm}"
        assert principal.oauth_client_id == f"agent {algorithm}"
        assert principal.groups == ("acme/marketing", "acme/sales")
        assert await refusal(authenticator, access_token, OTHER_URL) == Reason.AUDIENCE_MISMATCH
        assert await refusal(Authenticator([idp.entry], key_source), access_token, OTHER_URL) == Reason.AUDIENCE_MISMATCH


async def test_a_changed_or_opaque_token_of_it_is_refused(idp: RunningProvider) -> None:
    access_token = await fetch_token(idp)
    head, body, signature = access_token.split(".")
    other_body = (await fetch_token(idp, resource=OTHER_URL)).split(".")[1]
    async with KeySource(LOOPBACK) as key_source:
        authenticator = Authenticator([idp.entry], key_source)

        assert await refusal(authenticator, f"{head}.{other_body}.{signature}", OTHER_URL) == Reason.ACCESS_TOKEN_INVALID
        assert await refusal(authenticator, await fetch_token(idp, resource="")) == Reason.ACCESS_TOKEN_INVALID
        assert await refusal(authenticator, f"{head}.{body}.") == Reason.ACCESS_TOKEN_INVALID


async def test_its_refusals_are_told_without_the_secret(idp: RunningProvider) -> None:
    with pytest.raises(CredentialError, match=r"answered 401 \(invalid_client\)") as caught:
        await fetch_token(idp, secret="wrong secret")
    assert "wrong secret" not in str(caught.value)
    with pytest.raises(CredentialError, match=r"answered 400 \(invalid_target\)"):
        await fetch_token(idp, resource="https://nobody.example/")


async def test_its_keys_serve_on_while_it_is_down() -> None:
    running = await asyncio.to_thread(_start)
    try:
        access_token, later_token = await fetch_token(running), await fetch_token(running, algorithm="RS256")
        async with KeySource(LOOPBACK, refresh_seconds=0.1, retry_seconds=0.05) as key_source:
            authenticator = Authenticator([running.entry], key_source)
            await authenticator.authenticate([f"Bearer {access_token}"], resource_url=RESOURCE_URL, namespace="demo")
            _stop(running)
            await asyncio.sleep(0.3)

            for known in (access_token, later_token):
                assert await authenticator.authenticate([f"Bearer {known}"], resource_url=RESOURCE_URL, namespace="demo")
    finally:
        if running.process.poll() is None:
            _stop(running)
