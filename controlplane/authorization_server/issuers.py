"""Every authorization server of the registry, at its paths of the control plane's HTTP door. Off while there is no entry.

    <gateway URL>/oauth/<name>/…                                   what clients and browsers come to
    <gateway URL>/.well-known/oauth-authorization-server/oauth/<name>  where its metadata is looked for (RFC 8414 section 3.1)

An authorization server is made when the first request comes to it, and anew when its entry changes; what is under way ends with the
old one. Nothing of it is even imported while nobody has such an entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import structlog
from aiohttp import web
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from controlplane.registry.encryption import RegistryKey
from controlplane.registry.public_url import public_urls
from controlplane.registry.service import RegistryService
from controlplane.registry.spec import SYSTEM_NAMESPACE, AuthorizationServerSpec
from controlplane.registry.state import Entry, RegistryState
from extauthz.address import AddressRules
from extauthz.errors import ConfigurationError, CredentialError

if TYPE_CHECKING:
    from controlplane.authorization_server.authorization import Authorization
    from controlplane.authorization_server.issuer import Issuer
    from controlplane.authorization_server.store import GrantStore
    from controlplane.authorization_server.token_endpoint import TokenEndpoint

logger = structlog.get_logger(__name__)

RETIRING_SECONDS = 60.0
"""How long a replaced authorization server answers what it has begun."""
PRUNE_SECONDS = 300.0
_NAME = "{name:[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """One authorization server, and its endpoints."""

    issuer: Issuer
    authorization: Authorization
    tokens: TokenEndpoint


class Issuers:
    """Use as `async with`, and `attach` its paths to an application."""

    def __init__(
        self,
        *,
        state: Callable[[], RegistryState],
        service: RegistryService,
        engine: Engine,
        key: RegistryKey,
        configured_url: str,
        address_rules: AddressRules,
        secrets_dir: Path | None,
    ) -> None:
        self._state = state
        self._service = service
        self._engine = engine
        self._key = key
        self._configured_url = configured_url
        self._address_rules = address_rules
        self._secrets_dir = secrets_dir
        self._working: dict[str, Working] = {}
        self._making = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Issuers:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        for working in self._working.values():
            await working.issuer.close()
        self._working.clear()

    def attach(self, application: web.Application) -> None:
        """Serve every path of authorization servers."""
        add = application.router.add_route
        for path in (
            f"/.well-known/oauth-authorization-server/oauth/{_NAME}",
            f"/.well-known/openid-configuration/oauth/{_NAME}",
            f"/oauth/{_NAME}/.well-known/openid-configuration",
        ):
            add("GET", path, self._metadata)
        base = f"/oauth/{_NAME}"
        add("GET", f"{base}/jwks.json", self._key_set)
        add("GET", f"{base}/authorize", self._for_people(lambda working: working.authorization.authorize))
        add("GET", f"{base}/callback", self._for_people(lambda working: working.authorization.callback))
        add("POST", f"{base}/consent", self._for_people(lambda working: working.authorization.consent))
        add("POST", f"{base}/token", self._for_programs(lambda working: working.tokens.token))
        add("POST", f"{base}/revoke", self._for_programs(lambda working: working.tokens.revoke))
        add("POST", f"{base}/register", self._for_programs(lambda working: working.tokens.register))

    async def prune_always(self) -> None:
        """Forget what is over, until cancelled."""
        while True:
            await asyncio.sleep(PRUNE_SECONDS)
            servers = {entry.uid for entry in self._state().authorization_servers.values()}
            for uid in self._working.keys() - servers:
                self._retire(self._working.pop(uid))
            try:
                await asyncio.to_thread(self._prune, servers)
            except SQLAlchemyError as error:
                logger.error("grants of authorization servers cannot be pruned", error=type(error).__name__)

    def _prune(self, servers: set[str]) -> None:
        for working in self._working.values():
            if counted := working.issuer.refusals.counted():
                working.issuer.books.record(working.issuer.uid, working.issuer.name, *counted)
        if servers or self._working:
            self._books().prune(servers)

    def _books(self) -> GrantStore:
        from controlplane.authorization_server.store import GrantStore  # noqa: PLC0415 - only where there is an entry

        return GrantStore(self._engine, key=self._key)

    async def _metadata(self, request: web.Request) -> web.StreamResponse:
        return web.json_response((await self._found(request)).issuer.metadata())

    async def _key_set(self, request: web.Request) -> web.StreamResponse:
        return web.json_response((await self._found(request)).issuer.key_set())

    def _for_people(self, handler_of: Callable[[Working], Handler]) -> Handler:
        """Refusals are pages."""

        async def serve(request: web.Request) -> web.StreamResponse:
            from controlplane.authorization_server.authorization import Refusal  # noqa: PLC0415 - only where there is an entry
            from controlplane.authorization_server.page import refusal_page  # noqa: PLC0415

            working = await self._found(request)
            try:
                return await handler_of(working)(request)
            except Refusal as refusal:
                return refusal_page(refusal.sentence, code=refusal.code, status=refusal.status)
            except (SQLAlchemyError, CredentialError) as error:  # the latter: our own keys are not to be had
                logger.error("an authorization failed", authorization_server=working.issuer.name, error=type(error).__name__)
                return refusal_page("The gateway cannot read or keep what it must at the moment.", code="server_error", status=503)

        return serve

    def _for_programs(self, handler_of: Callable[[Working], Handler]) -> Handler:
        """Failures are JSON."""

        async def serve(request: web.Request) -> web.StreamResponse:
            working = await self._found(request)
            try:
                return await handler_of(working)(request)
            except (SQLAlchemyError, CredentialError) as error:
                logger.error("a token request failed", authorization_server=working.issuer.name, error=type(error).__name__)
                return web.json_response({"error": "server_error"}, status=503, headers={"Retry-After": "1"})

        return serve

    async def _found(self, request: web.Request) -> Working:
        """The authorization server of the path, as its entry is now; 404 when there is none."""
        entry = self._state().authorization_servers.get(f"{SYSTEM_NAMESPACE}/{request.match_info['name']}")
        if entry is None:
            raise web.HTTPNotFound
        urls = public_urls(self._state(), self._configured_url)
        working = self._working.get(entry.uid)
        if working is None or working.issuer.entry is not entry or working.issuer.base_urls != urls:
            async with self._making:
                working = self._working.get(entry.uid)
                if working is None or working.issuer.entry is not entry or working.issuer.base_urls != urls:
                    made = await self._make(entry, urls)
                    self._working[entry.uid] = made
                    if working is not None:
                        self._retire(working)
                    working = made
        return working

    async def _make(self, entry: Entry[AuthorizationServerSpec], urls: tuple[str, ...]) -> Working:
        from controlplane.authorization_server.authorization import Authorization  # noqa: PLC0415 - only where there is an entry
        from controlplane.authorization_server.clients.store import SqlClientStore  # noqa: PLC0415
        from controlplane.authorization_server.issuer import Issuer, IssuerParts  # noqa: PLC0415
        from controlplane.authorization_server.token_endpoint import TokenEndpoint  # noqa: PLC0415

        parts = IssuerParts(
            state=self._state,
            key=self._key,
            books=self._books(),
            clients=SqlClientStore(self._engine),
            address_rules=self._address_rules,
            secrets_dir=self._secrets_dir,
        )
        try:
            issuer = Issuer(entry, urls, parts)
        except ConfigurationError as error:
            logger.error("an authorization server cannot work", authorization_server=entry.name, cause=str(error))
            raise web.HTTPServiceUnavailable from error
        await issuer.open()
        authorization = Authorization(issuer, self._key)
        tokens = TokenEndpoint(issuer, service=self._service, authorization=authorization)
        return Working(issuer=issuer, authorization=authorization, tokens=tokens)

    def _retire(self, working: Working) -> None:
        async def close_later() -> None:
            try:
                await asyncio.sleep(RETIRING_SECONDS)
            finally:
                await working.issuer.close()

        task = asyncio.create_task(close_later(), name=f"retire {working.issuer.name}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
