"""An aggregator over real HTTP with a real state, and members that tests script in the place of the egress listener.

async with aggregator_world(tmp_path, registry) as world:
    answer = await world.ask("tools/list")
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from aggregator.application import make_application
from aggregator.endpoint import Endpoint
from aggregator.observation import Observation
from aggregator.recording import Recording
from aggregator.search.sentence_model import SentenceModel
from aggregator.subscription import Subscription
from aggregator.upstream.bridge import Bridge
from extauthz import discovery
from extauthz.egress_context import EgressContext, sign_egress_context
from extauthz.http_site import serving
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.state import ContextKey
from extauthz.transport import LinkIdentity
from extauthz.v1 import registry_pb2 as pb
from tests.functional.upstream_world import serving_front

DESK = "/virtual/demo/desk/mcp"
CRM = "/servers/demo/crm/mcp"
EVERYTHING = """
permit (principal, action, resource in Namespace::"demo") when { principal in Group::"local/staff" };
permit (principal == User::"local/bob", action == Action::"tools/call", resource == Tool::"demo/crm/search");
"""
KEY = ContextKey(key_id="k", key=b"k" * 32, not_before_unix=0, not_after_unix=2**40)
PATIENCE_SECONDS = 60
Member = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse | dict[str, Any]]]


def tool_document(name: str, **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"text": {"type": "string"}, "limit": {"type": "integer"}}, "required": ["text", "limit"]}
    return {"name": name, "description": f"does {name}", "inputSchema": schema, **more}


@dataclass
class Server:
    """One MCP server of the registry and its catalog."""

    name: str
    tools: tuple[str, ...] = ("search", "update")
    prompts: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    eras: tuple[str, ...] = ("modern", "legacy")
    capabilities: dict[str, Any] = field(default_factory=lambda: {"tools": {}, "prompts": {}, "resources": {"subscribe": True}})
    fault: str = ""
    read_seconds_ago: float | None = 0.0
    description: str = ""
    namespace: str = "demo"

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}"

    def message(self) -> pb.McpServer:
        return pb.McpServer(
            uid=f"uid-{self.name}",
            namespace=self.namespace,
            name=self.name,
            cluster="c",
            path="/mcp",
            eras=list(self.eras),
            bridged=True,
            tools=[pb.Tool(name=name, effect=pb.EFFECT_WRITE) for name in self.tools],
            prompts=[pb.Prompt(name=name) for name in self.prompts],
        )

    def catalog(self, now: float) -> pb.Catalog:
        told = {"description": self.description} if self.description else {}
        documents = [("tool", name, tool_document(name) | told) for name in self.tools]
        documents += [("prompt", name, {"name": name}) for name in self.prompts]
        documents += [("resource", uri, {"uri": uri, "name": uri}) for uri in self.resources]
        documents += [("resource_template", uri, {"uriTemplate": uri, "name": uri}) for uri in self.templates]
        read_at = int((now - self.read_seconds_ago) * 1000) if self.read_seconds_ago is not None else 0
        return pb.Catalog(
            namespace=self.namespace,
            name=self.name,
            definitions=[pb.Definition(kind=k, name=n, document_json=json.dumps(d).encode()) for k, n, d in documents],
            fault=self.fault,
            read_at_unix_ms=read_at,
            capabilities_json=json.dumps(self.capabilities).encode(),
            server_info_json=b'{"name":"crm","version":"3"}',
        )


def item(kind: str, name: str, member: int = 0, own_name: str = "", **more: Any) -> pb.ExposedItem:
    given = {f"{key}_json": json.dumps(more.pop(key)).encode() for key in ("annotations", "input_defaults") if key in more}
    return pb.ExposedItem(kind=kind, name=name, member=member, own_name=own_name or name, **given, **more)


def virtual(*servers: str, items: list[pb.ExposedItem], prefixes: tuple[str, ...] = (), **more: Any) -> pb.VirtualServer:
    given = prefixes or ("",) * len(servers)
    members = [pb.VirtualMember(mcp_server=server, uri_prefix=prefix) for server, prefix in zip(servers, given, strict=True)]
    usual = {"uid": "uid-desk", "namespace": "demo", "name": "desk", "mode": "direct", "stale_seconds": 600}
    return pb.VirtualServer(**{**usual, **more}, members=members, items=items)


@dataclass
class Registry:
    """What the control plane tells."""

    servers: tuple[Server, ...] = (Server("crm"),)
    virtual: tuple[pb.VirtualServer, ...] = ()
    cedar: str = EVERYTHING
    audit_policies: tuple[pb.AuditPolicy, ...] = ()

    def resources(self) -> dict[str, dict[str, bytes]]:
        key = pb.SealingKey(key_id="s", key=b"s" * 32, not_before_unix=0, not_after_unix=2**40)
        return {
            discovery.SEALING_KEY: {"s": key.SerializeToString()},
            discovery.MCP_SERVER: {s.id: s.message().SerializeToString() for s in self.servers},
            discovery.CATALOG: {s.id: s.catalog(time.time()).SerializeToString() for s in self.servers},
            discovery.VIRTUAL_SERVER: {f"{v.namespace}/{v.name}": v.SerializeToString() for v in self.virtual},
            discovery.POLICY_SET: {"demo/all": pb.PolicySet(namespace="demo", name="all", cedar=self.cedar).SerializeToString()},
            discovery.ROLE_BINDING: {},
            discovery.AUDIT_POLICY: {f"{p.namespace}/{p.name}": p.SerializeToString() for p in self.audit_policies},
        }


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        if "text/event-stream" not in self.headers.get("content-type", ""):
            return [json.loads(self.text)]
        return [json.loads(line.removeprefix("data: ")) for line in self.text.splitlines() if line.startswith("data: ")]

    @property
    def message(self) -> dict[str, Any]:
        return self.messages[-1]

    @property
    def result(self) -> dict[str, Any]:
        assert "result" in self.message, self.text
        return dict(self.message["result"])

    @property
    def error(self) -> dict[str, Any]:
        return dict(self.message["error"])


class Events:
    """A stream that stays open, read message by message."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                line = await self.response.content.readline()
                assert line, "the stream has ended"
                if line.startswith(b"data: "):
                    return dict(json.loads(line.removeprefix(b"data: ")))

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.response.content.readline():
                pass


