"""The trust bundles that are published: the last good one of every TrustDomain entry."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.registry.trust_bundle import TrustBundle

__all__ = ["TrustBundle", "TrustBundles"]

TrustBundles = Mapping[str, TrustBundle]
"""By the id of the TrustDomain entry (`namespace/name`); the same object until one of them changes. None known: not in it."""
