"""Clients of four protocol versions use servers of four protocol versions through the gateway, each on a pinned release of the SDK.

Each client visits a server of its own version directly (which shows that the fixtures are right), then each of the four servers as a
single one, then a virtual server that has all four as members. What is expected follows from the two versions alone: the way makes no
difference. The programs and what they do stand in `tests/matrix`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.stack import Stack, running_stack
from tests.matrix.labels import TOOLS
from tests.matrix.sdk import MODERN, VERSIONS, Place, python, running_server, typescript_visits, visits
from tests.toolchain import UnavailableError

OLDEST = VERSIONS[0]
NAMESPACE = """
apiVersion: legation/v1
kind: Namespace
metadata: {name: matrix}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: matrix, name: visitors}
spec:
  role: visitor
  subjects: [{kind: User, name: local/visitor}]
---
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: matrix, name: everything}
spec:
  cedar: |
    permit (principal in Role::"matrix/visitor", action, resource in Namespace::"matrix");
"""
MCP_SERVER = """
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: matrix, name: v{version}}}
spec:
  endpoints: [{{url: "{url}"}}]
"""
VIRTUAL_SERVER = """
apiVersion: legation/v1
kind: VirtualServer
metadata: {{namespace: matrix, name: all}}
spec:
  members: [{members}]
  conflicts: prefix
  defaultVisibility: allow
"""
TYPESCRIPT = {"typescript": MODERN, "typescript-legacy": "legacy"}
OFTEN = {"LEGATION_PROBE_INTERVAL_SECONDS": "3"}
"""Lists are told from the catalog, and change once it was read again."""

pytestmark = [pytest.mark.envoy, pytest.mark.external, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """All visits, which go on while tests look at the first ones."""

    reports: dict[str, asyncio.Task[dict[str, Any]]]
    """By the client's label."""

    async def servers(self, label: str, place: str, *, version: str) -> dict[str, Any]:
        """What one client did with each server behind one place; it must have spoken `version` there."""
        report = (await self.reports[label])[place]
        assert "error" not in report, report["error"]
        assert report["version"] == version
        servers: dict[str, Any] = report["servers"]
        return servers


def spoken(client: str, server: str) -> str:
    """The protocol version of a client at a single server: in one era they agree between themselves, else the gateway stands between."""
    return client if MODERN in {client, server} else min(client, server)


def expected(client: str, server: str, place: str) -> dict[str, Any]:
    """What a client of one version has of a server of another one."""
    asks = server != OLDEST
    asked = client != OLDEST
    return {
        "tools": [name for name in TOOLS if asks or name not in {"ask_user", "ask_twice"}],
        "note": f"written at {place}",
        "echo": f"{server} says hello",
        "sum": {"total": 5} if asks and asked else None,
        "failure": [True, True],
        "progress": [1, 2, 3],
        "logged": True,
        "model": "the model says a lot",
        "roots": "the roots are ['file:///matrix']",
        "user": None if not asks else "the user says blue" if asked else "cannot ask the user",
        "twice": None if not asks else "the user says red and green" if asked else "cannot ask the user",
        "prompt": f"A formal letter to Ann by {server}",
        "interview": None if not asks else f"{server} writes in blue" if asked else "cannot ask the user",
        "text": f"text of {server}",
        "book": f"Faust of {server}",
        "tones": ["formal", "friendly", "funny"],
        "books": ["Faust", "Fidelio"],
        "cancelled": "cancelled" if asks else None,
        "grown": f"{server} has it",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def matrix(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Matrix]:
    try:
        await asyncio.gather(*(asyncio.to_thread(python, version) for version in VERSIONS))
    except UnavailableError as error:
        pytest.skip(f"releases of the SDK cannot be installed: {error}")
    async with contextlib.AsyncExitStack() as running:
        urls = dict(zip(VERSIONS, [await running.enter_async_context(running_server(version)) for version in VERSIONS], strict=True))
        stack = await running.enter_async_context(running_stack(tmp_path_factory.mktemp("version-matrix"), environ=OFTEN))
        await _registered(stack, urls)
        reports = {version: asyncio.create_task(visits(version, _places(stack, version, urls))) for version in VERSIONS}
        virtual = _virtual_place(stack)
        for mode in ("auto", "legacy"):
            reports[f"{MODERN}-{mode}"] = asyncio.create_task(visits(MODERN, [virtual], mode=mode))
        for label, mode in TYPESCRIPT.items():
            reports[label] = asyncio.create_task(typescript_visits([virtual], label=label, mode=mode))
        try:
            yield Matrix(reports=reports)
        finally:
            for task in reports.values():
                task.cancel()
            await asyncio.gather(*reports.values(), return_exceptions=True)


async def _registered(stack: Stack, urls: dict[str, str]) -> None:
    await stack.apply(NAMESPACE + "".join(MCP_SERVER.format(version=version, url=url) for version, url in urls.items()))
    await asyncio.gather(*(stack.accept(f"matrix/v{version}") for version in VERSIONS))
    await stack.apply(VIRTUAL_SERVER.format(members=", ".join(f"{{server: v{version}}}" for version in VERSIONS)))


def _places(stack: Stack, version: str, urls: dict[str, str]) -> list[Place]:
    places = [Place(name="direct", url=urls[version], access_token="none", servers=(version,))]
    for server in VERSIONS:
        name = f"matrix/v{server}"
        token = stack.token("visitor", server=name, seconds=3600)
        places.append(Place(name=server, url=stack.endpoint(name), access_token=token, servers=(server,)))
    return [*places, _virtual_place(stack)]


def _virtual_place(stack: Stack) -> Place:
    url = f"{stack.gateway_url}/virtual/matrix/all/mcp"
    token = stack._sign("development-issuer.json", "visitor", url, seconds=3600)
    return Place(name="virtual", url=url, access_token=token, servers=VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_uses_a_server_of_its_own_version_directly(matrix: Matrix, version: str) -> None:
    found = await matrix.servers(version, "direct", version=version)

    assert found[version] == expected(version, version, "direct")


@pytest.mark.parametrize("server", VERSIONS)
@pytest.mark.parametrize("client", VERSIONS)
async def test_every_client_uses_every_server(matrix: Matrix, client: str, server: str) -> None:
    found = await matrix.servers(client, server, version=spoken(client, server))

    assert found[server] == expected(client, server, server)


@pytest.mark.parametrize("server", VERSIONS)
@pytest.mark.parametrize("client", VERSIONS)
async def test_every_client_uses_every_member_of_a_virtual_server(matrix: Matrix, client: str, server: str) -> None:
    found = await matrix.servers(client, "virtual", version=client)

    assert found[server] == expected(client, server, "virtual")


@pytest.mark.parametrize("server", VERSIONS)
@pytest.mark.parametrize(("mode", "version"), [("auto", MODERN), ("legacy", "2025-11-25")])
async def test_the_newest_client_uses_a_virtual_server_in_its_other_modes(matrix: Matrix, mode: str, version: str, server: str) -> None:
    found = await matrix.servers(f"{MODERN}-{mode}", "virtual", version=version)

    assert found[server] == expected(version, server, "virtual")


@pytest.mark.parametrize("server", VERSIONS)
@pytest.mark.parametrize(("label", "version"), [("typescript", MODERN), ("typescript-legacy", "2025-11-25")])
async def test_the_typescript_client_uses_a_virtual_server(matrix: Matrix, label: str, version: str, server: str) -> None:
    try:
        found = await matrix.servers(label, "virtual", version=version)
    except UnavailableError as error:
        pytest.skip(f"the TypeScript SDK cannot be installed: {error}")

    assert found[server] == expected(version, server, "virtual")
