"""Registry edits under constant traffic on the real Envoy: no call to a server that exists is lost, removed ones end in 404."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from controlplane.registry.spec import McpServerSpec, PolicySetSpec
from controlplane.registry.state import Entry
from controlplane.xds.node import CLUSTER, ENDPOINT, NodeKind
from controlplane.xds.publisher import Pace
from tests.e2e.envoy_world import EnvoyWorld, connected_envoys, envoy_world, patient_pace, server_entry, state_of, upstream

pytestmark = pytest.mark.envoy


FORBID = PolicySetSpec(cedar="forbid (principal, action, resource);")


class RefusedAuthorities:
    """Certificates that Envoy refuses, whatever a real reader would have said."""

    def read(self, namespace: str, file: str) -> bytes:
        return f"no certificates: {namespace}/{file}".encode()


def answering(name: str):
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=f"{name} {request.path}")

    return answer


@contextlib.asynccontextmanager
async def two_upstreams() -> AsyncIterator[tuple[int, int]]:
    async with upstream(answering("one")) as one, upstream(answering("two")) as two:
        yield one, two


class Traffic:
    """Calls the same server all the time, and remembers what came back."""

    def __init__(self, world: EnvoyWorld, path: str = "/servers/demo/crm/mcp") -> None:
        self._world = world
        self._path = path
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []

    async def run(self) -> None:
        while True:
            try:
                answer = await self._world.post(self._path)
            except (OSError, web.HTTPException) as error:
                self.failures.append(repr(error))
                continue
            self.statuses[answer.status] += 1
            if answer.status != 200:
                self.failures.append(f"{answer.status} {answer.body!r}")

    async def more_than(self, calls: int) -> None:
        """Wait until so many calls went well, or one did not."""
        while self.statuses[200] <= calls and not self.failures:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def flowing(self, callers: int = 4) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.run()) for _ in range(callers)]
        try:
            yield
        finally:
            await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_sixty_edits_under_traffic_lose_no_call(tmp_path: Path) -> None:
    async with two_upstreams() as (one, two):
        entry = server_entry("crm", f"http://127.0.0.1:{one}/mcp")
        async with envoy_world(tmp_path, state_of(1, entry), pace=patient_pace(grace_seconds=0.3, starting_seconds=0.5)) as world:
            world.answer = world.allow_by_path
            traffic = Traffic(world)
            took: list[float] = []
            async with traffic.flowing():
                for revision in range(2, 62):
                    entries = edited(revision, one, two)
                    started = time.perf_counter()
                    world.source.commit(state_of(revision, *entries))
                    await world.programmed(revision)
                    took.append(time.perf_counter() - started)
                await traffic.more_than(200)
            print(f"edits: p50 {sorted(took)[30] * 1000:.1f} ms, calls {sum(traffic.statuses.values())}")

            assert traffic.failures == []
            assert {type_["error"] for node in world.rollout.nodes() for type_ in node["types"]} == {""}
            assert all(stage.outcome == "acknowledged" for stage in world.publisher.stages)


def edited(revision: int, one: int, two: int) -> list[Entry[McpServerSpec]]:
    """Each revision changes the address, the path, the limit of crm, or adds and removes other servers."""
    port = one if revision % 2 else two
    crm = server_entry("crm", f"http://127.0.0.1:{port}/mcp/{revision // 3}", maxConcurrentCalls=100 + revision % 5)
    others = [server_entry(f"other-{n}", f"http://127.0.0.1:{one}/mcp", uid=f"u{revision}-{n}") for n in range(revision % 4)]
    return [crm, *others]


async def test_a_removed_server_is_gone_for_authorizers_first_and_from_envoy_after_the_grace(tmp_path: Path) -> None:
    async with two_upstreams() as (one, _two):
        kept, removed = server_entry("crm", f"http://127.0.0.1:{one}/mcp"), server_entry("old", f"http://127.0.0.1:{one}/mcp")
        pace = patient_pace(grace_seconds=0.5, starting_seconds=0.2)
        async with envoy_world(tmp_path, state_of(1, kept, removed), pace=pace, check_timeout_ms=3000) as world:
            world.answer = world.allow_by_path
            name = world.servers["demo/old"].cluster
            assert (await world.post("/servers/demo/old/mcp")).status == 200

            world.source.commit(state_of(2, kept))
            await world.programmed(2)

            assert (await world.post("/servers/demo/old/mcp")).status == 404
            assert name in await world.admin("/clusters")
            for _ in range(600):
                if name not in await world.admin("/clusters"):
                    break
                await asyncio.sleep(0.1)
            assert name not in await world.admin("/clusters")
            assert (await world.post()).status == 200


async def test_an_edit_of_the_address_alone_keeps_the_cluster(tmp_path: Path) -> None:
    async with (
        two_upstreams() as (one, two),
        envoy_world(tmp_path, state_of(1, server_entry("crm", f"http://127.0.0.1:{one}/mcp"))) as world,
    ):
        world.answer = world.allow_by_path
        before = world.servers["demo/crm"].cluster

        world.source.commit(state_of(2, server_entry("crm", f"http://127.0.0.1:{two}/mcp")))
        await world.programmed(2)

        assert world.servers["demo/crm"].cluster == before
        assert (await world.post()).body == b"two /mcp"


async def test_one_bad_resource_never_blocks_the_others(tmp_path: Path) -> None:
    async with (
        two_upstreams() as (one, two),
        envoy_world(tmp_path, state_of(1, server_entry("crm", f"http://127.0.0.1:{one}/mcp")), authorities=RefusedAuthorities()) as world,
    ):
        world.answer = world.allow_by_path
        bad = server_entry("bad", "https://127.0.0.1:1/mcp", tls={"caFile": "refused.pem"})
        good = [server_entry(f"good-{n}", f"http://127.0.0.1:{two}/mcp") for n in range(4)]

        world.source.commit(state_of(2, bad, *good, server_entry("crm", f"http://127.0.0.1:{one}/mcp")))
        await world.until(lambda: "demo/good-0" in world.servers)

        assert [(await world.post(f"/servers/demo/good-{n}/mcp")).status for n in range(4)] == [200] * 4
        assert (await world.post("/servers/demo/bad/mcp")).status == 503
        (node,) = connected_envoys(world)
        assert node["state"] == "NACK"
        assert ["uid-bad" in each["error"] for each in node["types"] if each["type_url"] == CLUSTER] == [True]

        world.source.commit(state_of(3, *good, server_entry("crm", f"http://127.0.0.1:{one}/mcp")))
        await world.programmed(3)
        (node,) = connected_envoys(world)
        assert node["state"] == "SYNCED"


async def test_an_envoy_that_starts_beside_a_bad_resource_serves_all_others(tmp_path: Path) -> None:
    bad = server_entry("bad", "https://127.0.0.1:1/mcp", tls={"caFile": "refused.pem"})
    async with two_upstreams() as (one, _two):
        good = [server_entry(f"good-{n}", f"http://127.0.0.1:{one}/mcp") for n in range(5)]
        state, pace = state_of(1, bad, *good), Pace(stage_timeout_seconds=5)
        async with envoy_world(tmp_path, state, pace=pace, authorities=RefusedAuthorities(), complete=False) as world:
            world.answer = world.allow_by_path
            await world.until(lambda: "demo/good-0" in world.servers)

            assert [(await world.post(f"/servers/demo/good-{n}/mcp")).status for n in range(5)] == [200] * 5
            assert not world.rollout.complete(1)


async def test_nothing_can_take_every_cluster_away_from_envoy(tmp_path: Path) -> None:
    async with (
        two_upstreams() as (one, _two),
        envoy_world(
            tmp_path, state_of(1, server_entry("crm", f"http://127.0.0.1:{one}/mcp")), pace=patient_pace(starting_seconds=0.2)
        ) as world,
    ):
        world.answer = world.allow_by_path
        cache = world.control_plane.cache
        view = cache.view(NodeKind.ENVOY)
        assert view is not None

        cache.publish(NodeKind.ENVOY, dict(view.resources) | {CLUSTER: {}, ENDPOINT: {}}, revision=1)
        await world.until(lambda: connected_envoys(world)[0]["state"] == "NACK")

        assert (await world.post()).status == 200


async def test_a_bad_edit_of_a_server_leaves_its_last_good_form_in_service(tmp_path: Path) -> None:
    async with (
        two_upstreams() as (one, _two),
        envoy_world(
            tmp_path,
            state_of(1, server_entry("crm", f"http://127.0.0.1:{one}/mcp")),
            authorities=RefusedAuthorities(),
            pace=patient_pace(grace_seconds=0),
            check_timeout_ms=500,
        ) as world,
    ):
        world.answer = world.allow_by_path

        bad = server_entry("crm", "https://127.0.0.1:1/mcp", tls={"caFile": "refused.pem"})
        world.source.commit(state_of(2, bad))
        await world.until(lambda: world.publisher.published is not None and world.publisher.published.revision == 2)
        await asyncio.sleep(1.5)

        assert (await world.post()).status == 200


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_forbid_does_not_wait_for_an_envoy_that_refuses_or_stalls(tmp_path: Path, stalled: bool) -> None:
    async with two_upstreams() as (one, _two):
        crm = server_entry("crm", f"http://127.0.0.1:{one}/mcp")
        kill = Entry(uid="uid-kill", namespace="demo", name="kill", spec=FORBID, resource_revision=5)
        pace = Pace(stage_timeout_seconds=5)
        async with envoy_world(tmp_path, state_of(1, crm), authorities=RefusedAuthorities(), pace=pace) as world:
            if stalled:
                world.envoy.send_signal(19)  # SIGSTOP: this Envoy answers nothing any more
            for revision, name in ((2, "a"), (3, "b"), (4, "c")):
                bad = server_entry("bad", f"https://127.0.0.1:1/{name}", tls={"caFile": f"{name}.pem"})
                world.source.commit(state_of(revision, crm, bad))
                await asyncio.sleep(0.1)
            started = time.perf_counter()

            world.source.commit(replace(state_of(5, crm, bad), policy_sets={"demo/kill": kill}))
            await world.until(lambda: "demo/kill" in world.policies[-1])
            print(f"forbidden after {(time.perf_counter() - started) * 1000:.0f} ms")
            assert world.publisher.published is not None
            waiting = world.publisher.published.revision < 5
            first = len(world.policies) - 1
            await world.until(lambda: world.publisher.published is not None and world.publisher.published.revision == 5)
            world.envoy.send_signal(18)

            assert waiting or not stalled, "the forbid was told while the revisions before it waited for Envoy"
            assert all("demo/kill" in policies for policies in world.policies[first:]), "what was forbidden stays forbidden"


async def test_a_suspension_does_not_wait_for_envoys(tmp_path: Path) -> None:
    async with two_upstreams() as (one, two):
        entries = [server_entry(name, f"http://127.0.0.1:{one}/mcp") for name in ("crm", "victim", "removed")]
        async with envoy_world(tmp_path, state_of(1, *entries), pace=Pace(stage_timeout_seconds=5)) as world:
            world.envoy.send_signal(19)  # SIGSTOP: this Envoy answers nothing any more
            suspended = server_entry("victim", f"http://127.0.0.1:{one}/mcp", suspended=True)
            new = server_entry("new", f"http://127.0.0.1:{two}/mcp")
            started = time.perf_counter()

            world.source.commit(state_of(2, entries[0], suspended, new))
            await world.until(lambda: "demo/removed" not in world.servers)
            print(f"suspended after {(time.perf_counter() - started) * 1000:.0f} ms")
            seen = dict(world.servers)
            await world.until(lambda: "demo/new" in world.servers)
            world.envoy.send_signal(18)

            assert seen["demo/victim"].suspended
            assert "demo/new" not in seen
            assert "demo/new" in world.servers
            assert "proceeded" in [stage.outcome for stage in world.publisher.stages]
