"""One resource type on one delta stream: what the node asked for, was sent, accepted and refused. No I/O.

The rules are those of the xDS protocol: stale nonces never invalidate a change of subscription, a NACK is recognised by
`error_detail` alone, an unknown name is answered (as removed) and remembered, a name subscribed again is sent again.
At most one response of a type waits for its answer, so whatever changes meanwhile is sent once, in its newest form.

A refused response of several resources is halved and sent again until the one bad resource stands alone: one bad resource
spoils its whole response, but it never blocks the others.

Secrets are sent by name only. Envoy keeps a secret that it refused, and then refuses every other secret of the same listener or
cluster because of it: so whatever of a refused response was good before is sent in its old form first, before anything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.xds.cache import View, XdsResource
from controlplane.xds.node import LISTENER, SECRET
from extauthz.wire import discovery_pb2 as wire

MAX_ERROR_CHARACTERS = 2000
"""Of a node's words about what it refused: they are logged and shown by `status`."""

ABSENT = ""
"""Stands for the version of a resource that the node was told does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A resource that a node refused, with the node's words."""

    version_info: str
    message: str


@dataclass(slots=True, kw_only=True)
class Response:
    """What to send next for one type; becomes pending once it was given a nonce. `healing`: what the node held before it refused."""

    changed: list[XdsResource]
    removed: list[str]
    view: View
    nonce: str = ""
    healing: bool = False


