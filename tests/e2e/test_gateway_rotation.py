"""Certificates and authorities of listeners are replaced under load without a lost call, and what is bad is not used."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509

from controlplane.registry.key_pair import KeyPair
from controlplane.xds.certificate_source import CertificateSources
from controlplane.xds.node import LISTENER, SECRET
from tests.e2e.envoy_world import PATIENCE_SECONDS, EnvoyWorld, connected_envoys, patient_pace
from tests.e2e.stack import eventually
from tests.e2e.tls_world import call, call_on, connected, gateway, negotiated, refused, tls, trusting, world_of
from tests.pki import Issued, TestAuthority

pytestmark = pytest.mark.envoy

CA = TestAuthority()
CLIENTS, NEW_CLIENTS = TestAuthority("clients"), TestAuthority("new clients")
QUICK = patient_pace(certificates_seconds=0.05)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The secrets folder of the namespace system with a certificate for 127.0.0.1, `server`, and the clients' authority."""
    folder = tmp_path / "secrets" / "system"
    folder.mkdir(parents=True)
    CA.issue("127.0.0.1").write(folder, "server")
    (folder / "clients.pem").write_bytes(CLIENTS.pem)
    CLIENTS.issue("agent").write(tmp_path, "agent")
    return folder


ASKING = {"mode": "required", "trust": "ca", "caFile": "clients.pem"}


async def serial(port: int, context_of: Path) -> int:
    """The serial number of the certificate that is served now."""
    binary = (await negotiated(port, trusting(CA, client=context_of))).getpeercert(binary_form=True)
    assert binary is not None
    return x509.load_der_x509_certificate(binary).serial_number


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    await eventually(holds, seconds=PATIENCE_SECONDS, interval=0.02)


async def served(world: EnvoyWorld, client: Path, issued: Issued) -> None:
    """Wait until this certificate is served."""

    async def is_served() -> bool:
        return await serial(world.port, client) == issued.chain[0].serial_number

    await until(is_served)


async def accepted(world: EnvoyWorld, client: Path) -> bool:
    return not await refused(world.port, trusting(CA, client=client))


@contextlib.asynccontextmanager
async def traffic(port: int, client: Path) -> AsyncIterator[Counter[str]]:
    """Calls on six kept connections and on new ones; what became of them."""
    outcomes: Counter[str] = Counter()
    done = asyncio.Event()

    async def one(send: Callable[[], object]) -> None:
        try:
            outcomes[str((await send()).status)] += 1  # type: ignore[misc]
        except (aiohttp.ClientError, OSError) as error:
            outcomes[type(error).__name__] += 1

    async def on_kept() -> None:
        async with connected(trusting(CA, client=client)) as session:
            while not done.is_set():
                await one(lambda: call_on(session, port))
                await asyncio.sleep(0.02)

    async def on_new() -> None:
        while not done.is_set():
            await one(lambda: call(port, trusting(CA, client=client)))
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(on_kept())
        tasks.create_task(on_new())
        try:
            yield outcomes
        finally:
            done.set()


async def test_ten_certificates_and_an_authority_are_replaced_under_load_without_a_failed_call(tmp_path: Path, secrets: Path) -> None:
    agent, new_agent = tmp_path / "agent", tmp_path / "new-agent"
    NEW_CLIENTS.issue("agent").write(tmp_path, "new-agent")
    seen: set[int] = set()

    async def rolled_to(*authorities: TestAuthority) -> None:
        (secrets / "new").write_bytes(b"".join(authority.pem for authority in authorities))
        (secrets / "new").replace(secrets / "clients.pem")

    async with world_of(tmp_path, gateway("default", tls=tls("server", clientCertificates=ASKING)), pace=QUICK) as world:
        listener = world.publisher.published.envoy[LISTENER]["ingress"] if world.publisher.published else None
        async with traffic(world.port, agent) as outcomes:
            for _ in range(10):
                issued = CA.issue("127.0.0.1")
                issued.write(secrets, "server")
                await served(world, agent, issued)
                seen.add(issued.chain[0].serial_number)
            await rolled_to(CLIENTS, NEW_CLIENTS)
            await until(lambda: accepted(world, new_agent))
        async with traffic(world.port, new_agent) as after:
            await rolled_to(NEW_CLIENTS)
            await until(lambda: refused(world.port, trusting(CA, client=agent)))

        assert world.publisher.published is not None
        assert world.publisher.published.envoy[LISTENER]["ingress"] is listener, "a rotation touches no listener"
    assert len(seen) == 10
    assert set(outcomes) == set(after) == {"200"}
    assert outcomes["200"] > 100


