"""What aggregators are told: what policies decide by, and what there is to list. Never a credential.

Everything that authorizers get too is the same resource, so that an aggregator lists by exactly the policies, servers and virtual
servers that authorizers decide by; servers with a credential are told again without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from controlplane.registry.catalog import served_document
from controlplane.registry.encryption import RegistryKey
from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import CatalogReading, Definition, Entry
from controlplane.xds.authorizer_resources import make_context_keys
from controlplane.xds.cache import Resources, XdsResource
from controlplane.xds.virtual_server_resources import as_json
from extauthz.discovery import (
    AGGREGATOR_TYPES,
    AUDIT_POLICY,
    AUDIT_SEALING_KEY,
    CATALOG,
    MCP_SERVER,
    POLICY_SET,
    REVISION,
    ROLE_BINDING,
    SEALING_KEY,
    VIRTUAL_SERVER,
    version_of,
)
from extauthz.v1 import registry_pb2 as pb

SEALING_KEY_PURPOSE = "legation/v1/aggregator-session/"

NOTHING_TOLD: Resources = MappingProxyType({type_url: {} for type_url in AGGREGATOR_TYPES})


def make_catalog(entry: Entry[McpServerSpec], definitions: Sequence[Definition], reading: CatalogReading | None) -> pb.Catalog:
    """What one server was found to offer, in its own order, as its clients are to see it."""
    found = reading or CatalogReading()
    served = ((definition, served_document(definition)) for definition in definitions)
    return pb.Catalog(
        namespace=entry.namespace,
        name=entry.name,
        definitions=[
            pb.Definition(kind=d.kind, name=d.name, document_json=as_json(document)) for d, document in served if document is not None
        ],
        instructions=found.instructions,
        fault=found.fault,
        read_at_unix_ms=int(found.read_at.timestamp() * 1000) if found.read_at is not None else 0,
        capabilities_json=as_json(found.capabilities),
        server_info_json=as_json(found.server_info),
    )


def make_sealing_keys(key: RegistryKey, now: datetime) -> list[pb.SealingKey]:
    """With what aggregators seal sessions, yesterday, today and tomorrow (UTC); no key of these is also a key of a context."""
    return [
        pb.SealingKey(key_id=k.key_id, key=k.key, not_before_unix=k.not_before_unix, not_after_unix=k.not_after_unix)
        for k in make_context_keys(key, now, purpose=SEALING_KEY_PURPOSE)
    ]


def aggregator_view(
    told: Resources,
    *,
    catalogs: Mapping[str, XdsResource],
    sealing_keys: Mapping[str, XdsResource],
    before: tuple[Resources, Resources] = (NOTHING_TOLD, NOTHING_TOLD),
) -> dict[str, Mapping[str, XdsResource]]:
    """What aggregators get when authorizers are `told` this. `before`: the same two, told earlier.

    The Revision is the same: all that only aggregators get follows from the registry at that revision, and from the day.
    """
    servers = _without_credentials(told[MCP_SERVER], before[0][MCP_SERVER], before[1][MCP_SERVER])
    if catalogs.keys() - servers.keys():
        catalogs = {name: catalog for name, catalog in catalogs.items() if name in servers}
    return {
        AUDIT_SEALING_KEY: told[AUDIT_SEALING_KEY],
        AUDIT_POLICY: told[AUDIT_POLICY],
        SEALING_KEY: sealing_keys,
        POLICY_SET: told[POLICY_SET],
        ROLE_BINDING: told[ROLE_BINDING],
        MCP_SERVER: servers,
        VIRTUAL_SERVER: told[VIRTUAL_SERVER],
        CATALOG: catalogs,
        REVISION: told[REVISION],
    }


def _without_credentials(
    told: Mapping[str, XdsResource], told_before: Mapping[str, XdsResource], stripped_before: Mapping[str, XdsResource]
) -> Mapping[str, XdsResource]:
    if told is told_before:
        return stripped_before
    changed = {name: _without_credential(resource) for name, resource in told.items() if told_before.get(name) is not resource}
    gone = stripped_before.keys() - told.keys()
    return {name: resource for name, resource in {**stripped_before, **changed}.items() if name not in gone}


def _without_credential(resource: XdsResource) -> XdsResource:
    message = pb.McpServer.FromString(resource.value)
    if not message.HasField("credential"):
        return resource
    message.ClearField("credential")
    value = message.SerializeToString(deterministic=True)
    return XdsResource(name=resource.name, version_info=version_of(value), value=value)
