"""A whole deployment whose Gateway `default` takes the gateway to TLS: calls, command line, and the next start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.envoy_world import free_port
from tests.e2e.stack import LEGATION, PATIENT, ROOT, Stack, eventually, running_stack
from tests.pki import TestAuthority

pytestmark = pytest.mark.envoy

CA = TestAuthority()


async def legation(stack: Stack, *arguments: str) -> tuple[int, str]:
    """The command line, which believes our authority as other programs do: by SSL_CERT_FILE."""
    environment = {**os.environ, "SSL_CERT_FILE": str(stack.data_dir / "ca.pem")}
    process = await asyncio.create_subprocess_exec(
        str(LEGATION), *arguments, "--data-dir", str(stack.data_dir), env=environment, cwd=ROOT, stdout=-1, stderr=-2
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


def gateway_document(url: str, listen: str) -> str:
    issued = CA.issue("127.0.0.1")
    stored = {"chain": issued.chain_pem.decode(), "key": {"value": issued.key_pem.decode()}}
    spec = {"url": url, "listen": listen, "tls": {"certificates": {"own": {"stored": stored}}}}
    metadata = {"namespace": "system", "name": "default"}
    return json.dumps({"apiVersion": "legation/v1", "kind": "Gateway", "metadata": metadata, "spec": spec})


async def test_a_deployment_moves_to_tls_and_starts_there_again(tmp_path: Path) -> None:
    port, plain = free_port(), free_port()
    url = f"https://127.0.0.1:{port}"
    trusting = ssl.create_default_context(cadata=CA.pem.decode())

    async with running_stack(tmp_path, port=plain) as stack:
        (stack.data_dir / "ca.pem").write_bytes(CA.pem)
        before = await stack.api("GET", "/v1/nodes")
        applied = await stack.api(
            "POST", "/v1/apply", data=gateway_document(url, f"127.0.0.1:{port}"), headers={"content-type": "application/json"}
        )
        await eventually(lambda: says(stack, url), what="the state file")
        moved = replace(stack, gateway_url=url, _tokens={})
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session:
            moved.session = session
            now = await moved.api("GET", "/v1/gateways")
            metadata = await moved.request("GET", "/.well-known/oauth-protected-resource/servers/demo/crm/mcp")
            call = await moved.request("POST", "/servers/demo/crm/mcp", json_body={"jsonrpc": "2.0", "id": 1, "method": "ping"})
        status = await legation(stack, "status")

    assert before.status == applied.status == now.status == 200, applied.text
    assert now.json["items"][0]["status"]["conditions"][0]["status"] == "True"
    assert metadata.json["resource"] == f"{url}/servers/demo/crm/mcp"
    assert f'resource_metadata="{url}/.well-known/oauth-protected-resource/servers/demo/crm/mcp"' in call.headers["www-authenticate"]
    assert status[0] == 0, status[1]
    assert url in status[1]
    own = {"audit-signing-key.pem"}  # made by the deployment itself; no certificate's
    kept = [file.read_bytes() for file in stack.data_dir.rglob("*") if file.is_file() and file.name not in own]
    assert b"PRIVATE KEY" not in b"".join(kept)

    command = [str(LEGATION), "up", "--data-dir", str(stack.data_dir), "--gateway-port", str(plain)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")} | PATIENT
    with (tmp_path / "again.log").open("wb") as log:
        again = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment, cwd=ROOT)
        try:
            await eventually(lambda: says(stack, url), what="the state file of the second start")
            status = await legation(stack, "status")
        finally:
            again.send_signal(signal.SIGINT)
            await again.wait()

    assert status[0] == 0, status[1]
    assert f"at {url}" in (tmp_path / "again.log").read_text()


async def says(stack: Stack, url: str) -> bool:
    file = stack.data_dir / "deployment.json"
    return file.exists() and json.loads(file.read_text())["gateway_url"] == url
