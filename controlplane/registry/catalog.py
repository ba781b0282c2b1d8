"""What a server's definitions mean: the digest of a whole catalog, and the effect of a tool from accepted annotations only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from controlplane.registry.probe import ProbedDefinition
from controlplane.registry.state import Definition
from extauthz.catalog.server import Effect


def catalog_digest(definitions: Iterable[Definition | ProbedDefinition]) -> str:
    """`"sha256:<hex>"` over kind, name and digest of every definition, in an order of its own; of nothing: empty."""
    lines = sorted(f"{d.kind}\t{d.name}\t{d.digest}\n" for d in definitions)
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}" if lines else ""


def effect_of(accepted: Mapping[str, object] | None) -> Effect:
    """What an operator has accepted that the tool does to the world. Nothing accepted, or nothing said: destructive.

    Defaults are MCP's: `readOnlyHint` false, `destructiveHint` true.
    """
    annotations = accepted.get("annotations") if accepted is not None else None
    if not isinstance(annotations, Mapping):
        return Effect.DESTRUCTIVE
    if annotations.get("readOnlyHint") is True:
        return Effect.READ
    return Effect.WRITE if annotations.get("destructiveHint") is False else Effect.DESTRUCTIVE


def accepted_count(definitions: Sequence[Definition]) -> int:
    """How many tools are presented exactly as they were accepted."""
    return sum(d.kind == "tool" and d.digest == d.accepted_digest for d in definitions)
