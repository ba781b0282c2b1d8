"""A Parquet file for each interval, in a directory of this machine or a bucket: `day=2026-11-22/000000000000001.parquet`.

The name is the position of the file's first record: what is written again after a crash replaces itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Protocol

from controlplane.audit.sinks.form.columns import parquet_file, require_pyarrow
from controlplane.audit.sinks.receiver.receiver import DeliveryError, Receipt
from controlplane.audit.sinks.receiver.s3 import S3Store
from controlplane.audit.sinks.sent_record import SentRecord

CONTENT_TYPE = "application/vnd.apache.parquet"


class ObjectStore(Protocol):
    """Where files are put."""

    async def put(self, name: str, content: bytes, *, content_type: str) -> None:
        """Put (or replace) a file; it is durable when this returns."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...


class ParquetReceiver:
    """One store of files. Raises `ConfigurationError` where pyarrow is missing."""

    most_requests = 1

    def __init__(self, store: S3Store | DirectoryStore) -> None:
        require_pyarrow()
        self._store: ObjectStore = store

    async def send(self, records: Sequence[SentRecord]) -> Receipt:
        """See `Receiver`: one file, of those records from the front that are of one day."""
        day, group = next(groupby(records, _day))
        same_day = list(group)
        content = await asyncio.to_thread(parquet_file, same_day)
        await self._store.put(f"day={day}/{same_day[0].position:015d}.parquet", content, content_type=CONTENT_TYPE)
        return Receipt(taken=len(same_day))

    async def close(self) -> None:
        """See `Receiver`."""
        await self._store.close()


class DirectoryStore:
    """A directory of this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def put(self, name: str, content: bytes, *, content_type: str) -> None:  # noqa: ARG002 - of stores that keep it
        """See `ObjectStore`: written beside, synced, and moved into its place."""
        try:
            await asyncio.to_thread(self._write, name, content)
        except OSError as error:
            raise DeliveryError(f"{name} cannot be written: {error.strerror}") from error

    async def close(self) -> None:
        """Nothing is held."""

    def _write(self, name: str, content: bytes) -> None:
        target = self._directory / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.new")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
        parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def _day(record: SentRecord) -> str:
    return datetime.fromtimestamp(record.at_unix_us / 1_000_000, UTC).strftime("%Y-%m-%d")
