"""The delta ADS server and the authorizers' client of it over real gRPC: Unix sockets and mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from controlplane.certificates import write_certificates
from controlplane.xds.cache import ViewCache
from controlplane.xds.node import CLUSTER, NodeKind
from controlplane.xds.resource_cache import MemoryResourceCache
from controlplane.xds.rollout import Rollout
from controlplane.xds.server import AdsServer
from controlplane.xds.snapshot import Snapshot, build_snapshot
from extauthz.discovery import (
    CATALOG,
    CONTEXT_KEY,
    DELTA_METHOD,
    IDENTITY_PROVIDER,
    MCP_SERVER,
    POLICY_SET,
    SEALING_KEY,
    DiscoveryClient,
    StagedResources,
)
from extauthz.errors import ConfigurationError, PolicyError
from extauthz.transport import LinkIdentity
from extauthz.wire import discovery_pb2 as wire
from tests.unit.xds_world import inputs_of, mcp_server, policy_set, state_of

BUILT = MemoryResourceCache()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - a connection that ends or fails has no event
            await asyncio.sleep(0.01)


def snapshot_of(revision: int, *entries: Any) -> Snapshot:
    state = state_of(revision, *entries)
    return build_snapshot(state, inputs=inputs_of(state), built=BUILT)


class World:
    """A server with a cache that the test writes."""

    def __init__(self, listen: str, identity: LinkIdentity) -> None:
        self.cache = ViewCache()
        self.rollout = Rollout(cache=self.cache)
        self.listen = listen
        self.identity = identity
        self.address = listen
        self.server: AdsServer | None = None

    def publish(self, snapshot: Snapshot) -> None:
        self.cache.publish(NodeKind.ENVOY, snapshot.envoy, revision=snapshot.revision)
        self.cache.publish(NodeKind.AUTHORIZER, snapshot.authorizer, revision=snapshot.revision)
        self.cache.publish(NodeKind.AGGREGATOR, snapshot.aggregator, revision=snapshot.revision)

    async def start(self) -> None:
        self.server = AdsServer(listen=self.listen, cache=self.cache, rollout=self.rollout, identity=self.identity)
        await self.server.__aenter__()
        if self.server.port > 1:
            self.address = f"127.0.0.1:{self.server.port}"

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.__aexit__(None, None, None)
            self.server = None

    async def revision_of(self, node: str, revision: int, seconds: float = 60.0) -> bool:
        def there() -> bool:
            return any(n["id"] == node and n["revision"] == revision and n["state"] == "SYNCED" for n in self.rollout.nodes())

        return await self.rollout.wait_until(there, seconds)

    def node(self, node_id: str) -> dict[str, Any]:
        (found,) = (node for node in self.rollout.nodes() if node["id"] == node_id)
        return found


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="lgx", dir="/tmp") as directory:
        world = World(f"unix:{directory}/ads.sock", LinkIdentity())
        await world.start()
        yield world
        await world.stop()


class Node:
    """An authorizer's side: what it was handed, in order."""

    def __init__(self, refuse: Callable[[int], bool] = lambda _revision: False) -> None:
        self.taken: list[tuple[int, StagedResources]] = []
        self.refuse = refuse

    def take(self, resources: StagedResources, revision: int) -> None:
        if self.refuse(revision):
            raise PolicyError(["demo/crm#0: unrecognized action"])
        self.taken.append((revision, resources))


@contextlib.asynccontextmanager
async def running(client: DiscoveryClient) -> AsyncIterator[DiscoveryClient]:
    task = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_an_authorizer_gets_everything_of_a_revision_at_once(world: World) -> None:
    world.publish(snapshot_of(1, mcp_server("a"), policy_set("p", "permit(principal, action, resource);")))
    node = Node()

    async with running(DiscoveryClient(address=world.address, node_id="authorizer-1", on_revision=node.take)):
        assert await world.revision_of("authorizer-1", 1)

    ((revision, resources),) = node.taken
    assert revision == 1
    assert resources[MCP_SERVER].keys() == {"demo/a"}
    assert resources[POLICY_SET].keys() == {"demo/p"}


async def test_a_change_of_several_types_is_swapped_once(world: World) -> None:
    world.publish(snapshot_of(1, mcp_server("a")))
    node = Node()
    async with running(DiscoveryClient(address=world.address, node_id="authorizer-1", on_revision=node.take)):
        assert await world.revision_of("authorizer-1", 1)

        world.publish(snapshot_of(2, mcp_server("b"), policy_set("p", "permit(principal, action, resource);")))
        assert await world.revision_of("authorizer-1", 2)

    assert [revision for revision, _ in node.taken] == [1, 2]
    assert node.taken[-1][1][MCP_SERVER].keys() == {"demo/b"}
    assert node.taken[0][1][MCP_SERVER].keys() == {"demo/a"}, "an earlier state is never edited"


