"""The grants of OAuth 2.1 on the framework-neutral core of Authlib: what is asked in which order, and which error is which answer.

Ours are the stricter rules (PKCE by S256 always, RFC 8707 always, RFC 9207 in every answer that is sent through a browser), and the
books: everything here runs inside one transaction of `store`, on a thread. Parameters were read by `parameter` before, clients were
found and have proved themselves in `clients`; the library is handed both and fetches nothing.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from authlib.common.urls import add_params_to_uri
from authlib.oauth2 import OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749 import AuthorizationServer, ClientMixin, grants
from authlib.oauth2.rfc6749.errors import InvalidGrantError, InvalidRequestError, InvalidScopeError
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7636 import CodeChallenge

from controlplane.authorization_server.access_token import IssuedToken
from controlplane.authorization_server.clients.client import RegisteredClient
from controlplane.authorization_server.clients.redirect_uri import redirect_uri_matches
from controlplane.authorization_server.grant import Event, EventRecord, Grant, Person
from controlplane.authorization_server.store import Books, KeptCode, KeptRefreshToken

OFFLINE_ACCESS = "offline_access"
"""A scope that asks for refresh tokens (OpenID Connect Core section 11). Clients that may have them get them anyway."""
_REGISTERED = "registered"
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_MCP_PATH = re.compile(rf"/(?:servers|virtual)/({_LABEL})/{_LABEL}/mcp", re.ASCII)

# The library writes whole tokens into its debug log.
logging.getLogger("authlib").setLevel(logging.WARNING)


class InvalidTargetError(OAuth2Error):
    """RFC 8707 section 2."""

    error = "invalid_target"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolRules:
    """What one authorization server allows. `base_urls`: those of the gateway's listeners; `trusted_namespaces` empty: every one.

    `login`: the digest of what names people mean now; what was given to somebody of another login is worth nothing.
    """

    issuer: str
    base_urls: tuple[str, ...]
    login: str = ""
    trusted_namespaces: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    code_seconds: int = 60
    access_token_seconds: int = 300
    refresh_token_days: int = 7

    def is_resource(self, resource: str) -> bool:
        """Whether this is the URL of an MCP server here, existing or not, of a namespace where our tokens are good."""
        for base in self.base_urls:
            found = _MCP_PATH.fullmatch(resource.removeprefix(base)) if resource.startswith(base) else None
            if found is not None:
                return not self.trusted_namespaces or found[1] in self.trusted_namespaces
        return False

    def granted_scope(self, asked: str, client: RegisteredClient) -> str | None:
        """The scope to grant, in the order asked; None when the client may not have all of it."""
        scopes = list(dict.fromkeys(scope for scope in asked.split(" ") if scope))
        known = {*self.scopes, OFFLINE_ACCESS}
        allowed = {*client.scopes, OFFLINE_ACCESS} if client.scopes else known
        return " ".join(scopes) if all(scope in known and scope in allowed for scope in scopes) else None


@dataclass(slots=True, kw_only=True)
class Answer:
    """What the library would send."""

    status: int
    body: object
    headers: dict[str, str]

    @property
    def error(self) -> str:
        """The OAuth error code of a token answer; empty for a success."""
        return str(self.body.get("error", "")) if isinstance(self.body, Mapping) else ""


RevocationCheck = Callable[[str, Person | None, datetime], bool]
"""Whether the registry refuses a client, or a person (None: the client itself) who logged in at that time."""
Signer = Callable[..., IssuedToken]
"""`TokenSigner.sign` with everything given but client, person, resource and scope."""


class Exchange(AuthorizationServer):
    """One request to the authorization or token endpoint, from a client that is known. Made for it and thrown away with it."""

    def __init__(
        self,
        rules: ProtocolRules,
        client: RegisteredClient,
        *,
        books: Books | None = None,
        sign: Signer | None = None,
        is_revoked: RevocationCheck | None = None,
    ) -> None:
        super().__init__()
        self.rules = rules
        self.client = client
        self._books = books
        self._sign = sign
        self._is_revoked = is_revoked
        self.grant: Grant | None = None
        self.resource = ""
        self.revoked: dict[str, datetime] = {}
        """Access tokens (`jti`) that must be refused from now on, whatever becomes of this request."""
        self.register_client_auth_method(_REGISTERED, lambda _query, _request: _Client(client, rules))
        self.register_token_generator("default", self._issue)
        self.register_grant(_CodeGrant, [_S256Always(required=True)])
        self.register_grant(_RefreshGrant)
        self.register_grant(_ClientGrant)

    @property
    def books(self) -> Books:
        """The transaction that this exchange is in; only the check of an authorization request needs none."""
        assert self._books is not None  # noqa: S101 - given to every exchange that issues something
        return self._books

    # what the library asks of a framework

    def query_client(self, client_id: str) -> ClientMixin | None:
        """The client that was found before."""
        return _Client(self.client, self.rules) if client_id == self.client.client_id else None

    def create_oauth2_request(self, request: OAuth2Request) -> OAuth2Request:
        """It is one already."""
        return request

    def handle_response(self, status: int, body: object, headers: Sequence[tuple[str, str]]) -> Answer:
        """With `iss` in what is sent through a browser (RFC 9207 section 2), be it an answer or an error."""
        told = dict(headers)
        if "Location" in told:
            told["Location"] = add_params_to_uri(told["Location"], [("iss", self.rules.issuer)])
        return Answer(status=status, body=dict(body) if isinstance(body, list) else body, headers=told)

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Nobody listens."""

    def save_token(self, token: object, request: OAuth2Request) -> None:
        """Kept where it is made: `_issue`."""

    # our endpoints

    def check_authorization(self, parameters: Mapping[str, str]) -> grants.BaseGrant:
        """A good authorization request. Raises `OAuth2Error`, with `redirect_uri` once the client is known to answer there."""
        request = _Request("GET", f"{self.rules.issuer}/authorize", parameters)
        return self.get_consent_grant(request)

    def refuse(self, error: OAuth2Error) -> Answer:
        """An error as an answer."""
        answered: Answer = self.handle_error_response(None, error)
        return answered

    def authorize(self, parameters: Mapping[str, str], grant: Grant) -> Answer:
        """The answer to an authorization request that somebody has allowed: a code."""
        self.grant = grant
        checked = self.check_authorization(parameters)
        answered: Answer = self.create_authorization_response(checked.request, grant_user=grant.person, grant=checked)
        return answered

    def token(self, parameters: Mapping[str, str]) -> Answer:
        """The answer to a token request."""
        answered: Answer = self.create_token_response(_Request("POST", f"{self.rules.issuer}/token", parameters))
        return answered

    def end(self, grant: Grant, event: Event, because: str) -> None:
        """Something of this grant came twice: nothing of it is good any more."""
        self.revoked |= self.books.end_grant(grant.id, because)
        self.books.record(
            EventRecord(
                event=event,
                client_id=self.client.client_id,
                subject=grant.person.subject,
                resource=grant.resource,
                reason=because,
                grant_id=grant.id,
            )
        )

    def is_usable(self, grant: Grant) -> bool:
        """Whether anything may still come from a grant."""
        return not grant.ended and grant.expires_at > self.books.now and grant.login == self.rules.login

    def check_resource(self, asked: str | None, *, bound_to: str = "") -> str:
        """RFC 8707: the one resource that a token is for."""
        if asked is None and bound_to:
            return bound_to
        if not asked:
            raise InvalidTargetError(description="resource is missing: name the URL of the MCP server (RFC 8707)")
        if (bound_to and asked != bound_to) or not self.rules.is_resource(asked):
            raise InvalidTargetError(description="resource is not one that this token can be for")
        return asked

    def _issue(
        self, *, grant_type: str, user: Person | None, scope: str | None, include_refresh_token: bool, **_others: object
    ) -> dict[str, object]:
        """Sign an access token, note it and what comes with it, and put it on the record."""
        assert self._sign is not None  # noqa: S101 - the same
        scope = scope or ""
        since = datetime.fromtimestamp(user.logged_in_at, UTC) if user is not None else self.books.now
        if self._is_revoked is None or self._is_revoked(self.client.client_id, user, since):
            raise InvalidGrantError("this subject or client has been revoked")
        issued = self._sign(
            client_id=self.client.client_id,
            person=user,
            resource=self.resource,
            scope=scope,
            seconds=self.rules.access_token_seconds,
            now=self.books.now,
        )
        token: dict[str, object] = {"token_type": "Bearer", "access_token": issued.text, "expires_in": issued.seconds}
        if scope:  # RFC 6749 appendix A.4: it has at least one character
            token["scope"] = scope
        if self.grant is not None:
            self.books.keep_access_token(issued.jti, self.grant, issued.expires_at)
            if include_refresh_token:
                refresh_token = secrets.token_urlsafe(32)
                self.books.keep_refresh_token(refresh_token, self.grant)
                token["refresh_token"] = refresh_token
        self.books.record(
            EventRecord(
                event=Event.TOKEN_REFRESHED if grant_type == "refresh_token" else Event.TOKEN_ISSUED,
                client_id=self.client.client_id,
                subject=user.subject if user is not None else "",
                resource=self.resource,
                scope=scope,
                reason=f"jti {issued.jti}",
                grant_id=self.grant.id if self.grant is not None else "",
            )
        )
        return token


