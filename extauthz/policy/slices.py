"""Cedar itself, over exactly the conditional policies whose scope matched: small sets, parsed once, kept in bounded caches.

Everything here is keyed by content, so the caches outlive a revision and are shared by the engines of successive revisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cedarpy

from extauthz.policy.arguments import UnreadableArgumentError, context_json
from extauthz.policy.compiled import CompiledPolicy, ParsedPolicy, Reads
from extauthz.policy.entities import PrincipalView, ResourceView
from extauthz.policy.model import AuthorizationRequest
from extauthz.policy.schema import entity_schema

_KEPT_SLICES: Final = 4096
_KEPT_ENTITIES: Final = 4096
_MAX_KEPT_CHARACTERS: Final = 16_384  # entities of monstrous names are built each time rather than kept


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceResult:
    """What Cedar said of the conditional policies: those satisfied (all permits, or all forbids) and what failed."""

    satisfied: frozenset[CompiledPolicy] = frozenset()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Slice:
    handle: cedarpy.PolicySet
    reads: Reads


class Slices:
    """Evaluates sets of conditional policies. Thread-safe: its caches are, and handles are immutable."""

    def __init__(self) -> None:
        self._slice = lru_cache(maxsize=_KEPT_SLICES)(_make_slice)
        self._entities = lru_cache(maxsize=_KEPT_ENTITIES)(_make_entities)

    def evaluate(
        self, policies: tuple[CompiledPolicy, ...], request: AuthorizationRequest, principal: PrincipalView, resource: ResourceView
    ) -> SliceResult:
        """Ask Cedar. A context that cannot be built is an error, as is anything but a plain Allow or Deny."""
        chosen = self._slice(tuple(policy.parsed for policy in policies))
        try:
            context = context_json(request, chosen.reads)
        except UnreadableArgumentError as error:
            return SliceResult(errors=(str(error),))
        entities_json = f"[{principal.entities_json},{resource.entities_json}]"
        make = self._entities if len(entities_json) <= _MAX_KEPT_CHARACTERS else _make_entities
        question = {
            "principal": {"type": principal.kind, "id": principal.id},
            "action": {"type": "Action", "id": request.action.value},
            "resource": {"type": resource.kind, "id": resource.id},
            "context": context,
        }
        answer = cedarpy.is_authorized(question, chosen.handle, make(entities_json))
        errors = tuple(sorted(_readable(error, policies) for error in answer.diagnostics.errors))
        if answer.decision is cedarpy.Decision.NoDecision:
            return SliceResult(errors=errors or ("Cedar gave no decision",))
        return SliceResult(satisfied=frozenset(policies[_position(name)] for name in answer.diagnostics.reasons), errors=errors)


def _make_slice(policies: tuple[ParsedPolicy, ...]) -> _Slice:
    """Texts, not JSON: Cedar reads JSON only to a depth of 128, which a chain of 60 `&&` exceeds."""
    handle = cedarpy.PolicySet.from_str("\n".join(policy.text for policy in policies))
    if len(handle) != len(policies):
        raise ValueError("the slice is not the policies that it was made of")
    reads = Reads()
    for policy in policies:
        reads |= policy.reads
    return _Slice(handle, reads)


def _make_entities(entities_json: str) -> cedarpy.Entities:
    return cedarpy.Entities.from_json_str(entities_json, entity_schema())


def _position(policy_name: str) -> int:
    """Cedar names the policies of a text by their order: policy0, policy1, …"""
    return int(policy_name.removeprefix("policy"))


def _readable(error: str, policies: tuple[CompiledPolicy, ...]) -> str:
    """Cedar's message with the policy's name in place of its position."""
    before, mark, rest = error.partition("`policy")
    number, closing, after = rest.partition("`")
    if not mark or not closing or not number.isdecimal() or int(number) >= len(policies):
        return error
    return f"{before}`{policies[int(number)].id}`{after}"