async def test_whatever_is_published_meanwhile_every_swap_is_exactly_one_revision(world: World) -> None:
    snapshots = {n: snapshot_of(n, *(mcp_server(f"s{i}") for i in range(n)), policy_set("p", f"// {n}")) for n in range(1, 40)}
    world.publish(snapshots[1])
    node = Node()
    async with running(DiscoveryClient(address=world.address, node_id="authorizer-1", on_revision=node.take)):
        for revision in range(2, 40):
            world.publish(snapshots[revision])
            await asyncio.sleep(0.001 * (revision % 3))
        assert await world.revision_of("authorizer-1", 39)

    for revision, resources in node.taken:
        assert resources[MCP_SERVER].keys() == snapshots[revision].authorizer[MCP_SERVER].keys()
        assert resources[POLICY_SET]["demo/p"] == snapshots[revision].authorizer[POLICY_SET]["demo/p"].value


async def test_a_state_that_cannot_be_built_is_refused_with_its_words_and_the_next_is_taken(world: World) -> None:
    world.publish(snapshot_of(1, mcp_server("a")))
    node = Node(refuse=lambda revision: revision == 2)
    async with running(DiscoveryClient(address=world.address, node_id="authorizer-1", on_revision=node.take)):
        assert await world.revision_of("authorizer-1", 1)

        world.publish(snapshot_of(2, mcp_server("a"), policy_set("bad", "broken")))
        assert await world.rollout.wait_until(lambda: world.node("authorizer-1")["state"] == "NACK", 60)
        shown = world.node("authorizer-1")
        assert shown["revision"] == 1
        assert "unrecognized action" in shown["types"][-1]["error"]
        assert world.rollout.programmed(2)["authorizer"] == [0, 1]

        world.publish(snapshot_of(3, mcp_server("a"), policy_set("good", "fine")))
        assert await world.revision_of("authorizer-1", 3)

    assert [revision for revision, _ in node.taken] == [1, 3]
    assert node.taken[-1][1][POLICY_SET].keys() == {"demo/good"}


async def test_after_a_restart_of_the_control_plane_only_differences_travel(world: World) -> None:
    world.publish(snapshot_of(1, mcp_server("a"), mcp_server("b")))
    node = Node()
    async with running(DiscoveryClient(address=world.address, node_id="authorizer-1", on_revision=node.take)) as client:
        assert await world.revision_of("authorizer-1", 1)
        await world.stop()
        await until(lambda: not client.connected)

        world.cache, world.rollout = ViewCache(), Rollout(cache=ViewCache())
        world.rollout = Rollout(cache=world.cache)
        world.publish(snapshot_of(2, mcp_server("a"), mcp_server("c")))
        await world.start()
        assert await world.revision_of("authorizer-1", 2)
        assert client.connected

    assert node.taken[-1][1][MCP_SERVER].keys() == {"demo/a", "demo/c"}


async def test_a_reconnect_without_changes_swaps_nothing_and_is_known_to_be_connected(world: World) -> None:
    snapshot = snapshot_of(1, mcp_server("a"))
    world.publish(snapshot)
    node = Node()
    async with running(DiscoveryClient(address=world.address, node_id="authorizer-1", on_revision=node.take)) as client:
        assert await world.revision_of("authorizer-1", 1)
        await world.stop()
        await until(lambda: not client.connected)

        await world.start()
        await until(lambda: client.connected)

    assert len(node.taken) == 1


async def test_the_last_good_copy_is_offered_as_held(world: World) -> None:
    snapshot = snapshot_of(1, mcp_server("a"), mcp_server("b"))
    world.publish(snapshot)
    held = {MCP_SERVER: {name: resource.value for name, resource in snapshot.authorizer[MCP_SERVER].items()} | {"demo/gone": b""}}
    node = Node()

    async with running(DiscoveryClient(address=world.address, node_id="authorizer-1", on_revision=node.take, initial=held)):
        assert await world.revision_of("authorizer-1", 1)

    assert node.taken[-1][1][MCP_SERVER].keys() == {"demo/a", "demo/b"}


async def test_a_control_plane_that_has_read_nothing_yet_refuses_streams(world: World) -> None:
    node = Node()
    async with running(DiscoveryClient(address=world.address, node_id="authorizer-1", on_revision=node.take)) as client:
        await until(lambda: "not loaded" in client.error)

        world.publish(snapshot_of(1, mcp_server("a")))
        assert await world.revision_of("authorizer-1", 1)


async def _first_answer(world: World, kind: str, type_url: str, credentials: grpc.ChannelCredentials | None = None) -> Any:
    channel = grpc.aio.secure_channel(world.address, credentials) if credentials else grpc.aio.insecure_channel(world.address)
    async with channel:
        call = channel.stream_stream(
            DELTA_METHOD,
            request_serializer=wire.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=wire.DeltaDiscoveryResponse.FromString,
        )()
        request = wire.DeltaDiscoveryRequest(type_url=type_url)
        request.node.id, request.node.cluster = "node-1", kind
        await call.write(request)
        return await asyncio.wait_for(call.read(), 60)