class _Request(OAuth2Request):
    def __init__(self, method: str, uri: str, parameters: Mapping[str, str]) -> None:
        super().__init__(method, uri)
        self.payload = BasicOAuth2Payload(dict(parameters))

    @property
    def form(self) -> dict[str, str]:
        found: dict[str, str] = self.payload.data
        return found


@dataclass(frozen=True)
class _Client(ClientMixin):
    """A registered client as the library sees it."""

    registered: RegisteredClient
    rules: ProtocolRules

    def get_client_id(self) -> str:
        return self.registered.client_id

    def get_default_redirect_uri(self) -> str:
        return ""  # it must be said, also by a client that has only one

    def get_allowed_scope(self, scope: str | None) -> str | None:
        return self.rules.granted_scope(scope or "", self.registered)

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri_matches(self.registered, redirect_uri)

    def check_client_secret(self, client_secret: str) -> bool:
        raise NotImplementedError("clients prove themselves in `clients.authentication`")

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:  # noqa: ARG002 - the library's signature
        return method == _REGISTERED

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and self.check_grant_type("authorization_code")

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.registered.grant_types


@dataclass(frozen=True)
class _Code:
    """A code as the library sees it. Codes are made with S256 only."""

    kept: KeptCode
    code_challenge_method: str = field(default="S256")

    @property
    def code_challenge(self) -> str:
        return self.kept.code_challenge

    def get_redirect_uri(self) -> str:
        return self.kept.redirect_uri

    def get_scope(self) -> str:
        return self.kept.grant.scope


