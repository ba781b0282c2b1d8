"""What operators review: definitions that nobody accepted yet, and those that a server has changed since. Pure.

`service` accepts and rejects, `reader` shows; both find here which definitions are meant and what is to be said of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from controlplane.registry.catalog import catalog_digest, effect_of, is_held
from controlplane.registry.definition_change import differences
from controlplane.registry.entry import Json
from controlplane.registry.refusal import ConflictError, EntryNotFoundError
from controlplane.registry.shadowing import Neighbours
from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import Definition, Entry

NEW, CHANGED, REJECTED, ACCEPTED = "new", "changed", "rejected", "accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedItem:
    """A definition that somebody has looked at: with this digest and no other."""

    kind: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What an acceptance did: the effects that count from `revision` on, and what policies have against it."""

    revision: int
    accepted: tuple[Json, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """What is held from `revision` on: kind and name of each."""

    revision: int
    rejected: tuple[tuple[str, str], ...]


def present_digest(definitions: Collection[Definition], server_id: str, *, reviewed: str = "") -> str:
    """The digest of the catalog that is presented; raises where there is none, or where it is not the one that was reviewed."""
    if not definitions:
        raise ConflictError(f"{server_id} has not been read yet; its definitions are read within seconds of becoming reachable")
    found = catalog_digest(definitions)
    if reviewed and reviewed != found:
        raise ConflictError(f"{server_id} presents other definitions now than those you reviewed; look at them again")
    return found


def named(definitions: Collection[Definition], items: Sequence[ReviewedItem]) -> tuple[Definition, ...]:
    """The definitions that were reviewed, as they are presented now; raises where one is gone, or is another by now."""
    known = {(d.kind, d.name): d for d in definitions}
    chosen: dict[tuple[str, str], Definition] = {}
    for item in items:
        definition = known.get((item.kind, item.name))
        if definition is None:
            raise EntryNotFoundError(f"the server presents no {item.kind} {item.name}")
        if item.digest != definition.digest:
            raise ConflictError(f"{item.kind} {item.name} is another by now than the one that you reviewed; look at it again")
        chosen[item.kind, item.name] = definition
    return tuple(chosen.values())


def review_state(definition: Definition) -> str:
    """How far the review of a definition is."""
    if not definition.pending:
        return ACCEPTED
    return REJECTED if definition.rejected else CHANGED if definition.accepted_digest else NEW


def review_json(entry: Entry[McpServerSpec], definition: Definition) -> Json:
    """One definition in a list of reviews."""
    return {
        "namespace": entry.namespace,
        "server": entry.name,
        "kind": definition.kind,
        "name": definition.name,
        "state": review_state(definition),
        "class": definition.change_class,
        "held": is_held(definition),
        "digest": definition.digest,
        "accepted_digest": definition.accepted_digest,
        "findings": list(definition.findings),
    }


def review_detail(entry: Entry[McpServerSpec], definition: Definition, neighbours: Neighbours) -> Json:
    """The same with both documents and every difference between them."""
    accepted = definition.accepted
    found = (
        differences(
            kind=definition.kind,
            name=definition.name,
            server=entry.name,
            accepted=accepted,
            announced=definition.document,
            neighbours=neighbours,
        )
        if accepted is not None and definition.pending
        else []
    )
    return review_json(entry, definition) | {
        "effect": effect_of(accepted).value if definition.kind == "tool" else "",
        "effect_if_accepted": effect_of(definition.document).value if definition.kind == "tool" else "",
        "accepted": dict(accepted) if accepted is not None else None,
        "announced": dict(definition.document),
        "differences": [
            {"path": d.path, "class": d.change_class.value, "sentence": d.sentence, "before": d.before, "after": d.after} for d in found
        ],
    }