@dataclass
class AggregatorWorld:
    """One aggregator, its caller, and what its members were asked."""

    subscription: Subscription
    endpoint: Endpoint
    session: aiohttp.ClientSession
    members: dict[str, Member] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    revision: int = 0

    def publish(self, registry: Registry) -> None:
        self.revision += 1
        self.subscription.take(registry.resources(), self.revision)

    def context(self, path: str, who: str, *, era: str = "modern", **changes: Any) -> str:
        groups = ("local/staff",) if who == "ann" else ()
        principal = Principal(kind=PrincipalKind.USER, id=f"local/{who}", provider="local", subject=who, groups=groups)
        _, kind, namespace, name, _ = path.split("/")
        place = "virtual_server_id" if kind == "virtual" else "mcp_server_id"
        given: dict[str, Any] = {
            "decision_id": "d-1",
            "principal": principal,
            "mcp_server_id": "",
            "revision": self.revision,
            "expires_at_unix": time.time() + 600,
            "caller_era": era,
            "caller_address": "192.0.2.7",
            place: f"{namespace}/{name}",
            **changes,
        }
        return sign_egress_context(EgressContext(**given), KEY)

    @contextlib.asynccontextmanager
    async def open(
        self, method: str, params: Mapping[str, Any] | None = None, *, path: str = DESK, who: str = "ann", request_id: Any = 1,
        headers: Mapping[str, str] | None = None, context: str = "", meta: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        """A request of a modern client."""
        known = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**(params or {}), "_meta": {**known, **(meta or {})}}}
        sent = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": method,
            "legation-context": context or self.context(path, who),
            **(
                {"mcp-name": str(name)}
                if (name := (params or {}).get("name") or (params or {}).get("uri") or (params or {}).get("taskId"))
                else {}
            ),
            **(headers or {}),
        }
        async with self.session.post(f"http://aggregator{path}", json=body, headers=sent) as response:
            yield response

    async def ask(self, method: str, params: Mapping[str, Any] | None = None, **more: Any) -> Answer:
        """A request of a modern client, answered whole."""
        async with self.open(method, params, **more) as response:
            return Answer(status=response.status, headers=response.headers, text=await response.text())

    async def legacy(
        self, message: Mapping[str, Any] | None, *, http: str = "POST", session: str = "", path: str = DESK, who: str = "ann",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """A message of a legacy client, answered whole."""
        async with self.open_legacy(message, http=http, session=session, path=path, who=who, headers=headers) as response:
            return Answer(status=response.status, headers=response.headers, text=await response.text())

    @contextlib.asynccontextmanager
    async def open_legacy(
        self, message: Mapping[str, Any] | None, *, http: str = "POST", session: str = "", path: str = DESK, who: str = "ann",
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        sent = {
            "accept": "application/json, text/event-stream",
            "legation-context": self.context(path, who, era="legacy"),
            **(headers or {}),
        }
        if session:
            sent |= {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
        body = {"jsonrpc": "2.0", **message} if message is not None else None
        async with self.session.request(http, f"http://aggregator{path}", json=body, headers=sent) as response:
            yield response

    async def initialize(self, *, path: str = DESK, who: str = "ann", **params: Any) -> tuple[str, dict[str, Any]]:
        """The session id and the result."""
        said = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}, **params}
        answer = await self.legacy({"id": 0, "method": "initialize", "params": said}, path=path, who=who)
        assert answer.status == 200, answer.text
        return answer.headers["mcp-session-id"], answer.result


@contextlib.asynccontextmanager
async def aggregator_world(
    directory: Path,
    registry: Registry,
    *,
    members: Mapping[str, Member] | None = None,
    name: str = "aggregate",
    observation: Observation | None = None,
    search_model: SentenceModel | None = None,
    recording: Recording | None = None,
) -> AsyncIterator[AggregatorWorld]:
    """Everything running; `members` by the name of their server."""
    subscription = Subscription()
    egress = directory / f"{name}-egress.sock"
    bridge = Bridge(egress_address=f"unix:{egress}")
    endpoint = Endpoint(
        subscription=subscription,
        upstream=bridge,
        max_session_seconds=3600,
        observation=observation,
        search_model=search_model,
        recording=recording,
    )
    application = make_application(subscription=subscription, endpoint=endpoint)
    if observation is not None:
        application.middlewares.append(observation.observing)
    socket = directory / f"{name}.sock"
    async with contextlib.AsyncExitStack() as parts:
        session = await parts.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(socket), limit=0), timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
            )
        )
        world = AggregatorWorld(subscription=subscription, endpoint=endpoint, session=session, members=dict(members or {}))

        async def member(request: web.Request) -> web.StreamResponse:
            return await _member(world, request)

        await parts.enter_async_context(serving_front(egress, member))
        await parts.enter_async_context(bridge)
        site = serving(application, f"unix:{socket}", "LEGATION_AGGREGATOR_LISTEN", LinkIdentity(), handler_cancellation=True)
        await parts.enter_async_context(site)
        world.publish(registry)
        yield world


async def _member(world: AggregatorWorld, request: web.Request) -> web.StreamResponse:
    """The egress listener: who calls is in the signed context, and the member is in the path."""
    body = await request.read()
    message = json.loads(body) if body else {}
    name = request.match_info["name"]
    world.asked.append((name, message))
    assert "legation-context" in request.headers
    member = world.members.get(name)
    if member is None:
        return web.json_response(
            {"jsonrpc": "2.0", "id": None, "error": {"code": 50200, "message": "The MCP server cannot be reached."}}, status=502
        )
    answer = await member(request, message)
    if isinstance(answer, web.StreamResponse):
        return answer
    return web.json_response({"jsonrpc": "2.0", "id": message.get("id"), "result": {"resultType": "complete", **answer}})
