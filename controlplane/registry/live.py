"""The registry state, kept current in memory: read whole once, advanced by changes after that.

The service validates against it, the publisher and the API read it. A commit of this process is seen at once; commits of
other replicas by `follow`, which looks once a second. Reading changes is the truth, every signal is only a hint.
"""

from __future__ import annotations

import asyncio
import threading

import structlog
from sqlalchemy.exc import SQLAlchemyError

from controlplane.registry.changes import ChangeSet, advance
from controlplane.registry.state import RegistryState
from controlplane.registry.store import RegistryStore, read_changes
from controlplane.registry.transaction import WriteTransaction

_log = structlog.get_logger(__name__)


class LiveState:
    """One immutable `RegistryState` after another. Thread-safe; `wait` belongs to event loops."""

    def __init__(self, store: RegistryStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._state = store.read_state()

    @property
    def state(self) -> RegistryState:
        """The newest state; cheap, never blocks."""
        return self._state

    def refresh(self) -> RegistryState:
        """Advance to what is committed now. Synchronous: event loops call it in a thread."""
        with self._lock:
            return self._advance(self._store.read_changes(self._state.revision))

    def at(self, transaction: WriteTransaction) -> RegistryState:
        """The state that a write transaction starts from."""
        with self._lock:
            if self._state.revision != transaction.current:
                self._advance(read_changes(transaction.connection, self._state.revision))
            return self._state

    async def wait(self, after: int) -> RegistryState:
        """The newest state, as soon as its revision is above `after`."""
        changed = asyncio.Event()
        waiter = (asyncio.get_running_loop(), changed)
        self._waiting.add(waiter)
        try:
            while self._state.revision <= after:
                await changed.wait()
                changed.clear()
            return self._state
        finally:
            self._waiting.discard(waiter)

    async def follow(self, *, interval_seconds: float = 1.0) -> None:
        """See what other replicas commit, until cancelled. A database that is away is looked for again."""
        away = False
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                if await asyncio.to_thread(self._store.read_revision) > self._state.revision:
                    await asyncio.to_thread(self.refresh)
                if away:
                    _log.info("the registry's database answers again")
                away = False
            except SQLAlchemyError as error:
                if not away:
                    _log.error("the registry's database does not answer", error=type(error).__name__)
                away = True

    def _advance(self, changes: ChangeSet) -> RegistryState:
        if changes.revision > self._state.revision:
            self._state = advance(self._state, changes)
            for loop, changed in list(self._waiting):
                loop.call_soon_threadsafe(changed.set)
        return self._state
