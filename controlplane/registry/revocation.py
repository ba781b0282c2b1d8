"""Revocations as the registry keeps them: read as authorizers read them, followed as they change, pruned when they are over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime

from controlplane.registry.spec import RevocationSpec
from controlplane.registry.state import Entry, RegistryState
from extauthz.identity.revocation import Revocation, RevocationIndex, RevokedKind


def revocation_of(entry: Entry[RevocationSpec]) -> Revocation:
    """The entry as it is checked on every call."""
    kind, revoked = what_is_revoked(entry.spec)
    spec = entry.spec
    return Revocation(
        id=entry.id,
        kind=kind,
        revoked=revoked,
        issued_before_unix=spec.issued_before.timestamp() if spec.issued_before is not None else math.inf,
        expires_at_unix=spec.until.timestamp() if spec.until is not None else math.inf,
    )


def what_is_revoked(spec: RevocationSpec) -> tuple[RevokedKind, str]:
    """The kind and the name; exactly one of the four is set."""
    named = (
        (RevokedKind.TOKEN, spec.token),
        (RevokedKind.SUBJECT, spec.subject),
        (RevokedKind.OAUTH_CLIENT, spec.oauth_client),
        (RevokedKind.SPIFFE_ID, spec.spiffe_id),
    )
    return next((kind, name) for kind, name in named if name is not None)


def wholly_revoked_subjects(state: RegistryState) -> frozenset[str]:
    """Principals whom no new token would let in, now or until a later time."""
    return frozenset(
        entry.spec.subject for entry in state.revocations.values() if entry.spec.subject is not None and entry.spec.issued_before is None
    )


def over(state: RegistryState, now: datetime) -> list[str]:
    """Names of the revocations whose `until` has passed."""
    return [entry.name for entry in state.revocations.values() if entry.spec.until is not None and entry.spec.until <= now]


class RevocationFollower:
    """The index of the newest registry state; costs what changed."""

    def __init__(self) -> None:
        self._entries: Mapping[str, Entry[RevocationSpec]] = {}
        self._values: dict[str, Revocation] = {}
        self._index = RevocationIndex()

    def index(self, state: RegistryState) -> RevocationIndex:
        """The revocations of `state`."""
        entries = state.revocations
        if entries is not self._entries:  # states share what did not change
            changed = [name for name, entry in entries.items() if self._entries.get(name) is not entry]
            gone = [name for name in self._entries if name not in entries]
            values = self._values | {name: revocation_of(entries[name]) for name in changed}
            for name in gone:
                del values[name]
            self._index = self._index.replaced(self._values, values, (*changed, *gone))
            self._entries, self._values = entries, values
        return self._index
