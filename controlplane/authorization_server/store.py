"""What an authorization server remembers, in SQL: every replica of the control plane knows the same.

Synchronous: callers on the event loop use a thread. What belongs together is one transaction (`GrantStore.transaction`): a code
or refresh token is used up, and what it gives is kept and on the record, or none of it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, select
from sqlalchemy.exc import IntegrityError

from controlplane.authorization_server.grant import REFUSALS, ConsentTerms, EventRecord, Grant, Person, digest_of, person_from_text
from controlplane.authorization_server.tables import ACCESS_TOKEN, CODE, CONSENT, EVENT, GRANT, LOGIN, REFRESH_TOKEN
from controlplane.database import WRITE_OPTION
from controlplane.registry.encryption import RegistryKey

MAX_LOGINS_OF_ONE_SUBJECT = 20
"""How many questions for consent may wait for one person at once; the oldest go."""
MAX_GRANTS_OF_ONE_SUBJECT = 200
"""How many clients may hold refresh tokens of one person at once; the oldest go."""
EVENTS_KEPT = timedelta(days=400)
MAX_REFUSALS = 50_000
"""How many refusals are kept of all, the newest: strangers cause them."""
USED_CODES_KEPT = timedelta(days=1)
"""A code that is presented again within this time ends its grant; later it is just unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCode:
    """A code that was issued, with its grant."""

    digest: str
    redirect_uri: str
    code_challenge: str
    expires_at: datetime
    used: bool
    grant: Grant


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRefreshToken:
    """A refresh token that was issued, with its grant."""

    digest: str
    used: bool
    grant: Grant


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptConsent:
    """A consent that holds."""

    id: str
    terms: ConsentTerms
    given_at: datetime
    expires_at: datetime


