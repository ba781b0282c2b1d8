"""Every client of one authorization server by its id, wherever it comes from; and the door through which new ones register."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType

import structlog

from controlplane.authorization_server.clients.client import (
    SECRET_METHODS,
    ClientRules,
    DynamicClient,
    DynamicClientStore,
    RegisteredClient,
    RegistrationRules,
)
from controlplane.authorization_server.clients.metadata_document import MetadataDocuments
from controlplane.authorization_server.clients.rate import FetchRate
from controlplane.authorization_server.clients.redirect_uri import checked_redirect_uris
from controlplane.authorization_server.clients.refusal import ClientRefusal, RegistrationError, UnknownClientError
from controlplane.authorization_server.clients.registration import DYNAMIC_PREFIX, Registration, check_registration_allowed, registered
from extauthz.address import AddressRules
from extauthz.errors import ConfigurationError
from extauthz.outbound import OutboundHttp

logger = structlog.get_logger(__name__)

_DYNAMIC_ID = re.compile(DYNAMIC_PREFIX + r"[A-Za-z0-9_-]{32}")


class ClientDirectory:
    """The clients of one `AuthorizationServer` entry. Use as `async with ClientDirectory(...)`.

    When the entry changes, a new one takes its place (`issuers`). Raises `ConfigurationError` for static clients that cannot be.
    """

    def __init__(
        self,
        rules: ClientRules,
        *,
        store: DynamicClientStore,
        address_rules: AddressRules,
        fetch_timeout_seconds: float = 5.0,
        ca_file: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._clock = clock
        tls = ssl.create_default_context(cafile=ca_file)
        self._public = OutboundHttp(AddressRules(), timeout_seconds=fetch_timeout_seconds, tls=tls)
        self._deployment = OutboundHttp(address_rules, timeout_seconds=fetch_timeout_seconds, tls=tls)
        self._documents = MetadataDocuments(public=self._public, deployment=self._deployment)
        registration = rules.registration
        self._registrations = FetchRate(per_minute=registration.per_minute, per_minute_and_host=registration.per_minute_and_stranger)
        self._rules = rules
        self._static = _by_id(rules)

    async def __aenter__(self) -> ClientDirectory:
        await self._public.__aenter__()
        await self._deployment.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._documents.close()
        await self._deployment.__aexit__(kind, error, trace)
        await self._public.__aexit__(kind, error, trace)

    @property
    def rules(self) -> ClientRules:
        """The rules in force."""
        return self._rules

    async def find(self, client_id: str, stranger: str = "") -> RegisteredClient:
        """The client of this id, for whoever asks (`throttle.stranger_of`). Raises `UnknownClientError`: tell the person, redirect
        nowhere."""
        known = self._static.get(client_id)
        if known is not None:
            return known
        if client_id.startswith(("https://", "http://")):
            return await self._documents.find(client_id, self._rules, stranger)
        return await self._find_dynamic(client_id)

    async def register(self, request: bytes, initial_access_token: str = "", stranger: str = "") -> Registration:
        """Register the client that `request`, the body as it came, describes. Raises `RegistrationError` or `RedirectUriError`."""
        rules = self._rules
        # (1) may they
        check_registration_allowed(rules.registration, initial_access_token)
        if not self._registrations.take(stranger, asyncio.get_running_loop().time()):
            raise RegistrationError("temporarily_unavailable", "too many clients register at the moment; try again in a minute", status=503)
        # (2) what they are
        now = self._clock()
        registration = registered(request, rules, now)
        # (3) kept, where there is room
        kept = DynamicClient(client=registration.client, registered_at=now)
        if not await asyncio.to_thread(self._store.add, rules.server_uid, kept, rules.registration):
            raise RegistrationError("temporarily_unavailable", "there is no room for another client", status=503)
        client = registration.client
        logger.info("oauth client registered", authorization_server=rules.server_uid, oauth_client_id=client.client_id, name=client.name)
        return registration

    async def note_use(self, client: RegisteredClient) -> None:
        """A token was issued to this client; a dynamic one that is never issued any is forgotten."""
        if client.source == "dynamic":
            await asyncio.to_thread(self._store.note_use, self._rules.server_uid, client.client_id, self._clock())

    async def _find_dynamic(self, client_id: str) -> RegisteredClient:
        rules = self._rules
        if rules.registration.mode == "off" or not _DYNAMIC_ID.fullmatch(client_id):
            raise UnknownClientError("no client of this id is registered here")
        found = await asyncio.to_thread(self._store.read, rules.server_uid, client_id)
        if found is None or is_expired(found, rules.registration, self._clock()):
            raise UnknownClientError("no client of this id is registered here, or it was forgotten since it was not used")
        return found.client


def is_expired(client: DynamicClient, rules: RegistrationRules, now: datetime) -> bool:
    """Whether a dynamic client is over: never used, or not for long."""
    if client.used_at is None:
        return client.registered_at + timedelta(seconds=rules.unused_seconds) <= now
    return client.used_at + timedelta(seconds=rules.idle_seconds) <= now


def check_static_client(client: RegisteredClient, schemes: Collection[str] = ()) -> None:
    """Raise `ConfigurationError` unless an operator may register this client: its id can be no other kind's, its URIs are good."""
    if not client.client_id or "://" in client.client_id or client.client_id.startswith(DYNAMIC_PREFIX):
        raise ConfigurationError(
            f"{client.client_id!r} cannot be the id of a client: no URL, and nothing that begins with {DYNAMIC_PREFIX}"
        )
    if (client.token_endpoint_auth_method in SECRET_METHODS) != bool(client.secret_digest):
        raise ConfigurationError(f"the client {client.client_id} and its secret do not go together")
    try:
        checked_redirect_uris(client.redirect_uris, None, schemes)
    except ClientRefusal as error:
        raise ConfigurationError(f"the client {client.client_id}: {error.description}") from error


def _by_id(rules: ClientRules) -> Mapping[str, RegisteredClient]:
    for client in rules.static_clients:
        check_static_client(client, rules.private_use_schemes)
    found = {client.client_id: client for client in rules.static_clients}
    if len(found) != len(rules.static_clients):
        raise ConfigurationError(f"two clients of {rules.server_uid} have one id")
    return found