async def test_what_cannot_be_used_is_not_told_and_the_last_good_certificate_goes_on(tmp_path: Path, secrets: Path) -> None:
    async with world_of(tmp_path, gateway("default", tls=tls("server", clientCertificates=ASKING)), pace=QUICK) as world:
        first = await serial(world.port, tmp_path / "agent")
        sources = world.control_plane.certificates

        CA.issue("127.0.0.1", ends=timedelta(hours=-1)).write(secrets, "server")
        await fault(sources, "expired on")
        (secrets / "server.crt").write_bytes(CA.pem + CA.issue("127.0.0.1").chain_pem)
        await fault(sources, "not in order")
        (secrets / "server.crt").unlink()
        await fault(sources, "cannot be read")
        still = await serial(world.port, tmp_path / "agent")
        good = CA.issue("127.0.0.1")
        good.write(secrets, "server")
        await served(world, tmp_path / "agent", good)

        assert still == first
        assert [status.fault for status in sources.status("uid-default")] == [""]


async def fault(sources: CertificateSources, sentence: str) -> None:
    async def told() -> bool:
        return sentence in sources.status("uid-default")[0].fault

    await until(told)


class Careless:
    """Sources that believe what files say, as if no check of ours knew what Envoy refuses."""

    def __init__(self, sources: CertificateSources) -> None:
        self._sources = sources
        self.forged: dict[str, KeyPair] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._sources, name)

    @property
    def known(self) -> dict[str, KeyPair]:
        return {**self._sources.known, **self.forged}


async def test_a_secret_that_envoy_refuses_keeps_neither_the_listener_nor_its_other_secrets_back(tmp_path: Path, secrets: Path) -> None:
    """Envoy keeps a secret that it refused, and would refuse every later one because of it, a withdrawn authority too."""
    async with world_of(tmp_path, gateway("default", tls=tls("server", clientCertificates=ASKING)), pace=QUICK) as world:
        careless = Careless(world.control_plane.certificates)
        world.publisher._certificates = careless  # type: ignore[assignment]
        (key, good), *_ = careless.known.items()
        other = CA.issue("127.0.0.1")
        first = await serial(world.port, tmp_path / "agent")

        careless.forged[key] = replace(good, key=other.key_pem)
        world.publisher._publish_again()
        await world.until(lambda: refusals(world) == ["gateway/default/certificate/server"])
        still = await serial(world.port, tmp_path / "agent")
        (secrets / "new").write_bytes(NEW_CLIENTS.pem)
        (secrets / "new").replace(secrets / "clients.pem")
        await until(lambda: refused(world.port, trusting(CA, client=tmp_path / "agent")))
        careless.forged[key] = replace(good, chain=other.chain_pem, key=other.key_pem)
        NEW_CLIENTS.issue("agent").write(tmp_path, "agent")
        world.publisher._publish_again()
        await served(world, tmp_path / "agent", other)

        assert still == first
        await world.until(lambda: refusals(world) == [])
        assert other.key_pem.split(b"\n")[1] not in (tmp_path / "envoy.log").read_bytes()


def refusals(world: EnvoyWorld) -> list[str]:
    """The secrets that Envoy refuses at the moment."""
    errors = [each["error"] for each in connected_envoys(world)[0]["types"] if each["type_url"] == SECRET]
    return [error.partition(":")[0] for error in errors if error]
