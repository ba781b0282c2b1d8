"""The part of an authorization that goes through a browser.

    authorize   (1) the client, and that it answers there   (2) the request   (3) to the identity provider
    callback    (4) the same browser   (5) who it is   (6) were they asked before
    consent     (7) the same browser, once   (8) what they said

Until (2) has gone well nobody is redirected. Before (5), errors are sent to clients that an operator registered and to programs on
the person's own machine only: anybody else could use this server to lead people astray (RFC 9700 section 4.11.2).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749.errors import AccessDeniedError, InvalidRequestError

from controlplane.authorization_server import browser, page
from controlplane.authorization_server.clients.client import RegisteredClient
from controlplane.authorization_server.clients.redirect_uri import is_loopback_redirect, redirect_uri_matches
from controlplane.authorization_server.clients.refusal import UnknownClientError
from controlplane.authorization_server.grant import ConsentTerms, Event, EventRecord, Person, person_from_text
from controlplane.authorization_server.issuer import Issuer
from controlplane.authorization_server.login import LoginError
from controlplane.authorization_server.parameter import ParameterError, read_parameters
from controlplane.authorization_server.protocol import Answer
from controlplane.authorization_server.store import Books
from controlplane.authorization_server.throttle import stranger_of
from controlplane.registry.encryption import RegistryKey

AUTHORIZATION_PARAMETERS = (
    *("response_type", "client_id", "redirect_uri", "scope", "state", "resource", "code_challenge", "code_challenge_method"),
    *("response_mode", "prompt"),
)
_NOT_TAKEN = ("request", "request_uri", "registration")
_FORM_BYTES = 4096


class Refusal(Exception):  # noqa: N818 - an answer, not a failure
    """Something is not done, and a page says so. `sentence` is for people."""

    def __init__(self, sentence: str, *, code: str = "invalid_request", status: int = 400) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A checked authorization request."""

    client: RegisteredClient
    parameters: Mapping[str, str]
    resource: str
    scope: str

    @property
    def redirect_uri(self) -> str:
        return self.parameters["redirect_uri"]


