"""Deletes what holds for nobody any more, so that the registry does not only grow."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from controlplane.registry.service import RegistryService

_log = structlog.get_logger(__name__)

PRUNE_SECONDS = 60.0


async def prune_always(service: RegistryService, *, interval_seconds: float = PRUNE_SECONDS) -> None:
    """Delete revocations soon after their `until`, until cancelled. Authorizers heed `until` themselves: nothing waits for this."""
    while True:
        await asyncio.sleep(interval_seconds)
        try:
            while await asyncio.to_thread(service.prune_revocations, datetime.now(UTC)):
                pass
        except SQLAlchemyError as error:
            _log.error("revocations cannot be pruned", error=type(error).__name__)
