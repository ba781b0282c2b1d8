"""One world for all attacks: started once, searched for secrets when the last of them is over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.attacks.world import World, running_world


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """The running deployment and its recording upstreams."""
    async with running_world(tmp_path_factory.mktemp("attacks")) as running:
        yield running
