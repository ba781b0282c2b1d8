"""Everything an aggregator answers from, at one revision: built whole from our xDS resources, swapped whole, never edited."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from extauthz.catalog.virtual import DefinitionKind
from extauthz.state import AuthorizationState, ContextKey
from extauthz.v1 import registry_pb2 as pb

Json = Mapping[str, Any]
_KINDS = frozenset(kind.value for kind in DefinitionKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One tool, prompt, resource or template as clients are to see it."""

    kind: DefinitionKind
    name: str
    document: Json = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCatalog:
    """What one MCP server was found to offer. `fault`: why the last reading failed; `read_at_unix` 0: it was never read."""

    mcp_server_id: str
    definitions: Mapping[DefinitionKind, Mapping[str, Definition]]
    instructions: str = ""
    fault: str = ""
    read_at_unix: float = 0.0
    capabilities: Json = field(default_factory=lambda: MappingProxyType({}))
    server_info: Json = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorState:
    """One revision. `authorization` holds what policies decide by: no credentials, no identity providers, no context keys."""

    authorization: AuthorizationState
    catalogs: Mapping[str, ServerCatalog]  # by the id of their server
    sealing_keys: tuple[ContextKey, ...] = field(default=(), repr=False)

    @property
    def revision(self) -> int:
        return self.authorization.revision


def catalog_from_message(message: pb.Catalog) -> ServerCatalog:
    """One catalog; definitions of a kind that nobody knows, or that are no object, are left out. Raises ValueError for other JSON."""
    definitions: dict[DefinitionKind, dict[str, Definition]] = {kind: {} for kind in DefinitionKind}
    for each in message.definitions:
        if each.kind in _KINDS:
            document = json.loads(each.document_json or b"{}")
            kind = DefinitionKind(each.kind)
            if isinstance(document, dict):
                definitions[kind][each.name] = Definition(kind=kind, name=each.name, document=document)
    return ServerCatalog(
        mcp_server_id=f"{message.namespace}/{message.name}",
        definitions=MappingProxyType({kind: MappingProxyType(of_kind) for kind, of_kind in definitions.items()}),
        instructions=message.instructions,
        fault=message.fault,
        read_at_unix=message.read_at_unix_ms / 1000,
        capabilities=_object(message.capabilities_json),
        server_info=_object(message.server_info_json),
    )


def sealing_keys_from_messages(messages: Iterable[pb.SealingKey]) -> tuple[ContextKey, ...]:
    """The keys that sessions are sealed with."""
    return tuple(
        ContextKey(key_id=m.key_id, key=m.key, not_before_unix=m.not_before_unix, not_after_unix=m.not_after_unix) for m in messages
    )


def _object(text: bytes) -> Json:
    document = json.loads(text or b"{}")
    return MappingProxyType(document if isinstance(document, dict) else {})
