"""The commands of `compose.yaml`, executed natively with the environment that stands there: TCP, mutual TLS, a real database.

There is no container engine here. What differs from containers is replaced and nothing else: names of hosts by the loopback, ports
by free ones, volumes by directories.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.e2e.stack import PATIENT, START_SECONDS, eventually, free_port
from tests.e2e.upstream import answers
from tests.functional.postgresql import postgresql_server, postgresql_url

__all__ = ["postgresql_server", "postgresql_url"]

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
BIN = Path(sys.executable).parent
HOSTS = "control-plane|authorizer|aggregator|envoy|crm|engineering-db|postgresql"
VOLUMES = ("certificates", "data", "audit", "cache", "edge", "results", "secrets")

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(600)]


@dataclass(kw_only=True)
class Place:
    """Where the containers' world is on this machine."""

    directory: Path
    database_url: str
    ports: dict[str, int] = field(default_factory=dict)

    def port(self, written: str) -> int:
        """The free port that stands for a port of the file."""
        return self.ports.setdefault(written, free_port())

    def native(self, text: str) -> str:
        """`text` of the file, as it is here."""
        if text.startswith("postgresql+"):
            return self.database_url
        text = re.sub(rf"\b({HOSTS}|0\.0\.0\.0|127\.0\.0\.1):(\d+)\b", lambda m: f"127.0.0.1:{self.port(m[2])}", text)
        for volume in VOLUMES:
            text = re.sub(rf"(?<![\w.])/{volume}(?![\w-])", str(self.directory / volume), text)
        return text.replace("172.30.93.0/24", "127.0.0.0/8")

    def command(self, service: dict[str, Any]) -> list[str]:
        """The command line of a service."""
        words = [*service.get("entrypoint", []), *service["command"]]
        if "--port" in words:
            words[words.index("--port") + 1] = str(self.port(words[words.index("--port") + 1]))
        words = ["127.0.0.1" if word == "0.0.0.0" else self.native(word) for word in words]
        return [{"python": sys.executable, "legation": str(BIN / "legation")}.get(words[0], words[0]), *words[1:]]

    def environment(self, service: dict[str, Any]) -> dict[str, str]:
        """The whole environment of a service, and nothing of ours but the search path."""
        written = {name: self.native(str(value)) for name, value in service.get("environment", {}).items()}
        decides = {"LEGATION_API_LISTEN", "LEGATION_AUDIT_DIR"} & written.keys()  # those who know how long a decision may take
        patient = PATIENT if decides else {}
        return {"PATH": os.environ["PATH"]} | patient | written


async def run_once(place: Place, name: str, *arguments: str, given: str = "") -> tuple[int, str]:
    """Run a service that ends; its exit status and what it said."""
    service = SERVICES[name] | ({"command": list(arguments)} if arguments else {})
    process = await asyncio.create_subprocess_exec(
        *place.command(service),
        env=place.environment(service),
        cwd=place.directory,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(given.encode()), 180)
    return process.returncode or 0, output.decode()


@contextlib.asynccontextmanager
async def running(place: Place, name: str) -> AsyncIterator[None]:
    """Run a service until the block ends; it must end by itself when asked to."""
    service = SERVICES[name]
    log_file = place.directory / f"{name}.log"
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *place.command(service), env=place.environment(service), cwd=place.directory, stdout=log, stderr=log
        )
    try:
        yield
    except BaseException as error:
        error.add_note(f"{name}: {log_file.read_text()[-3000:]}")
        raise
    finally:
        if process.returncode is None:
            process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) in {0, -15}, log_file.read_text()[-3000:]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    for volume in VOLUMES:
        (tmp_path / volume).mkdir(mode=0o700)
    if getattr(request, "param", "sqlite") == "sqlite":
        return Place(directory=tmp_path, database_url=f"sqlite:///{tmp_path}/data/registry.db")
    return Place(directory=tmp_path, database_url=request.getfixturevalue("postgresql_url"))


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
async def test_a_governed_call_goes_through_the_processes_of_the_compose_file(place: Place) -> None:
    for name in ("certificates", "installation"):
        status, said = await run_once(place, name)
        assert status == 0, said

    async with contextlib.AsyncExitStack() as everything:
        for name in ("control-plane", "authorizer", "aggregator", "envoy", "crm", "engineering-db"):
            await everything.enter_async_context(running(place, name))

        async def ready() -> bool:
            return await answers(place.port("8080")) and (await run_once(place, "operator"))[0] == 0

        await eventually(ready, seconds=START_SECONDS, interval=0.2, what="the operator's `legation status`")
        registry = (ROOT / "controlplane" / "demo" / "registry.yaml").read_text()
        registry = registry.replace("127.0.0.1:9101", f"127.0.0.1:{place.port('9101')}").replace(
            "127.0.0.1:9102", f"127.0.0.1:{place.port('9102')}"
        )
        status, said = await run_once(place, "operator", "apply", "--accept", "-f", "-", given=registry)
        assert status == 0, said

        caller = ("--as", "ann", "--group", "marketing")
        status, allowed = await run_once(place, "operator", "call", "demo/crm", "search_contacts", '{"text": "nordvik"}', *caller)
        assert status == 0, allowed
        assert "Nordvik" in allowed

        status, denied = await run_once(place, "operator", "call", "demo/engineering-db", "query", '{"sql": "select 1"}', *caller)
        assert status != 0
        assert "denied" in denied.lower() or "may not" in denied.lower() or "forbid" in denied.lower(), denied

        status, listed = await run_once(place, "operator", "audit", "-o", "json")
        assert status == 0, listed
        assert "search_contacts" in listed

        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{place.port('8080')}/nothing/here") as response:
            assert response.status == 404

        async def recorded() -> bool:
            listed = (await run_once(place, "operator", "audit", "-o", "json"))[1]
            return "edge_rejected" in listed and "/nothing/here" in listed

        await eventually(recorded, interval=0.5, what="the record of what Envoy refused by itself")


async def test_another_process_cannot_pretend_to_be_a_node(place: Place) -> None:
    """A certificate of another authority opens neither discovery nor the authorizer."""
    for name in ("certificates", "installation"):
        assert (await run_once(place, name))[0] == 0
    async with running(place, "control-plane"):
        await eventually(lambda: answers(place.port("18000")), what="discovery")
        stranger = Place(directory=place.directory / "stranger", database_url=place.database_url, ports=place.ports)
        for volume in VOLUMES:
            (stranger.directory / volume).mkdir(mode=0o700, parents=True)
        assert (await run_once(stranger, "certificates"))[0] == 0
        log_file = stranger.directory / "authorizer.log"

        async def refused() -> bool:
            return "discovery stream ended" in log_file.read_text()

        async with running(stranger, "authorizer"):
            await eventually(refused, interval=0.2, what="the refusal of the stranger")

    assert "xDS node connected" not in (place.directory / "control-plane.log").read_text()
