"""What a write of one entry answers: its document, as `registry.reader` shows it once the write is committed."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection

from controlplane.registry.entry import Json, StoredEntry, document_of
from controlplane.registry.exposure import expose
from controlplane.registry.permissions import Operator, Permission
from controlplane.registry.server_status import server_status
from controlplane.registry.spec import Kind
from controlplane.registry.state import RegistryState
from controlplane.registry.store import read_probes
from controlplane.registry.virtual_server_status import virtual_server_status


def written_document(operator: Operator, entry: StoredEntry, state: RegistryState, connection: Connection) -> Json:
    """`state`: as it will be then."""
    if entry.kind is Kind.VIRTUAL_SERVER:
        virtual_server = state.virtual_servers[f"{entry.namespace}/{entry.name}"]
        may_read = partial(operator.permissions.allows, Permission.REGISTRY_READ)
        return document_of(entry, virtual_server_status(virtual_server, state, expose(state, virtual_server), may_read=may_read))
    if entry.kind is not Kind.MCP_SERVER:
        return document_of(entry)
    probe = read_probes(connection, [entry.uid]).get(entry.uid)
    return document_of(entry, server_status(probe, state.definitions.get(entry.uid, ()), state.readings.get(entry.uid)))
