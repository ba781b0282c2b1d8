"""Virtual servers as messages, the same for authorizers and aggregators."""

from __future__ import annotations

import json
from collections.abc import Mapping

from controlplane.registry.exposure import Exposure, expose
from controlplane.registry.spec import VirtualServerSpec
from controlplane.registry.state import Entry, RegistryState
from extauthz.v1 import registry_pb2 as pb


class InconsistentExposureError(Exception):
    """It would offer what is not there, or two things of one name: a fault of ours, never published."""


def checked_exposure(state: RegistryState, entry: Entry[VirtualServerSpec]) -> Exposure:
    """What it offers: no two items of one kind and name, and each is something that its member has."""
    exposure = expose(state, entry)
    there: dict[str, frozenset[tuple[str, str]]] = {}
    for member in exposure.members:
        server = state.mcp_servers.get(member.mcp_server_id)
        definitions = state.definitions.get(server.uid, ()) if server is not None else ()
        there[member.mcp_server_id] = frozenset((definition.kind, definition.name) for definition in definitions)
    names = {(item.kind, item.name) for item in exposure.items}
    if len(names) != len(exposure.items):
        raise InconsistentExposureError(f"{entry.id} would offer two things of one name")
    for item in exposure.items:
        if (item.kind, item.own_name) not in there.get(item.mcp_server_id, ()):
            raise InconsistentExposureError(f"{entry.id} would offer {item.own_name}, which {item.mcp_server_id} does not have")
    return exposure


def make_virtual_server(entry: Entry[VirtualServerSpec], exposure: Exposure) -> pb.VirtualServer:
    """One virtual server with what it offers now."""
    spec = entry.spec
    message = pb.VirtualServer(
        uid=entry.uid,
        namespace=entry.namespace,
        name=entry.name,
        title=spec.title,
        instructions=spec.instructions,
        strict=spec.failure.list == "strict",
        stale_seconds=spec.failure.stale_seconds,
        mode=spec.mode,
        suspended=spec.suspended,
        members=[pb.VirtualMember(mcp_server=m.mcp_server_id, uri_prefix=m.uri_prefix) for m in exposure.members],
    )
    places = {member.mcp_server_id: place for place, member in enumerate(exposure.members)}
    for item in exposure.items:
        told = message.items.add(kind=item.kind.value, name=item.name, member=places[item.mcp_server_id], own_name=item.own_name)
        if item.title:
            told.title = item.title
        if item.description:
            told.description = item.description
        if item.annotations:
            told.annotations_json = as_json(item.annotations)
        if item.defaults:
            told.input_defaults_json = as_json(item.defaults)
        told.hidden_arguments.extend(sorted(item.hidden))
    return message


def as_json(value: Mapping[str, object]) -> bytes:
    """Members stay in the order of the server: people and models read them in it. Of nothing: empty."""
    return json.dumps(dict(value), separators=(",", ":")).encode() if value else b""
