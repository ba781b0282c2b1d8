"""Gateways come, move and go on the real Envoy; what an edit does not touch goes on."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from controlplane.registry.state import RegistryState
from controlplane.xds.node import LISTENER
from tests.e2e.envoy_world import EnvoyWorld, connected_envoys, free_port, patient_pace
from tests.e2e.stack import eventually
from tests.e2e.tls_world import call, call_on, connected, gateway, refused, tls, trusting, world_of
from tests.pki import TestAuthority

pytestmark = pytest.mark.envoy

CA = TestAuthority()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The secrets folder of the namespace system with a certificate for 127.0.0.1, `server`."""
    folder = tmp_path / "secrets" / "system"
    folder.mkdir(parents=True)
    CA.issue("127.0.0.1").write(folder, "server")
    return folder


def with_gateways(state: RegistryState, *gateways: object) -> RegistryState:
    return replace(state, revision=state.revision + 1, gateways={entry.id: entry for entry in gateways})  # type: ignore[attr-defined]


async def commit(world: EnvoyWorld, *gateways: object) -> None:
    state = with_gateways(world.source.state, *gateways)
    world.source.commit(state)
    await world.programmed(state.revision)


async def is_served(port: int) -> bool:
    return not await refused(port, trusting(CA))


async def test_a_gateway_is_added_moved_and_removed_while_the_others_go_on(tmp_path: Path, secrets: Path) -> None:
    first, second = free_port(), free_port()

    def partners(port: int) -> object:
        return gateway("partners", url="https://partners.example", listen=f"127.0.0.1:{port}", tls=tls("server"))

    async with world_of(tmp_path) as world:
        statuses = [(await world.post()).status]
        await commit(world, partners(first))
        await eventually(lambda: is_served(first))
        statuses.append((await world.post()).status)
        await commit(world, partners(second))
        await eventually(lambda: is_served(second))

        async def has_moved() -> bool:
            return not await is_served(first)

        await eventually(has_moved)
        statuses.append((await world.post()).status)
        await commit(world)

        async def is_gone() -> bool:
            return not await is_served(second)

        await eventually(is_gone)
        statuses.append((await world.post()).status)

        assert statuses == [200] * 4
        assert {type_["error"] for type_ in connected_envoys(world)[0]["types"]} == {""}


async def test_the_default_gateway_takes_the_listener_to_tls_and_back(tmp_path: Path, secrets: Path) -> None:
    elsewhere = free_port()
    async with world_of(tmp_path) as world:
        await commit(world, gateway("default", listen=f"127.0.0.1:{elsewhere}", tls=tls("server")))
        await eventually(lambda: is_served(elsewhere))
        await commit(world)

        async def is_back() -> bool:
            try:
                return (await world.post()).status == 200
            except aiohttp.ClientError:
                return False

        await eventually(is_back)


async def test_what_a_gateway_is_called_touches_neither_listener_nor_connections(tmp_path: Path, secrets: Path) -> None:
    before = gateway("default", tls=tls("server"))
    after = gateway("default", tls=tls("server"), url="https://new.example", hostnames=["alias.example"], description="renamed")
    async with world_of(tmp_path, before) as world, connected(trusting(CA)) as session:
        assert world.publisher.published is not None
        listener = world.publisher.published.envoy[LISTENER]["ingress"]
        statuses = [(await call_on(session, world.port)).status]
        opened = await connections(world)

        await commit(world, after)
        statuses += [(await call_on(session, world.port)).status for _ in range(3)]

        assert world.publisher.published.envoy[LISTENER]["ingress"] is listener
        assert statuses == [200] * 4
        assert await connections(world) == opened


async def connections(world: EnvoyWorld) -> str:
    """How many connections the public listener has taken so far."""
    return await world.admin("/stats?filter=^http.ingress.downstream_cx_total")


async def test_a_listener_that_envoy_cannot_have_keeps_nothing_else_back(tmp_path: Path, secrets: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port, free = taken.getsockname()[1], free_port()
        bad = gateway("bad", url="https://bad.example", listen=f"127.0.0.1:{port}", tls=tls("server"))
        good = gateway("good", url="https://good.example", listen=f"127.0.0.1:{free}", tls=tls("server"))
        async with world_of(tmp_path) as world:
            world.source.commit(with_gateways(world.source.state, bad, good))

            await eventually(lambda: is_served(free))
            await world.until(lambda: f"gateway/127.0.0.1:{port}" in str(connected_envoys(world)[0]["types"]))

            assert (await world.post()).status == 200


async def test_a_control_plane_that_lost_the_certificate_takes_it_from_nobody(tmp_path: Path, secrets: Path) -> None:
    """It starts without files that it could read; Envoy goes on with what it holds, for new connections too."""
    async with world_of(tmp_path, gateway("default", tls=tls("server")), pace=patient_pace(starting_seconds=0.2)) as world:
        statuses = [(await call(world.port, trusting(CA))).status]
        (secrets / "server.key").unlink()
        await world.control_plane.stop()
        await world.control_plane.start()
        await world.until(lambda: bool(connected_envoys(world)) and connected_envoys(world)[0]["state"] == "SYNCED")
        await asyncio.sleep(1.0)  # removals, if there were any, go out by now

        statuses.append((await call(world.port, trusting(CA))).status)

        assert statuses == [200, 200]
        assert world.control_plane.certificates.known == {}


async def test_a_listener_without_its_certificate_holds_up_nobody_and_serves_as_soon_as_it_has_one(tmp_path: Path, secrets: Path) -> None:
    port = free_port()
    late = gateway("late", url="https://late.example", listen=f"127.0.0.1:{port}", tls=tls("late"))
    async with world_of(tmp_path, late, pace=patient_pace(certificates_seconds=0.05)) as world:
        before = [(await world.post()).status, await is_served(port)]

        CA.issue("127.0.0.1").write(secrets, "late")
        await eventually(lambda: is_served(port))

        assert before == [200, False]


async def test_connections_end_in_order_when_they_have_lasted_long_enough(tmp_path: Path, secrets: Path) -> None:
    async with world_of(tmp_path, gateway("default", tls=tls("server"), maxConnectionSeconds=1)) as world:
        statuses: list[int] = []
        closing = False
        async with connected(trusting(CA)) as session:
            began = time.monotonic()
            while not closing and time.monotonic() - began < 60:
                response = await call_on(session, world.port)
                statuses.append(response.status)
                closing = response.headers.get("connection", "").lower() == "close"
                await asyncio.sleep(0.05)

        assert closing
        assert set(statuses) == {200}
