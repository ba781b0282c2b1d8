"""Gateways that take each other's address: on the real Envoy, which cannot bind two listeners to one."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.registry.gateway_spec import GatewaySpec
from controlplane.registry.state import Entry
from tests.e2e.envoy_world import EnvoyWorld, free_port, patient_pace
from tests.e2e.stack import eventually
from tests.e2e.tls_world import gateway, refused, state_of, tls, trusting, world_of
from tests.pki import TestAuthority

pytestmark = pytest.mark.envoy

CA = TestAuthority()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets" / "system"
    folder.mkdir(parents=True)
    CA.issue("127.0.0.1").write(folder, "server")
    return folder


def door(name: str, port: int, host: str = "127.0.0.1") -> Entry[GatewaySpec]:
    return gateway(name, url=f"https://{name}.example", listen=f"{host}:{port}", tls=tls("server"))


async def served_by(world: EnvoyWorld, port: int) -> str:
    """The Gateway whose listener answers at this port; empty: none."""
    if await refused(port, trusting(CA)):
        return ""
    return world.checks[-1].attributes.context_extensions["gateway"]


@pytest.mark.parametrize("starting_seconds", [0.0, 3600.0], ids=["standing", "just started"])
async def test_gateways_exchange_their_addresses_and_take_those_that_others_leave(
    tmp_path: Path, secrets: Path, starting_seconds: float
) -> None:
    first, second = free_port(), free_port()
    pace = patient_pace(starting_seconds=starting_seconds)
    async with world_of(tmp_path, door("a", first), door("b", second), pace=pace) as world:
        steps = [
            ((door("b", first), door("a", second)), ["b", "a"]),  # exchanged
            ((door("c", first), door("a", second)), ["c", "a"]),  # another one in its place
            ((door("a", first),), ["a", ""]),  # moved to where another one was
            ((door("a", first, "0.0.0.0"),), ["a", ""]),  # to every address, its own among them
            ((door("a", first), door("b", second)), ["a", "b"]),
        ]
        for revision, (gateways, expected) in enumerate(steps, start=2):
            world.source.commit(state_of(revision, *gateways))
            await world.programmed(revision)

            async def as_expected(expected: list[str] = expected) -> bool:
                return [await served_by(world, port) for port in (first, second)] == expected

            await eventually(as_expected)
            assert all(not each["error"] for node in world.rollout.nodes() for each in node["types"])
