"""How a revision reaches every node without losing a call: make before break, gated by ACKs, removal last.

    (1) what cannot wait: when (2) takes time, authorizers and aggregators forget removed and suspended servers and learn revocations before
        it, and when it takes longer than a healthy Envoy does, they are told the newest policies over the servers they know
    (2) Envoys add clusters and endpoints of the new revision beside what they have          -> ACK
    (3) authorizers and aggregators switch to the new revision as a whole                    -> ACK
    (4) after a grace (a decision under way may still name the old cluster) Envoys remove

The publisher is the only writer of the cache. A node that does not answer in time is marked stale and the stage proceeds; a
stale node is safe, because authorizers deny what they do not know. A resource that an Envoy refuses is quarantined: its last
good form (or its absence) stands in for it, everything else goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import structlog

from controlplane.registry.encryption import RegistryKey
from controlplane.registry.state import RegistryState
from controlplane.xds.authority_file import AuthorityFiles
from controlplane.xds.building import is_builder_loaded, warm_up_builder
from controlplane.xds.cache import Resources, View, ViewCache, replaced
from controlplane.xds.certificate_source import CertificateSources
from controlplane.xds.gateway import GatewaySettings
from controlplane.xds.node import DISPENSABLE, NodeKind
from controlplane.xds.quarantine import Quarantine
from controlplane.xds.resolver import Resolver, hosts_of
from controlplane.xds.resource_cache import FileResourceCache, MemoryResourceCache
from controlplane.xds.retirement import Retirement
from controlplane.xds.revocation import governed, keeping_refused, listed, revoked
from controlplane.xds.rollout import NodeRecord, Rollout
from controlplane.xds.snapshot import Snapshot, SnapshotInputs, build_snapshot
from controlplane.xds.trust_bundle import NO_BUNDLES, BundleFollower, TrustBundles

logger = structlog.get_logger(__name__)

STAGE_TIMEOUT_SECONDS = 5.0
"""Longer than a disk or a busy machine holds up a healthy node; revocations and policies do not wait for it."""
GRACE_SECONDS = 1.0
REFRESH_SECONDS = 30.0
CERTIFICATES_SECONDS = 1.0
"""How often files of listeners' certificates are looked at: a look is a `stat` per file."""
STARTING_SECONDS = 5.0
RECONNECT_SECONDS = 3.0
SETTLE_SECONDS = 1.0
BUNDLE_SECONDS = 3.0
"""How long a start waits for trust bundles of which there is no last good copy."""
TICK_SECONDS = 0.25
WARM_UP_SECONDS = 10.0
KEPT_STAGES = 200
PATIENCE_SECONDS = 0.25
"""How long policies wait for the servers of their revision: stages that go well are over by then."""
MOST_REFUSALS = 10
"""How often the rest of a revision is waited for again because something in it was refused; then it proceeds."""


