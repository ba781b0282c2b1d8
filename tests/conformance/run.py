"""`make conformance`: the suite direct and through the whole gateway, both protocol revisions, counts side by side.

Ends with 1 when any scenario counts differently through the gateway, or when the suite itself is not passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from tests.conformance.credential_listener import credential_listener
from tests.conformance.suite import REVISIONS, SuiteRun, differences, install, run_suite
from tests.e2e.stack import free_port, running_stack
from tests.e2e.upstream import running_module
from tests.toolchain import UnavailableError

SERVER = "conformance/everything"
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
async def governed_fixture(directory: Path, *, upstream_port: int) -> AsyncIterator[str]:
    """The fixture behind the whole gateway, behind a listener that injects the credential; gives the URL for the suite."""
    port = free_port()
    environ = {"LEGATION_GATEWAY_HOSTS": f"127.0.0.1:{port},localhost:{port}"}
    async with running_stack(directory, environ=environ) as stack:
        await stack.apply(REGISTRY.format(port=upstream_port))
        await stack.accept(SERVER)
        access_token = stack.token("suite", server=SERVER, seconds=1800)
        gateway_port = int(stack.gateway_url.rsplit(":", 1)[1])
        async with credential_listener(directory, port=port, gateway_port=gateway_port, access_token=access_token):
            yield f"http://127.0.0.1:{port}/servers/{SERVER}/mcp"


async def compare(directory: Path) -> list[tuple[SuiteRun, SuiteRun]]:
    """(direct, through the gateway) for each protocol revision."""
    suite = await asyncio.to_thread(install)
    found = []
    async with (
        running_module("tests.conformance.everything_server") as port,
        governed_fixture(directory, upstream_port=port) as governed_url,
    ):
        for revision in REVISIONS:
            runs = []
            for way, url in (("direct", f"http://127.0.0.1:{port}/mcp"), ("governed", governed_url)):
                output_dir = directory / f"{revision}-{way}"
                output_dir.mkdir()
                runs.append(await run_suite(suite, url=url, revision=revision, output_dir=output_dir))
            found.append((runs[0], runs[1]))
    return found


def main() -> int:
    """Run, print, judge."""
    with tempfile.TemporaryDirectory(prefix="legation-conformance-") as temporary:
        try:
            pairs = asyncio.run(compare(Path(temporary)))
        except UnavailableError as error:
            print(f"The conformance suite cannot be installed here: {error}", file=sys.stderr)
            return 2
    failures = 0
    for direct, governed in pairs:
        for way, run in (("direct", direct), ("through the gateway", governed)):
            print(f"{run.revision} {way}: {run.passed} passed, {run.failed} failed")
        for sentence in differences(direct, governed):
            print(f"  {sentence}")
            failures += 1
        failures += governed.exit_status != 0
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
