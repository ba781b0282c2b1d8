"""Links between our processes under the real Envoy: mutual TLS over TCP, and a control plane that goes away and comes back."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import aiohttp
import pytest

from controlplane.certificates import write_certificates
from tests.e2e.envoy_world import envoy_world, patient_pace, server_entry, state_of, upstream
from tests.e2e.test_envoy_edits import Traffic, answering, two_upstreams

pytestmark = pytest.mark.envoy


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    write_certificates(directory)
    return directory


async def test_over_tcp_every_link_is_mutual_tls(tmp_path: Path, certificates: Path) -> None:
    async with (
        upstream(answering("one")) as port,
        envoy_world(tmp_path, state_of(1, server_entry("crm", f"http://127.0.0.1:{port}/mcp")), certificates=certificates) as world,
    ):
        world.answer = world.allow_by_path

        assert (await world.post()).body == b"one /mcp"
        assert world.rollout.programmed(1) == {"envoy": [1, 1], "authorizer": [1, 1]}

        url = f"https://{world.links.egress}/servers/demo/crm/mcp"
        context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            async with world.session.post(url, ssl=context) as response:
                await response.read()
        context.load_cert_chain(certificates / "control-plane.crt", certificates / "control-plane.key")
        async with world.session.post(url, data=b"{}", ssl=context) as response:
            assert await response.text() == "one /mcp"


async def test_a_control_plane_that_restarts_under_traffic_loses_no_call(tmp_path: Path) -> None:
    async with (
        two_upstreams() as (one, two),
        envoy_world(
            tmp_path,
            state_of(1, server_entry("crm", f"http://127.0.0.1:{one}/mcp")),
            pace=patient_pace(grace_seconds=0.2, starting_seconds=0.5),
            check_timeout_ms=3000,
        ) as world,
    ):
        world.answer = world.allow_by_path
        traffic = Traffic(world)
        async with traffic.flowing():
            await asyncio.sleep(0.3)
            await world.control_plane.stop()
            await asyncio.sleep(0.5)
            # while it was away: another cluster for crm, one server more
            moved = server_entry("crm", f"http://127.0.0.1:{two}/moved")
            world.source.commit(state_of(2, moved, server_entry("new", f"http://127.0.0.1:{one}/mcp")))
            await world.control_plane.start()
            await world.programmed(2)
            await asyncio.sleep(4.5)  # past the grace, when Envoy forgets what it had
            await traffic.more_than(50)

        assert traffic.failures == []
        assert (await world.post()).body == b"two /moved"
        assert "crm" not in [name for name in (await world.admin("/clusters")).split() if "6aaa9702645e" in name]
