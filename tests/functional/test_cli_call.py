"""`legation call`: the SDK's client against a real SDK server, and against the gateway's refusals."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import uvicorn
from click.testing import CliRunner, Result
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

from controlplane.cli.main import legation
from controlplane.cli.outcome import Outcome
from controlplane.development_issuer import create_credential_file
from tests.functional.scripted_api import scripted_api

PATH = "/servers/demo/crm/mcp"


def mcp_server() -> MCPServer:
    server = MCPServer("crm")

    @server.tool()
    def greet(name: str) -> str:
        """Greets."""
        return f"hello {name}\x1b[31m\nsecond line"

    @server.tool()
    def fail() -> str:
        """Fails."""
        raise ValueError("no such contact")

    return server


@pytest.fixture
def sdk_url() -> Iterator[str]:
    any_host = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = mcp_server().streamable_http_app(streamable_http_path=PATH, transport_security=any_host)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        running.should_exit = True
        thread.join()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    create_credential_file(tmp_path / "development-issuer.json", issuer="urn:legation:development-issuer")
    return tmp_path


def call(data_dir: Path, gateway_url: str, *args: str) -> Result:
    options = ["--data-dir", str(data_dir), "--gateway-url", gateway_url]
    return CliRunner().invoke(legation, [*options, "call", "demo/crm", *args])


@pytest.mark.parametrize("protocol", ["auto", "legacy", "2026-07-28"])
def test_a_result_is_printed_harmlessly_in_every_era(data_dir: Path, sdk_url: str, protocol: str):
    answer = call(data_dir, sdk_url, "greet", '{"name": "ann"}', "--as", "ann", "--protocol", protocol)

    assert answer.exit_code == Outcome.DONE, answer.output
    assert answer.stdout.splitlines() == [r"hello ann\x1b[31m", "second line"]


def test_an_error_of_the_tool_is_code_1(data_dir: Path, sdk_url: str):
    answer = call(data_dir, sdk_url, "fail", "--as", "ann", "-o", "json")

    assert answer.exit_code == Outcome.NO, answer.output
    assert json.loads(answer.stdout)["result"]["isError"] is True


@pytest.mark.parametrize("status", [403, 200])
def test_a_denial_shows_the_sentence_the_reason_and_the_decision(data_dir: Path, status: int):
    def denied(request: dict[str, Any]) -> dict[str, Any]:
        data = {"reason": "no_matching_permit", "decision_id": "d-42"}
        return {
            "jsonrpc": "2.0",
            "id": request.get("id"),
            "error": {"code": 40301, "message": "No policy permits this call.", "data": data},
        }

    with scripted_api() as gateway:
        gateway.answer(f"POST {PATH}", denied, status=status)
        shown = call(data_dir, gateway.url, "greet", "--as", "ann", "--group", "sales", "--claim", "level=3", "--protocol", "2026-07-28")
        machine = call(data_dir, gateway.url, "greet", "--as", "ann", "-o", "json")
        tokens = [request["headers"]["Authorization"].removeprefix("Bearer ") for request in gateway.seen]

    assert shown.exit_code == machine.exit_code == Outcome.REFUSED
    assert "refused: No policy permits this call." in shown.stderr
    assert "reason: no_matching_permit" in shown.stderr
    assert "decision: d-42" in shown.stderr
    found = json.loads(machine.stdout)
    assert (found["decision_id"], found["http_status"], found["error"]["code"]) == ("d-42", status, 40301)
    claims = jwt.decode(tokens[0], options={"verify_signature": False})
    assert (claims["sub"], claims["aud"], claims["groups"], claims["level"]) == ("ann", f"{gateway.url}{PATH}", ["sales"], 3)


def test_who_may_call_but_not_list_gets_the_result(data_dir: Path):
    def only_calls(request: dict[str, Any]) -> dict[str, Any]:
        if request["method"] != "tools/call":
            return {"jsonrpc": "2.0", "id": request["id"], "error": {"code": 40301, "message": "no list for you", "data": {}}}
        return {"jsonrpc": "2.0", "id": request["id"], "result": {"resultType": "complete", "content": [{"type": "text", "text": "done"}]}}

    with scripted_api() as gateway:
        gateway.answer(f"POST {PATH}", only_calls)
        answer = call(data_dir, gateway.url, "greet", "--as", "ann", "--protocol", "2026-07-28")
        methods = [json.loads(request["body"])["method"] for request in gateway.seen]

    assert answer.exit_code == Outcome.DONE, answer.output
    assert answer.stdout == "done\n"
    assert methods == ["tools/call"]


def test_an_unreachable_gateway_is_code_4(data_dir: Path):
    answer = call(data_dir, "http://127.0.0.1:9", "greet", "--as", "ann")

    assert answer.exit_code == Outcome.UNREACHABLE
    assert "cannot talk to http://127.0.0.1:9" in answer.stderr


def test_an_answer_that_is_no_mcp_is_a_refusal_and_no_traceback(data_dir: Path):
    with scripted_api() as gateway:
        gateway.answer(f"POST {PATH}", b"<html>", status=500, content_type="text/html")
        answer = call(data_dir, gateway.url, "greet", "--as", "ann")

    assert answer.exit_code == Outcome.REFUSED, answer.output
    assert "Traceback" not in answer.output


def test_the_token_command_prints_a_token_and_nothing_else(data_dir: Path):
    runner = CliRunner()
    options = ["--data-dir", str(data_dir), "--gateway-url", "http://127.0.0.1:8080", "token", "--as", "ann", "--kind", "agent"]

    whole = runner.invoke(legation, [*options, "--group", "a", "--group", "b", "--claim", "team=x", "--ttl", "90s"])
    one = runner.invoke(legation, [*options, "--server", "demo/crm"])

    claims = jwt.decode(whole.stdout.strip(), options={"verify_signature": False})
    assert whole.stderr == ""
    assert (claims["sub"], claims["aud"], claims["groups"], claims["team"]) == ("ann", "http://127.0.0.1:8080", ["a", "b"], "x")
    assert claims["agent"] == "ann"
    assert claims["exp"] - claims["iat"] == 90
    assert jwt.decode(one.stdout.strip(), options={"verify_signature": False})["aud"] == f"http://127.0.0.1:8080{PATH}"
