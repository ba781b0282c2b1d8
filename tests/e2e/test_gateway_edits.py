"""Gateways that take each other's address: on the real Envoy, which cannot bind two listeners to one."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from controlplane.registry.gateway_spec import GatewaySpec
from controlplane.registry.state import Entry
from tests.e2e.envoy_world import EnvoyWorld, free_port
from tests.e2e.tls_world import call, gateway, state_of, tls, trusting, world_of
from tests.pki import TestAuthority

pytestmark = pytest.mark.envoy

CA = TestAuthority()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets" / "system"
    folder.mkdir(parents=True)
    CA.issue("127.0.0.1").write(folder, "server")
    return folder


def door(name: str, port: int) -> Entry[GatewaySpec]:
    return gateway(name, url=f"https://{name}.example", listen=f"127.0.0.1:{port}", tls=tls("server"))


async def served_by(world: EnvoyWorld, port: int) -> str:
    """The Gateway whose listener answers at this port."""
    await call(port, trusting(CA))
    return world.checks[-1].attributes.context_extensions["gateway"]


async def test_gateways_may_exchange_their_addresses_and_take_those_that_others_leave(tmp_path: Path, secrets: Path) -> None:
    first, second = free_port(), free_port()
    async with world_of(tmp_path, door("a", first), door("b", second)) as world:
        source = world.source
        assert [await served_by(world, port) for port in (first, second)] == ["a", "b"]
        steps = [
            ((door("b", first), door("a", second)), ["b", "a"]),  # exchanged
            ((door("c", first), door("a", second)), ["c", "a"]),  # another one in its place
            ((door("a", first),), ["a"]),  # moved to where another one was
            ((door("a", first), door("b", second)), ["a", "b"]),
        ]
        for revision, (gateways, expected) in enumerate(steps, start=2):
            source.commit(state_of(revision, *gateways))
            await world.programmed(revision)
            for port, name in zip((first, second), expected, strict=False):
                async with asyncio.timeout(30):
                    while (found := await served_by(world, port)) != name:
                        print(revision, port, found, 'wanted', name)
                        await asyncio.sleep(0.3)