@dataclass(frozen=True)
class _RefreshToken:
    """A refresh token as the library sees it."""

    kept: KeptRefreshToken

    def check_client(self, client: ClientMixin) -> bool:
        return bool(client.get_client_id() == self.kept.grant.client_id)

    def get_scope(self) -> str:
        return self.kept.grant.scope


class _S256Always(CodeChallenge):
    """RFC 7636, without its exceptions: every client, and S256 only."""

    DEFAULT_CODE_CHALLENGE_METHOD = "S256"
    SUPPORTED_CODE_CHALLENGE_METHOD: ClassVar = ["S256"]

    def validate_code_challenge(self, grant: grants.BaseGrant, redirect_uri: str) -> None:
        data = grant.request.payload.data
        if not data.get("code_challenge"):
            raise InvalidRequestError("code_challenge is missing: PKCE is needed (RFC 7636)")
        if data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("code_challenge_method must be S256")
        super().validate_code_challenge(grant, redirect_uri)


class _CodeGrant(grants.AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = [_REGISTERED]
    server: Exchange

    def validate_authorization_request(self) -> str:
        redirect_uri: str = super().validate_authorization_request()
        try:
            self.server.resource = self.server.check_resource(self.request.payload.data.get("resource"))
        except OAuth2Error as error:
            error.redirect_uri = redirect_uri
            raise
        return redirect_uri

    def generate_authorization_code(self) -> str:
        return secrets.token_urlsafe(32)

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        server, data = self.server, request.payload.data
        assert server.grant is not None  # noqa: S101 - `Exchange.authorize` has set it
        expires_at = server.books.now + timedelta(seconds=server.rules.code_seconds)
        challenge = data["code_challenge"]
        server.books.keep_code(code, server.grant, redirect_uri=data["redirect_uri"], code_challenge=challenge, expires_at=expires_at)

    def query_authorization_code(self, code: str, client: ClientMixin) -> _Code | None:
        """RFC 6749 section 4.1.2: a code that comes again was stolen, before or after its first use."""
        kept = self.server.books.find_code(code)
        if kept is None:
            return None
        if kept.used:
            self.server.end(kept.grant, Event.CODE_REPLAYED, "an authorization code was used twice")
            return None
        usable = kept.expires_at > self.server.books.now and self.server.is_usable(kept.grant)
        return _Code(kept) if usable and kept.grant.client_id == client.get_client_id() else None

    def validate_token_request(self) -> None:
        super().validate_token_request()
        grant: Grant = self.request.authorization_code.kept.grant
        self.server.resource = self.server.check_resource(self.request.payload.data.get("resource"), bound_to=grant.resource)
        self.server.grant = grant

    def authenticate_user(self, authorization_code: _Code) -> Person:
        return authorization_code.kept.grant.person

    def delete_authorization_code(self, authorization_code: _Code) -> None:
        self.server.books.use_code(authorization_code.kept)


class _RefreshGrant(grants.RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = [_REGISTERED]
    INCLUDE_NEW_REFRESH_TOKEN = True
    server: Exchange

    def authenticate_refresh_token(self, refresh_token: str) -> _RefreshToken | None:
        """RFC 9700 section 4.14.2: one that comes again is in two hands, and nobody knows whose is the right one."""
        kept = self.server.books.find_refresh_token(refresh_token)
        if kept is None:
            return None
        if kept.used and not kept.grant.ended:
            self.server.end(kept.grant, Event.REFRESH_TOKEN_REUSED, "a refresh token was used twice")
        usable = not kept.used and self.server.is_usable(kept.grant)
        return _RefreshToken(kept) if usable else None

    def validate_token_request(self) -> None:
        super().validate_token_request()
        grant: Grant = self.request.refresh_token.kept.grant
        if self.server.rules.granted_scope(grant.scope, self.server.client) is None or not self.server.rules.is_resource(grant.resource):
            raise InvalidGrantError("what this refresh token is for is not granted any more")
        self.server.resource = self.server.check_resource(self.request.payload.data.get("resource"), bound_to=grant.resource)
        self.server.grant = grant

    def authenticate_user(self, refresh_token: _RefreshToken) -> Person:
        return refresh_token.kept.grant.person

    def revoke_old_credential(self, refresh_token: _RefreshToken) -> None:
        self.server.books.use_refresh_token(refresh_token.kept)


class _ClientGrant(grants.ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = [_REGISTERED]
    server: Exchange

    def validate_token_request(self) -> None:
        super().validate_token_request()
        client = self.server.client
        if client.is_public:
            raise InvalidGrantError("a client that proves nothing cannot act for itself")
        if self.server.rules.granted_scope(self.request.payload.scope or "", client) is None:
            raise InvalidScopeError
        self.server.resource = self.server.check_resource(self.request.payload.data.get("resource"))
