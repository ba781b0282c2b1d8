"""What the registry does by itself as time goes: it forgets what holds for nobody any more, and rotates signing keys."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from controlplane.registry.service import RegistryService

_log = structlog.get_logger(__name__)

PRUNE_SECONDS = 60.0


async def prune_always(service: RegistryService, *, interval_seconds: float = PRUNE_SECONDS) -> None:
    """Delete revocations soon after their `until`, and rotate signing keys, until cancelled. Authorizers heed `until` themselves."""
    while True:
        await asyncio.sleep(interval_seconds)
        try:
            while await asyncio.to_thread(service.prune_revocations, datetime.now(UTC)):
                pass
        except SQLAlchemyError as error:
            _log.error("revocations cannot be pruned", error=type(error).__name__)
        try:
            await asyncio.to_thread(service.rotate_signing_keys, datetime.now(UTC))
        except SQLAlchemyError as error:
            _log.error("signing keys cannot be rotated", error=type(error).__name__)
