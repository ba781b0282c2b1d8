"""What a write of one entry says that it has read: the conditions of RFC 9110 section 13."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.registry.entry import StoredEntry
from controlplane.registry.refusal import PreconditionFailedError, PreconditionRequiredError


@dataclass(frozen=True, slots=True, kw_only=True)
class Precondition:
    """If-Match and If-None-Match of a write, as sent: entity tags, or `*`."""

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()

    def check(self, entry: StoredEntry | None) -> None:
        """Raise unless the write may go on; a write of what exists must say what it read."""
        if entry is None:
            if self.if_match:
                raise PreconditionFailedError("there is no such entry; it may have been deleted since you read it")
            return
        tag = f'"{entry.resource_revision}"'
        if self.if_none_match and (self.if_none_match == ("*",) or tag in self.if_none_match):
            raise PreconditionFailedError("the entry exists already")
        if not self.if_match:
            raise PreconditionRequiredError("send If-Match with the ETag that you read (or *)")
        if self.if_match != ("*",) and tag not in self.if_match:
            raise PreconditionFailedError(
                f"the entry was changed in revision {entry.resource_revision}; read it again and repeat your change"
            )
