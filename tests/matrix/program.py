"""The frame of every client program: a plan on standard input, one line of JSON per visit on standard output."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from labels import PATIENCE_SECONDS
from visit import Connection, told, visit

VISIT_SECONDS = PATIENCE_SECONDS * 10


async def run(connected: Callable[[str, str, str], AbstractAsyncContextManager[Connection]]) -> None:
    """Make each visit of the plan, one after the other; one that fails is reported and does not hinder the next."""
    plan = json.loads(sys.stdin.read())
    for planned in plan["visits"]:
        report: dict[str, Any] = {"place": planned["place"]}
        try:
            await asyncio.wait_for(_visited(connected, plan, planned, report), VISIT_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to read it
            report["error"] = told(error)
        print(json.dumps(report), flush=True)


async def _visited(connected: Any, plan: dict[str, Any], planned: dict[str, Any], report: dict[str, Any]) -> None:
    async with connected(planned["url"], planned["access_token"], plan["mode"]) as connection:
        report["version"] = connection.version
        report["servers"] = await visit(connection, label=plan["label"], place=planned["place"], servers=planned["servers"])
