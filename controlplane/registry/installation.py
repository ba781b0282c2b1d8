"""Makes a deployment's data directory usable: keys, the administrator's credential, the first entries.

Called by the supervisor or by `installation_process`, before the control plane starts. Everything that exists is kept: a second call
changes nothing.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from types import MappingProxyType

from controlplane.database import open_database, sqlite_url
from controlplane.development_issuer import create_credential_file, create_private_file, create_signing_key_file, public_jwks
from controlplane.registry.encryption import read_registry_key
from controlplane.registry.live import LiveState
from controlplane.registry.permissions import Operator, Permission, Permissions
from controlplane.registry.service import RegistryService
from controlplane.registry.spec import API_VERSION, SYSTEM_NAMESPACE
from controlplane.registry.store import RegistryStore
from extauthz.address import AddressRules
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.runtime import Deployment

ADMINISTRATOR_SUBJECT = "admin"
OPERATORS_ISSUER = "urn:legation:operators"
DEVELOPMENT_ISSUER = "urn:legation:development-issuer"

INSTALLER = Operator(
    principal=Principal(kind=PrincipalKind.SYSTEM, id="system/installation", provider="system", subject="installation"),
    permissions=Permissions(by_namespace=MappingProxyType({SYSTEM_NAMESPACE: frozenset(Permission)})),
)
"""Writes the first entries, when there is nobody yet who could be asked."""


def prepare(deployment: Deployment, gateway_url: str, database_url: str = "") -> None:
    """Create what is missing of keys, credentials and first entries. Raises `ConfigurationError` for what is unusable.

    The registry is the SQLite file of the data directory, or the database that `database_url` names.
    """
    deployment.create()
    create_private_file(deployment.encryption_key_file, base64.b64encode(os.urandom(32)) + b"\n")
    create_signing_key_file(deployment.audit_signing_key_file)
    renewed = create_credential_file(deployment.admin_credential_file, issuer=OPERATORS_ISSUER, subject=ADMINISTRATOR_SUBJECT)
    renewed |= create_credential_file(deployment.development_issuer_file, issuer=DEVELOPMENT_ISSUER)
    store = RegistryStore(open_database(database_url or sqlite_url(deployment.database_file)))
    try:
        first = store.read_revision() == 0
        live = LiveState(store)
        if not first and not renewed and _trusted_audiences(live) == {f"{gateway_url}/v1", gateway_url}:
            return
        key = read_registry_key(deployment.encryption_key_file)
        service = RegistryService(store=store, live=live, key=key, address_rules=AddressRules())
        documents = _first_documents(deployment, gateway_url)
        if first:
            service.apply(INSTALLER, _as_manifest(documents), message="installation")
        else:  # a credential file was lost, or the gateway has another address: who owns the data directory may say so
            providers = [document for document in documents if document["kind"] == "IdentityProvider"]
            service.apply(INSTALLER, _as_manifest(providers), message="credentials or the gateway's address changed")
    finally:
        store.close()


def _trusted_audiences(live: LiveState) -> set[str]:
    """What the installed providers accept tokens for."""
    providers = live.state.identity_providers
    installed = (providers.get(f"{SYSTEM_NAMESPACE}/operators"), providers.get(f"{SYSTEM_NAMESPACE}/local"))
    return {audience for provider in installed if provider is not None for audience in provider.spec.audiences}


def _first_documents(deployment: Deployment, gateway_url: str) -> list[dict[str, object]]:
    operators = {
        "issuer": OPERATORS_ISSUER,
        "jwks": public_jwks(deployment.admin_credential_file),
        "algorithms": ["EdDSA"],
        "audiences": [f"{gateway_url}/v1"],
        "operatorsOnly": True,
    }
    local = {
        "issuer": DEVELOPMENT_ISSUER,
        "jwks": public_jwks(deployment.development_issuer_file),
        "algorithms": ["EdDSA"],
        "audiences": [gateway_url],
        "mapping": {"agent": "agent"},
    }
    administrators = {"role": "legation:administrator", "subjects": [{"kind": "User", "name": f"operators/{ADMINISTRATOR_SUBJECT}"}]}
    return [
        _document(
            "Namespace", {"name": SYSTEM_NAMESPACE}, {"description": "Operators, identity providers and policies that hold everywhere"}
        ),
        _document("IdentityProvider", {"namespace": SYSTEM_NAMESPACE, "name": "operators"}, operators),
        _document("IdentityProvider", {"namespace": SYSTEM_NAMESPACE, "name": "local"}, local),
        _document("RoleBinding", {"namespace": SYSTEM_NAMESPACE, "name": "administrators"}, administrators),
    ]


def _document(kind: str, metadata: Mapping[str, str], spec: Mapping[str, object]) -> dict[str, object]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _as_manifest(documents: list[dict[str, object]]) -> bytes:
    """In JSON, which is YAML too and quotes every string: PyYAML writes a key id such as `12e4567` as it reads it, YAML 1.2 as a number."""
    return "\n---\n".join(json.dumps(document) for document in documents).encode()