@pytest.mark.parametrize(
    ("kind", "type_url"),
    [
        ("envoy", MCP_SERVER),
        ("envoy", CATALOG),
        ("authorizer", CLUSTER),
        ("authorizer", SEALING_KEY),
        ("aggregator", CONTEXT_KEY),
        ("aggregator", IDENTITY_PROVIDER),
        ("stranger", CLUSTER),
        ("", MCP_SERVER),
    ],
)
async def test_a_node_gets_no_type_of_another_kind(world: World, kind: str, type_url: str) -> None:
    world.publish(snapshot_of(1, mcp_server("a")))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _first_answer(world, kind, type_url)

    assert refused.value.code() in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}


@pytest.fixture(scope="module")
def certificates() -> Any:
    with tempfile.TemporaryDirectory(prefix="lgc", dir="/tmp") as directory:
        write_certificates(Path(directory), ("control-plane", "authorizer", "aggregator", "envoy", "stranger"))
        yield Path(directory)


def identity(certificates: Path, name: str) -> LinkIdentity:
    return LinkIdentity(cert_file=certificates / f"{name}.crt", key_file=certificates / f"{name}.key", ca_file=certificates / "ca.crt")


@pytest.fixture
async def tls_world(certificates: Path) -> AsyncIterator[World]:
    world = World("127.0.0.1:0", identity(certificates, "control-plane"))
    world.publish(snapshot_of(1, mcp_server("a")))
    await world.start()
    yield world
    await world.stop()


async def test_over_tcp_a_node_is_what_its_certificate_says(tls_world: World, certificates: Path) -> None:
    authorizer = identity(certificates, "authorizer").channel_credentials(tls_world.address)
    envoy = identity(certificates, "envoy").channel_credentials(tls_world.address)

    assert (await _first_answer(tls_world, "authorizer", MCP_SERVER, authorizer)).resources
    assert (await _first_answer(tls_world, "envoy", CLUSTER, envoy)).resources
    aggregator = identity(certificates, "aggregator").channel_credentials(tls_world.address)
    assert (await _first_answer(tls_world, "aggregator", SEALING_KEY, aggregator)).resources


@pytest.mark.parametrize(
    ("name", "claim", "type_url"),
    [
        ("envoy", "authorizer", MCP_SERVER),
        ("aggregator", "authorizer", MCP_SERVER),
        ("authorizer", "aggregator", SEALING_KEY),
        ("stranger", "envoy", CLUSTER),
    ],
)
async def test_over_tcp_a_claim_that_the_certificate_does_not_back_is_refused(
    tls_world: World, certificates: Path, name: str, claim: str, type_url: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _first_answer(tls_world, claim, type_url, identity(certificates, name).channel_credentials(tls_world.address))

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_over_tcp_nobody_without_a_certificate_gets_through(tls_world: World, certificates: Path) -> None:
    anonymous = grpc.ssl_channel_credentials(root_certificates=(certificates / "ca.crt").read_bytes())

    with pytest.raises(grpc.aio.AioRpcError):
        await _first_answer(tls_world, "authorizer", MCP_SERVER, anonymous)


def test_tcp_without_certificates_must_be_asked_for() -> None:
    cache = ViewCache()

    with pytest.raises(ConfigurationError, match="LEGATION_TLS_CERT_FILE"):
        AdsServer(listen="127.0.0.1:0", cache=cache, rollout=Rollout(cache=cache), identity=LinkIdentity())


async def test_several_nodes_are_counted_and_a_lost_one_is_not(world: World) -> None:
    world.publish(snapshot_of(1, mcp_server("a")))
    nodes = [Node(), Node()]
    async with running(DiscoveryClient(address=world.address, node_id="authorizer-1", on_revision=nodes[0].take)):
        async with running(DiscoveryClient(address=world.address, node_id="authorizer-2", on_revision=nodes[1].take)):
            assert await world.revision_of("authorizer-1", 1)
            assert await world.revision_of("authorizer-2", 1)
            assert world.rollout.programmed(1) == {"envoy": [0, 0], "authorizer": [2, 2]}
            assert not world.rollout.complete(1), "no Envoy has it"

        await world.rollout.wait_until(lambda: not world.node("authorizer-2")["connected"], 60)
        assert world.rollout.programmed(1)["authorizer"] == [1, 1]
        assert world.node("authorizer-2")["state"] == "STALE"


async def test_a_removed_server_leaves_the_authorizer(world: World) -> None:
    snapshot = snapshot_of(1, mcp_server("a"), mcp_server("b"))
    world.publish(snapshot)
    node = Node()
    async with running(DiscoveryClient(address=world.address, node_id="authorizer-1", on_revision=node.take)):
        assert await world.revision_of("authorizer-1", 1)

        state = replace(state_of(2, mcp_server("a")))
        world.publish(build_snapshot(state, inputs=inputs_of(state), built=BUILT, previous=snapshot))
        assert await world.revision_of("authorizer-1", 2)

    assert node.taken[-1][1][MCP_SERVER].keys() == {"demo/a"}
