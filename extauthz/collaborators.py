"""What a decision needs of others: the state, credentials, the record, and whoever watches."""

from __future__ import annotations

from typing import Protocol

from extauthz.audit.record import AuditRecord
from extauthz.case import Case
from extauthz.catalog.server import McpServer
from extauthz.errors import Reason
from extauthz.identification import Authenticates
from extauthz.state import AuthorizationState


class StateReader(Authenticates, Protocol):
    """Where the current state is read: None = not loaded yet; `stale` = too old to decide by."""

    def current(self) -> AuthorizationState | None:
        """The state of the newest revision."""

    def stale(self) -> bool:
        """Whether it is too old to decide by."""


class CredentialReader(Protocol):
    """Where upstream credentials come from."""

    async def headers_for(self, mcp_server: McpServer, deadline: float) -> list[tuple[str, str]]:
        """Headers that authenticate the gateway to the server; raises CredentialError."""


class Recorder(Protocol):
    """Makes a record durable or raises AuditError."""

    async def append(self, record: AuditRecord) -> None:
        """Returns when the record is durable."""


class Observes(Protocol):
    """Who hears of decisions, where telemetry is on (`observation`)."""

    def began(self, case: Case) -> None:
        """A decision begins."""

    def ended(self, case: Case, reason: Reason) -> None:
        """It stands, and its record is complete."""
