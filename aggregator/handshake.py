"""What a front says of itself: the results of `initialize` (legacy) and `server/discover` (modern), made of its members' catalogs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from aggregator.front import Front, Viewer
from aggregator.state import ServerCatalog
from extauthz.catalog.virtual import DefinitionKind, Mode
from extauthz.mcp.era import LEGACY_VERSIONS, SUPPORTED_VERSIONS, Era

NEWEST_LEGACY = LEGACY_VERSIONS[-1]
TTL_MS = 5000
"""How long a client may keep for itself what it was told from memory; who listens is told of a change at once."""
META_SERVER_INFO = "io.modelcontextprotocol/serverInfo"


def negotiated(wanted: object) -> str:
    """The version of a legacy session: the client's, if it is one of ours, else our newest."""
    return wanted if isinstance(wanted, str) and wanted in LEGACY_VERSIONS else NEWEST_LEGACY


def initialize_result(front: Front, viewer: Viewer, protocol_version: str) -> dict[str, Any]:
    """The answer to `initialize`."""
    result: dict[str, Any] = {
        "protocolVersion": protocol_version,
        "capabilities": capabilities(front, viewer, Era.LEGACY),
        "serverInfo": server_info(front),
    }
    if instructions := _instructions(front):
        result["instructions"] = instructions
    return result


def discover_result(front: Front, viewer: Viewer) -> dict[str, Any]:
    """The answer to `server/discover`."""
    result: dict[str, Any] = {
        "resultType": "complete",
        "supportedVersions": list(reversed(SUPPORTED_VERSIONS)),
        "capabilities": capabilities(front, viewer, Era.MODERN),
        "ttlMs": TTL_MS,
        "cacheScope": "private",
        "_meta": {META_SERVER_INFO: server_info(front)},
    }
    if instructions := _instructions(front):
        result["instructions"] = instructions
    return result


def server_info(front: Front) -> dict[str, Any]:
    """The `Implementation` of a front: a single server is what it says of itself, a virtual one is called by its id."""
    if not front.is_virtual:
        catalog = front.state.catalogs.get(front.id)
        if catalog is not None and isinstance(catalog.server_info.get("name"), str):
            return {"version": "0", **catalog.server_info}
    info: dict[str, Any] = {"name": front.id, "version": "1"}
    return {**info, "title": front.virtual_server.title} if front.virtual_server.title else info


def capabilities(front: Front, viewer: Viewer, era: Era) -> dict[str, Any]:
    """What can be asked here: what some member of the caller's can do, and changes of lists, which we tell ourselves."""
    catalogs = front.catalogs(viewer)
    said: dict[str, Any] = {}
    search = front.virtual_server.mode is Mode.SEARCH
    for name, kinds in (
        ("tools", (DefinitionKind.TOOL,)),
        ("prompts", (DefinitionKind.PROMPT,)),
        ("resources", (DefinitionKind.RESOURCE, DefinitionKind.RESOURCE_TEMPLATE)),
    ):
        if any(name in catalog.capabilities for catalog in catalogs) or any(front.virtual_server.items[kind] for kind in kinds):
            said[name] = {"listChanged": True}
    if "tools" in said and search:
        said["tools"] = {"listChanged": False}
    if "resources" in said and any(_has(catalog, "resources", "subscribe") for catalog in catalogs):
        said["resources"]["subscribe"] = True
    if any("completions" in catalog.capabilities for catalog in catalogs):
        said["completions"] = {}
    if era is Era.LEGACY:
        said["logging"] = {}
        said |= _union(catalogs, ("tasks", "experimental"))
    else:
        said |= _union(catalogs, ("extensions", "experimental"))
    return said


def _union(catalogs: Iterable[ServerCatalog], names: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for catalog in catalogs:
        for name in names:
            if isinstance(value := catalog.capabilities.get(name), dict) and value:
                found[name] = {**value, **found.get(name, {})}
    return found


def _has(catalog: ServerCatalog, name: str, member: str) -> bool:
    value = catalog.capabilities.get(name)
    return isinstance(value, dict) and value.get(member) is True


def _instructions(front: Front) -> str:
    if front.is_virtual:
        return front.virtual_server.instructions
    catalog = front.state.catalogs.get(front.id)
    return catalog.instructions if catalog is not None else ""


def dumped(result: object) -> bytes:
    """A result as JSON."""
    return json.dumps(result, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
