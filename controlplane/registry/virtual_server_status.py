"""The status of a VirtualServer, as its document shows it: what is offered, what is not and why, and how its members are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from controlplane.registry.catalog import catalog_digest, is_held
from controlplane.registry.entry import Json
from controlplane.registry.exposure import Exposure
from controlplane.registry.spec import VirtualServerSpec
from controlplane.registry.state import CatalogReading, Entry, RegistryState
from extauthz.catalog.virtual import DefinitionKind, Exposed, Member

MOST_SHOWN = 5000
"""Items, and things withheld, that one document shows; the counts are of all."""
MOST_NAMED = 10
"""Members that a condition names."""
_NOUNS = {
    DefinitionKind.TOOL: ("tool", "tools"),
    DefinitionKind.PROMPT: ("prompt", "prompts"),
    DefinitionKind.RESOURCE: ("resource", "resources"),
    DefinitionKind.RESOURCE_TEMPLATE: ("resource template", "resource templates"),
}

MayRead = Callable[[str], bool]
"""Whether the reader may read what is in a namespace."""


def virtual_server_status(
    entry: Entry[VirtualServerSpec], state: RegistryState, exposure: Exposure, *, may_read: MayRead, whole: bool = True
) -> Json:
    """Conditions, counts and members; `whole`: also every item and what is withheld, of namespaces that the reader may read."""
    status: Json = {"conditions": [_exposed(entry, exposure), _complete(exposure), _read(state, exposure, may_read)]}
    counts = Counter(item.kind for item in exposure.items)
    status |= {name: counts[kind] for kind, name in zip(_NOUNS, ("tools", "prompts", "resources", "resourceTemplates"), strict=True)}
    status["withheldCount"] = len(exposure.withheld)
    offered = Counter(item.mcp_server_id for item in exposure.items)
    status["members"] = [_member(member, state, offered[member.mcp_server_id], may_read) for member in exposure.members]
    if not whole:
        return status
    readable = {member.mcp_server_id: may_read(_namespace(member)) for member in exposure.members}
    items = [_item(item) for item in exposure.items if readable[item.mcp_server_id]]
    withheld = [
        {
            "kind": withheld.kind,
            "name": withheld.name,
            "server": withheld.mcp_server_id,
            "ownName": withheld.own_name,
            "reason": withheld.reason.value,
            "message": withheld.message,
        }
        for withheld in exposure.withheld
        if readable[withheld.mcp_server_id]
    ]
    return {**status, "items": items[:MOST_SHOWN], "withheld": withheld[:MOST_SHOWN]}


def _exposed(entry: Entry[VirtualServerSpec], exposure: Exposure) -> Json:
    if entry.spec.suspended:
        return _condition("Exposed", "False", "suspended: every call is refused")
    counts = Counter(item.kind for item in exposure.items)
    told = [f"{counts[kind]} {noun if counts[kind] == 1 else nouns}" for kind, (noun, nouns) in _NOUNS.items() if counts[kind]]
    return _condition("Exposed", "True" if told else "False", ", ".join(told) or "nothing is offered")


def _complete(exposure: Exposure) -> Json:
    """Whether everything that the document names is offered."""
    reasons = Counter(withheld.reason.value for withheld in exposure.withheld)
    if not reasons:
        return _condition("Complete", "True", "")
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return _condition("Complete", "False", f"withheld: {told}")


def _read(state: RegistryState, exposure: Exposure, may_read: MayRead) -> Json:
    """Whether all members can be read now."""
    unread, failing = [], []
    for member in exposure.members:
        server = state.mcp_servers.get(member.mcp_server_id)
        reading = state.readings.get(server.uid) if server is not None else None
        if server is None or (reading is not None and reading.fault):
            failing.append(member)
        elif not state.definitions.get(server.uid):
            unread.append(member)
    if not failing and not unread:
        return _condition("MembersRead", "True", "")
    named = [member.mcp_server_id for member in (*failing, *unread) if may_read(_namespace(member))][:MOST_NAMED]
    left = len(failing) + len(unread) - len(named)
    told = [*named, *([f"{left} more" if named else f"{left} of them"] if left else [])]
    return _condition("MembersRead", "False" if failing else "Unknown", f"not read, or not any more: {', '.join(told)}")


def _member(member: Member, state: RegistryState, offered: int, may_read: MayRead) -> Json:
    told: Json = {"server": member.mcp_server_id, "uriPrefix": member.uri_prefix, "items": offered}
    if not may_read(_namespace(member)):
        return told
    server = state.mcp_servers.get(member.mcp_server_id)
    if server is None:
        return told | {"fault": "there is no such McpServer"}
    reading = state.readings.get(server.uid, CatalogReading())
    definitions = state.definitions.get(server.uid, ())
    return told | {
        "version": catalog_digest(definitions),
        "eras": sorted(reading.eras),
        "fault": reading.fault,
        "readAt": reading.read_at.isoformat() if reading.read_at is not None else None,
        "held": sum(map(is_held, definitions)),
    }


def _item(item: Exposed) -> Json:
    return {"kind": item.kind.value, "name": item.name, "server": item.mcp_server_id, "ownName": item.own_name}


def _condition(kind: str, status: str, message: str) -> Json:
    return {"type": kind, "status": status, "message": message}


def _namespace(member: Member) -> str:
    return member.mcp_server_id.partition("/")[0]
