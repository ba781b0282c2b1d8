"""Everything that the control plane itself puts on the record: the parts, and what lives how long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from controlplane.audit.changes import ChangeFollower
from controlplane.audit.reconciler import Reconciler
from controlplane.audit.refusals import ApiRefusals
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from controlplane.registry.encryption import RegistryKey
from controlplane.registry.live import LiveState
from controlplane.registry.state import RegistryState
from controlplane.registry.store import RegistryStore
from extauthz.errors import ConfigurationError

MAX_WAIT_SECONDS = 3600


class OwnRecord:
    """`refusals` and `writer` are for the API. `lagging` names authorizers that have not sent what they have (`Collector.barrier`).

    `max_call_seconds` and `max_stream_seconds`: how long calls and streams may take, where a server says nothing else.
    """

    def __init__(
        self,
        *,
        record: AuditStore,
        key: RegistryKey,
        registry: RegistryStore,
        live: LiveState,
        lagging: Callable[[], Awaitable[list[str]]],
        outcomes_expected: bool,
        max_call_seconds: int,
        max_stream_seconds: int,
        outcome_wait_seconds: int,
    ) -> None:
        if not 1 <= outcome_wait_seconds <= MAX_WAIT_SECONDS:
            raise ConfigurationError(f"LEGATION_OUTCOME_WAIT_SECONDS must be between 1 and {MAX_WAIT_SECONDS}")
        self.writer = RecordWriter(record, key)
        self.refusals = ApiRefusals(self.writer)
        self._changes = ChangeFollower(registry=registry.engine, store=record, writer=self.writer, live=live)
        self._reconciler = Reconciler(
            store=record,
            writer=self.writer,
            call_seconds=lambda: longest_call_seconds(live.state, max_call_seconds),
            stream_seconds=lambda: max_stream_seconds,
            lagging=lagging,
            expected=outcomes_expected,
            slack_seconds=outcome_wait_seconds,
        )

    async def run(self) -> None:
        """Until cancelled; then what the API refused last is written."""
        try:
            async with asyncio.TaskGroup() as group:
                for part in (self._changes, self._reconciler, self.refusals):
                    group.create_task(part.run())
        finally:
            await self.refusals.flush()


def longest_call_seconds(state: RegistryState, usual: int) -> float:
    """How long a call may take: a server may allow its own more than is usual."""
    return max(usual, max((entry.spec.timeout_ms / 1000 for entry in state.mcp_servers.values()), default=0.0))
