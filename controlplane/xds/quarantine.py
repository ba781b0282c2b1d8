"""Resources that an Envoy refused: their last good form (or nothing) stands in for them until they change or are forgiven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from controlplane.xds.cache import Resources, XdsResource
from controlplane.xds.node import CLUSTER, ENDPOINT, ENVOY_TYPES, LISTENER, SECRET
from controlplane.xds.rollout import Rollout
from controlplane.xds.subscription import Rejection

FORGIVEN_AFTER_SECONDS = 60.0
"""A refused resource is tried again this often: what Envoy missed (a file of authorities) may have come."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    version_info: str
    until: float


class Quarantine:
    """Which version of which resource is held back."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], _Held] = {}
        self._good: dict[tuple[str, str], XdsResource] = {}

    def remember_good(self, replaced: Mapping[tuple[str, str], XdsResource]) -> None:
        """What is about to be replaced: it stands in when its successor is refused."""
        for key, resource in replaced.items():
            if key not in self._held:
                self._good[key] = resource

    def settled(self) -> None:
        """Everything sent was accepted: predecessors are needed only for what is held."""
        self._good = {key: resource for key, resource in self._good.items() if key in self._held}

    def pending(self, rejections: Mapping[tuple[str, str], Rejection], now: float) -> bool:
        """Whether a resource is newly refused, or due to be tried again."""
        new = any(self._is_new(key, rejection) for key, rejection in rejections.items())
        return new or any(held.until <= now for held in self._held.values())

    def update(self, rollout: Rollout, wanted: Resources, now: float) -> None:
        """Take in new refusals; release what is no longer wanted in that version, or has been held long enough."""
        for key, rejection in rollout.rejections().items():
            if self._is_new(key, rejection):
                logger.error("xDS resource quarantined", type_url=key[0], name=key[1], error=rejection.message)
                self._held[key] = _Held(version_info=rejection.version_info, until=now + FORGIVEN_AFTER_SECONDS)
        for key, held in list(self._held.items()):
            resource = wanted.get(key[0], {}).get(key[1])
            if resource is None or resource.version_info != held.version_info or held.until <= now:
                del self._held[key]
                rollout.forgive(*key)

    def applied(self, resources: Resources) -> Resources:
        """`resources` with every held one replaced by its last good form, or left out; endpoints and secrets go with what needs them."""
        if not self._held:
            return resources
        result = {type_url: dict(named) for type_url, named in resources.items()}
        for key, held in self._held.items():
            type_url, name = key
            bad = result.get(type_url, {}).get(name)
            if bad is None or bad.version_info != held.version_info:
                continue
            if key in self._good:
                result[type_url][name] = self._good[key]
            else:
                del result[type_url][name]
                if type_url == CLUSTER:
                    result[ENDPOINT].pop(name, None)
        needed = {secret for type_url in (CLUSTER, LISTENER) for resource in result[type_url].values() for secret in resource.secrets}
        result[SECRET] = {name: secret for name, secret in result[SECRET].items() if name in needed}
        return result

    def refused_clusters(self, resources: Resources) -> frozenset[str]:
        """Clusters of `resources` that no Envoy can be given, in any form."""
        return frozenset(
            name
            for (type_url, name), held in self._held.items()
            if type_url == CLUSTER and (type_url, name) not in self._good and name in resources.get(CLUSTER, {})
        )

    def _is_new(self, key: tuple[str, str], rejection: Rejection) -> bool:
        held = self._held.get(key)
        return key[0] in ENVOY_TYPES and (held is None or held.version_info != rejection.version_info)
