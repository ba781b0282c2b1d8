"""What one page of a long, filtered list costs: `python -m bench.lists [--servers 50] [--tools 40] [--callers 20] [--rounds 10]`.

One aggregator process, over its Unix socket, as Envoy asks it; the registry comes by discovery from a publisher that knows nothing
else. The virtual server offers everything of all servers; policies leave most callers a part of it. Two members are not as they
should be: one was never read, one fails since a minute. `first` is the first page that a caller asks for after a change of policies,
`page` all pages after that. Times are milliseconds on the clock of one client that asks for one page after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp

from aggregator.application import make_application
from aggregator.endpoint import Endpoint
from aggregator.subscription import Subscription
from aggregator.upstream.bridge import Bridge
from bench.report import ListRun
from extauthz import discovery
from extauthz.egress_context import EgressContext, sign_egress_context
from extauthz.http_site import serving
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.state import ContextKey
from extauthz.transport import LinkIdentity
from extauthz.v1 import registry_pb2 as pb

PATH = "/virtual/bench/all/mcp"
KEY = ContextKey(key_id="k", key=b"k" * 32, not_before_unix=0, not_after_unix=2**40)
SCHEMA = {
    "type": "object",
    "properties": {
        "account": {"type": "string", "description": "The account that this is about, by its id"},
        "limit": {"type": "integer", "minimum": 1, "maximum": 500, "description": "How many entries at most"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["account"],
}


def resources(servers: int, tools: int, round_number: int) -> dict[str, dict[str, bytes]]:
    """The registry as an aggregator is told of it; each round has other policies."""
    found: dict[str, dict[str, bytes]] = {discovery.ROLE_BINDING: {}, discovery.SEALING_KEY: {}}
    names = [f"bench/server-{number}" for number in range(servers)]
    messages, catalogs, now = {}, {}, int(time.time() * 1000)
    items = []
    for member, name in enumerate(names):
        own = [f"tool_{member}_{number}" for number in range(tools)]
        namespace, _, short = name.partition("/")
        messages[name] = pb.McpServer(
            uid=name, namespace=namespace, name=short, cluster="c", path="/mcp", eras=["modern"], tools=[pb.Tool(name=tool) for tool in own]
        ).SerializeToString()
        documents = [
            {"name": tool, "description": f"Reads entries of the ledger {tool} and returns them, the newest first.", "inputSchema": SCHEMA}
            for tool in own
        ]
        catalogs[name] = pb.Catalog(
            namespace=namespace,
            name=short,
            definitions=[pb.Definition(kind="tool", name=d["name"], document_json=json.dumps(d).encode()) for d in documents],
            fault="it does not answer" if member < 2 else "",
            read_at_unix_ms=0 if member == 0 else now - 60_000,
        ).SerializeToString()
        items += [pb.ExposedItem(kind="tool", name=tool, member=member, own_name=tool) for tool in own]
    virtual = pb.VirtualServer(uid="all", namespace="bench", name="all", mode="direct", stale_seconds=600, items=items)
    virtual.members.extend(pb.VirtualMember(mcp_server=name) for name in names)
    cedar = [f"// round {round_number}", 'permit (principal in Group::"local/all", action, resource in Namespace::"bench");']
    for number, name in enumerate(names):
        if number % 2:
            cedar.append(f'permit (principal in Group::"local/half", action, resource in McpServer::"{name}");')
    cedar.append('forbid (principal, action, resource == Tool::"bench/server-3/tool_3_1") when { context.caller.era == "other" };')
    policy = pb.PolicySet(namespace="bench", name="all", cedar="\n".join(cedar)).SerializeToString()
    found |= {discovery.MCP_SERVER: messages, discovery.CATALOG: catalogs, discovery.POLICY_SET: {"bench/all": policy}}
    found[discovery.VIRTUAL_SERVER] = {"bench/all": virtual.SerializeToString()}
    return found


def context_of(who: int, revision: int) -> str:
    """The signed context of one caller; every second one sees half of everything."""
    groups = ("local/all",) if who % 2 else ("local/half",)
    principal = Principal(kind=PrincipalKind.USER, id=f"local/u{who}", provider="local", subject=f"u{who}", groups=groups)
    context = EgressContext(
        decision_id="d",
        principal=principal,
        mcp_server_id="",
        virtual_server_id="bench/all",
        revision=revision,
        expires_at_unix=time.time() + 600,
        caller_era="modern",
    )
    return sign_egress_context(context, KEY)


async def measure_lists(*, servers: int = 50, tools: int = 40, callers: int = 20, rounds: int = 5) -> ListRun:
    """Every caller reads the whole list, page by page, after each change of policies."""
    subscription = Subscription()
    first: list[float] = []
    rest: list[float] = []
    sizes: list[int] = []
    most, used = 0, 0.0
    with tempfile.TemporaryDirectory(prefix="legation-lists-") as directory:
        socket = Path(directory) / "a.sock"
        async with Bridge(egress_address=f"unix:{directory}/nowhere.sock") as bridge:
            endpoint = Endpoint(subscription=subscription, upstream=bridge, max_session_seconds=3600)
            connector = aiohttp.UnixConnector(str(socket))
            async with (
                serving(
                    make_application(subscription=subscription, endpoint=endpoint),
                    f"unix:{socket}",
                    "LEGATION_AGGREGATOR_LISTEN",
                    LinkIdentity(),
                ),
                aiohttp.ClientSession(connector=connector) as session,
            ):
                for revision in range(1, rounds + 1):
                    subscription.take(resources(servers, tools, revision), revision)
                    for who in range(callers):
                        times, page_sizes, listed, cpu_ms = await _walk(session, context_of(who, revision))
                        most, used = max(most, listed), used + cpu_ms
                        first.append(times[0])
                        rest += times[1:] or times
                        sizes += page_sizes
    return ListRun(
        tools=servers * tools,
        listed=most,
        page_bytes=max(sizes),
        first_p50_ms=statistics.median(first),
        page_p50_ms=statistics.median(rest),
        page_p95_ms=statistics.quantiles(rest, n=20)[-1],
        page_cpu_ms=used / len(sizes),
    )


async def _walk(session: aiohttp.ClientSession, context: str) -> tuple[list[float], list[int], int, float]:
    """All pages, twice: how long each took, how large it was, how many tools there were, and the CPU time of client and server."""
    headers = {
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/list",
        "legation-context": context,
    }
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    times, sizes, listed, cpu_ms = [], [], 0, 0.0
    for _ in range(2):
        cursor, listed = None, 0
        while True:
            params = {"_meta": meta, **({"cursor": cursor} if cursor else {})}
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params})
            began, cpu_began = time.perf_counter(), time.process_time()
            async with session.post(f"http://aggregator{PATH}", data=body, headers=headers) as response:
                raw = await response.read()
            times.append((time.perf_counter() - began) * 1000)
            cpu_ms += (time.process_time() - cpu_began) * 1000
            result = json.loads(raw)["result"]
            sizes.append(len(raw))
            listed += len(result["tools"])
            assert set(result["_meta"]["io.legation/members"]) <= {"bench/server-0", "bench/server-1"}, "the client is told"
            cursor = result.get("nextCursor")
            if cursor is None:
                break
    return times, sizes, listed, cpu_ms


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.lists", description=__doc__.partition(":")[0])
    for name, default in (("servers", 50), ("tools", 40), ("callers", 20), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    run = asyncio.run(measure_lists(servers=given.servers, tools=given.tools, callers=given.callers, rounds=given.rounds))
    print(run.text())


if __name__ == "__main__":
    main()
