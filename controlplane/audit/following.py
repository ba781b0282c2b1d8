"""How parts of the control plane follow something into the record: step by step, however long a database is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from extauthz.errors import AuditError

logger = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0


async def keep_on(what: str, step: Callable[[], Awaitable[bool]]) -> None:
    """Repeat `step` until it says that there is nothing left. A step that fails is tried again; the first failure is logged."""
    is_failing = False
    while True:
        try:
            goes_on = await step()
        except (SQLAlchemyError, AuditError) as error:
            if not is_failing:
                logger.error("record of the control plane not written", of=what, error=type(error).__name__, reason=str(error)[:500])
            is_failing = True
            await asyncio.sleep(RETRY_SECONDS)
            continue
        if is_failing:
            logger.info("record of the control plane is written again", of=what)
            is_failing = False
        if not goes_on:
            return
