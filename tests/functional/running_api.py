"""The real API of an embedded deployment on a free port: what `legation up` would serve, without Envoy and the authorizer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from controlplane.api.application import make_api, make_routes
from controlplane.api.audit import AuditAccess
from controlplane.api.audit_proof import AuditProofRoutes
from controlplane.api.auth import OperatorAuthenticator
from controlplane.app import identity_providers_of
from controlplane.audit.database import open_audit_database
from controlplane.audit.erasure import Erasure
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from controlplane.database import open_database, sqlite_url
from controlplane.registry.encryption import read_registry_key
from controlplane.registry.installation import prepare
from controlplane.registry.live import LiveState
from controlplane.registry.service import RegistryService
from controlplane.registry.store import RegistryStore
from controlplane.xds.authorizer_resources import build_authorization_state
from extauthz.address import AddressRules
from extauthz.identity.jwks import KeySource
from extauthz.runtime import deployment_of


class PromptNodes:
    """Two nodes that accept every revision at once."""

    def __init__(self, live: LiveState) -> None:
        self._live = live

    def nodes(self) -> list[dict[str, Any]]:
        revision = self._live.state.revision
        seen = datetime.now(UTC).isoformat()
        return [
            {"id": kind, "kind": kind, "connected": True, "revision": revision, "state": "SYNCED", "types": [], "last_seen_at": seen}
            for kind in ("envoy", "authorizer")
        ]

    def programmed(self, revision: int) -> dict[str, list[int]]:
        return {"envoy": [1, 1], "authorizer": [1, 1]}

    def complete(self, revision: int) -> bool:
        return True

    async def wait(self, revision: int, timeout_seconds: float) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class RunningApi:
    data_dir: Path
    gateway_url: str
    service: RegistryService
    live: LiveState
    record: AuditStore


@contextmanager
def running_api(data_dir: Path, port: int, *, proof: AuditProofRoutes | None = None) -> Iterator[RunningApi]:
    """Serve the registry of `data_dir`, installed as `legation up` installs it."""
    gateway_url = f"http://127.0.0.1:{port}"
    deployment = deployment_of(data_dir)
    prepare(deployment, gateway_url)
    key = read_registry_key(deployment.encryption_key_file)
    store = RegistryStore(open_database(sqlite_url(deployment.database_file)))
    record = AuditStore(open_audit_database(sqlite_url(data_dir / "audit.db")), key)
    live = LiveState(store)
    service = RegistryService(store=store, live=live, key=key, address_rules=AddressRules(("127.0.0.0/8",)))
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with KeySource(AddressRules(("127.0.0.0/8",))) as key_source:
            authentication = OperatorAuthenticator(
                state=lambda: live.state,
                key_source=key_source,
                providers_of=identity_providers_of,
                resource_url=f"{gateway_url}/v1",
                clock=time.time,
            )
            routes = make_routes(
                service=service,
                store=store,
                live=live,
                rollout=PromptNodes(live),
                audit=AuditAccess(store=record, erasure=Erasure(record, RecordWriter(record, key))),
                authentication=authentication,
                build_state=lambda state, previous: build_authorization_state(state, key=key, now=datetime.now(UTC), previous=previous),
                proof=proof,
                usage=record,
            )
            runner = web.AppRunner(make_api(routes, authentication), access_log=None, shutdown_timeout=1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            ready.set()
            await asyncio.to_thread(stop.wait)
            await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        deployment.state_file.write_text(json.dumps({"gateway_url": gateway_url, "runtime_dir": str(deployment.runtime_dir), "pid": 0}))
        yield RunningApi(data_dir=data_dir, gateway_url=gateway_url, service=service, live=live, record=record)
    finally:
        stop.set()
        thread.join()
        record.close()
        store.close()
