"""Dynamic clients and used client assertions in SQL, so that every replica of the control plane knows the same.

Synchronous: callers on the event loop use a thread. Each write forgets what has expired; nothing grows without bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from controlplane.authorization_server.clients.client import DynamicClient, RegisteredClient, RegistrationRules
from controlplane.authorization_server.clients.tables import CLIENT_ASSERTION, OAUTH_CLIENT
from controlplane.database import WRITE_OPTION

MAX_LIVE_ASSERTIONS = 10_000
"""How many assertions of one client may be remembered at once: at five minutes each, 33 a second."""
_USE_PRECISION = timedelta(hours=1)
_KEPT_ELSEWHERE = frozenset({"client_id", "secret_digest"})


class SqlClientStore:
    """The `DynamicClientStore` and the `AssertionMemory` of a registry's database. Thread-safe."""

    def __init__(self, engine: Engine, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._clock = clock

    def read(self, server_uid: str, client_id: str) -> DynamicClient | None:
        """The client of this authorization server, expired or not."""
        statement = select(OAUTH_CLIENT).where(OAUTH_CLIENT.c.server_uid == server_uid, OAUTH_CLIENT.c.client_id == client_id)
        with self._engine.connect() as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        client = _client_of(row.document, client_id=row.client_id, secret_digest=row.secret_digest)
        return DynamicClient(client=client, registered_at=row.registered_at, used_at=row.used_at)

    def add(self, server_uid: str, client: DynamicClient, rules: RegistrationRules) -> bool:
        """Keep a new client; expired ones go first, then the oldest that were never used. False: there is no room."""
        values = {
            "server_uid": server_uid,
            "client_id": client.client.client_id,
            "document": _document_of(client.client),
            "secret_digest": client.client.secret_digest,
            "registered_at": client.registered_at,
            "used_at": client.used_at,
        }
        with self._writing() as connection:
            _forget_expired(connection, server_uid, rules, self._clock())
            if not _make_room(connection, server_uid, rules.max_clients):
                return False
            connection.execute(insert(OAUTH_CLIENT).values(values))
        return True

    def note_use(self, server_uid: str, client_id: str, at: datetime) -> None:
        """A token was issued to it at `at`; written once in an hour."""
        due = or_(OAUTH_CLIENT.c.used_at.is_(None), OAUTH_CLIENT.c.used_at < at - _USE_PRECISION)
        named = (OAUTH_CLIENT.c.server_uid == server_uid, OAUTH_CLIENT.c.client_id == client_id)
        with self._engine.connect() as connection:
            if connection.execute(select(OAUTH_CLIENT.c.client_id).where(*named, due)).first() is None:
                return
        with self._writing() as connection:
            connection.execute(update(OAUTH_CLIENT).where(*named, due).values(used_at=at))

    def remove(self, server_uid: str, client_id: str) -> None:
        """Forget a client."""
        with self._writing() as connection:
            connection.execute(delete(OAUTH_CLIENT).where(OAUTH_CLIENT.c.server_uid == server_uid, OAUTH_CLIENT.c.client_id == client_id))

    def take(self, digest: bytes, client: str, expires_at: datetime) -> bool:
        """Use an assertion once; False when it was used before, or when this client has used too many that are still good."""
        live = select(func.count()).select_from(CLIENT_ASSERTION).where(CLIENT_ASSERTION.c.client == client)
        try:
            with self._writing() as connection:
                connection.execute(delete(CLIENT_ASSERTION).where(CLIENT_ASSERTION.c.expires_at <= self._clock()))
                if connection.execute(live).scalar_one() >= MAX_LIVE_ASSERTIONS:
                    return False
                connection.execute(insert(CLIENT_ASSERTION).values(digest=digest, client=client, expires_at=expires_at))
        except IntegrityError:  # the primary key decides, also between replicas
            return False
        return True

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.execution_options(**{WRITE_OPTION: True}).begin():
            yield connection


def _forget_expired(connection: Connection, server_uid: str, rules: RegistrationRules, now: datetime) -> None:
    unused, idle = (now - timedelta(seconds=seconds) for seconds in (rules.unused_seconds, rules.idle_seconds))
    over = or_((OAUTH_CLIENT.c.used_at.is_(None)) & (OAUTH_CLIENT.c.registered_at <= unused), OAUTH_CLIENT.c.used_at <= idle)
    connection.execute(delete(OAUTH_CLIENT).where(OAUTH_CLIENT.c.server_uid == server_uid, over))


def _make_room(connection: Connection, server_uid: str, max_clients: int) -> bool:
    """Whether there is room for one more; whoever was never used makes it, the oldest first."""
    mine = OAUTH_CLIENT.c.server_uid == server_uid
    surplus = connection.execute(select(func.count()).select_from(OAUTH_CLIENT).where(mine)).scalar_one() + 1 - max_clients
    if surplus <= 0:
        return True
    unused = select(OAUTH_CLIENT.c.client_id).where(mine, OAUTH_CLIENT.c.used_at.is_(None)).order_by(OAUTH_CLIENT.c.registered_at)
    leaving = list(connection.execute(unused.limit(surplus)).scalars())
    if len(leaving) < surplus:
        return False
    connection.execute(delete(OAUTH_CLIENT).where(mine, OAUTH_CLIENT.c.client_id.in_(leaving)))
    return True


def _document_of(client: RegisteredClient) -> dict[str, Any]:
    found = {field.name: getattr(client, field.name) for field in fields(client) if field.name not in _KEPT_ELSEWHERE}
    return found | {"grant_types": sorted(client.grant_types), "redirect_uris": list(client.redirect_uris), "scopes": list(client.scopes)}


def _client_of(document: dict[str, Any], *, client_id: str, secret_digest: str) -> RegisteredClient:
    lists = {"redirect_uris": tuple(document["redirect_uris"]), "scopes": tuple(document["scopes"])}
    values = document | lists | {"grant_types": frozenset(document["grant_types"])}
    return RegisteredClient(**values, client_id=client_id, secret_digest=secret_digest)