class Authorization:
    """The three steps of one authorization server."""

    def __init__(self, issuer: Issuer, key: RegistryKey) -> None:
        self._issuer = issuer
        self._key = key

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """RFC 6749 section 4.1.1."""
        issuer = self._issuer
        self._take_turn(request)
        pairs = list(request.query.items())
        # (1) the client, and that it answers there
        client, redirect_uri = await self._client(pairs, stranger_of(request))
        # (2) the request
        try:
            asked = self._asked(client, pairs)
        except OAuth2Error as error:
            return await self._refused(error, client, redirect_uri, pairs)
        if asked.parameters.get("prompt") == "none":
            return await self._refused(OAuth2Error(error="login_required"), client, redirect_uri, pairs)
        # (3) to the identity provider
        try:
            begun = await issuer.login.begin()
        except LoginError as error:
            await self._record(Event.LOGIN_REFUSED, client, reason=error.sentence)
            return self._unlucky(error, client, asked.parameters)
        response = _redirect(begun.url)
        pending = browser.PendingLogin(
            parameters=asked.parameters,
            nonce=begun.nonce,
            code_verifier=begun.code_verifier,
            expires_at=int(time.time()) + browser.LOGIN_SECONDS,
        )
        try:
            browser.forget_oldest_logins(request, response, secure=issuer.is_https)
            browser.keep_login(response, pending, state=begun.state, server_uid=issuer.uid, key=self._key, secure=issuer.is_https)
        except browser.BrowserError as error:
            return await self._refused(InvalidRequestError(str(error)), client, redirect_uri, pairs)
        return response

    async def callback(self, request: web.Request) -> web.StreamResponse:
        """OpenID Connect Core section 3.1.2.5, as the client of the identity provider."""
        issuer = self._issuer
        self._take_turn(request)
        try:
            answer = read_parameters(request.query.items(), "code", "state", "iss", "error")
        except ParameterError as error:
            answer = _long_answer(request, error)
        # (4) the same browser
        state = answer.get("state", "")
        if not browser.STATE.fullmatch(state):
            raise Refusal("This is not the answer to a login that was begun here.")
        try:
            pending = browser.login_of(request, state=state, server_uid=issuer.uid, key=self._key, secure=issuer.is_https)
        except browser.BrowserError as error:
            raise Refusal(str(error)) from error
        client, _ = await self._client(list(pending.parameters.items()), stranger_of(request))
        # (5) who it is
        try:
            person = await issuer.login.finish(answer, nonce=pending.nonce, code_verifier=pending.code_verifier)
        except LoginError as error:
            await self._record(Event.LOGIN_REFUSED, client, reason=error.sentence)
            response = self._unlucky(error, client, pending.parameters)
            browser.forget_login(response, state=state, secure=issuer.is_https)
            return response
        # (6) were they asked before
        asked = self._asked_again(client, pending.parameters)
        response = await asyncio.to_thread(self._after_login, asked, person, state)
        browser.forget_login(response, state=state, secure=issuer.is_https)
        return response

    async def consent(self, request: web.Request) -> web.StreamResponse:
        """What the person said about it. The form's own page is the only one that can send this."""
        issuer = self._issuer
        self._take_turn(request)
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or request.content_type != _FORM:
            raise Refusal("This was not sent by the page that asked.", status=403)
        form = await _read_form(request)
        ticket, decision = form.get("ticket", ""), form.get("decision", "")
        # (7) the same browser, once
        if not browser.STATE.fullmatch(ticket) or decision not in ("allow", "deny"):
            raise Refusal("This was not sent by the page that asked.", status=403)
        try:
            mark = browser.consent_of(request, ticket=ticket, secure=issuer.is_https)
        except browser.BrowserError as error:
            raise Refusal(str(error), status=403) from error
        kept = await asyncio.to_thread(self._close_login, ticket, mark)
        client, _ = await self._client(list(kept["parameters"].items()), stranger_of(request))
        if kept.get("login") != issuer.rules.login:
            raise Refusal("The way to log in here was changed in the meantime. Begin again in the program.", status=403)
        # (8) what they said
        asked = self._asked_again(client, kept["parameters"])
        person = person_from_text(kept["subject"], kept["person"])
        response = await asyncio.to_thread(self._after_consent, asked, person, allowed=decision == "allow")
        browser.forget_consent(response, ticket=ticket, secure=issuer.is_https)
        return response

    # on a thread, each in one transaction

    def _after_login(self, asked: Asked, person: Person, state: str) -> web.Response:
        issuer = self._issuer
        ticket, mark = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        login = {"login": issuer.rules.login, "subject": person.subject, "person": person.to_text()}
        kept = json.dumps({"parameters": dict(asked.parameters), **login})
        with issuer.books.transaction(issuer.uid, issuer.name) as books:
            if issuer.is_revoked(asked.client.client_id, person, books.now):
                books.record(self._event(Event.LOGIN_REFUSED, asked, person, reason="revoked"))
                return _redirected(issuer.checking(asked.client).refuse(_denied(asked)))
            expires_at = books.now + timedelta(seconds=browser.LOGIN_SECONDS)
            terms = self._terms(asked, person)
            consent_id = books.has_consent(terms) if _is_rememberable(asked) and asked.parameters.get("prompt") != "consent" else ""
            text = "" if consent_id else kept
            if not books.open_login(state=state, subject=person.subject, ticket=ticket, browser=mark, text=text, expires_at=expires_at):
                raise Refusal("This login has been used already.")
            books.record(self._event(Event.LOGIN_SUCCEEDED, asked, person))
            if consent_id:
                return _redirected(self._issue_code(books, asked, person, consent_id))
        response = page.consent_page(
            client=asked.client,
            person=person.shown,
            resource=asked.resource,
            scope=asked.scope,
            redirect_uri=asked.redirect_uri,
            action=f"{issuer.url}/consent",
            ticket=ticket,
            remembered_days=issuer.entry.spec.lifetimes.consent_days if _is_rememberable(asked) else 0,
        )
        browser.keep_consent(response, mark, ticket=ticket, secure=issuer.is_https)
        return response

    def _close_login(self, ticket: str, mark: str) -> dict[str, Any]:
        issuer = self._issuer
        with issuer.books.transaction(issuer.uid, issuer.name) as books:
            text = books.close_login(ticket=ticket, browser=mark)
        if text is None:
            raise Refusal("This has been answered already, or too much time has passed.", status=403)
        kept: dict[str, Any] = json.loads(text)
        return kept

    def _after_consent(self, asked: Asked, person: Person, *, allowed: bool) -> web.Response:
        issuer = self._issuer
        with issuer.books.transaction(issuer.uid, issuer.name) as books:
            if not allowed:
                books.record(self._event(Event.CONSENT_REFUSED, asked, person))
                return _redirected(issuer.checking(asked.client).refuse(_denied(asked)))
            consent_id = ""
            if _is_rememberable(asked):
                expires_at = books.now + timedelta(days=issuer.entry.spec.lifetimes.consent_days)
                consent_id = books.keep_consent(self._terms(asked, person), expires_at)
            books.record(self._event(Event.CONSENT_GIVEN, asked, person, reason=f"consent {consent_id}" if consent_id else "once"))
            return _redirected(self._issue_code(books, asked, person, consent_id))

    def _issue_code(self, books: Books, asked: Asked, person: Person, consent_id: str) -> Answer:
        rules = self._issuer.rules
        grant = books.open_grant(
            login=rules.login,
            client_id=asked.client.client_id,
            person=person,
            resource=asked.resource,
            scope=asked.scope,
            consent_id=consent_id,
            expires_at=books.now + timedelta(days=rules.refresh_token_days),
        )
        answer = self._issuer.exchange(asked.client, books).authorize(asked.parameters, grant)
        books.record(self._event(Event.CODE_ISSUED, asked, person, grant_id=grant.id))
        return answer

    # requests

    async def _client(self, pairs: list[tuple[str, str]], stranger: str) -> tuple[RegisteredClient, str]:
        """The client of a request, and where it answers. Raises `Refusal`: nobody is redirected."""
        try:
            named = read_parameters(pairs, "client_id", "redirect_uri")
        except ParameterError as error:
            raise await self._refused_client("", str(error)) from error
        client_id, redirect_uri = named.get("client_id", ""), named.get("redirect_uri", "")
        if not client_id or not redirect_uri:
            raise await self._refused_client(client_id, "client_id or redirect_uri is missing")
        try:
            client = await self._issuer.directory.find(client_id, stranger)
        except UnknownClientError as error:
            raise await self._refused_client(client_id, error.description, status=error.status) from error
        if not redirect_uri_matches(client, redirect_uri):
            raise await self._refused_client(client_id, "redirect_uri is not one that is registered for this client")
        return client, redirect_uri

    async def _refused_client(self, client_id: str, reason: str, *, status: int = 400) -> Refusal:
        await self.record_refusal(EventRecord(event=Event.AUTHORIZATION_REFUSED, client_id=client_id[:500], reason=reason))
        return Refusal(f"The program that sent you here cannot be answered: {reason}.", status=status)

    def _asked(self, client: RegisteredClient, pairs: list[tuple[str, str]]) -> Asked:
        """The whole request. Raises `OAuth2Error`."""
        if named := next((name for name, _ in pairs if name in _NOT_TAKEN), ""):
            raise OAuth2Error(error=f"{named}_not_supported", description=f"{named} is not taken here")
        try:
            parameters = read_parameters(pairs, *AUTHORIZATION_PARAMETERS)
        except ParameterError as error:
            code = "invalid_target" if error.name == "resource" else "invalid_scope" if error.name == "scope" else "invalid_request"
            raise OAuth2Error(error=code, description=str(error)) from error
        if parameters.get("response_mode", "query") != "query":
            raise InvalidRequestError("response_mode must be query")
        checking = self._issuer.checking(client)
        checked = checking.check_authorization(parameters)
        return Asked(client=client, parameters=parameters, resource=checking.resource, scope=checked.request.scope or "")

    def _asked_again(self, client: RegisteredClient, parameters: Mapping[str, str]) -> Asked:
        """What was good when the login began; the registry may have changed since."""
        try:
            return self._asked(client, list(parameters.items()))
        except OAuth2Error as error:
            raise Refusal("What the program asked for is not possible any more.", code=str(error.error)) from error

    async def _refused(
        self, error: OAuth2Error, client: RegisteredClient, redirect_uri: str, pairs: list[tuple[str, str]]
    ) -> web.StreamResponse:
        """An error of a request whose client and redirect URI are good."""
        reason = f"{error.error}: {error.description or ''}"
        await self._record(Event.AUTHORIZATION_REFUSED, client, reason=reason)
        try:
            state = read_parameters(pairs, "state").get("state")
        except ParameterError as malformed:
            raise Refusal(f"The program's request cannot be answered: {malformed}.") from malformed
        if not _may_be_sent_errors(client, redirect_uri):
            raise Refusal(f"The program's request is not possible: {error.description or error.error}.", code=str(error.error))
        error.redirect_uri, error.state = redirect_uri, state
        return _redirected(self._issuer.checking(client).refuse(error))

    def _unlucky(self, error: LoginError, client: RegisteredClient, parameters: Mapping[str, str]) -> web.Response:
        """A login that came to nothing."""
        redirect_uri = parameters["redirect_uri"]
        if not _may_be_sent_errors(client, redirect_uri):
            return page.refusal_page(f"You could not be logged in: {error.sentence}.", code=error.code, status=403)
        told = OAuth2Error(error=error.code, redirect_uri=redirect_uri, state=parameters.get("state"))
        return _redirected(self._issuer.checking(client).refuse(told))

    def _take_turn(self, request: web.Request) -> None:
        if not self._issuer.strangers.take(stranger_of(request)):
            raise Refusal("Too many people log in at this moment. Try again in a minute.", code="temporarily_unavailable", status=429)

    # the record

    def _terms(self, asked: Asked, person: Person) -> ConsentTerms:
        return ConsentTerms(
            server_uid=self._issuer.uid,
            login=self._issuer.rules.login,
            subject=person.subject,
            client_id=asked.client.client_id,
            redirect_host=page.redirect_host(asked.redirect_uri),
            resource=asked.resource,
            scope=" ".join(sorted(asked.scope.split())),
        )

    @staticmethod
    def _event(event: Event, asked: Asked, person: Person, *, reason: str = "", grant_id: str = "") -> EventRecord:
        return EventRecord(
            event=event,
            client_id=asked.client.client_id,
            subject=person.subject,
            resource=asked.resource,
            scope=asked.scope,
            reason=reason,
            grant_id=grant_id,
        )

    async def _record(self, event: Event, client: RegisteredClient, *, reason: str) -> None:
        await self.record_refusal(EventRecord(event=event, client_id=client.client_id, reason=reason))

    async def record_refusal(self, record: EventRecord) -> None:
        """Refusals of strangers are written up to a number a minute, and counted above it."""
        admitted = self._issuer.refusals.admit(record)
        if admitted:
            await asyncio.to_thread(self._issuer.books.record, self._issuer.uid, self._issuer.name, *admitted)


