"""The whole product as a newcomer starts it, on free ports and in a directory of its own: `legation up`, real Envoy and all.

async with running_stack(tmp_path) as stack:
    await stack.apply(documents)
    answer = await stack.post("/servers/demo/crm/mcp", body, access_token=stack.token("marketing-agent"))
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jwt

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
LEGATION = Path(sys.executable).parent / "legation"
START_SECONDS = 180.0
STOP_SECONDS = 60.0
PATIENCE_SECONDS = 60.0
"""How long a test waits for what must come: a machine that builds and tests at once may stand still for seconds."""
PATIENT = {"LEGATION_CHECK_TIMEOUT_MS": "15000", "LEGATION_WATCHED_SERVERS": "0"}
"""What a stack is started with: tests of slowness set their own. Nobody listens to servers, which tests see every request of; the test of
lists that change does."""


async def eventually(probe: Any, *, seconds: float = PATIENCE_SECONDS, interval: float = 0.02, what: str = "") -> Any:
    """Wait until the coroutine function `probe` returns something true; its last answer is in the failure."""
    deadline = time.monotonic() + seconds
    answer: Any = None
    while time.monotonic() < deadline:
        answer = await probe()
        if answer:
            return answer
        await asyncio.sleep(interval)
    raise AssertionError(f"{what or probe.__name__} did not hold within {seconds} s; last answer: {answer!r}")


@dataclass(kw_only=True)
class Answer:
    """One HTTP answer, read whole."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def message(self) -> Any:
        """The JSON-RPC message of a JSON body or of the last event of a stream."""
        if "text/event-stream" not in self.headers.get("content-type", ""):
            return self.json
        events = [line.removeprefix("data:").strip() for line in self.text.splitlines() if line.startswith("data:")]
        return json.loads(events[-1])


