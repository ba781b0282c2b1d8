"""The real API on a real registry and real tokens, without nodes: for tests of the control plane's HTTP door."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from controlplane.api.application import make_api, make_routes
from controlplane.api.audit import AuditAccess
from controlplane.api.audit_sinks import AuditSinkRoutes
from controlplane.api.auth import OperatorAuthenticator
from controlplane.api.routes import Route
from controlplane.app import identity_providers_of
from controlplane.audit.database import open_audit_database
from controlplane.audit.erasure import Erasure
from controlplane.audit.sinks.overview import SinkOverview
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from controlplane.authorization_server.oversight import Oversight
from controlplane.authorization_server.store import GrantStore
from controlplane.database import open_database, sqlite_url
from controlplane.development_issuer import mint_token
from controlplane.registry.encryption import read_registry_key
from controlplane.registry.installation import prepare
from controlplane.registry.live import LiveState
from controlplane.registry.service import RegistryService
from controlplane.registry.store import RegistryStore
from controlplane.xds.authorizer_resources import build_authorization_state
from extauthz.address import AddressRules
from extauthz.identity.jwks import KeySource
from extauthz.runtime import Deployment

GATEWAY_URL = "http://127.0.0.1:8080"
YAML = {"Content-Type": "application/yaml"}


@dataclass
class ScriptedRollout:
    """A rollout whose nodes the test sets."""

    shown: list[dict[str, Any]] = field(default_factory=list)
    acked: int = 0

    def nodes(self) -> list[dict[str, Any]]:
        return self.shown

    def programmed(self, revision: int) -> dict[str, list[int]]:
        return {"envoy": [int(self.acked >= revision), 1], "authorizer": [int(self.acked >= revision), 1]}

    def complete(self, revision: int) -> bool:
        return self.acked >= revision

    async def wait(self, revision: int, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while self.acked < revision and time.monotonic() < deadline:  # noqa: ASYNC110 - a script, not a product
            await asyncio.sleep(0.01)
        return self.complete(revision)


@dataclass(kw_only=True)
class Api:
    """The API under test. Without `token` a request is the administrator's."""

    client: TestClient[Any, Any]
    deployment: Deployment
    service: RegistryService
    live: LiveState
    routes: list[Route]
    rollout: ScriptedRollout
    record: AuditStore

    def token(self, name: str = "", *, audience: str = f"{GATEWAY_URL}/v1", groups: tuple[str, ...] = (), ttl_seconds: int = 300) -> str:
        """A token of the administrator, or of anybody at the development issuer."""
        file = self.deployment.development_issuer_file if name else self.deployment.admin_credential_file
        return mint_token(file, subject=name, audience=audience, groups=groups, ttl_seconds=ttl_seconds)

    async def call(
        self, method: str, path: str, *, token: str | None = None, headers: dict[str, str] | None = None, **options: Any
    ) -> Answer:
        access_token = self.token() if token is None else token
        sent = {**({"Authorization": f"Bearer {access_token}"} if access_token else {}), **(headers or {})}
        async with self.client.request(method, path, headers=sent, **options) as response:
            text = await response.text()
            return Answer(status=response.status, headers=response.headers, text=text, body=_json(response.content_type, text))

    async def apply(self, text: str, *, token: str | None = None, query: str = "") -> Answer:
        return await self.call("POST", f"/v1/apply{query}", token=token, headers=YAML, data=text.encode())


@dataclass(kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str
    body: Any


def _json(content_type: str, text: str) -> Any:
    return json.loads(text) if content_type.endswith("json") and "ndjson" not in content_type and text else None


@asynccontextmanager
async def running_api(directory: Path) -> AsyncIterator[Api]:
    """An installed deployment in this directory, and its API."""
    deployment = Deployment(data_dir=directory / "data", runtime_dir=directory / "run")
    await asyncio.to_thread(prepare, deployment, GATEWAY_URL)
    store = RegistryStore(open_database(sqlite_url(deployment.database_file)))
    live = LiveState(store)
    key = read_registry_key(deployment.encryption_key_file)
    rules = AddressRules(("127.0.0.0/8",))
    service = RegistryService(store=store, live=live, key=key, address_rules=rules)
    rollout = ScriptedRollout()
    record = AuditStore(open_audit_database(sqlite_url(directory / "audit.db")), key)
    async with KeySource(rules) as key_source:
        authentication = OperatorAuthenticator(
            state=lambda: live.state,
            key_source=key_source,
            providers_of=identity_providers_of,
            resource_url=f"{GATEWAY_URL}/v1",
            clock=time.time,
        )
        routes = make_routes(
            service=service,
            store=store,
            live=live,
            rollout=rollout,
            audit=AuditAccess(store=record, erasure=Erasure(record, RecordWriter(record, key))),
            authentication=authentication,
            build_state=lambda state, previous: build_authorization_state(state, key=key, now=datetime.now(UTC), previous=previous),
            oversight=Oversight(state=lambda: live.state, books=GrantStore(store.engine, key=key), service=service),
            usage=record,
            sinks=AuditSinkRoutes(overview=SinkOverview(record, RecordWriter(record, key), state=lambda: live.state)),
        )
        async with TestClient(TestServer(make_api(routes, authentication))) as client:
            yield Api(
                client=client,
                deployment=deployment,
                service=service,
                live=live,
                routes=routes,
                rollout=rollout,
                record=record,
            )
    record.close()
    store.close()


DEMO = """
apiVersion: legation/v1
kind: Namespace
metadata: {name: demo}
---
apiVersion: legation/v1
kind: McpServer
metadata: {namespace: demo, name: crm}
spec: {endpoints: [{url: "http://127.0.0.1:9101/mcp"}]}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: demo, name: marketing}
spec: {role: marketing, subjects: [{kind: Group, name: marketing}, {kind: User, name: marketing-agent}]}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: demo, name: crm}
spec:
  cedar: |
    @id("marketing-updates")
    permit (principal in Role::"demo/marketing", action == Action::"tools/call", resource == Tool::"demo/crm/update_contact");
"""


def binding(namespace: str, name: str, role: str, *users: str) -> str:
    """A RoleBinding for users of the development issuer."""
    subjects = ", ".join(f"{{kind: User, name: local/{user}}}" for user in users)
    metadata = f"{{namespace: {namespace}, name: {name}}}"
    return f"---\napiVersion: legation/v1\nkind: RoleBinding\nmetadata: {metadata}\nspec: {{role: '{role}', subjects: [{subjects}]}}\n"
