"""Workloads of real SPIRE at the real gateway: by certificate and by token, of our trust domain and of a federated one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from spiffe import WorkloadApiClient

from tests.e2e.stack import ROOT, eventually
from tests.spire.deployment import PATIENCE_SECONDS, Programs, SpireServer
from tests.spire.workload import PYTHON, fetch_svid
from tests.spire.world import BUYER, calling, federation, http, running_world

pytestmark = pytest.mark.envoy

EXAMPLE = ROOT / "examples" / "svid"
PAGE = (ROOT / "docs" / "identity.md").read_text()
SELLER = "spiffe://partner.example/agents/seller"


def commands(paragraph: str) -> list[str]:
    """The commands of SPIRE in one paragraph of the page."""
    text = PAGE.split(f"**{paragraph}**")[1].split("\n**")[0].replace("\\\n", "")
    return [" ".join(line.split()) for line in text.splitlines() if line.startswith("spire-server ")]


def test_the_page_registers_workloads_as_the_example_does() -> None:
    script = " ".join((EXAMPLE / "spire.sh").read_text().replace("\\\n", "").split())

    entries = commands("Who is who.")

    assert len(entries) == 2
    assert all(entry in script for entry in entries)


def test_the_example_runs_a_workload_that_has_nothing_but_its_svid(programs: Programs) -> None:
    environ = {**os.environ, "PATH": f"{programs.server.parent}:{os.environ['PATH']}"}

    command = ["make", "-s", "-C", str(EXAMPLE), "run", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=280, check=False)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-4:] == [f"allow  Workload  {BUYER}  search_contacts", f"deny   Workload  {BUYER}  update_contact"] * 2


async def test_authorities_are_exchanged_under_traffic_and_no_call_fails(programs: Programs, tmp_path: Path) -> None:
    with SpireServer(programs) as server, server.agent() as agent:
        server.register("/gateway", PYTHON, dns=["localhost"])
        server.register("/agents/buyer", PYTHON)
        before = await asyncio.to_thread(fetch_svid, agent, tmp_path, spiffe_id=BUYER)
        async with running_world(agent, tmp_path) as world, http(before) as held_open, calling(world, agent, tmp_path) as calls:
            assert (await world.call(held_open)).status == 200
            await calls.more(5)

            prepare, show, activate, taint, revoke = commands("A new authority.")
            server.shell(prepare)
            authorities = server.authorities()
            old, new = authorities.active, authorities.prepared
            assert {old, new} <= set(server.shell(show).split())
            await world.knows_authorities(2)
            await calls.more(5)
            server.shell(activate, NEW=new)
            server.shell(taint, OLD=old)

            async def renewed() -> bool:
                return calls.shown_by == new and await world.shown_by(before) == new

            await eventually(renewed, what="certificates of the new authority on both sides")
            await calls.more(5)
            assert (await world.call(held_open)).status == 200
            server.shell(revoke, OLD=old)

            async def refused() -> bool:
                return (await world.call(held_open)).status == 401

            await eventually(refused, what="a refusal of the old authority on the connection that is open")
            await calls.more(5)

    assert calls.failures == []


async def test_a_federated_workload_is_let_in_until_its_trust_domain_is_deleted(programs: Programs, tmp_path: Path) -> None:
    with (
        SpireServer(programs) as server,
        SpireServer(programs, "partner.example") as partner,
        server.agent() as agent,
        partner.agent() as theirs,
    ):
        server.register("/gateway", PYTHON, dns=["localhost"])
        server.register("/agents/buyer", PYTHON)
        partner.register("/agents/seller", PYTHON)
        authorities = (await asyncio.to_thread(fetch_svid, agent, tmp_path, "ours")).authorities
        seller = replace(await asyncio.to_thread(fetch_svid, theirs, tmp_path, "theirs"), authorities=authorities)
        async with running_world(agent, tmp_path) as world:
            tokens = WorkloadApiClient(theirs.address, default_timeout=PATIENCE_SECONDS)
            token = (await asyncio.to_thread(tokens.fetch_jwt_svid, {world.endpoint})).token
            tokens.close()
            async with http(seller) as by_certificate, http(seller, show_svid=False) as by_token:
                bearer = {"authorization": f"Bearer {token}"}
                assert (await world.call(by_token, **bearer)).status == 401
                await world.stack.apply(federation(partner))
                await world.knows_authorities(1, "partner")

                for session, headers in ((by_certificate, {}), (by_token, bearer)):
                    answer = await world.call(session, **headers)
                    record = await world.last_record()
                    assert answer.status == 200, answer.text
                    assert (record["principal"]["kind"], record["principal"]["id"]) == ("Workload", SELLER)
                deleted = await world.stack.api("DELETE", "/v1/namespaces/system/trust-domains/partner", headers={"if-match": "*"})
                assert deleted.status == 200, deleted.text
                started = time.monotonic()

                async def refused() -> bool:
                    return [(await world.call(by_certificate)).status, (await world.call(by_token, **bearer)).status] == [401, 401]

                await eventually(refused, interval=0.005, what="a refusal on the connections that are open")
                print(f"refused {(time.monotonic() - started) * 1000:.0f} ms after the API answered")
