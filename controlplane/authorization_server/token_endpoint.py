"""What programs send by themselves: token requests, revocations, registrations. JSON in every answer, and never a redirect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import jwt
import structlog
from aiohttp import web
from sqlalchemy.exc import SQLAlchemyError

from controlplane.authorization_server.authorization import Authorization
from controlplane.authorization_server.clients.client import RegisteredClient
from controlplane.authorization_server.clients.refusal import ClientAuthenticationError, ClientRefusal
from controlplane.authorization_server.clients.registration import MAX_REGISTRATION_BYTES
from controlplane.authorization_server.grant import Event, EventRecord
from controlplane.authorization_server.issuer import Issuer
from controlplane.authorization_server.parameter import ParameterError, read_parameters
from controlplane.authorization_server.protocol import Answer
from controlplane.authorization_server.throttle import stranger_of
from controlplane.registry.service import RegistryService
from extauthz.errors import AuthenticationError, ConfigurationError
from extauthz.identity.access_token import read_unverified_token
from extauthz.identity.jwks import parse_key_set
from extauthz.identity.signature import verified_payload

logger = structlog.get_logger(__name__)

MAX_FORM_BYTES = 32 * 1024
MAX_FORM_FIELDS = 40
REVISIONS_APART_SECONDS = 0.25
"""How often what clients give up may change the registry."""
TOKEN_PARAMETERS = ("grant_type", "code", "redirect_uri", "code_verifier", "refresh_token", "scope", "resource", "client_id")
_FORM = "application/x-www-form-urlencoded"


class _Refused(Exception):  # noqa: N818 - control flow inside this module
    def __init__(self, error: str, description: str, *, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status
        self.headers = dict(headers or {})


class TokenEndpoint:
    """The endpoints of one authorization server that no person sees."""

    def __init__(self, issuer: Issuer, *, service: RegistryService, authorization: Authorization) -> None:
        self._issuer = issuer
        self._service = service
        self._authorization = authorization
        self._leaving: dict[str, datetime] = {}
        self._writing = asyncio.Lock()
        self._written_at = float("-inf")

    async def token(self, request: web.Request) -> web.StreamResponse:
        """RFC 6749 section 3.2."""
        try:
            pairs, client = await self._authenticated(request, "token")
            parameters = _parameters(pairs)
        except _Refused as refused:
            return await self._answer_refusal(refused, Event.TOKEN_REFUSED)
        answer, revoked = await asyncio.to_thread(self._exchanged, client, parameters)
        await self._revoke(revoked)
        if not answer.error:
            await self._issuer.directory.note_use(client)
        return _json(answer.body, status=answer.status, headers=answer.headers)

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """RFC 7009: a refresh token with its whole grant, or one access token."""
        try:
            pairs, client = await self._authenticated(request, "revoke")
            given = [value for name, value in pairs if name == "token"]
            if len(given) != 1:
                raise _Refused("invalid_request", "name exactly one token")  # noqa: TRY301
        except _Refused as refused:
            return await self._answer_refusal(refused, Event.TOKEN_REFUSED)
        await self._revoke(await asyncio.to_thread(self._given_up, client, given[0]))
        return _json({})  # also for a token that is nobody's (RFC 7009 section 2.2)

    async def register(self, request: web.Request) -> web.StreamResponse:
        """RFC 7591 section 3."""
        issuer = self._issuer
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        try:
            self._take_turn(request)
            if request.content_type != "application/json":
                raise _Refused("invalid_client_metadata", "send Content-Type: application/json")  # noqa: TRY301
            body = await _read(request, MAX_REGISTRATION_BYTES)
            shown = token.strip() if scheme.lower() == "bearer" else ""
            registration = await issuer.directory.register(body, shown, stranger_of(request))
        except ClientRefusal as error:
            headers = {"WWW-Authenticate": 'Bearer realm="legation"'} if error.status == 401 else {}
            refused = _Refused(error.error, error.description, status=error.status, headers=headers)
            return await self._answer_refusal(refused, Event.REGISTRATION_REFUSED)
        except _Refused as refused:
            return await self._answer_refusal(refused, Event.REGISTRATION_REFUSED)
        client = registration.client
        record = EventRecord(
            event=Event.CLIENT_REGISTERED, client_id=client.client_id, scope=" ".join(client.scopes), reason=client.name[:200]
        )
        await asyncio.to_thread(issuer.books.record, issuer.uid, issuer.name, record)
        return _json(dict(registration.information()), status=201)

    async def _authenticated(self, request: web.Request, endpoint: str) -> tuple[list[tuple[str, str]], RegisteredClient]:
        """The form, and the client that sent it."""
        self._take_turn(request)
        if request.content_type != _FORM:
            raise _Refused("invalid_request", f"send Content-Type: {_FORM}")
        body = await _read(request, MAX_FORM_BYTES)
        try:
            pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS, errors="strict")
        except ValueError as error:
            raise _Refused("invalid_request", "the form cannot be read") from error
        url = self._issuer.url
        try:
            client = await self._issuer.clients.authenticate(
                authorization=request.headers.getall("Authorization", []),
                form=pairs,
                audiences=(url, f"{url}/{endpoint}", f"{url}/token"),
                stranger=stranger_of(request),
            )
        except ClientAuthenticationError as error:
            challenge = {"WWW-Authenticate": error.challenge} if error.challenge else {}
            raise _Refused(error.error, error.description, status=error.status, headers=challenge) from error
        return pairs, client

    def _exchanged(self, client: RegisteredClient, parameters: Mapping[str, str]) -> tuple[Answer, dict[str, datetime]]:
        """On a thread, in one transaction."""
        issuer = self._issuer
        with issuer.books.transaction(issuer.uid, issuer.name) as books:
            exchange = issuer.exchange(client, books)
            answer = exchange.token(parameters)
            if answer.error:
                told = answer.body.get("error_description", "") if isinstance(answer.body, Mapping) else ""
                record = EventRecord(
                    event=Event.TOKEN_REFUSED,
                    client_id=client.client_id,
                    resource=parameters.get("resource", ""),
                    reason=f"{answer.error}: {told}",
                )
                for admitted in issuer.refusals.admit(record):
                    books.record(admitted)
        return answer, exchange.revoked

    def _given_up(self, client: RegisteredClient, token: str) -> dict[str, datetime]:
        """What a client gives up, as access tokens to refuse."""
        issuer = self._issuer
        with issuer.books.transaction(issuer.uid, issuer.name) as books:
            kept = books.find_refresh_token(token)
            if kept is not None and kept.grant.client_id == client.client_id:
                grant = kept.grant
                record = EventRecord(
                    event=Event.GRANT_REVOKED,
                    client_id=client.client_id,
                    subject=grant.person.subject,
                    resource=grant.resource,
                    reason="by the client",
                    grant_id=grant.id,
                )
                books.record(record)
                return books.end_grant(grant.id, "given up by the client")
            found = {} if kept is not None else self._own_access_token(client, token)
            if found:
                jti = next(iter(found))
                books.record(EventRecord(event=Event.GRANT_REVOKED, client_id=client.client_id, reason=f"jti {jti}, by the client"))
        return found

    def _own_access_token(self, client: RegisteredClient, token: str) -> dict[str, datetime]:
        """The `jti` and end of an access token of ours that was issued to this client; nothing for any other text."""
        try:
            unverified = read_unverified_token(token)
            keys = parse_key_set(json.dumps(self._issuer.key_set()))
            key = keys.select(unverified.unverified_kid, frozenset({"ES256"}))
            if key is None:
                return {}
            claims = verified_payload(
                token, key=key.public_key, algorithms=["ES256"], required=("exp", "jti", "client_id"), issuer=self._issuer.url
            )
        except (AuthenticationError, ConfigurationError, jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
            return {}
        if claims["client_id"] != client.client_id or not isinstance(claims["exp"], int):
            return {}
        return {str(claims["jti"]): datetime.fromtimestamp(claims["exp"], UTC)}

    async def _revoke(self, tokens: Mapping[str, datetime]) -> None:
        """Refused at every authorizer within a second; what cannot be written ends by itself within minutes.

        Clients may give up as many tokens as they get. A revision of the registry is for all nodes: whoever waits is taken along.
        """
        self._leaving |= tokens
        async with self._writing:
            if not self._leaving.keys() & tokens.keys():
                return
            now = asyncio.get_running_loop().time
            await asyncio.sleep(self._written_at + REVISIONS_APART_SECONDS - now())
            leaving, self._leaving, self._written_at = self._leaving, {}, now()
            await self._write(leaving)

    async def _write(self, tokens: Mapping[str, datetime]) -> None:
        issuer = self._issuer
        reason = f"revoked by the authorization server {issuer.name}"
        try:
            await asyncio.to_thread(
                self._service.revoke_tokens, "system/authorization-server", issuer.provider_id, tokens, reason=reason, now=datetime.now(UTC)
            )
        except SQLAlchemyError as error:
            logger.error("access tokens could not be revoked", authorization_server=issuer.name, error=type(error).__name__)

    def _take_turn(self, request: web.Request) -> None:
        if not self._issuer.programs.take(stranger_of(request)):
            raise _Refused("temporarily_unavailable", "too many requests; try again in a second", status=429, headers={"Retry-After": "1"})

    async def _answer_refusal(self, refused: _Refused, event: Event) -> web.Response:
        if refused.status != 429:
            await self._authorization.record_refusal(EventRecord(event=event, reason=f"{refused.error}: {refused.description}"))
        body = {"error": refused.error, "error_description": _describable(refused.description)}
        return _json(body, status=refused.status, headers=refused.headers)


def _parameters(pairs: list[tuple[str, str]]) -> dict[str, str]:
    try:
        return read_parameters(pairs, *TOKEN_PARAMETERS)
    except ParameterError as error:
        code = {"resource": "invalid_target", "scope": "invalid_scope"}.get(error.name, "invalid_request")
        unreadable = {"code", "refresh_token", "code_verifier"}
        raise _Refused("invalid_grant" if error.name in unreadable else code, str(error)) from error


async def _read(request: web.Request, limit: int) -> bytes:
    """The body, bounded."""
    if (request.content_length or 0) > limit or request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _Refused("invalid_request", "the body is too large, or compressed", status=413)
    body = bytearray()
    async for chunk in request.content.iter_chunked(8192):
        body += chunk
        if len(body) > limit:
            raise _Refused("invalid_request", "the body is too large", status=413)
    return bytes(body)


def _json(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    told = {name: value for name, value in (headers or {}).items() if name.lower() != "content-type"}
    return web.json_response(body, status=status, headers={"Cache-Control": "no-store", "Pragma": "no-cache"} | told)


def _describable(text: str) -> str:
    """RFC 6749 section 5.2: printable ASCII without quotes and backslashes."""
    return "".join(character if " " <= character <= "~" and character not in '"\\' else "?" for character in text)[:500]
