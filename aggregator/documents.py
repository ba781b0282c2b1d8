"""The definitions of a front as bytes, ready to be joined into a page: renamed, retitled, and without what is hidden.

Made once for a virtual server and the catalogs of its members, not per caller: who sees which of them is `extauthz.effective_view`.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aggregator.state import ServerCatalog
from extauthz.catalog.virtual import DefinitionKind, Exposed, VirtualServer

Document = dict[str, Any]
_Selection = tuple[DefinitionKind | None, int, frozenset[str]]
_UI = ("ui", "resourceUri")
_UI_FLAT = "ui/resourceUri"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one caller is listed of one kind, as bytes in order. `digest`: another one as soon as anything of it is another."""

    documents: tuple[bytes, ...] = field(repr=False)
    digest: bytes


NO_MEMBER: frozenset[str] = frozenset()
_KEPT_SELECTIONS = 512


class Documents:
    """What clients are told of everything that a front offers. A definition that no catalog has is missing."""

    def __init__(self, virtual_server: VirtualServer, catalogs: Mapping[str, ServerCatalog]) -> None:
        self._virtual_server = virtual_server
        self._catalogs = {
            member.mcp_server_id: catalogs[member.mcp_server_id] for member in virtual_server.members if member.mcp_server_id in catalogs
        }
        self.offering = frozenset(exposed.mcp_server_id for of_kind in virtual_server.items.values() for exposed in of_kind.values())
        self._prefixes = {member.mcp_server_id: member.uri_prefix for member in virtual_server.members if member.uri_prefix}
        self._bytes: dict[DefinitionKind, Mapping[str, bytes]] = {}
        self._digests: dict[DefinitionKind, bytes] = {}
        self._selections: OrderedDict[_Selection, tuple[tuple[Exposed, ...], View | frozenset[str]]] = OrderedDict()

    def are_of(self, virtual_server: VirtualServer, catalogs: Mapping[str, ServerCatalog]) -> bool:
        """Whether they would be the same for these."""
        members = {member.mcp_server_id for member in virtual_server.members}
        now = {server: catalogs[server] for server in members if server in catalogs}
        same = now.keys() == self._catalogs.keys() and all(now[server] is catalog for server, catalog in self._catalogs.items())
        return virtual_server is self._virtual_server and same

    def of(self, kind: DefinitionKind) -> Mapping[str, bytes]:
        """By the name that clients use."""
        made = self._bytes.get(kind)
        if made is None:
            made = self._bytes[kind] = {
                name: _dumped(document)
                for name, exposed in self._virtual_server.items[kind].items()
                if (document := self.document(exposed)) is not None
            }
        return made

    def document(self, exposed: Exposed) -> Document | None:
        """One definition as clients see it."""
        catalog = self._catalogs.get(exposed.mcp_server_id)
        definition = catalog.definitions[exposed.kind].get(exposed.own_name) if catalog is not None else None
        if definition is None:
            return None
        document = dict(definition.document)
        if exposed.title:
            document["title"] = exposed.title
        if exposed.description:
            document["description"] = exposed.description
        return _SHAPES[exposed.kind](document, exposed, self._prefixes.get(exposed.mcp_server_id, ""))

    def view(self, kind: DefinitionKind, exposed: tuple[Exposed, ...], away: frozenset[str]) -> View:
        """Of these, what is of no member that is `away`. Kept for the very tuple, which is one for all pages of a caller's list."""

        def select() -> View:
            documents = self.of(kind)
            names = [e.name for e in exposed if e.name in documents and e.mcp_server_id not in away]
            digest = hashlib.blake2b("\x00".join(names).encode("utf-8", "surrogatepass"), key=self.digest(kind), digest_size=12)
            return View(documents=tuple([documents[name] for name in names]), digest=digest.digest())

        view = self._kept((kind, id(exposed), away), exposed, select)
        assert isinstance(view, View)  # noqa: S101 - the key has a kind
        return view

    def owners(self, exposed: tuple[Exposed, ...]) -> frozenset[str]:
        """The members that these are of; kept in the same way."""
        owners = self._kept((None, id(exposed), NO_MEMBER), exposed, lambda: frozenset([e.mcp_server_id for e in exposed]))
        assert isinstance(owners, frozenset)  # noqa: S101 - the key has no kind
        return owners

    def _kept(self, key: _Selection, exposed: tuple[Exposed, ...], make: Callable[[], View | frozenset[str]]) -> View | frozenset[str]:
        """The tuple is kept too, so that its id stays its own."""
        known = self._selections.get(key)
        if known is None or known[0] is not exposed:
            known = self._selections[key] = (exposed, make())
            if len(self._selections) > _KEPT_SELECTIONS:
                self._selections.popitem(last=False)
        else:
            self._selections.move_to_end(key)
        return known[1]

    def digest(self, kind: DefinitionKind) -> bytes:
        """Another one as soon as any text of them is another."""
        made = self._digests.get(kind)
        if made is None:
            digest = hashlib.blake2b(digest_size=16)
            for document in self.of(kind).values():
                digest.update(document)
            made = self._digests[kind] = digest.digest()
        return made


