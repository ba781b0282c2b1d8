"""The API on TCP: mutual TLS, and of all processes of the deployment only Envoy gets in."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from controlplane.api.problems import answer_problems
from controlplane.app import serving_api
from controlplane.certificates import write_certificates
from extauthz.transport import LinkIdentity
from tests.ports import free_port

NAMES = ("control-plane", "authorizer", "envoy", "envoy-2", "stranger")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    write_certificates(directory, NAMES)
    return directory


def _identity(certificates: Path, name: str) -> LinkIdentity:
    return LinkIdentity(cert_file=certificates / f"{name}.crt", key_file=certificates / f"{name}.key", ca_file=certificates / "ca.crt")


@pytest.fixture
async def address(certificates: Path) -> AsyncIterator[str]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="reached")

    application = web.Application(middlewares=[answer_problems])
    application.router.add_post("/v1/apply", answer)
    listen = f"127.0.0.1:{free_port()}"
    async with serving_api(application, listen, _identity(certificates, "control-plane")):
        yield listen


async def _post(address: str, context: ssl.SSLContext) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.post(f"https://{address}/v1/apply", ssl=context) as response:
        return response.status, await response.text()


@pytest.mark.parametrize("name", ["envoy", "envoy-2"])
async def test_envoy_gets_through(address: str, certificates: Path, name: str):
    context = _identity(certificates, name).client_ssl_context(address)
    assert context is not None

    assert await _post(address, context) == (200, "reached")


@pytest.mark.parametrize("name", ["authorizer", "control-plane", "stranger"])
async def test_other_processes_of_the_deployment_do_not(address: str, certificates: Path, name: str):
    context = _identity(certificates, name).client_ssl_context(address)
    assert context is not None

    status, text = await _post(address, context)

    assert status == 403
    assert f"that of {name}; only envoy may connect here" in text


async def test_nobody_without_a_certificate_gets_as_far_as_a_request(address: str, certificates: Path):
    anonymous = ssl.create_default_context(cafile=str(certificates / "ca.crt"))

    with pytest.raises(aiohttp.ClientError):
        await _post(address, anonymous)
