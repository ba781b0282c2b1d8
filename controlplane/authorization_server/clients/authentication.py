"""Who sends a token request (RFC 6749 section 2.3, RFC 7523): exactly one method, and the one that the client registered.

form and Authorization ─▶ (1) one method ─▶ (2) the client ─▶ (3) it is that client's method ─▶ (4) the proof
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import unquote_plus

from controlplane.authorization_server.clients.assertion import ASSERTION_TYPE, read_unverified_assertion, verify_assertion
from controlplane.authorization_server.clients.client import PUBLIC, AssertionMemory, AuthMethod, RegisteredClient
from controlplane.authorization_server.clients.client_keys import ClientKeys
from controlplane.authorization_server.clients.directory import ClientDirectory
from controlplane.authorization_server.clients.refusal import ClientAuthenticationError, UnknownClientError
from controlplane.authorization_server.clients.secret import secret_matches

MAX_CREDENTIALS_LENGTH = 4096
_PARAMETERS = ("client_id", "client_secret", "client_assertion", "client_assertion_type")
_CHALLENGE = 'Basic realm="legation", charset="UTF-8"'


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedCredentials:
    """What a request shows, and of which method that is."""

    method: AuthMethod
    unverified_client_id: str
    secret: str = field(default="", repr=False)
    assertion: str = field(default="", repr=False)


class ClientAuthenticator:
    """Authenticates the clients of one directory."""

    def __init__(
        self, *, directory: ClientDirectory, keys: ClientKeys, memory: AssertionMemory, clock: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._keys = keys
        self._memory = memory
        self._clock = clock

    async def authenticate(
        self, *, authorization: Sequence[str], form: Sequence[tuple[str, str]], audiences: Sequence[str], stranger: str = ""
    ) -> RegisteredClient:
        """The client that sent this. Raises `ClientAuthenticationError`.

        `authorization`: the values of every Authorization header. `form`: the decoded body, repeated names and all. `audiences`:
        what an assertion may be for: the issuer, and the URL of the token endpoint. `stranger`: see `throttle.stranger_of`.
        """
        # (1) one method
        presented = presented_credentials(authorization, form)
        # (2) the client
        try:
            client = await self._directory.find(presented.unverified_client_id, stranger)
        except UnknownClientError as error:
            status = error.status if error.status >= 500 else 401
            raise _refused(error.description, presented, status=status) from error
        # (3) it is that client's method
        if client.token_endpoint_auth_method != presented.method:
            raise _refused(f"this client is registered for {client.token_endpoint_auth_method}, not for {presented.method}", presented)
        # (4) the proof
        if presented.method == "private_key_jwt":
            await self._verify_assertion(client, presented.assertion, audiences)
        elif presented.method != PUBLIC and not secret_matches(presented.secret, client.secret_digest):
            raise _refused("the client's secret is wrong", presented)
        return client

    async def _verify_assertion(self, client: RegisteredClient, assertion: str, audiences: Sequence[str]) -> None:
        rules = self._directory.rules
        keys = await self._keys.keys_of(client, read_unverified_assertion(assertion).unverified_kid, rules)
        verified = verify_assertion(
            assertion, server_uid=rules.server_uid, client_id=client.client_id, keys=keys, audiences=audiences, now=self._clock()
        )
        ends = datetime.fromtimestamp(verified.expires_at, UTC)
        whose = f"{rules.server_uid} {client.client_id}"
        if not await asyncio.to_thread(self._memory.take, verified.digest, whose, ends):
            raise ClientAuthenticationError("invalid_client", "the client assertion was used before (jti)")


def presented_credentials(authorization: Sequence[str], form: Sequence[tuple[str, str]]) -> PresentedCredentials:
    """The one way in which a request proves its client. Raises `ClientAuthenticationError`."""
    given = _given(form)
    methods = [name for name, is_there in _presence(authorization, given).items() if is_there]
    if len(authorization) > 1 or len(methods) > 1:
        raise ClientAuthenticationError("invalid_request", "a client must prove itself in exactly one way", status=400)
    if authorization:
        return _of_header(authorization[0], given.get("client_id"))
    if "client_assertion" in given or "client_assertion_type" in given:
        return _of_assertion(given)
    client_id = given.get("client_id", "")
    if not client_id:
        raise ClientAuthenticationError("invalid_client", "the request names no client (client_id)")
    if "client_secret" in given:
        return PresentedCredentials(method="client_secret_post", unverified_client_id=client_id, secret=given["client_secret"])
    return PresentedCredentials(method=PUBLIC, unverified_client_id=client_id)


def _given(form: Sequence[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in form:
        if name in _PARAMETERS:
            if name in found or len(value) > 2 * MAX_CREDENTIALS_LENGTH:
                raise ClientAuthenticationError("invalid_request", f"{name} stands twice, or is too long", status=400)
            found[name] = value
    return found


def _presence(authorization: Sequence[str], given: dict[str, str]) -> dict[str, bool]:
    return {
        "client_secret_basic": bool(authorization),
        "client_secret_post": "client_secret" in given,
        "private_key_jwt": "client_assertion" in given or "client_assertion_type" in given,
    }


def _of_header(header: str, client_id: str | None) -> PresentedCredentials:
    scheme, _, credentials = header.partition(" ")
    refused = ClientAuthenticationError("invalid_client", "the Authorization header is not that of a client (Basic)", challenge=_CHALLENGE)
    if scheme.lower() != "basic" or len(credentials) > MAX_CREDENTIALS_LENGTH:
        raise refused
    try:
        name, colon, secret = base64.b64decode(credentials.strip(" "), validate=True).decode("utf-8").partition(":")
        name, secret = unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict")  # RFC 6749 section 2.3.1
    except ValueError as error:
        raise refused from error
    if not (name and colon):
        raise refused
    if client_id is not None and client_id != name:
        raise ClientAuthenticationError("invalid_request", "client_id and the Authorization header name two clients", status=400)
    return PresentedCredentials(method="client_secret_basic", unverified_client_id=name, secret=secret)


def _of_assertion(given: dict[str, str]) -> PresentedCredentials:
    if given.get("client_assertion_type") != ASSERTION_TYPE or "client_assertion" not in given:
        raise ClientAuthenticationError("invalid_request", f"client_assertion needs the client_assertion_type {ASSERTION_TYPE}", status=400)
    unverified = read_unverified_assertion(given["client_assertion"])
    if given.get("client_id", unverified.unverified_client_id) != unverified.unverified_client_id:
        raise ClientAuthenticationError("invalid_request", "client_id and client_assertion name two clients", status=400)
    return PresentedCredentials(
        method="private_key_jwt", unverified_client_id=unverified.unverified_client_id, assertion=given["client_assertion"]
    )


def _refused(description: str, presented: PresentedCredentials, *, status: int = 401) -> ClientAuthenticationError:
    challenge = _CHALLENGE if presented.method == "client_secret_basic" else ""
    return ClientAuthenticationError("invalid_client", description, status=status, challenge=challenge)
