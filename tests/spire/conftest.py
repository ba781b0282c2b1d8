"""Real SPIRE for the tests beside this file, built before the first of them so that no test's time limit counts the build."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spire.deployment import Programs
from tests.spire.programs import programs as built
from tests.toolchain import UnavailableError

_HERE = Path(__file__).parent


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is not in the cache; why it cannot be is told by the fixture, once for each test."""
    ours = any(_HERE in item.path.parents for item in session.items)
    if ours and not session.config.option.collectonly:
        try:
            built()
        except UnavailableError:
            return


def pytest_itemcollected(item: pytest.Item) -> None:
    """All of them need Go, or what Go built."""
    if _HERE in item.path.parents:
        item.add_marker("external")


@pytest.fixture(scope="session")
def programs() -> Programs:
    """SPIRE's programs."""
    try:
        return built()
    except UnavailableError as error:
        pytest.skip(f"real SPIRE cannot be built here: {error}")