class StateSource(Protocol):
    """Where the registry is read (`registry.live.LiveState`)."""

    @property
    def state(self) -> RegistryState:
        """The newest state; cheap, never blocks."""

    async def wait(self, after: int) -> RegistryState:
        """The newest state, as soon as its revision is above `after`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What became of one stage: `acknowledged` by all, or `proceeded` without the nodes named."""

    revision: int
    kind: NodeKind
    outcome: str
    missing: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long stages wait."""

    stage_timeout_seconds: float = STAGE_TIMEOUT_SECONDS
    grace_seconds: float = GRACE_SECONDS
    starting_seconds: float = STARTING_SECONDS
    reconnect_seconds: float = RECONNECT_SECONDS
    settle_seconds: float = SETTLE_SECONDS
    refresh_seconds: float = REFRESH_SECONDS
    certificates_seconds: float = CERTIFICATES_SECONDS


class Publisher:
    """Follows the registry until cancelled (`run`). `published` is the newest snapshot that went out."""

    def __init__(
        self,
        *,
        source: StateSource,
        cache: ViewCache,
        rollout: Rollout,
        gateway: GatewaySettings,
        key: RegistryKey,
        resolver: Resolver,
        authorities: AuthorityFiles,
        certificates: CertificateSources,
        bundles: BundleFollower | None = None,
        built: FileResourceCache | MemoryResourceCache | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        pace: Pace = Pace(),
    ) -> None:
        self._source = source
        self._cache = cache
        self._rollout = rollout
        self._gateway = gateway
        self._key = key
        self._resolver = resolver
        self._authorities = authorities
        self._certificates = certificates
        self._bundles = bundles
        self._built = built if built is not None else MemoryResourceCache()
        self._clock = clock
        self._pace = pace
        self._quarantine = Quarantine()
        self._retirement = Retirement(grace_seconds=pace.grace_seconds + gateway.check_timeout_ms / 1000)
        self._wake = asyncio.Event()
        self._standing = asyncio.Event()
        self._again = False
        self._busy_since: float | None = None
        self._switched: Snapshot | None = None  # what authorizers and aggregators were told last, before what could not wait
        self._ahead = False
        self._removing = False
        self.published: Snapshot | None = None
        self.stages: deque[Stage] = deque(maxlen=KEPT_STAGES)

    async def run(self) -> None:
        """Publish the current state, then every newer one, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish_always())
            tasks.create_task(self._follow())
            tasks.create_task(self._refresh())
            tasks.create_task(self._refresh_certificates())
            tasks.create_task(self._tick())
            tasks.create_task(self._warm_up())
            if self._bundles is not None:
                tasks.create_task(self._bundles.run())
                tasks.create_task(self._follow_bundles(self._bundles))

    # what wakes the publisher

    async def _follow(self) -> None:
        """A revocation does not wait for the stage that another revision is in, policies not for one that takes long."""
        revision = self._source.state.revision
        while True:
            revision = (await self._source.wait(revision)).revision
            await self._learn_bundles()
            if self._busy_since is not None:
                self._revoke()
            self._lose_patience()
            self._wake.set()

    async def _follow_bundles(self, bundles: BundleFollower) -> None:
        """An authority that is gone from its bundle is revoked, and waits for nobody either."""
        seen: TrustBundles = NO_BUNDLES
        while True:
            seen = await bundles.wait(seen)
            if self._busy_since is not None:
                self._revoke()
            if self.published is None or self.published.inputs.bundles is not seen:
                self._publish_again()

    async def _learn_bundles(self) -> None:
        if self._bundles is not None:
            await self._bundles.learn(self._source.state.trust_domains)

    def _known_bundles(self) -> TrustBundles:
        return self._bundles.known if self._bundles is not None else NO_BUNDLES

    async def _refresh(self) -> None:
        """What is read outside the registry may change without an edit: names and certificate authorities."""
        while True:
            await asyncio.sleep(self._pace.refresh_seconds)
            if await _tried(self._read_names_again):
                self._publish_again()

    async def _read_names_again(self) -> bool:
        state = self._source.state
        self._resolver.keep_only(host for entry in state.mcp_servers.values() for host in hosts_of(entry.spec))
        self._authorities.keep_only([*state.mcp_servers.values(), *state.gateways.values()])
        self._certificates.keep_only([*state.mcp_servers.values(), *state.gateways.values()])
        moved, rotated = await self._resolver.refresh(), await self._authorities.refresh()
        return bool(moved or rotated)

    async def _refresh_certificates(self) -> None:
        """Certificates that Envoys present, and the authorities of their clients, are replaced by whoever renews them."""
        while True:
            await asyncio.sleep(self._pace.certificates_seconds)
            if await _tried(self._read_certificates_again):
                self._publish_again()

    async def _read_certificates_again(self) -> bool:
        gateways = self._source.state.gateways.values()
        rotated = bool(await self._certificates.refresh())
        return bool(gateways and await self._authorities.refresh(gateways)) or rotated

    async def _tick(self) -> None:
        """What falls due by itself: removals, refused resources, the day's keys, the end of the start."""
        switched_at = math.inf
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._lose_patience()
            if switched_at == math.inf and self._has_authorizer_switched():
                switched_at = _now()
            if not self._removing and _now() - switched_at >= self._pace.starting_seconds:
                self._removing = True
                self._publish_again()
            snapshot = self.published
            new_day = snapshot is not None and snapshot.inputs.day != self._clock().astimezone(UTC).date()
            if new_day or self._retirement.due(_now()) or self._quarantine.pending(self._rollout.rejections(), _now()):
                self._publish_again()

    def _has_authorizer_switched(self) -> bool:
        """Until then some authorizer may decide by what an earlier control plane said, and name clusters that are not in our view."""
        view = self._cache.view(NodeKind.AUTHORIZER)
        return view is not None and any(r.acked_sequence >= view.sequence for r in self._rollout.connected(NodeKind.AUTHORIZER))

    async def _warm_up(self) -> None:
        """After a start that needed no builder, load it before the first edit does: that takes seconds, here nobody waits."""
        await self._standing.wait()
        await self._rollout.wait(self._source.state.revision, WARM_UP_SECONDS)
        if not is_builder_loaded():
            await asyncio.to_thread(warm_up_builder)

    def _publish_again(self) -> None:
        self._again = True
        self._wake.set()

    async def _publish_always(self) -> None:
        while True:
            self._wake.clear()
            state, again = self._source.state, self._again
            self._again = False
            if again or self.published is None or state.revision > self.published.revision:
                self._busy_since = _now()
                try:
                    await self._publish(state)
                except Exception:
                    logger.exception("a revision could not be published; the last one stays", revision=state.revision)
                    await asyncio.sleep(1.0)
                    self._again = True
                finally:
                    self._busy_since = None
                continue
            await self._wake.wait()

    # one revision

    async def _publish(self, state: RegistryState) -> None:
        first = self.published is None
        await self._learn_names(state)
        if first and self._bundles is not None:
            await self._bundles.settle(BUNDLE_SECONDS)
        inputs = SnapshotInputs(
            gateway=self._gateway,
            resolved=self._resolver.resolved,
            key=self._key,
            now=self._clock(),
            authorities=self._authorities.known,
            certificates=self._certificates.known,
            bundles=self._known_bundles(),
        )
        build = partial(build_snapshot, state, inputs=inputs, built=self._built, previous=self.published)
        snapshot = await asyncio.to_thread(build) if first or not is_builder_loaded() else build()
        # (1) and (2) revocations at once, then Envoys add
        await self._add(snapshot)
        # (3) authorizers and aggregators switch
        await self._switch(snapshot)
        # (4) Envoys remove: `_tick` publishes again when the grace is over
        self.published = snapshot
        self._standing.set()
        await self._keep_built(first=first)

    async def _learn_names(self, state: RegistryState) -> None:
        """New names are resolved first, which may take a moment; what cannot wait does not wait for it."""
        await self._learn_bundles()
        then = self.published.state.mcp_servers if self.published is not None else {}
        changed = [entry for name, entry in state.mcp_servers.items() if then.get(name) is not entry]
        if changed:
            self._revoke()
        await self._resolver.learn(host for entry in changed for host in hosts_of(entry.spec))
        gateways = state.gateways.values()
        await self._authorities.learn([*changed, *gateways] if gateways else changed)
        await self._certificates.learn([*changed, *gateways] if gateways else changed)

    async def _add(self, snapshot: Snapshot) -> None:
        """Envoys get the union of old and new, and are waited for when it differs from what they were told."""
        before = self._cache.view(NodeKind.ENVOY)
        self._retirement.update(snapshot, self.published, before.resources if before else None, _now())
        self._quarantine.update(self._rollout, snapshot.envoy, _now())
        resources = self._envoy_resources(snapshot)
        changed = before is None or before.resources != resources
        if before is not None and changed:
            self._revoke()
            self._quarantine.remember_good(replaced(before.resources, resources))
        view = self._cache.publish(NodeKind.ENVOY, resources, revision=snapshot.revision, removing=self._removing)
        if before is None:
            self.published = snapshot  # streams are accepted from now on
            await self._wait_for_reconnects(view)
        if changed:
            await self._wait_for_envoys(view, snapshot)

    async def _wait_for_reconnects(self, view: View) -> None:
        """After our own restart authorizers must not switch before the Envoys are back: the first, and time for the others."""
        started = _now()

        def first_is_back() -> bool:
            return any(record.acked_sequence >= view.sequence for record in self._rollout.connected(NodeKind.ENVOY))

        await self._rollout.wait_until(first_is_back, self._pace.reconnect_seconds)
        if any(record.resumed for record in self._rollout.connected(NodeKind.ENVOY)):
            await asyncio.sleep(max(0.0, self._pace.settle_seconds - (_now() - started)))

    async def _wait_for_envoys(self, view: View, snapshot: Snapshot) -> None:
        """Until they hold the view; what they refuse is quarantined, and the rest is waited for again."""
        await self._stage(NodeKind.ENVOY, view)
        for _ in range(MOST_REFUSALS):
            if not self._quarantine.pending(self._rollout.rejections(), _now()):
                break
            self._quarantine.update(self._rollout, snapshot.envoy, _now())
            view = self._publish_envoy(snapshot)
            await self._stage(NodeKind.ENVOY, view)
        self._quarantine.settled()

    def _publish_envoy(self, snapshot: Snapshot) -> View:
        resources = self._envoy_resources(snapshot)
        return self._cache.publish(NodeKind.ENVOY, resources, revision=snapshot.revision, removing=self._removing)

    def _envoy_resources(self, snapshot: Snapshot) -> Resources:
        return self._quarantine.applied(self._retirement.added_to(snapshot.envoy))

    async def _switch(self, snapshot: Snapshot) -> None:
        """Authorizers get the revision whole, but never a server that a newer revision has revoked, nor older policies than they had."""
        before = self._cache.view(NodeKind.AUTHORIZER)
        refused = self._quarantine.refused_clusters(snapshot.envoy)
        resources, named = keeping_refused(snapshot, refused, before.resources if before else None)
        self._retirement.hold(named)
        newest = self._source.state
        resources = revoked(resources, snapshot.state, newest, key=self._key, bundles=self._known_bundles())
        if self._ahead:
            resources = governed(resources, snapshot, newest, bundles=self._known_bundles())
            self._ahead = newest.revision > snapshot.revision
        self._switched = snapshot
        changed = self._tell(resources, snapshot, snapshot.revision)
        await asyncio.gather(*(self._stage(kind, view) for kind, view in changed.items()))
        if not any(record.refused for record in self._rollout.connected(NodeKind.AUTHORIZER)):
            self._retirement.switched(_now())

    def _tell(self, resources: Resources, snapshot: Snapshot, revision: int) -> dict[NodeKind, View]:
        """Authorizers get `resources`, aggregators what goes with them. The views that differ from the ones before."""
        before = {kind: view.resources for kind in (NodeKind.AUTHORIZER, NodeKind.AGGREGATOR) if (view := self._cache.view(kind))}
        known = (before[NodeKind.AUTHORIZER], before[NodeKind.AGGREGATOR]) if before else None
        told = {NodeKind.AUTHORIZER: resources, NodeKind.AGGREGATOR: listed(resources, snapshot, known)}
        views = {kind: self._cache.publish(kind, told[kind], revision=revision) for kind in told}
        return {kind: view for kind, view in views.items() if before.get(kind) != view.resources}

    def _revoke(self) -> None:
        """Take from authorizers what the newest state no longer has, keeping everything else of the revision they are at."""
        view, snapshot = self._cache.view(NodeKind.AUTHORIZER), self._switched
        if view is None or snapshot is None:
            return
        resources = revoked(view.resources, snapshot.state, self._source.state, key=self._key, bundles=self._known_bundles())
        if resources is not view.resources:
            self._tell(resources, snapshot, view.revision)

    def _lose_patience(self) -> None:
        """Tell authorizers the newest policies when the revision under way takes long: a forbid must not wait for an Envoy."""
        view, snapshot = self._cache.view(NodeKind.AUTHORIZER), self._switched
        if self._busy_since is None or _now() - self._busy_since < PATIENCE_SECONDS or view is None or snapshot is None:
            return
        resources = governed(view.resources, snapshot, self._source.state, bundles=self._known_bundles())
        if resources is not view.resources:
            self._ahead = True
            self._tell(resources, snapshot, view.revision)

    async def _stage(self, kind: NodeKind, view: View) -> None:
        """Wait until every connected node that is not stale answered for the view, or time is over."""
        waited_for = [record for record in self._rollout.connected(kind) if not record.stale]
        started = _now()

        def all_answered() -> bool:
            return all(self._answered(record, view) for record in waited_for)

        if not waited_for and kind in DISPENSABLE:
            return
        await self._rollout.wait_until(all_answered, self._pace.stage_timeout_seconds)
        missing = [record for record in waited_for if not self._answered(record, view)]
        for record in missing:
            record.stale = True
        self._record(view, kind, missing, _now() - started)

    def _answered(self, record: NodeRecord, view: View) -> bool:
        """Accepted, gone, or refused for a reason that is not dealt with yet."""
        if not record.connected or record.acked_sequence >= view.sequence:
            return True
        newly_refused = record.kind is not NodeKind.ENVOY or self._quarantine.pending(record.rejections(), -1.0)
        return record.refused and newly_refused and record.settled_sequence >= view.sequence

    def _record(self, view: View, kind: NodeKind, missing: list[NodeRecord], seconds: float) -> None:
        names = tuple(record.node_id for record in missing)
        outcome = "proceeded" if names else "acknowledged"
        self.stages.append(Stage(revision=view.revision, kind=kind, outcome=outcome, missing=names, seconds=seconds))
        if names:
            logger.warning("nodes did not acknowledge in time, proceeding", revision=view.revision, kind=kind.value, nodes=names)

    async def _keep_built(self, *, first: bool) -> None:
        if isinstance(self._built, FileResourceCache):
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._built.flush)
                if first:
                    await asyncio.to_thread(self._built.drop_unused)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _tried(read: Callable[[], Awaitable[bool]]) -> bool:
    """Whether something changed. Whatever stands in a file or comes from elsewhere, it must not end the publisher: what was read stays."""
    try:
        return await read()
    except Exception:
        logger.exception("what stands outside the registry could not be read again")
        return False
