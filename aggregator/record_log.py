"""The aggregator's own write-ahead log, for answers of tools, and how it comes to the control plane.

It is as an authorizer's (`extauthz.audit`), in a directory of its own, and begins with the first answer that is wanted: where no
AuditPolicy wants any, nothing is written. What an earlier process left there is shipped in any case, and readers of the record ask
this process for what it has from its start on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import structlog

from aggregator.recording import Nowhere
from aggregator.settings import AggregatorSettings
from extauthz.audit.loss import Losses
from extauthz.audit.record import AuditRecord
from extauthz.audit.shipper import RecordShipper
from extauthz.audit.shipping import RESULTS, new_writer_id
from extauthz.audit.wal import AuditLog
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.discovery import open_channel
from extauthz.observation import observe_audit, observe_shipping
from extauthz.telemetry.metric import MetricRegistry
from extauthz.transport import LinkIdentity

logger = structlog.get_logger(__name__)

SHIP_GRACE_SECONDS = 1.0
_LOOK_SECONDS = 0.2


class OpenedLate:
    """An `AuditLog` that makes its directory and its first file when there is something to write; tries again each time that fails."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._is_open = False

    async def append(self, record: AuditRecord) -> None:
        """Returns when the record is durable; raises `AuditError`."""
        if not self._is_open:
            self._log.open()
            self._is_open = True
        await self._log.append(record)


@contextlib.asynccontextmanager
async def running_record_log(
    settings: AggregatorSettings,
    link: LinkIdentity,
    metrics: MetricRegistry | None,
    sealing_key: Callable[[], AuditSealingKey | None],
) -> AsyncIterator[Losses]:
    """Where answers are recorded until the block ends: what is needed is durable or `AuditError`, of the rest what is lost is counted."""
    directory = settings.audit_dir
    if directory is None:
        async with _running(Losses(Nowhere(), Nowhere())) as losses:
            yield losses
        return
    log = AuditLog(
        directory=directory,
        writer_id=new_writer_id(f"{RESULTS}{settings.node_id}"),
        max_bytes=settings.audit_max_bytes,
        sealing_key=sealing_key,
    )
    recorder = OpenedLate(log)
    shipper = RecordShipper(
        directory=directory,
        node_id=settings.node_id,
        open_channel=partial(open_channel, settings.xds_address, link.channel_credentials(settings.xds_address)),
        durable_end=log.durable_end,
        results=True,
    )
    shipping = asyncio.create_task(_ship(shipper, directory))
    try:
        async with _running(Losses(recorder, recorder)) as losses:
            if metrics is not None:
                observe_audit(metrics, log, losses)
                observe_shipping(metrics, log, shipper)
            yield losses
    finally:
        log.close()
        if await asyncio.to_thread(directory.is_dir):
            await shipper.finish(SHIP_GRACE_SECONDS)  # what is not taken by then is sent when this process is back
        shipping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await shipping


@contextlib.asynccontextmanager
async def _running(losses: Losses) -> AsyncIterator[Losses]:
    telling = asyncio.create_task(losses.run())
    try:
        yield losses
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
        await losses.flush()


async def _ship(shipper: RecordShipper, directory: Path) -> None:
    """Ship for ever, as soon as there is a directory."""
    while not await asyncio.to_thread(_is_made, directory):  # noqa: ASYNC110 - a directory has no event to wait for
        await asyncio.sleep(_LOOK_SECONDS)
    await shipper.run()


def _is_made(directory: Path) -> bool:
    with contextlib.suppress(OSError):  # who wants to write there is told why
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory.is_dir()
