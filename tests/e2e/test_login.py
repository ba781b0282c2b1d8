"""Official clients that know the URL of an MCP server and nothing else: they find out where to log in, do it, and call tools.

Through the real Envoy, with a real OpenID provider. When all is over, everything that was written is searched for their credentials.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from mcp import Client
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)

from tests.e2e.caller_credentials import BY_CERTIFICATE, FATES, FATES_OF_CERTIFICATES, GOOD, USELESS
from tests.e2e.login_world import (
    BOUND_CLIENT,
    BRIEF_SECONDS,
    CRM,
    KEY_CLIENT,
    SECRET_CLIENT,
    WORKLOAD,
    LoginWorld,
    Tokens,
    running_login_world,
)
from tests.e2e.stack import ROOT
from tests.e2e.test_sdk_matrix import CLIENTS, TYPESCRIPT
from tests.toolchain import UnavailableError, node, npm_packages

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.external,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first run installs the provider
]

WORKLOAD_ID = f"spiffe://prod.example{WORKLOAD}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LoginWorld]:
    async with running_login_world(tmp_path_factory.mktemp("login")) as running:
        yield running


async def search(client: Client) -> str:
    """The one call that everybody here may make."""
    result = await client.call_tool("search_contacts", {"text": "nordvik"})
    return str(result.content[0].text)  # type: ignore[union-attr]


@pytest.mark.parametrize("with_document", [False, True], ids=["registers-itself", "brings-its-document"])
async def test_a_person_logs_in_with_a_browser_and_calls_a_tool(world: LoginWorld, with_document: bool) -> None:
    person = "cleo" if with_document else "ann"
    tokens = Tokens()
    async with world.browser(person) as browser:
        auth = world.login(CRM, browser, tokens, document_url=world.document_url if with_document else None)
        async with world.mcp_client(CRM, auth) as client:
            found = await search(client)

    assert "Jonas Lindqvist" in found
    assert len(browser.visits) == 1
    assert tokens.client is not None
    assert (tokens.client.client_id == world.document_url) is with_document
    (*_, record) = await world.records(f"acme/{person}", tool="search_contacts", decision="allow")
    assert record["principal"]["kind"] == "User"
    assert record["principal"]["groups"] == ["acme/sales"]
    assert record["principal"]["oauth_client_id"] == tokens.client.client_id


async def test_a_client_with_a_secret_of_its_own_is_an_agent(world: LoginWorld) -> None:
    auth = ClientCredentialsOAuthProvider(
        world.stack.endpoint(CRM), Tokens(), client_id=SECRET_CLIENT, client_secret=world.client_secret, issuer=world.issuer
    )
    async with world.mcp_client(CRM, auth) as client:
        found = await search(client)

    assert "Jonas Lindqvist" in found
    (*_, record) = await world.records(f"acme/{SECRET_CLIENT}", tool="search_contacts", decision="allow")
    assert (record["principal"]["kind"], record["principal"]["oauth_client_id"]) == ("Agent", SECRET_CLIENT)


async def test_a_client_that_signs_an_assertion_with_its_key_is_an_agent(world: LoginWorld) -> None:
    assertion = SignedJWTParameters(issuer=KEY_CLIENT, subject=KEY_CLIENT, signing_key=world.client_key_pem, signing_algorithm="ES256")
    auth = PrivateKeyJWTOAuthProvider(
        world.stack.endpoint(CRM), Tokens(), KEY_CLIENT, assertion.create_assertion_provider(), issuer=world.issuer
    )
    async with world.mcp_client(CRM, auth) as client:
        found = await search(client)

    assert "Jonas Lindqvist" in found
    (*_, record) = await world.records(f"acme/{KEY_CLIENT}", tool="search_contacts", decision="allow")
    assert (record["principal"]["kind"], record["principal"]["oauth_client_id"]) == ("Agent", KEY_CLIENT)


@pytest.mark.parametrize(
    ("how", "principal_id", "kind"),
    [
        ("browser", "acme/eva", "User"),
        ("secret", f"acme/{SECRET_CLIENT}", "Agent"),
        ("key", f"acme/{KEY_CLIENT}", "Agent"),
        ("bound", f"acme/{BOUND_CLIENT}", "Agent"),
    ],
)
async def test_the_typescript_sdk_does_the_same_and_proves_its_key(world: LoginWorld, how: str, principal_id: str, kind: str) -> None:
    before = await world.calls(principal_id)
    told = await _typescript(world, how, principal_id.removeprefix("acme/"))

    assert "Jonas Lindqvist" in told["text"]
    assert told["kind"].lower() == ("dpop" if how == "bound" else "bearer")
    (*_, record) = await world.records(principal_id, after=before, method="tools/call")
    assert (record["principal"]["kind"], record["principal"]["oauth_client_id"]) == (kind, told["client"])


async def _typescript(world: LoginWorld, how: str, name: str) -> dict[str, Any]:
    try:
        directory = await asyncio.to_thread(npm_packages, *TYPESCRIPT)
    except UnavailableError as error:
        pytest.skip(f"the TypeScript SDK cannot be installed: {error}")
    program = shutil.copy(CLIENTS / "typescript_login.mjs", directory)
    config = {
        "url": world.stack.endpoint(CRM),
        "how": how,
        "issuer": world.issuer,
        "client": name,
        "secret": world.client_secret,
        "key": world.client_key_pem,
        "browser": [sys.executable, "-m", "tests.functional.scripted_browser", "--person", name],
    }
    process = await asyncio.create_subprocess_exec(
        str(node(directory)), program, json.dumps(config), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    output, errors = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 0, errors.decode()[-3000:]
    told: dict[str, Any] = json.loads(output.splitlines()[-1])
    for text in told["credentials"]:
        world.remember("credential of the TypeScript client", text)
    return told


async def test_a_token_that_is_over_is_renewed_without_asking_the_person_again(world: LoginWorld) -> None:
    tokens = Tokens()
    async with world.browser("ben") as browser, world.mcp_client(CRM, world.login(CRM, browser, tokens)) as client:
        await search(client)
        first = len(tokens.seen)
        await asyncio.sleep(BRIEF_SECONDS + 1)
        found = await search(client)

    assert "Jonas Lindqvist" in found
    assert len(browser.visits) == 1
    assert len(tokens.seen) > first
    records = await world.records("acme/ben", tool="search_contacts", decision="allow")
    assert len({record["principal"]["access_token_id"] for record in records}) >= 2


async def test_a_client_that_lacks_a_scope_asks_for_all_of_them_once_and_goes_on(world: LoginWorld) -> None:
    """With its own document: a client that registers itself is registered for the scopes that it asked for at first."""
    tokens = Tokens()
    async with world.browser("dora") as browser:
        auth = world.login(CRM, browser, tokens, document_url=world.document_url)
        async with world.mcp_client(CRM, auth) as client:
            await search(client)
            before = str(tokens.current.scope if tokens.current else "").split()
            changed = await client.call_tool("update_contact", {"contact_id": "c-1003", "stage": "trial"})
            visits = len(browser.visits)
            await client.call_tool("update_contact", {"contact_id": "c-1003", "stage": "lead"})

    assert not changed.is_error
    assert "crm:write" not in before
    assert tokens.current is not None
    assert {"crm:use", "crm:write"} <= set(str(tokens.current.scope).split())
    assert visits == len(browser.visits) == 2
    (refused,) = await world.records("acme/dora", tool="update_contact", decision="deny")
    assert refused["reason"] == "insufficient_scope"


async def test_a_person_without_a_role_is_known_and_finds_no_server(world: LoginWorld) -> None:
    async with world.browser("zoe") as browser:
        with pytest.raises(ExceptionGroup):
            async with world.mcp_client(CRM, world.login(CRM, browser, Tokens())):
                pytest.fail("the client connected")

    records = await world.records("acme/zoe", decision="deny")
    assert {(record["principal"]["kind"], record["reason"]) for record in records} == {("User", "server_not_found")}


@pytest.mark.parametrize("fate", FATES)
async def test_what_callers_show_is_told_to_nobody(world: LoginWorld, fate: str) -> None:
    """Every credential through every fate. The search of files, Envoy and upstreams comes at the end (`running_login_world`)."""
    for kind, show in (GOOD | USELESS).items():
        answer = await FATES[fate].send(world, show)

        assert answer.status == FATES[fate].status or kind in USELESS, (kind, answer.status, answer.text)
        assert answer.status >= 400 or kind in GOOD, (kind, answer.status, answer.text)
        told = answer.text if fate != "as the id of a request" else ""  # which is the caller's own
        assert world.secrets.found_in(f"{told} {answer.headers}".encode()) == [], (kind, answer)


@pytest.mark.parametrize("fate", FATES_OF_CERTIFICATES)
async def test_what_workloads_show_on_their_connection_is_told_to_nobody(world: LoginWorld, fate: str) -> None:
    for kind, show in BY_CERTIFICATE.items():
        answer = await FATES[fate].send(world, show)

        assert answer.status == FATES[fate].status, (kind, answer.status, answer.text)
        assert world.secrets.found_in(f"{answer.text} {answer.headers}".encode()) == [], (kind, answer)


async def test_a_workload_is_on_the_record_as_one_however_it_shows_its_svid(world: LoginWorld) -> None:
    for show in (GOOD["JWT-SVID"], *BY_CERTIFICATE.values()):
        answer = await FATES["allowed"].send(world, show)
        (record,) = await world.records(WORKLOAD_ID, decision_id=answer.headers["x-legation-decision-id"])
        assert (record["decision"], record["principal"]["kind"], record["principal"]["provider"]) == ("allow", "Workload", "prod")