class GrantStore:
    """The books of all authorization servers of a registry's database. Thread-safe."""

    def __init__(self, engine: Engine, *, key: RegistryKey, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._key = key
        self._clock = clock

    @contextmanager
    def transaction(self, server_uid: str, server: str) -> Iterator[Books]:
        """One write for one authorization server (`server` is its name). Nothing is kept when the block raises."""
        with self._engine.connect() as connection, connection.execution_options(**{WRITE_OPTION: True}).begin():
            yield Books(connection, server_uid=server_uid, server=server, now=self._clock(), key=self._key)

    def record(self, server_uid: str, server: str, *records: EventRecord) -> None:
        """Put events on the record that change nothing else."""
        with self.transaction(server_uid, server) as books:
            for record in records:
                books.record(record)

    def read_events(self, server: str, *, before: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """The events of the authorization server of this name, newest first; `before`: older than this one."""
        statement = select(EVENT).where(EVENT.c.server == server).order_by(EVENT.c.id.desc()).limit(limit)
        with self._engine.connect() as connection:
            rows = connection.execute(statement.where(EVENT.c.id < before) if before else statement)
            return [{**row._asdict(), "at": row.at.isoformat()} for row in rows]

    def read_events_after(self, after: int, until: datetime, limit: int) -> list[dict[str, Any]]:
        """Events of all authorization servers behind this one, up to a time, in their order."""
        statement = select(EVENT).where(EVENT.c.id > after, EVENT.c.at <= until).order_by(EVENT.c.id).limit(limit)
        with self._engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(statement)]  # noqa: SLF001 - public by its documentation

    def read_consents(self, server_uid: str) -> list[KeptConsent]:
        """The consents that hold."""
        statement = select(CONSENT).where(CONSENT.c.server_uid == server_uid, CONSENT.c.expires_at > self._clock())
        with self._engine.connect() as connection:
            return [_consent(row) for row in connection.execute(statement.order_by(CONSENT.c.subject, CONSENT.c.client_id))]

    def read_grants(self, server_uid: str) -> list[Grant]:
        """The grants that may still be used to get tokens."""
        open_ones = (GRANT.c.server_uid == server_uid, GRANT.c.expires_at > self._clock(), GRANT.c.ended_at.is_(None))
        with self._engine.connect() as connection:
            rows = connection.execute(select(GRANT).where(*open_ones).order_by(GRANT.c.subject, GRANT.c.created_at)).all()
        return [_grant(row, self._key) for row in rows]

    def prune(self, live_servers: set[str]) -> None:
        """Forget what is over, and what belongs to servers that are gone."""
        now = self._clock()
        refusals = EVENT.c.event.in_(REFUSALS)
        too_old = select(EVENT.c.id).where(refusals).order_by(EVENT.c.id.desc()).offset(MAX_REFUSALS).limit(1)
        with self._engine.connect() as connection:
            oldest = connection.execute(too_old).scalar()
        with self._engine.connect() as connection, connection.execution_options(**{WRITE_OPTION: True}).begin():
            connection.execute(delete(LOGIN).where(LOGIN.c.expires_at <= now))
            connection.execute(delete(ACCESS_TOKEN).where(ACCESS_TOKEN.c.expires_at <= now))
            connection.execute(delete(CODE).where(CODE.c.expires_at <= now - USED_CODES_KEPT))
            connection.execute(delete(CONSENT).where(CONSENT.c.expires_at <= now))
            connection.execute(delete(CONSENT).where(CONSENT.c.server_uid.not_in(live_servers)))
            over = select(GRANT.c.id).where((GRANT.c.expires_at <= now - USED_CODES_KEPT) | GRANT.c.server_uid.not_in(live_servers))
            for table in (CODE, REFRESH_TOKEN, ACCESS_TOKEN):
                connection.execute(delete(table).where(table.c.grant_id.in_(over)))
            connection.execute(delete(GRANT).where(GRANT.c.id.in_(over)))
            connection.execute(delete(EVENT).where(EVENT.c.at <= now - EVENTS_KEPT))
            if oldest is not None:
                connection.execute(delete(EVENT).where(EVENT.c.id <= oldest, refusals))


class Books:
    """What one transaction may read and write, for one authorization server."""

    def __init__(self, connection: Connection, *, server_uid: str, server: str, now: datetime, key: RegistryKey) -> None:
        self._connection = connection
        self._server_uid = server_uid
        self._server = server
        self._key = key
        self.now = now

    def record(self, record: EventRecord) -> None:
        """Put an event on the record."""
        values = asdict(record) | {"event": record.event.value, "at": self.now, "server_uid": self._server_uid, "server": self._server}
        self._connection.execute(EVENT.insert().values(values))

    # logins that wait for consent

    def open_login(self, *, state: str, subject: str, ticket: str, browser: str, text: str, expires_at: datetime) -> bool:
        """Somebody has logged in. False when this login was counted before: its answer was played again."""
        mine = (LOGIN.c.server_uid == self._server_uid, LOGIN.c.subject == subject)
        waiting = self._connection.execute(select(LOGIN.c.state_digest).where(*mine).order_by(LOGIN.c.expires_at)).scalars().all()
        for oldest in waiting[: max(0, len(waiting) - MAX_LOGINS_OF_ONE_SUBJECT + 1)]:
            # what can be answered no more is emptied; it stays known, so that it is not counted again
            self._connection.execute(LOGIN.update().where(LOGIN.c.state_digest == oldest).values(sealed=""))
        ticket_digest = digest_of(ticket)
        values = {
            "state_digest": digest_of(state),
            "server_uid": self._server_uid,
            "subject": subject,
            "ticket_digest": ticket_digest,
            "browser_digest": digest_of(browser),
            "sealed": self._key.seal(text, _login_aad(self._server_uid, ticket_digest)),
            "expires_at": expires_at,
        }
        try:
            with self._connection.begin_nested():
                self._connection.execute(LOGIN.insert().values(values))
        except IntegrityError:
            return False
        return True

    def close_login(self, *, ticket: str, browser: str) -> str | None:
        """What was kept of a login, once; None unless it waits for consent, and this browser asked."""
        found = (
            LOGIN.c.ticket_digest == digest_of(ticket),
            LOGIN.c.browser_digest == digest_of(browser),
            LOGIN.c.server_uid == self._server_uid,
            LOGIN.c.sealed != "",
            LOGIN.c.expires_at > self.now,
        )
        row = self._connection.execute(select(LOGIN).where(*found).with_for_update()).first()
        if row is None:
            return None
        self._connection.execute(LOGIN.update().where(LOGIN.c.state_digest == row.state_digest).values(sealed=""))
        return self._key.open(row.sealed, _login_aad(self._server_uid, row.ticket_digest)).decode()

    # consents

    def has_consent(self, terms: ConsentTerms) -> str:
        """The id of the consent to exactly these terms; empty when there is none. It cannot be taken away while this goes on."""
        statement = select(CONSENT).where(*_same_terms(terms), CONSENT.c.expires_at > self.now).with_for_update()
        row = self._connection.execute(statement).first()
        return "" if row is None else str(row.id)

    def keep_consent(self, terms: ConsentTerms, expires_at: datetime) -> str:
        """Remember a consent; its id, which is the same whenever the same is allowed again: it leads to the grants of every time."""
        consent_id = digest_of(json.dumps(astuple(terms)))[:32]
        times = {"given_at": self.now, "expires_at": expires_at}
        again = CONSENT.update().where(CONSENT.c.id == consent_id).values(times)
        if not self._connection.execute(again).rowcount:
            try:
                with self._connection.begin_nested():
                    self._connection.execute(CONSENT.insert().values(asdict(terms) | {"id": consent_id} | times))
            except IntegrityError:  # the same person, in two windows
                self._connection.execute(again)
        return consent_id

    def drop_consent(self, consent_id: str) -> KeptConsent | None:
        """Forget a consent; None when there is none of this id."""
        mine = (CONSENT.c.id == consent_id, CONSENT.c.server_uid == self._server_uid)
        row = self._connection.execute(select(CONSENT).where(*mine).with_for_update()).first()
        if row is None:
            return None
        self._connection.execute(delete(CONSENT).where(*mine))
        return _consent(row)

    # grants and what comes from them

    def open_grant(
        self, *, login: str, client_id: str, person: Person, resource: str, scope: str, consent_id: str, expires_at: datetime
    ) -> Grant:
        """Somebody allowed a client something."""
        grant_id = secrets.token_hex(16)
        values = {
            "id": grant_id,
            "server_uid": self._server_uid,
            "login": login,
            "client_id": client_id,
            "subject": person.subject,
            "resource": resource,
            "scope": scope,
            "sealed": self._key.seal(person.to_text(), _grant_aad(self._server_uid, grant_id)),
            "consent_id": consent_id,
            "ended_because": "",
            "created_at": self.now,
            "expires_at": expires_at,
            "ended_at": None,
        }
        self._connection.execute(GRANT.insert().values(values))
        self._bound_grants(person.subject)
        return Grant(
            id=grant_id,
            server_uid=self._server_uid,
            login=login,
            client_id=client_id,
            person=person,
            resource=resource,
            scope=scope,
            created_at=self.now,
            expires_at=expires_at,
        )

    def keep_code(self, code: str, grant: Grant, *, redirect_uri: str, code_challenge: str, expires_at: datetime) -> None:
        """A code for this grant."""
        values = {"digest": digest_of(code), "grant_id": grant.id, "redirect_uri": redirect_uri, "code_challenge": code_challenge}
        self._connection.execute(CODE.insert().values(values | {"expires_at": expires_at, "used_at": None}))

    def find_code(self, code: str) -> KeptCode | None:
        """The code, used or not; nobody else can use it while this transaction goes on."""
        row = self._connection.execute(select(CODE).where(CODE.c.digest == digest_of(code)).with_for_update()).first()
        grant = self._grant(row.grant_id) if row is not None else None
        if row is None or grant is None:
            return None
        return KeptCode(
            digest=row.digest,
            redirect_uri=row.redirect_uri,
            code_challenge=row.code_challenge,
            expires_at=row.expires_at,
            used=row.used_at is not None,
            grant=grant,
        )

    def use_code(self, code: KeptCode) -> None:
        """It is used up."""
        self._connection.execute(CODE.update().where(CODE.c.digest == code.digest).values(used_at=self.now))

    def keep_refresh_token(self, refresh_token: str, grant: Grant) -> None:
        """One more of this grant's refresh tokens."""
        values = {"digest": digest_of(refresh_token), "grant_id": grant.id, "created_at": self.now, "used_at": None}
        self._connection.execute(REFRESH_TOKEN.insert().values(values))

    def find_refresh_token(self, refresh_token: str) -> KeptRefreshToken | None:
        """The refresh token, used or not; nobody else can use it while this transaction goes on."""
        statement = select(REFRESH_TOKEN).where(REFRESH_TOKEN.c.digest == digest_of(refresh_token)).with_for_update()
        row = self._connection.execute(statement).first()
        grant = self._grant(row.grant_id) if row is not None else None
        return None if row is None or grant is None else KeptRefreshToken(digest=row.digest, used=row.used_at is not None, grant=grant)

    def use_refresh_token(self, token: KeptRefreshToken) -> None:
        """It is used up; that it was there is remembered as long as its grant."""
        self._connection.execute(REFRESH_TOKEN.update().where(REFRESH_TOKEN.c.digest == token.digest).values(used_at=self.now))

    def keep_access_token(self, jti: str, grant: Grant, expires_at: datetime) -> None:
        """An access token of this grant, so that it can be revoked with it."""
        self._connection.execute(ACCESS_TOKEN.insert().values(jti=jti, grant_id=grant.id, expires_at=expires_at))

    def end_grant(self, grant_id: str, because: str) -> dict[str, datetime]:
        """Nothing comes from this grant any more. Its access tokens that are still good, by `jti`, with their expiry: they must be
        revoked in the registry."""
        # first the end, which waits for whoever is being issued a token from this grant; then its tokens, that one among them
        unended = (GRANT.c.id == grant_id, GRANT.c.ended_at.is_(None))
        self._connection.execute(GRANT.update().where(*unended).values(ended_at=self.now, ended_because=because))
        live = select(ACCESS_TOKEN).where(ACCESS_TOKEN.c.grant_id == grant_id, ACCESS_TOKEN.c.expires_at > self.now)
        return {row.jti: row.expires_at for row in self._connection.execute(live)}

    def grant(self, grant_id: str) -> Grant | None:
        """A grant of this authorization server."""
        return self._grant(grant_id)

    def grants_by_consent(self, consent: KeptConsent) -> list[str]:
        """The open grants that were given by this consent."""
        mine = (GRANT.c.server_uid == self._server_uid, GRANT.c.consent_id == consent.id, GRANT.c.ended_at.is_(None))
        return list(self._connection.execute(select(GRANT.c.id).where(*mine)).scalars())

    def _grant(self, grant_id: str) -> Grant | None:
        mine = (GRANT.c.id == grant_id, GRANT.c.server_uid == self._server_uid)
        row = self._connection.execute(select(GRANT).where(*mine).with_for_update()).first()
        return None if row is None else _grant(row, self._key)

    def _bound_grants(self, subject: str) -> None:
        mine = (GRANT.c.server_uid == self._server_uid, GRANT.c.subject == subject, GRANT.c.ended_at.is_(None))
        surplus = self._connection.execute(select(func.count()).select_from(GRANT).where(*mine)).scalar_one() - MAX_GRANTS_OF_ONE_SUBJECT
        if surplus > 0:
            oldest = select(GRANT.c.id).where(*mine).order_by(GRANT.c.created_at).limit(surplus)
            for grant_id in self._connection.execute(oldest).scalars().all():
                self.end_grant(grant_id, "too many grants")


def _grant(row: Row[Any], key: RegistryKey) -> Grant:
    return Grant(
        id=row.id,
        server_uid=row.server_uid,
        login=row.login,
        client_id=row.client_id,
        person=person_from_text(row.subject, key.open(row.sealed, _grant_aad(row.server_uid, row.id)).decode()),
        resource=row.resource,
        scope=row.scope,
        created_at=row.created_at,
        expires_at=row.expires_at,
        ended=row.ended_at is not None,
    )


def _consent(row: Row[Any]) -> KeptConsent:
    terms = ConsentTerms(
        server_uid=row.server_uid,
        login=row.login,
        subject=row.subject,
        client_id=row.client_id,
        redirect_host=row.redirect_host,
        resource=row.resource,
        scope=row.scope,
    )
    return KeptConsent(id=row.id, terms=terms, given_at=row.given_at, expires_at=row.expires_at)


def _same_terms(terms: ConsentTerms) -> list[Any]:
    return [CONSENT.c[name] == value for name, value in asdict(terms).items()]


def _login_aad(server_uid: str, ticket_digest: str) -> str:
    return f"{server_uid}:oauth-login:{ticket_digest}"


def _grant_aad(server_uid: str, grant_id: str) -> str:
    return f"{server_uid}:oauth-grant:{grant_id}"
