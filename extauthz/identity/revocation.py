"""Who is refused although their token is good: looked at on every call, after the memory of verified signatures.

    Revocation entries ──▶ RevocationIndex ──▶ `find(principal, now)` ──▶ decision, operators' API

An index never changes; `replaced` makes the next one at the price of copying a dictionary. A call costs a few look-ups, however
many revocations there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from extauthz.identity.principal import Principal, PrincipalKind


class RevokedKind(StrEnum):
    """What can be revoked."""

    OAUTH_CLIENT = "oauth_client"
    SPIFFE_ID = "spiffe_id"
    SUBJECT = "subject"
    TOKEN = "token"  # noqa: S105 - a word, not a secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One entry. `revoked` is qualified by the identity provider (`acme/ann`), or a SPIFFE ID. Times are Unix seconds."""

    id: str
    kind: RevokedKind
    revoked: str
    issued_before_unix: float = math.inf
    expires_at_unix: float = math.inf

    def covers(self, principal: Principal, now: float) -> bool:
        """Whether it holds for this token of what it names. A token that does not say when it was issued is old."""
        return now < self.expires_at_unix and principal.issued_at_unix < self.issued_before_unix


_Key = tuple[RevokedKind, str]


class RevocationIndex:
    """Every revocation, by what it names. Immutable."""

    def __init__(self, revocations: Iterable[Revocation] = ()) -> None:
        self._entries: dict[_Key, tuple[Revocation, ...]] = {}
        self._add(revocations)

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def find(self, principal: Principal, now: float) -> Revocation | None:
        """The revocation that holds for this principal and its token at `now`, or for the workload that calls for it, if there is one."""
        if not self._entries or principal.kind is PrincipalKind.SYSTEM:
            return None
        for key in _keys_of(principal):
            for revocation in self._entries.get(key, ()):
                if revocation.covers(principal, now):
                    return revocation
        return self.find(principal.workload, now) if principal.workload is not None else None

    def replaced(self, before: Mapping[str, Revocation], after: Mapping[str, Revocation], changed: Iterable[str]) -> RevocationIndex:
        """The index of `after`, when this one is that of `before` and they differ in the names `changed` only."""
        result = RevocationIndex()
        result._entries = self._entries.copy()
        for name in changed:
            if name in before:
                result._remove(before[name])
            if name in after:
                result._add((after[name],))
        return result

    def _add(self, revocations: Iterable[Revocation]) -> None:
        for revocation in revocations:
            key = (revocation.kind, revocation.revoked)
            self._entries[key] = (*self._entries.get(key, ()), revocation)

    def _remove(self, revocation: Revocation) -> None:
        key = (revocation.kind, revocation.revoked)
        left = tuple(other for other in self._entries[key] if other is not revocation)
        if left:
            self._entries[key] = left
        else:
            del self._entries[key]


def _keys_of(principal: Principal) -> Iterator[_Key]:
    """The names under which a principal can be revoked; who acts for a subject counts like the subject."""
    yield RevokedKind.SUBJECT, principal.id
    for actor in (principal.actor, *principal.earlier_actors):
        yield RevokedKind.SUBJECT, actor
    if principal.access_token_id:
        yield RevokedKind.TOKEN, f"{principal.provider}/{principal.access_token_id}"
    if principal.oauth_client_id:
        yield RevokedKind.OAUTH_CLIENT, f"{principal.provider}/{principal.oauth_client_id}"
    if principal.kind is PrincipalKind.WORKLOAD:
        yield RevokedKind.SPIFFE_ID, principal.id