def _tool(document: Document, exposed: Exposed, prefix: str) -> Document:
    document["name"] = exposed.name
    if exposed.annotations:
        own = document.get("annotations")
        document["annotations"] = {**(own if isinstance(own, dict) else {}), **exposed.annotations}
    if exposed.hidden or exposed.defaults:
        document["inputSchema"] = _narrowed(document.get("inputSchema"), exposed)
    if prefix and isinstance(meta := document.get("_meta"), dict):
        document["_meta"] = _with_mapped_ui(meta, prefix)
    return document


def _narrowed(schema: Any, exposed: Exposed) -> Any:  # noqa: ANN401 - any JSON
    """The schema without hidden arguments. One that has a default here need not be given."""
    if not isinstance(schema, dict):
        return schema
    narrowed = dict(schema)
    properties = schema.get("properties")
    if isinstance(properties, dict):
        shown = {name: value for name, value in properties.items() if name not in exposed.hidden}
        for name, default in exposed.defaults.items():
            if isinstance(shown.get(name), dict):
                shown[name] = {**shown[name], "default": default}
        narrowed["properties"] = shown
    required = schema.get("required")
    if isinstance(required, list):
        narrowed["required"] = [name for name in required if name not in exposed.hidden and name not in exposed.defaults]
    return narrowed


def _with_mapped_ui(meta: Document, prefix: str) -> Document:
    """MCP Apps: the resource that shows a tool is found by the URI that clients know."""
    mapped = dict(meta)
    ui = mapped.get(_UI[0])
    if isinstance(ui, dict) and isinstance(ui.get(_UI[1]), str):
        mapped[_UI[0]] = {**ui, _UI[1]: prefix + ui[_UI[1]]}
    if isinstance(mapped.get(_UI_FLAT), str):
        mapped[_UI_FLAT] = prefix + mapped[_UI_FLAT]
    return mapped


def _prompt(document: Document, exposed: Exposed, _prefix: str) -> Document:
    document["name"] = exposed.name
    return document


def _resource(document: Document, exposed: Exposed, _prefix: str) -> Document:
    document["uri"] = exposed.name
    return document


def _template(document: Document, exposed: Exposed, _prefix: str) -> Document:
    document["uriTemplate"] = exposed.name
    return document


_SHAPES: Mapping[DefinitionKind, Callable[[Document, Exposed, str], Document]] = {
    DefinitionKind.TOOL: _tool,
    DefinitionKind.PROMPT: _prompt,
    DefinitionKind.RESOURCE: _resource,
    DefinitionKind.RESOURCE_TEMPLATE: _template,
}


def _dumped(document: Document) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
