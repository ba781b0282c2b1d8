"""What stands outside the registry is read again for ever, whatever comes of one reading."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from controlplane.registry.authority import AuthorityReader
from controlplane.registry.key_pair_reader import KeyPairReader
from controlplane.xds.authority_file import AuthorityFiles
from controlplane.xds.cache import ViewCache
from controlplane.xds.certificate_source import CertificateSources
from controlplane.xds.publisher import Pace, Publisher
from controlplane.xds.resolver import Resolver
from controlplane.xds.rollout import Rollout
from extauthz.address import AddressRules
from tests.functional.test_trust_domain_revocation import Source
from tests.unit.xds_world import GATEWAY, KEY, mcp_server, state_of

READINGS = 3


class Broken(CertificateSources):
    """Fails in a way that nobody thought of."""

    readings = 0

    async def refresh(self) -> bool:
        self.readings += 1
        raise RuntimeError("nobody thought of this")


@pytest.mark.timeout(60)
async def test_a_reading_that_fails_oddly_ends_neither_the_publisher_nor_later_readings(tmp_path: Path) -> None:
    certificates = Broken(reader=KeyPairReader(tmp_path, KEY))
    source, cache = Source(state_of(1, mcp_server("a"))), ViewCache()
    publisher = Publisher(
        source=source,
        cache=cache,
        rollout=Rollout(cache=cache),
        gateway=GATEWAY,
        key=KEY,
        resolver=Resolver(rules=AddressRules(("10.0.0.0/8",))),
        authorities=AuthorityFiles(reader=AuthorityReader(tmp_path)),
        certificates=certificates,
        pace=Pace(certificates_seconds=0.01, reconnect_seconds=0.0, settle_seconds=0.0),
    )
    running = asyncio.create_task(publisher.run())
    try:
        while certificates.readings < READINGS:
            assert not running.done()
            await asyncio.sleep(0.01)
        await source.edit(state_of(2, mcp_server("a"), mcp_server("b")))
        while publisher.published is None or publisher.published.revision < source.state.revision:
            assert not running.done()
            await asyncio.sleep(0.01)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
