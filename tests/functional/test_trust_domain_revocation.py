"""An authority that is gone from its bundle, and a trust domain that is gone from the registry: authorizers hear of it at once.

At once means: while an Envoy does not answer and the stage waits for it, far longer than these tests do.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from controlplane.registry.authority import AuthorityReader
from controlplane.registry.key_pair_reader import KeyPairReader
from controlplane.registry.state import RegistryState
from controlplane.xds.authority_file import AuthorityFiles
from controlplane.xds.bundle_store import BundleStore
from controlplane.xds.cache import ViewCache
from controlplane.xds.certificate_source import CertificateSources
from controlplane.xds.node import CLUSTER, NodeKind
from controlplane.xds.publisher import Pace, Publisher
from controlplane.xds.resolver import Resolver
from controlplane.xds.rollout import Rollout
from controlplane.xds.server import AdsServer
from controlplane.xds.trust_bundle import BundleFollower, BundlePace
from extauthz.address import AddressRules
from extauthz.discovery import DELTA_METHOD, TRUST_DOMAIN, DiscoveryClient, StagedResources
from extauthz.state import trust_domain_from_message
from extauthz.transport import LinkIdentity
from extauthz.v1 import registry_pb2 as pb
from extauthz.wire import discovery_pb2 as wire
from tests.spiffe_ca import SpiffeCa
from tests.unit.xds_world import GATEWAY, KEY, mcp_server, state_of, trust_domain

SECONDS = 60.0
STUCK = Pace(stage_timeout_seconds=10 * SECONDS, reconnect_seconds=0.0, settle_seconds=0.0)


class Source:
    """A registry that a test edits."""

    def __init__(self, state: RegistryState) -> None:
        self.state = state
        self._edited = asyncio.Condition()

    async def wait(self, after: int) -> RegistryState:
        async with self._edited:
            await self._edited.wait_for(lambda: self.state.revision > after)
        return self.state

    async def edit(self, state: RegistryState) -> None:
        async with self._edited:
            self.state = state
            self._edited.notify_all()


class Authorizer:
    """What an authorizer holds."""

    def __init__(self) -> None:
        self.trust_domains: dict[str, tuple[bytes, ...]] = {}
        self.revision = 0

    def take(self, resources: StagedResources, revision: int) -> None:
        known = [trust_domain_from_message(pb.TrustDomain.FromString(data)) for data in resources.get(TRUST_DOMAIN, {}).values()]
        self.trust_domains = {domain.trust_domain: domain.x509_authorities for domain in known}
        self.revision = revision


class World:
    """A control plane, an authorizer, and an Envoy that never answers what it is sent."""

    def __init__(self, directory: Path, source: Source) -> None:
        self.source, self.authorizer = source, Authorizer()
        self.cache = ViewCache()
        self.rollout = Rollout(cache=self.cache)
        files = AuthorityReader(directory)
        self.publisher = Publisher(
            source=source,
            cache=self.cache,
            rollout=self.rollout,
            gateway=GATEWAY,
            key=KEY,
            resolver=Resolver(rules=AddressRules(("10.0.0.0/8",))),
            authorities=AuthorityFiles(reader=files),
            certificates=CertificateSources(reader=KeyPairReader(directory, KEY)),
            bundles=BundleFollower(files=files, rules=AddressRules(()), store=BundleStore(None), pace=BundlePace(file_seconds=0.05)),
            pace=STUCK,
        )
        self.address = f"unix:{directory}/ads.sock"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        client = DiscoveryClient(address=self.address, node_id="authorizer-1", on_revision=self.authorizer.take)
        tasks = [asyncio.create_task(self.publisher.run())]
        try:
            await self.until(lambda: self.publisher.published is not None)
            async with AdsServer(listen=self.address, cache=self.cache, rollout=self.rollout, identity=LinkIdentity()):
                tasks.append(asyncio.create_task(client.run()))
                await self.until(lambda: self.authorizer.revision == 1)
                tasks.append(asyncio.create_task(self._silent_envoy()))
                await self.until(lambda: bool(self.rollout.connected(NodeKind.ENVOY)))
                yield self
                for task in reversed(tasks):
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _silent_envoy(self) -> None:
        async with grpc.aio.insecure_channel(self.address) as channel:
            call = channel.stream_stream(
                DELTA_METHOD,
                request_serializer=wire.DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=wire.DeltaDiscoveryResponse.FromString,
            )()
            request = wire.DeltaDiscoveryRequest(type_url=CLUSTER, resource_names_subscribe=["*"])
            request.node.id, request.node.cluster = "envoy-1", "envoy"
            await call.write(request)
            while await call.read() is not grpc.aio.EOF:
                pass

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds():  # noqa: ASYNC110 - what is waited for is in no hand of ours
                await asyncio.sleep(0.01)

    async def hold_up(self) -> None:
        """An edit whose stage waits for the Envoy."""
        await self.source.edit(state_of(2, *self.source.state.trust_domains.values(), mcp_server("a"), mcp_server("b")))
        view = self.cache.view(NodeKind.ENVOY)
        assert view is not None
        await self.until(lambda: len((self.cache.view(NodeKind.ENVOY) or view).resources[CLUSTER]) > len(view.resources[CLUSTER]))
        assert self.publisher.published is not None
        assert self.publisher.published.revision == 1


@pytest.fixture
def ca() -> SpiffeCa:
    return SpiffeCa("prod.example")


@pytest.fixture
async def world(ca: SpiffeCa) -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="lgt", dir="/tmp") as directory:
        (Path(directory) / "system").mkdir()
        ca.prepare_x509()
        write(Path(directory), ca)
        async with World(Path(directory), Source(state_of(1, mcp_server("a"), trust_domain("prod")))).running() as world:
            yield world


def write(directory: Path, ca: SpiffeCa) -> None:
    new = directory / "system" / ".new"
    new.write_text(ca.bundle_document())
    new.replace(directory / "system" / "bundle.json")


def authorities_of(ca: SpiffeCa) -> tuple[bytes, ...]:
    return tuple(sorted(authority.der for authority in ca.x509_authorities))


async def test_an_authority_that_leaves_its_file_leaves_authorizers_while_an_envoy_is_waited_for(world: World, ca: SpiffeCa) -> None:
    assert world.authorizer.trust_domains == {"prod.example": authorities_of(ca)}
    await world.hold_up()

    ca.retire_x509()
    write(Path(world.address.removeprefix("unix:")).parent, ca)

    await world.until(lambda: world.authorizer.trust_domains == {"prod.example": authorities_of(ca)})
    assert world.publisher.published is not None
    assert world.publisher.published.revision == 1


async def test_a_trust_domain_that_leaves_the_registry_leaves_authorizers_while_an_envoy_is_waited_for(world: World) -> None:
    await world.hold_up()

    await world.source.edit(state_of(3, mcp_server("a"), mcp_server("b")))

    await world.until(lambda: not world.authorizer.trust_domains)
    assert world.publisher.published is not None
    assert world.publisher.published.revision == 1


async def test_a_bundle_that_changes_is_published_without_an_edit_of_the_registry(world: World, ca: SpiffeCa) -> None:
    before = world.authorizer.revision
    ca.prepare_x509()

    write(Path(world.address.removeprefix("unix:")).parent, ca)

    await world.until(lambda: world.authorizer.trust_domains == {"prod.example": authorities_of(ca)})
    assert world.authorizer.revision == before == 1