@dataclass(slots=True)
class Subscription:
    """State of one type. `sent` and `acked` map names to versions; `sent` also remembers names that do not exist.

    `resumed`: the node came with resources of an earlier stream.
    """

    type_url: str
    started: bool = False
    resumed: bool = False
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    acked: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, Rejection] = field(default_factory=dict)
    pending: Response | None = None
    error: str = ""
    acked_revision: int = 0
    _unanswered: set[str] = field(default_factory=set)
    _suspects: deque[list[str]] = field(default_factory=deque)
    _good: dict[str, XdsResource] = field(default_factory=dict, repr=False)  # secrets only
    _healing: list[XdsResource] = field(default_factory=list, repr=False)

    def receive(self, request: wire.DeltaDiscoveryRequest) -> None:
        """Take an ACK or NACK and any change of the subscription; both may come in one request."""
        if self.pending is not None and request.response_nonce == self.pending.nonce:
            pending, self.pending = self.pending, None
            if request.HasField("error_detail"):
                self._refused(pending, request.error_detail.message[:MAX_ERROR_CHARACTERS])
            else:
                self._accepted(pending)
        if not self.started:
            self._start(request)
            return
        for name in request.resource_names_subscribe:
            self._subscribe(name)
        for name in request.resource_names_unsubscribe:
            self._unsubscribe(name)

    def next_response(self, view: View) -> Response | None:
        """What the node lacks of this view; None when nothing, or while an answer is awaited."""
        if not self.started or self.pending is not None:
            return None
        if self._healing:
            return Response(changed=[self._healing.pop(0)], removed=[], view=view, healing=True)  # one by one: a refusal ends the rest
        available = view.resources.get(self.type_url, {})
        changed = self._changed(available)
        while self._suspects:
            group = set(self._suspects.popleft())
            alone = [resource for resource in changed if resource.name in group]
            if alone:
                return Response(changed=alone, removed=[], view=view)
        removed = (
            [name for name, version in self.sent.items() if version != ABSENT and name not in available] if self._lets_go(view) else []
        )
        removed += [name for name in self._unanswered if name not in available and self.sent.get(name, ABSENT) == ABSENT]
        if not changed and not removed:
            return None
        return Response(changed=changed, removed=removed, view=view)

    def sending(self, response: Response) -> None:
        """The response goes out now; its answer is awaited."""
        self.pending = response
        for resource in response.changed:
            self.sent[resource.name] = resource.version_info
        for name in response.removed:
            self.sent[name] = ABSENT
        self._unanswered.difference_update(response.removed)
        self._unanswered.difference_update(resource.name for resource in response.changed)

    def holds(self, view: View) -> bool:
        """Whether the node accepted everything of this view, and (once removals go out) nothing beyond it.

        A secret is let go by Envoy itself, when nothing needs it any more.
        """
        available = view.resources.get(self.type_url, {})
        if self.pending is not None or not self.started:
            return not available and not self.started
        if self._lets_go(view) and len(self.acked) != len(available):
            return False
        return all(self.acked.get(name) == resource.version_info for name, resource in available.items())

    def _lets_go(self, view: View) -> bool:
        """Whether the node is told what is gone. A listener always: no decision names one, strangers come in by it, and its address may
        be another's by now, which Envoy would refuse.
        """
        return self.type_url == LISTENER or (view.removing and self.type_url != SECRET)

    def _changed(self, available: Mapping[str, XdsResource]) -> list[XdsResource]:
        wanted = available.values() if self.wildcard else [available[name] for name in sorted(self.names) if name in available]
        return [
            resource for resource in wanted if self.sent.get(resource.name) != resource.version_info and not self._is_rejected(resource)
        ]

    def _is_rejected(self, resource: XdsResource) -> bool:
        rejection = self.rejected.get(resource.name)
        return rejection is not None and rejection.version_info == resource.version_info

    def _start(self, request: wire.DeltaDiscoveryRequest) -> None:
        """The first request of a type: what is subscribed to, and what the node still holds from an earlier stream."""
        self.started = True
        asked = set(request.resource_names_subscribe)
        self.wildcard = (not asked or "*" in asked) and self.type_url != SECRET
        self.names = asked - {"*"}
        self.sent = {name: version for name, version in request.initial_resource_versions.items() if self.wildcard or name in self.names}
        self.acked = dict(self.sent)
        self.resumed = bool(self.sent)
        self._unanswered = {name for name in self.names if name not in self.sent}

    def _subscribe(self, name: str) -> None:
        if name == "*":
            self.wildcard = self.type_url != SECRET
            return
        self.names.add(name)
        self.sent.pop(name, None)
        self._unanswered.add(name)

    def _unsubscribe(self, name: str) -> None:
        if name == "*":
            self.wildcard = False
            for held in [held for held in self.sent if held not in self.names]:
                self._forget(held)
            return
        known = name in self.names
        self.names.discard(name)
        if not known and not self.wildcard:
            return
        self._forget(name)
        if self.wildcard:
            self._unanswered.add(name)  # still covered by "*": must be answered with the resource or as removed

    def _forget(self, name: str) -> None:
        self.sent.pop(name, None)
        self.acked.pop(name, None)
        self._good.pop(name, None)
        self._unanswered.discard(name)

    def _accepted(self, response: Response) -> None:
        for resource in response.changed:
            if self.wildcard or resource.name in self.names:
                self.acked[resource.name] = resource.version_info
                if self.type_url == SECRET:
                    self._good[resource.name] = resource
            rejection = self.rejected.get(resource.name)
            if rejection is not None and (self.type_url != SECRET or rejection.version_info == resource.version_info):
                del self.rejected[resource.name]  # (an old secret that heals leaves the new one refused)
        for name in response.removed:
            self.acked.pop(name, None)
        self.acked_revision = response.view.revision
        if not self.rejected:
            self.error = ""

    def _refused(self, response: Response, message: str) -> None:
        self.error = message
        if response.healing:  # by reason of another secret, whose turn comes next
            return
        self._healing = [self._good[r.name] for r in response.changed if r.name in self._good and self._good[r.name] != r]
        names = [resource.name for resource in response.changed]
        for name in names + (response.removed if names else []):
            if name in self.acked:
                self.sent[name] = self.acked[name]
            else:
                self.sent.pop(name, None)
        if len(response.changed) == 1:
            bad = response.changed[0]
            self.rejected[bad.name] = Rejection(version_info=bad.version_info, message=message)
        elif names:
            half = len(names) // 2
            self._suspects.extend([names[:half], names[half:]])
        else:
            for name in response.removed:
                self.acked.pop(name, None)