_FORM = "application/x-www-form-urlencoded"


def _may_be_sent_errors(client: RegisteredClient, redirect_uri: str) -> bool:
    return client.source == "static" or is_loopback_redirect(redirect_uri)


def _is_rememberable(asked: Asked) -> bool:
    """RFC 8252 section 8.6: whoever listens on this machine, or claims a scheme, may say that it is that client; so people are asked."""
    return asked.redirect_uri.startswith("https://")


def _denied(asked: Asked) -> OAuth2Error:
    return AccessDeniedError(redirect_uri=asked.redirect_uri, state=asked.parameters.get("state"))


def _long_answer(request: web.Request, error: ParameterError) -> dict[str, str]:
    """Codes of identity providers may have any form and are bounded by `login`; everything else must be as it should."""
    values = request.query.getall("code", [])
    if error.name != "code" or len(values) != 1:
        raise Refusal("This is not the answer to a login that was begun here.") from error
    try:
        return read_parameters(request.query.items(), "state", "iss", "error") | {"code": values[0]}
    except ParameterError as other:
        raise Refusal("This is not the answer to a login that was begun here.") from other


async def _read_form(request: web.Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.content.iter_chunked(_FORM_BYTES):
        body += chunk
        if len(body) > _FORM_BYTES:
            raise Refusal("This was not sent by the page that asked.", status=413)
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=10, errors="strict"))
    except ValueError as error:
        raise Refusal("This was not sent by the page that asked.", status=403) from error


def _redirect(url: str) -> web.Response:
    headers = {"Location": url, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return web.Response(status=303, headers=headers)


def _redirected(answer: Answer) -> web.Response:
    """303, so that a browser does not send the form of the consent page along (RFC 9700 section 4.12)."""
    return _redirect(answer.headers["Location"])
