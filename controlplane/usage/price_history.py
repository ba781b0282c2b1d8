"""The price book, read from the registry's history and read again when calls of a newer revision are counted."""

from __future__ import annotations

import threading

import structlog

from controlplane.registry.cost_model_spec import CostModelSpec
from controlplane.registry.entry import Json
from controlplane.registry.kind import Kind
from controlplane.registry.store import RegistryStore
from controlplane.usage.price import ModelChange, PriceBook

logger = structlog.get_logger(__name__)


class PriceHistory:
    """Every CostModel that was ever in force. Thread-safe; blocks for the database."""

    def __init__(self, store: RegistryStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._book = PriceBook()

    def book(self, revision: int) -> PriceBook:
        """A book that knows every change up to this revision."""
        with self._lock:
            if revision > self._book.revision:
                known = self._store.read_revision()  # no record says what the registry has reached: it may claim any revision
                changes = [
                    change for item in self._store.read_documents_over_time(Kind.COST_MODEL) if (change := _change(*item)) is not None
                ]
                self._book = PriceBook(changes, revision=known)
            return self._book


def _change(revision: int, namespace: str, name: str, document: Json | None) -> ModelChange | None:
    """One change; a row that somebody spoiled by hand must not keep calls from being counted."""
    try:
        spec = CostModelSpec.model_validate(document["spec"]) if document is not None else None
    except (KeyError, TypeError, ValueError) as error:
        logger.error("a change of a CostModel is not readable", cost_model=f"{namespace}/{name}", error=type(error).__name__)
        return None
    return ModelChange(revision=revision, namespace=namespace, name=name, spec=spec)
