"""Who holds what: "programmed" is said only from ACKs.

Streams write into a node's record, the publisher waits on it, the API shows it (`/v1/nodes`, `/v1/revisions/{n}`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from controlplane.xds.cache import View, ViewCache
from controlplane.xds.node import DISPENSABLE, SECRET, TYPES_OF_KIND, NodeKind
from controlplane.xds.subscription import Rejection, Subscription

FORGET_AFTER = timedelta(hours=1)


class NodeState(StrEnum):
    """How a node stands to the newest view of its kind."""

    SYNCED = "SYNCED"
    SENT = "SENT"
    STALE = "STALE"
    NACK = "NACK"


@dataclass(slots=True, kw_only=True)
class NodeRecord:
    """One node, connected or remembered. `acked_sequence` is the newest view that it holds wholly.

    `settled_sequence` is the newest view of which everything sent was answered, be it by a NACK.
    """

    node_id: str
    kind: NodeKind
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    connected: bool = True
    stale: bool = False
    acked_sequence: int = 0
    settled_sequence: int = 0
    revision: int = 0
    last_seen_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def refused(self) -> bool:
        """Whether a resource stands refused by this node."""
        return any(subscription.error or subscription.rejected for subscription in self.subscriptions.values())

    @property
    def resumed(self) -> bool:
        """Whether the node was served before, by an earlier stream."""
        return any(subscription.resumed for subscription in self.subscriptions.values())

    def rejections(self) -> dict[tuple[str, str], Rejection]:
        """What this node refuses, by type URL and resource name."""
        return {(type_url, name): r for type_url, subscription in self.subscriptions.items() for name, r in subscription.rejected.items()}

    def saw(self, view: View) -> None:
        """Note how far the node is with this view."""
        self.last_seen_at = datetime.now(UTC)
        if all(subscription.pending is None for subscription in self.subscriptions.values()):
            self.settled_sequence = view.sequence
        if all(subscription.holds(view) for subscription in self.subscriptions.values()):
            self.acked_sequence = view.sequence
            self.revision = view.revision
            self.stale = False


class Rollout:
    """Every node that spoke to this control plane, and how far each is."""

    def __init__(self, *, cache: ViewCache) -> None:
        self._cache = cache
        self._records: dict[tuple[NodeKind, str], NodeRecord] = {}
        self._changed = asyncio.Event()

    def connect(self, kind: NodeKind, node_id: str) -> NodeRecord:
        """A stream of this node opened; it replaces the node's earlier one."""
        previous = self._records.get((kind, node_id))
        subscriptions = {type_url: Subscription(type_url) for type_url in TYPES_OF_KIND[kind]}
        record = NodeRecord(node_id=node_id, kind=kind, subscriptions=subscriptions, revision=previous.revision if previous else 0)
        self._records[kind, node_id] = record
        self._forget_old()
        self.notify()
        return record

    def disconnect(self, record: NodeRecord) -> None:
        """The record's stream ended. Nothing happens to a newer record of the same node."""
        record.connected = False
        record.last_seen_at = datetime.now(UTC)
        self.notify()

    def notify(self) -> None:
        """Something about a node changed: wake who waits."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def connected(self, kind: NodeKind) -> list[NodeRecord]:
        """Nodes of this kind with an open stream, by id."""
        return sorted((r for r in self._records.values() if r.kind is kind and r.connected), key=lambda record: record.node_id)

    def rejections(self) -> dict[tuple[str, str], Rejection]:
        """What connected nodes refuse, by type URL and resource name."""
        return {key: rejection for record in self._records.values() if record.connected for key, rejection in record.rejections().items()}

    def forgive(self, type_url: str, name: str) -> None:
        """Forget that a resource was refused: it is gone, or worth another attempt."""
        for record in self._records.values():
            subscription = record.subscriptions.get(type_url)
            if subscription is not None and subscription.rejected.pop(name, None) is not None and not subscription.rejected:
                subscription.error = ""

    async def wait_until(self, holds: Callable[[], bool], timeout_seconds: float) -> bool:
        """Whether `holds()` became true in time; looked at whenever a node's record changes."""
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while not holds():
            changed = self._changed
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                return holds()
        return True

    # what the API shows

    def programmed(self, revision: int) -> dict[str, list[int]]:
        """`{"envoy": [acked, total], "authorizer": [acked, total]}` over connected nodes, and `aggregator` where there is one."""
        counts = {kind: self._count(kind, revision) for kind in NodeKind}
        return {kind.value: count for kind, count in counts.items() if count[1] or kind not in DISPENSABLE}

    def complete(self, revision: int) -> bool:
        """Whether at least one node of each kind is connected (aggregators may be none), and all of them accepted this revision."""
        return all(total > 0 and acked == total for acked, total in self.programmed(revision).values())

    async def wait(self, revision: int, timeout_seconds: float) -> bool:
        """Whether the revision was complete in time."""
        return await self.wait_until(lambda: self.complete(revision), timeout_seconds)

    def nodes(self) -> list[dict[str, Any]]:
        """Every remembered node as `/v1/nodes` shows it."""
        return [self._as_json(record) for _, record in sorted(self._records.items())]

    def state_of(self, record: NodeRecord) -> NodeState:
        """One word for how this node stands."""
        if record.connected and record.refused:
            return NodeState.NACK
        view = self._cache.view(record.kind)
        if not record.connected or record.stale:
            return NodeState.STALE
        return NodeState.SYNCED if view is not None and record.acked_sequence >= view.sequence else NodeState.SENT

    def _count(self, kind: NodeKind, revision: int) -> list[int]:
        records = self.connected(kind)
        return [sum(record.revision >= revision and not record.refused for record in records), len(records)]

    def _as_json(self, record: NodeRecord) -> dict[str, Any]:
        return {
            "id": record.node_id,
            "kind": record.kind.value,
            "connected": record.connected,
            "revision": record.revision,
            "state": self.state_of(record).value,
            "serving": record.acked_sequence > 0,
            "types": [_type_as_json(subscription) for subscription in record.subscriptions.values()],
            "last_seen_at": record.last_seen_at.isoformat(),
        }

    def _forget_old(self) -> None:
        horizon = datetime.now(UTC) - FORGET_AFTER
        for key in [key for key, record in self._records.items() if not record.connected and record.last_seen_at < horizon]:
            del self._records[key]


def _type_as_json(subscription: Subscription) -> dict[str, Any]:
    if subscription.error or subscription.rejected:
        state = NodeState.NACK
    else:
        waiting = not subscription.started and subscription.type_url != SECRET  # (an Envoy whose listeners need no secret asks for none)
        state = NodeState.SENT if subscription.pending is not None or waiting else NodeState.SYNCED
    refused = [f"{name}: {rejection.message}" for name, rejection in sorted(subscription.rejected.items())]
    return {
        "type_url": subscription.type_url,
        "version": str(subscription.acked_revision),
        "state": state.value,
        "error": "; ".join(refused) or subscription.error,
    }