@dataclass(kw_only=True)
class Stack:
    """A running deployment and the keys to it."""

    data_dir: Path
    gateway_url: str
    process: asyncio.subprocess.Process
    session: aiohttp.ClientSession
    log_file: Path
    _tokens: dict[str, str] = field(default_factory=dict)

    def endpoint(self, server: str) -> str:
        """The URL of one MCP server (`namespace/name`), or of a virtual one (`virtual/namespace/name`), at the gateway."""
        return f"{self.gateway_url}/{server if server.startswith('virtual/') else f'servers/{server}'}/mcp"

    def token(self, subject: str, *, server: str, groups: tuple[str, ...] = (), **claims: Any) -> str:
        """An access token of the development issuer for one MCP server."""
        return self._sign("development-issuer.json", subject, self.endpoint(server), groups=list(groups), **claims)

    def admin_headers(self) -> dict[str, str]:
        """What an administrator sends to the API."""
        if "admin" not in self._tokens:
            self._tokens["admin"] = self._sign("admin-credential.json", "admin", f"{self.gateway_url}/v1", seconds=3600)
        return {"authorization": f"Bearer {self._tokens['admin']}"}

    def _sign(self, file: str, subject: str, audience: str, *, seconds: int = 600, **claims: Any) -> str:
        credential = json.loads((self.data_dir / file).read_text())
        now = int(time.time())
        payload = {
            "iss": credential["issuer"],
            "sub": credential.get("subject", subject),
            "aud": audience,
            "iat": now,
            "exp": now + seconds,
            "jti": secrets.token_hex(8),
            **claims,
        }
        key = jwt.PyJWK(credential["private_jwk"], algorithm="EdDSA")
        return jwt.encode(payload, key.key, algorithm="EdDSA", headers={"kid": credential["kid"], "typ": "at+jwt"})

    async def request(
        self, method: str, path: str, *, json_body: Any = None, data: str | bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request to the gateway."""
        async with self.session.request(method, self.gateway_url + path, json=json_body, data=data, headers=headers) as response:
            return Answer(status=response.status, headers=response.headers, text=await response.text())

    async def api(
        self, method: str, path: str, *, json_body: Any = None, headers: Mapping[str, str] | None = None, data: str | None = None
    ) -> Answer:
        """One request of the administrator to the API."""
        return await self.request(method, path, json_body=json_body, data=data, headers={**self.admin_headers(), **(headers or {})})

    async def apply(self, documents: str, *, wait: bool = True) -> int:
        """Apply YAML documents; returns the revision, once every node acknowledged it."""
        answer = await self.api("POST", "/v1/apply", data=documents, headers={"content-type": "application/yaml"})
        assert answer.status == 200, answer.text
        revision = int(answer.json["revision"])
        if wait:
            await self.programmed(revision)
        return revision

    async def programmed(self, revision: int) -> None:
        """Wait until every node acknowledged `revision`."""

        async def complete() -> bool:
            answer = await self.api("GET", f"/v1/revisions/{revision}?wait=20")
            assert answer.status == 200, answer.text
            return bool(answer.json["complete"])

        await eventually(complete, seconds=PATIENCE_SECONDS, what=f"revision {revision} at every node")

    async def accept(self, server: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until the catalog of `namespace/name` was read, accept it, wait until every node knows."""
        namespace, name = server.split("/")
        base = f"/v1/namespaces/{namespace}/mcp-servers/{name}"

        async def probed() -> bool:
            answer = await self.api("GET", f"{base}/tools")
            return answer.status == 200 and bool(answer.json["items"])

        await eventually(probed, seconds=seconds, interval=0.1, what=f"the catalog of {server}")
        answer = await self.api("POST", f"{base}/accept", json_body={})
        assert answer.status == 200, answer.text
        await self.programmed(int(answer.json["revision"]))

    async def call(
        self, server: str, tool: str, arguments: Mapping[str, Any] | None = None, *, access_token: str, request_id: Any = 1
    ) -> Answer:
        """One `tools/call` of a modern client."""
        body = modern_request("tools/call", {"name": tool, "arguments": dict(arguments or {})}, request_id=request_id)
        headers = modern_headers("tools/call", tool) | {"authorization": f"Bearer {access_token}"}
        return await self.request("POST", f"/servers/{server}/mcp", json_body=body, headers=headers)

    def children(self) -> dict[str, int]:
        """Process ids by role: controlplane, extauthz, envoy, controlplane.demo.crm, ..."""
        found = {}
        for line in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int(line.read_text().rsplit(")", 1)[1].split()[1])
                if parent == self.process.pid:
                    command = (line.parent / "cmdline").read_bytes().decode().split("\0")
                    role = command[command.index("-m") + 1] if "-m" in command else Path(command[0]).name
                    found[role] = int(line.parent.name)
        return found


def modern_headers(method: str, name: str = "") -> dict[str, str]:
    """The headers that a client of 2026-07-28 sends."""
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28", "mcp-method": method}
    return headers | ({"mcp-name": name} if name else {})


def modern_request(method: str, params: Mapping[str, Any], *, request_id: Any = 1) -> dict[str, Any]:
    """A request of 2026-07-28."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "legation-tests", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, "_meta": meta}}


@contextlib.asynccontextmanager
async def running_stack(
    directory: Path,
    *,
    demo: bool = False,
    environ: Mapping[str, str] | None = None,
    port: int = 0,
    command: Sequence[str] = (str(LEGATION),),
) -> AsyncIterator[Stack]:
    """Start a deployment in `directory`, wait until it is ready, stop it and see that no process is left. `command`: what `legation` is."""
    data_dir = directory / "deployment"
    port = port or free_port()
    log_file = directory / "up.log"
    arguments = ["up", "--data-dir", str(data_dir), "--gateway-port", str(port), *(["--demo"] if demo else [])]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEGATION_")} | PATIENT | dict(environ or {})
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, *arguments, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL, env=environment, cwd=ROOT
        )
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        stack = Stack(data_dir=data_dir, gateway_url=f"http://127.0.0.1:{port}", process=process, session=session, log_file=log_file)
        try:
            await _ready(stack)
            yield stack
        finally:
            await _stop(stack)


async def _ready(stack: Stack) -> None:
    async def ready() -> bool:
        if stack.process.returncode is not None:
            raise AssertionError(f"legation up ended with {stack.process.returncode}:\n{stack.log_file.read_text()[-4000:]}")
        try:
            return (await stack.request("GET", "/readyz")).status == 200
        except aiohttp.ClientError:
            return False

    try:
        await eventually(ready, seconds=START_SECONDS, interval=0.05, what="/readyz")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{stack.log_file.read_text()[-4000:]}") from error


async def _stop(stack: Stack) -> None:
    if stack.process.returncode is None:
        stack.process.send_signal(signal.SIGINT)
    try:
        await asyncio.wait_for(stack.process.wait(), STOP_SECONDS)
    except TimeoutError:
        stack.process.kill()
        await stack.process.wait()
        raise AssertionError(f"legation up did not stop within {STOP_SECONDS} s:\n{stack.log_file.read_text()[-3000:]}") from None
