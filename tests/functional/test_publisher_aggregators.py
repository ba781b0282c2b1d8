"""Aggregators are nodes: they switch with authorizers, are waited for when there are any, and never get a credential."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.registry.authority import AuthorityReader
from controlplane.registry.key_pair_reader import KeyPairReader
from controlplane.registry.state import RegistryState
from controlplane.xds.authority_file import AuthorityFiles
from controlplane.xds.cache import ViewCache
from controlplane.xds.certificate_source import CertificateSources
from controlplane.xds.node import ENVOY_TYPES, NodeKind
from controlplane.xds.publisher import Pace, Publisher
from controlplane.xds.resolver import Resolver
from controlplane.xds.rollout import Rollout
from controlplane.xds.server import AdsServer
from extauthz.address import AddressRules
from extauthz.discovery import (
    AGGREGATOR_TYPES,
    AUTHORIZER_TYPES,
    CATALOG,
    MCP_SERVER,
    SEALING_KEY,
    VIRTUAL_SERVER,
    DiscoveryClient,
    StagedResources,
)
from extauthz.errors import PolicyError
from extauthz.transport import LinkIdentity
from extauthz.v1 import registry_pb2 as pb
from tests.functional.test_trust_domain_revocation import Source
from tests.unit.test_exposure import definition
from tests.unit.xds_world import GATEWAY, KEY, mcp_server, state_of, virtual_server

SECONDS = 60.0
PATIENT = Pace(stage_timeout_seconds=10 * SECONDS, reconnect_seconds=0.0, settle_seconds=0.0)
SECRET_HEADER = {"staticHeader": {"secret": {"file": "key"}}}


def state(revision: int, *tools: str, suspended: bool = False) -> RegistryState:
    return state_of(
        revision,
        mcp_server("crm", credential=SECRET_HEADER),
        virtual_server("all", "crm", defaultVisibility="allow", suspended=suspended),
        definitions={"uid-crm": tuple(map(definition, tools))},
    )


class Node:
    """One of our own nodes: everything it was handed, in order."""

    def __init__(self, world: World, kind: NodeKind) -> None:
        types = AGGREGATOR_TYPES if kind is NodeKind.AGGREGATOR else AUTHORIZER_TYPES
        self.taken: list[tuple[int, StagedResources]] = []
        self.refusing = False
        self.client = DiscoveryClient(
            address=world.address, node_id=f"{kind}-1", node_kind=kind.value, type_urls=types, on_revision=self._take
        )

    def _take(self, resources: StagedResources, revision: int) -> None:
        if self.refusing:
            raise PolicyError(["this cannot be listed"])
        self.taken.append((revision, resources))

    @property
    def holds(self) -> StagedResources:
        return self.taken[-1][1]

    @property
    def revision(self) -> int:
        return self.taken[-1][0] if self.taken else 0


class World:
    """A control plane whose Envoy always agrees."""

    def __init__(self, directory: Path, source: Source) -> None:
        self.source, self.cache = source, ViewCache()
        self.rollout = Rollout(cache=self.cache)
        self.address = f"unix:{directory}/ads.sock"
        self.publisher = Publisher(
            source=source,
            cache=self.cache,
            rollout=self.rollout,
            gateway=replace(GATEWAY, aggregator_addresses=("unix:/run/legation/aggregate.sock",)),
            key=KEY,
            resolver=Resolver(rules=AddressRules(("10.0.0.0/8",))),
            authorities=AuthorityFiles(reader=AuthorityReader(directory)),
            certificates=CertificateSources(reader=KeyPairReader(directory, KEY)),
            pace=PATIENT,
        )
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        await self._stack.__aenter__()
        self.spawn(self.publisher.run())
        await self.until(lambda: self.publisher.published is not None)
        await self._stack.enter_async_context(
            AdsServer(listen=self.address, cache=self.cache, rollout=self.rollout, identity=LinkIdentity())
        )
        envoy = DiscoveryClient(address=self.address, node_id="envoy-1", node_kind="envoy", type_urls=ENVOY_TYPES, on_revision=_nothing)
        self.spawn(envoy.run())

    def spawn(self, running: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(running)

        async def ended() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(ended)
        return task

    def node(self, kind: NodeKind) -> Node:
        node = Node(self, kind)
        self.spawn(node.client.run())
        return node

    async def stop(self) -> None:
        await self._stack.aclose()

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds():  # noqa: ASYNC110 - what is waited for is in no hand of ours
                await asyncio.sleep(0.01)


def _nothing(_resources: StagedResources, _revision: int) -> None:
    """An Envoy takes whatever it is sent."""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="lgx", dir="/tmp") as directory:
        world = World(Path(directory), Source(state(1, "get")))
        try:
            await world.start()
            yield world
        finally:
            await world.stop()


@pytest.mark.timeout(180)
async def test_an_aggregator_gets_what_there_is_to_list_and_no_credential(world: World) -> None:
    authorizer, aggregator = world.node(NodeKind.AUTHORIZER), world.node(NodeKind.AGGREGATOR)
    assert await world.rollout.wait(1, SECONDS)
    await world.until(lambda: world.rollout.programmed(1).get("aggregator") == [1, 1])

    assert aggregator.holds[VIRTUAL_SERVER] == authorizer.holds[VIRTUAL_SERVER]
    assert aggregator.holds[CATALOG].keys() == {"demo/crm"}
    assert len(aggregator.holds[SEALING_KEY]) == 3
    assert not pb.McpServer.FromString(aggregator.holds[MCP_SERVER]["demo/crm"]).HasField("credential")
    assert pb.McpServer.FromString(authorizer.holds[MCP_SERVER]["demo/crm"]).HasField("credential")
    assert world.rollout.programmed(1) == {"envoy": [1, 1], "authorizer": [1, 1], "aggregator": [1, 1]}
    assert "aggregator-1" in {node["id"] for node in world.rollout.nodes()}


@pytest.mark.timeout(180)
async def test_without_an_aggregator_nobody_waits_for_one(world: World) -> None:
    world.node(NodeKind.AUTHORIZER)
    assert await world.rollout.wait(1, SECONDS)

    await world.source.edit(state(2, "get", "put"))

    assert await world.rollout.wait(2, SECONDS)
    assert world.rollout.programmed(2) == {"envoy": [1, 1], "authorizer": [1, 1]}
    assert NodeKind.AGGREGATOR not in {stage.kind for stage in world.publisher.stages}


@pytest.mark.timeout(180)
async def test_an_edit_reaches_authorizers_and_aggregators_and_is_complete_when_both_have_it(world: World) -> None:
    authorizer, aggregator = world.node(NodeKind.AUTHORIZER), world.node(NodeKind.AGGREGATOR)
    await world.until(lambda: world.rollout.programmed(1).get("aggregator") == [1, 1])

    await world.source.edit(state(2, "get", "put"))
    await world.until(lambda: world.rollout.complete(2))

    assert authorizer.revision == aggregator.revision == 2
    assert len(pb.VirtualServer.FromString(aggregator.holds[VIRTUAL_SERVER]["demo/all"]).items) == 2
    assert {stage.kind for stage in world.publisher.stages if stage.revision == 2} >= {NodeKind.AUTHORIZER, NodeKind.AGGREGATOR}


@pytest.mark.timeout(180)
async def test_an_aggregator_that_refuses_is_shown_and_keeps_nobody_from_switching(world: World) -> None:
    authorizer, aggregator = world.node(NodeKind.AUTHORIZER), world.node(NodeKind.AGGREGATOR)
    await world.until(lambda: world.rollout.programmed(1).get("aggregator") == [1, 1])

    aggregator.refusing = True
    await world.source.edit(state(2, "get", "put"))
    await world.until(lambda: authorizer.revision == 2)
    await world.until(lambda: world.rollout.programmed(2)["aggregator"] == [0, 1])
    await world.source.edit(state(3, "get"))
    await world.until(lambda: authorizer.revision == 3)

    assert not world.rollout.complete(3)
    (shown,) = (node for node in world.rollout.nodes() if node["id"] == "aggregator-1")
    assert shown["state"] == "NACK"
    assert any("this cannot be listed" in kind["error"] for kind in shown["types"])
    aggregator.refusing = False
    await world.source.edit(state(4, "get", "put", "new"))
    await world.until(lambda: world.rollout.complete(4))


@pytest.mark.timeout(180)
async def test_a_suspended_virtual_server_is_told_to_both(world: World) -> None:
    authorizer, aggregator = world.node(NodeKind.AUTHORIZER), world.node(NodeKind.AGGREGATOR)
    await world.until(lambda: world.rollout.programmed(1).get("aggregator") == [1, 1])

    await world.source.edit(state(2, "get", suspended=True))
    await world.until(lambda: world.rollout.complete(2))

    for node in (authorizer, aggregator):
        assert pb.VirtualServer.FromString(node.holds[VIRTUAL_SERVER]["demo/all"]).suspended
