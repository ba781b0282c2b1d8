"""What operators see of reviews: what waits, what changed in it and how, and which versions of a catalog there were.

Synchronous, like `service`; the API calls it in threads.
"""

from __future__ import annotations

from datetime import datetime

from controlplane.registry.catalog import catalog_digest, is_held
from controlplane.registry.entry import Json
from controlplane.registry.live import LiveState
from controlplane.registry.permissions import Operator, Permission, require, require_somewhere
from controlplane.registry.pinning import pins_of
from controlplane.registry.refusal import EntryNotFoundError
from controlplane.registry.review import review_detail, review_json
from controlplane.registry.shadowing import neighbours_of
from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.registry.store import RegistryStore

MOST_LISTED = 1000
MOST_SHOWN = 200


class ReviewReader:
    """Reads for operators who hold `registry:read`. What they may not read is refused, or left out of lists over all namespaces."""

    def __init__(self, *, store: RegistryStore, live: LiveState) -> None:
        self._store = store
        self._live = live

    def list_reviews(
        self, operator: Operator, *, namespace: str = "", server: str = "", accepted: bool = False, limit: int = MOST_LISTED
    ) -> Json:
        """Definitions that wait for review, of one namespace or server or of all, those that are held first; with `accepted` those too
        that wait for nothing. `left`: how many more there are.
        """
        if namespace:
            require(operator, Permission.REGISTRY_READ, namespace)
        else:
            require_somewhere(operator, Permission.REGISTRY_READ)
        state = self._live.state
        found = [
            (entry, definition)
            for _, entry in sorted(state.mcp_servers.items())
            if (not namespace or entry.namespace == namespace)
            and (not server or entry.name == server)
            and operator.permissions.allows(Permission.REGISTRY_READ, entry.namespace)
            for definition in state.definitions.get(entry.uid, ())
            if accepted or definition.pending
        ]
        found.sort(key=lambda item: not is_held(item[1]))
        items = [review_json(entry, definition) for entry, definition in found[:limit]]
        return {"items": items, "left": max(0, len(found) - limit), "revision": state.revision}

    def show_reviews(
        self, operator: Operator, namespace: str, name: str, *, kind: str = "", definition: str = "", limit: int = MOST_SHOWN
    ) -> Json:
        """What waits at one server with every difference, or (`definition`) what it has of that name in any state."""
        state, entry = self._server(operator, namespace, name)
        present = state.definitions.get(entry.uid, ())
        chosen = [each for each in present if (not kind or each.kind == kind) and (each.name == definition if definition else each.pending)]
        if definition and not chosen:
            raise EntryNotFoundError(f"{namespace}/{name} presents no {kind or 'definition'} {definition}")
        neighbours, marks = neighbours_of(state, namespace), self._store.read_review_marks(entry.uid)
        items = []
        for each in chosen[:limit]:
            mark = marks.get((each.kind, each.name))
            items.append(
                review_detail(entry, each, neighbours)
                | {
                    "accepted_by": mark.accepted_by if mark is not None else "",
                    "accepted_at": _moment(mark.accepted_at) if mark is not None else "",
                    "rejected_by": mark.rejected_by if mark is not None and each.rejected else "",
                    "rejected_at": _moment(mark.rejected_at) if mark is not None and each.rejected else "",
                    "rejected_reason": mark.rejected_reason if mark is not None and each.rejected else "",
                }
            )
        left = max(0, len(chosen) - limit)
        return {"items": items, "left": left, "digest": catalog_digest(present), "auto_accept": entry.spec.auto_accept}

    def list_versions(self, operator: Operator, namespace: str, name: str) -> list[Json]:
        """The catalogs that a server presented, the newest first, and which virtual servers pin them."""
        state, entry = self._server(operator, namespace, name)
        current = catalog_digest(state.definitions.get(entry.uid, ()))
        pins: dict[str, list[str]] = {}
        for virtual in state.virtual_servers.values():
            if operator.permissions.allows(Permission.REGISTRY_READ, virtual.namespace):
                for server, digest in pins_of(virtual):
                    if server == entry.id:
                        pins.setdefault(digest, []).append(virtual.id)
        return [
            {
                "digest": version.digest,
                "read_at": _moment(version.read_at),
                "definitions": version.count,
                "current": version.digest == current,
                "pinned_by": sorted(pins.get(version.digest, [])),
            }
            for version in self._store.read_versions(entry.uid)
        ]

    def _server(self, operator: Operator, namespace: str, name: str) -> tuple[RegistryState, Entry[McpServerSpec]]:
        require(operator, Permission.REGISTRY_READ, namespace)
        state = self._live.state
        entry = state.mcp_servers.get(f"{namespace}/{name}")
        if entry is None:
            raise EntryNotFoundError(f"there is no McpServer {namespace}/{name}")
        return state, entry


def _moment(at: datetime | None) -> str:
    return at.isoformat() if at is not None else ""
