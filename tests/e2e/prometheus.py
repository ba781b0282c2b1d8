"""A real Prometheus that scrapes what a test started, where it is installed (Debian: apt install prometheus); else a skip that says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.ports import free_port


def need(program: str) -> str:
    """Its path, or a skip."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here (apt install prometheus): its tests were not run")
    return found


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs."""

    url: str
    session: aiohttp.ClientSession

    async def query(self, expression: str) -> list[Any]:
        """What an expression gives now."""
        async with self.session.get(f"{self.url}/api/v1/query", params={"query": expression}) as response:
            answer = await response.json()
        assert answer["status"] == "success", (expression, answer)
        return list(answer["data"]["result"])


@contextlib.asynccontextmanager
async def running_prometheus(directory: Path, config: Path, targets: Sequence[str]) -> AsyncIterator[Prometheus]:
    """Scrapes `targets`, in the order of those of the configuration `config`, every second."""
    binary, port = need("prometheus"), free_port()
    document = yaml.safe_load(config.read_text())
    document["global"]["scrape_interval"] = "1s"
    document["rule_files"] = [str(config.parent / file) for file in document["rule_files"]]
    places = document["scrape_configs"][0]["static_configs"]
    for place, target in zip(places, targets, strict=True):
        place["targets"] = [target]
    written = directory / "prometheus.yaml"
    written.write_text(json.dumps(document))
    with (directory / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            binary,
            f"--config.file={written}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession() as session:
            yield Prometheus(f"http://127.0.0.1:{port}", session)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
