"""What fell out of the newest snapshot and stays with Envoys a little: a decision under way may still name it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from controlplane.xds.cache import Resources, XdsResource
from controlplane.xds.node import CLUSTER, ENDPOINT, SECRET
from controlplane.xds.snapshot import Snapshot


@dataclass(slots=True, kw_only=True)
class _Retiring:
    cluster: XdsResource
    endpoints: XdsResource
    secrets: Mapping[str, XdsResource]
    due: float = math.inf


class Retirement:
    """Clusters (with their endpoints and secrets) on their way out; due only a grace after authorizers stopped naming them."""

    def __init__(self, *, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._retiring: dict[str, _Retiring] = {}
        self._held: frozenset[str] = frozenset()

    def update(self, snapshot: Snapshot, previous: Snapshot | None, told: Resources | None, now: float) -> None:
        """Take in what the snapshot no longer has and Envoys were `told`; let go what came back or is due."""
        clusters = snapshot.envoy[CLUSTER]
        for name in [name for name, retiring in self._retiring.items() if name in clusters or retiring.due <= now]:
            del self._retiring[name]
        if previous is None or told is None:
            return
        for name in previous.envoy[CLUSTER].keys() - clusters.keys():
            if name in told[CLUSTER] and name in told[ENDPOINT]:
                cluster = told[CLUSTER][name]
                secrets = {secret: told[SECRET][secret] for secret in cluster.secrets if secret in told[SECRET]}
                self._retiring[name] = _Retiring(cluster=cluster, endpoints=told[ENDPOINT][name], secrets=secrets)

    def added_to(self, resources: Resources) -> Resources:
        """`resources` and everything that is retiring."""
        if not self._retiring:
            return resources
        clusters = {name: retiring.cluster for name, retiring in self._retiring.items()}
        endpoints = {name: retiring.endpoints for name, retiring in self._retiring.items()}
        secrets = {name: secret for retiring in self._retiring.values() for name, secret in retiring.secrets.items()}
        added = {SECRET: secrets, CLUSTER: clusters, ENDPOINT: endpoints}
        return dict(resources) | {type_url: named | dict(resources[type_url]) for type_url, named in added.items()}

    def hold(self, names: Collection[str]) -> None:
        """Clusters that authorizers go on naming: they are not due, whatever happens."""
        self._held = frozenset(names)
        for name in self._held & self._retiring.keys():
            self._retiring[name].due = math.inf

    def switched(self, now: float) -> None:
        """Authorizers stopped naming what is retiring (but for what is held): the grace begins."""
        for name, retiring in self._retiring.items():
            if retiring.due == math.inf and name not in self._held:
                retiring.due = now + self._grace_seconds

    def due(self, now: float) -> bool:
        """Whether something may go now."""
        return any(retiring.due <= now for retiring in self._retiring.values())
