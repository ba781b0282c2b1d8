"""A deployment with real SPIRE: the control plane has an agent, a Gateway is for workloads, and one tool is there to be called.

async with running_world(agent, tmp_path) as world, http(fetch_svid(agent, tmp_path)) as session:
    answer = await world.call(session)
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from cryptography import x509

from tests.e2e.light_upstream import light_upstream, tool
from tests.e2e.stack import Answer, Stack, eventually, free_port, modern_headers, modern_request, running_stack
from tests.spire.deployment import SpireAgent, SpireServer
from tests.spire.workload import WorkloadFiles, fetch_svid, issuer_key_id

GATEWAY, BUYER = "spiffe://prod.example/gateway", "spiffe://prod.example/agents/buyer"
FROM_WORKLOAD_API = {"certificates": {"svid": {"workloadApi": {"spiffeId": GATEWAY}}}, "clientCertificates": {"mode": "optional"}}
"""The Gateway's certificate from the control plane's Workload API; a JWT-SVID needs none."""
POLICIES = """
permit (principal in Group::"prod/agents", action == Action::"tools/call", resource == Tool::"demo/crm/echo");
permit (principal in Group::"partner/agents", action == Action::"tools/call", resource == Tool::"demo/crm/echo");
"""


@dataclass(kw_only=True, frozen=True, slots=True)
class World:
    """A deployment whose control plane has a real agent, and a listener for workloads."""

    stack: Stack
    url: str  # of the listener for workloads

    @property
    def endpoint(self) -> str:
        """The one MCP server, as workloads call it."""
        return f"{self.url}/servers/demo/crm/mcp"

    async def call(self, session: aiohttp.ClientSession, **headers: str) -> Answer:
        """One call of the tool."""
        body = modern_request("tools/call", {"name": "echo", "arguments": {"text": "a"}})
        async with session.post(self.endpoint, json=body, headers=modern_headers("tools/call", "echo") | headers) as response:
            return Answer(status=response.status, headers=response.headers, text=await response.text())

    async def last_record(self) -> Any:
        """The newest decision."""
        items = (await self.stack.api("GET", "/v1/audit?limit=50")).json["items"]
        return [item for item in items if item["event"] not in {"alarm", "anomaly", "change"}][-1]

    async def knows_authorities(self, count: int, trust_domain: str = "prod") -> None:
        """Wait until every node has so many X.509 authorities of this trust domain."""

        async def told() -> bool:
            answer = await self.stack.api("GET", f"/v1/namespaces/system/trust-domains/{trust_domain}")
            return bool(answer.json.get("status", {}).get("x509Authorities") == count)

        await eventually(told, what=f"{count} authorities of {trust_domain}")
        # A bundle makes no revision; what every node has after it came after the bundle.
        await self.stack.apply(f"apiVersion: legation/v1\nkind: Namespace\nmetadata: {{name: after-{trust_domain}-{count}}}\nspec: {{}}\n")

    async def shown_by(self, files: WorkloadFiles) -> str:
        """The id of the authority that signed what the listener shows."""
        tls = files.client_context()
        tls.verify_mode = ssl.CERT_NONE  # looked at, not believed
        _, writer = await asyncio.open_connection("localhost", int(self.url.rpartition(":")[2]), ssl=tls)
        certificate = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.close()
        return issuer_key_id(certificate)


@contextlib.asynccontextmanager
async def running_world(agent: SpireAgent, directory: Path, tls: Mapping[str, Any] = FROM_WORKLOAD_API) -> AsyncIterator[World]:
    """Start it; `tls` is that of the Gateway for workloads."""
    async with (
        light_upstream([tool("echo", text="string")]) as upstream,
        running_stack(directory, environ={"LEGATION_WORKLOAD_API": agent.address}) as stack,
    ):
        world = World(stack=stack, url=f"https://localhost:{(port := free_port())}")
        documents = [
            document("Namespace", "", "demo"),
            document("McpServer", "demo", "crm", endpoints=[{"url": f"http://127.0.0.1:{upstream.port}/mcp"}]),
            document("PolicySet", "demo", "workloads", cedar=POLICIES),
            trust_domain("prod", "prod.example", {"workloadApi": {}}),
            document("Gateway", "system", "workloads", url=world.url, listen=f"127.0.0.1:{port}", tls=dict(tls)),
        ]
        await stack.apply(yaml.safe_dump_all(documents))
        await stack.accept("demo/crm")
        yield world


@dataclass(kw_only=True, slots=True)
class Calls:
    """Light traffic: each call with the SVID that the agent gives at that moment, on a connection of its own."""

    done: int = 0
    shown_by: str = ""  # the id of the authority that signed the caller's certificate
    failures: list[str] = field(default_factory=list)

    async def more(self, count: int) -> None:
        """Wait until so many more calls were answered."""
        goal = self.done + count

        async def enough() -> bool:
            return self.done >= goal

        await eventually(enough, what=f"{count} more calls")


@contextlib.asynccontextmanager
async def calling(world: World, agent: SpireAgent, directory: Path) -> AsyncIterator[Calls]:
    """Call the tool until the block ends."""
    calls, stop = Calls(), asyncio.Event()

    async def call_always() -> None:
        while not stop.is_set():
            files = await asyncio.to_thread(fetch_svid, agent, directory, "current", spiffe_id=BUYER)
            async with http(files) as session:
                try:
                    answer = await world.call(session)
                except aiohttp.ClientError as error:
                    calls.failures.append(f"{type(error).__name__}: {error}")
                else:
                    calls.failures += [answer.text] if answer.status != 200 else []
            calls.shown_by = issuer_key_id(x509.load_pem_x509_certificates(files.chain.read_bytes())[0])
            calls.done += 1

    task = asyncio.create_task(call_always())
    try:
        yield calls
    finally:
        stop.set()
        await task


def http(files: WorkloadFiles, *, show_svid: bool = True) -> aiohttp.ClientSession:
    """An HTTP client of a workload, with connections of its own."""
    tls = files.client_context() if show_svid else ssl.create_default_context(cafile=files.authorities)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls), timeout=aiohttp.ClientTimeout(total=60))


def document(kind: str, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    """One entry of the registry."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "legation/v1", "kind": kind, "metadata": metadata, "spec": spec}


def trust_domain(name: str, domain: str, bundle: Mapping[str, Any]) -> dict[str, Any]:
    """A TrustDomain whose workloads below /agents are agents."""
    workloads = [{"spiffeId": f"spiffe://{domain}/agents/*", "groups": ["agents"]}]
    return document("TrustDomain", "system", name, trustDomain=domain, bundle=dict(bundle), workloads=workloads)


def federation(partner: SpireServer) -> str:
    """The TrustDomain entry `partner` for whoever federates with us by a bundle endpoint."""
    endpoint = {
        "url": partner.bundle_endpoint_url,
        "profile": "https_spiffe",
        "endpointSpiffeId": partner.endpoint_spiffe_id,
        "bootstrap": partner.bundle_document(),
    }
    return yaml.safe_dump(trust_domain("partner", partner.trust_domain, {"endpoint": endpoint}))
