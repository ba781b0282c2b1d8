"""What each kind of node should hold right now. The publisher is the only writer; streams read and are woken.

A view is immutable and whole: a stream compares what its node holds with the newest view and sends the difference, so a slow
node skips what was superseded and nothing ever queues up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message

from controlplane.xds.node import NodeKind
from extauthz.discovery import version_of


@dataclass(frozen=True, slots=True, kw_only=True)
class XdsResource:
    """One serialised resource. `version_info` is a hash of its content, equal on every replica.

    `secrets`: the secrets that a listener or cluster needs, by name; they are in a view as long as it is.
    """

    name: str
    version_info: str
    value: bytes = field(repr=False)
    secrets: tuple[str, ...] = ()


def make_resource(name: str, message: Message) -> XdsResource:
    """One of our own messages as a resource."""
    value = message.SerializeToString(deterministic=True)
    return XdsResource(name=name, version_info=version_of(value), value=value)


Resources = Mapping[str, Mapping[str, XdsResource]]
"""Resources by type URL and name."""


def replaced(before: Resources, after: Resources) -> dict[tuple[str, str], XdsResource]:
    """What `after` has in another version."""
    return {
        (type_url, name): resource
        for type_url, named in before.items()
        for name, resource in named.items()
        if name in after[type_url] and after[type_url][name].version_info != resource.version_info
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What nodes of one kind should hold. `revision` is the newest registry revision that is wholly in it.

    `removing` False: what a node holds beyond the view stays for now (the first moments after a start, when authorizers may
    still name clusters of an older revision).
    """

    sequence: int
    revision: int
    resources: Resources
    removing: bool = True


class ViewCache:
    """The current view per node kind, and who wants to know."""

    def __init__(self) -> None:
        self._views: dict[NodeKind, View] = {}
        self._watches: dict[NodeKind, set[asyncio.Event]] = {kind: set() for kind in NodeKind}
        self._sequence = 0

    def view(self, kind: NodeKind) -> View | None:
        """The newest view; None before the registry was read: streams are refused then."""
        return self._views.get(kind)

    def publish(self, kind: NodeKind, resources: Resources, *, revision: int, removing: bool = True) -> View:
        """Make this the newest view and wake every stream of the kind."""
        self._sequence += 1
        view = View(sequence=self._sequence, revision=revision, resources=resources, removing=removing)
        self._views[kind] = view
        for wake in self._watches[kind]:
            wake.set()
        return view

    def watch(self, kind: NodeKind, wake: asyncio.Event) -> Callable[[], None]:
        """Set `wake` on every publish until the returned function is called."""
        self._watches[kind].add(wake)
        return lambda: self._watches[kind].discard(wake)
