"""`make conformance`: the suite direct, through the whole gateway, and through a virtual server with one member; both protocol
revisions, counts side by side.

Ends with 1 when any scenario counts differently in one of these ways, or when the suite itself is not passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from tests.conformance.credential_listener import credential_listener
from tests.conformance.suite import NOT_OF_VIRTUAL_SERVERS, REVISIONS, SuiteRun, differences, install, run_suite
from tests.e2e.stack import free_port, running_stack
from tests.e2e.upstream import running_module
from tests.toolchain import UnavailableError

SERVER = "conformance/everything"
EXCEPTIONS: tuple[frozenset[str], ...] = (frozenset(), NOT_OF_VIRTUAL_SERVERS)
"""Scenarios that need not count the same, by the way to the server."""
VIRTUAL_SERVER = "virtual/conformance/one"
VIRTUAL = """
apiVersion: legation/v1
kind: VirtualServer
metadata: {namespace: conformance, name: one}
spec:
  defaultVisibility: allow
  members: [{server: everything}]
"""
REGISTRY = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: conformance}}
spec: {{description: the fixture of the conformance suite}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: conformance, name: everything}}
spec:
  endpoints: [{{url: "http://127.0.0.1:{port}/mcp"}}]
  maxBodyBytes: 4194304
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: conformance, name: suite}}
spec:
  role: tester
  subjects: [{{kind: User, name: local/suite}}]
---
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: conformance, name: everything}}
spec:
  cedar: |
    permit (principal in Role::"conformance/tester", action, resource in Namespace::"conformance");
"""


@contextlib.asynccontextmanager
async def governed_fixture(directory: Path, *, upstream_port: int) -> AsyncIterator[tuple[str, str]]:
    """The fixture behind the whole gateway, behind listeners that inject the credentials; gives the URLs for the suite: of the server,
    and of a virtual server that offers all of it."""
    ports = free_port(), free_port()
    hosts = ",".join(f"127.0.0.1:{port},localhost:{port}" for port in ports)
    async with running_stack(directory, environ={"LEGATION_GATEWAY_HOSTS": hosts}) as stack, contextlib.AsyncExitStack() as listeners:
        await stack.apply(REGISTRY.format(port=upstream_port))
        await stack.accept(SERVER)
        await stack.apply(VIRTUAL)
        gateway_port = int(stack.gateway_url.rsplit(":", 1)[1])
        for port, server in zip(ports, (SERVER, VIRTUAL_SERVER), strict=True):
            access_token, own = stack.token("suite", server=server, seconds=3600), directory / f"listener-{port}"
            own.mkdir()
            await listeners.enter_async_context(credential_listener(own, port=port, gateway_port=gateway_port, access_token=access_token))
        yield f"http://127.0.0.1:{ports[0]}/servers/{SERVER}/mcp", f"http://127.0.0.1:{ports[1]}/{VIRTUAL_SERVER}/mcp"


async def compare(directory: Path) -> list[tuple[SuiteRun, SuiteRun, SuiteRun]]:
    """(direct, through the gateway, through a virtual server) for each protocol revision."""
    suite = await asyncio.to_thread(install)
    found = []
    async with (
        running_module("tests.conformance.everything_server") as port,
        governed_fixture(directory, upstream_port=port) as (governed_url, virtual_url),
    ):
        for revision in REVISIONS:
            runs = []
            ways = (("direct", f"http://127.0.0.1:{port}/mcp"), ("governed", governed_url), ("virtual", virtual_url))
            for way, url in ways:
                output_dir = directory / f"{revision}-{way}"
                output_dir.mkdir()
                runs.append(await run_suite(suite, url=url, revision=revision, output_dir=output_dir))
            found.append((runs[0], runs[1], runs[2]))
    return found


def main() -> int:
    """Run, print, judge."""
    with tempfile.TemporaryDirectory(prefix="legation-conformance-") as temporary:
        try:
            found = asyncio.run(compare(Path(temporary)))
        except UnavailableError as error:
            print(f"The conformance suite cannot be installed here: {error}", file=sys.stderr)
            return 2
    failures = 0
    for direct, *ways in found:
        print(f"{direct.revision} direct: {direct.passed} passed, {direct.failed} failed")
        for way, run, but in zip(("through the gateway", "through a virtual server"), ways, EXCEPTIONS, strict=True):
            print(f"{run.revision} {way}: {run.passed} passed, {run.failed} failed")
            for sentence in differences(direct, run, but=but):
                print(f"  {sentence}")
                failures += 1
            failures += run.exit_status != 0
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
