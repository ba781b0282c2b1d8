"""A registered client, the rules that one authorization server has for its clients, and who keeps the dynamic ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol
from urllib.parse import urlsplit

AuthMethod = Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
"""How a client proves itself at the token endpoint (RFC 7591 section 2; `private_key_jwt` is RFC 7523)."""
ClientSource = Literal["static", "metadata_document", "dynamic"]
ApplicationType = Literal["web", "native"]
RegistrationMode = Literal["off", "initialAccessToken", "open"]

AUTH_METHODS: tuple[AuthMethod, ...] = ("none", "client_secret_basic", "client_secret_post", "private_key_jwt")
PUBLIC: AuthMethod = "none"
"""The method of clients that can keep no secret."""
SECRET_METHODS: frozenset[str] = frozenset({"client_secret_basic", "client_secret_post"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredClient:
    """One client, whoever registered it. Whatever it says about itself (name, `client_uri`, `logo_uri`) is its own claim.

    `redirect_uris` passed `redirect_uri.check_redirect_uri`. `jwks_json` (the text of a key set) and `jwks_uri` exclude each other.
    `secret_digest` is a text of `secret.digest_of`. `client_uri` and `logo_uri` are never fetched by us. `scopes`: what it may ask
    for at most.
    """

    client_id: str
    name: str
    redirect_uris: tuple[str, ...] = ()
    grant_types: frozenset[str] = frozenset({"authorization_code"})
    token_endpoint_auth_method: AuthMethod = PUBLIC
    scopes: tuple[str, ...] = ()
    jwks_json: str = ""
    jwks_uri: str = ""
    secret_digest: str = field(default="", repr=False)
    source: ClientSource = "static"
    client_uri: str = ""
    logo_uri: str = ""
    application_type: ApplicationType = "web"

    @property
    def is_public(self) -> bool:
        """Whether it proves nothing at the token endpoint, so that only PKCE binds a code to it."""
        return self.token_endpoint_auth_method == PUBLIC

    @property
    def host(self) -> str:
        """The host that vouches for what the client says about itself (its metadata document's); empty for other sources."""
        return urlsplit(self.client_id).hostname or "" if self.source == "metadata_document" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataDocumentRules:
    """Client ID metadata documents. `trusted_domains`: see `trust.is_trusted`; none = no document is taken."""

    trusted_domains: tuple[str, ...] = ()
    max_bytes: int = 5 * 1024
    insecure_loopback: bool = False
    """Take `http:` URLs of this machine too. For tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationRules:
    """Dynamic registration (RFC 7591). `initial_access_tokens` are digests (`secret.digest_of`).

    A client that was never issued a token is forgotten after `unused_seconds`, one that was issued none for `idle_seconds` too.
    """

    mode: RegistrationMode = "off"
    initial_access_tokens: tuple[str, ...] = field(default=(), repr=False)
    max_clients: int = 1000
    per_minute: int = 40
    per_minute_and_stranger: int = 10
    unused_seconds: int = 86_400
    idle_seconds: int = 90 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRules:
    """What one `AuthorizationServer` entry (of the uid `server_uid`) says about clients. The default knows none.

    `grant_types` and `scopes` bound what metadata documents and dynamic clients may ask for; static ones are as written.
    `private_use_schemes`: of redirect URIs, admitted by name although they are no domain name.
    """

    server_uid: str
    static_clients: tuple[RegisteredClient, ...] = ()
    grant_types: frozenset[str] = frozenset({"authorization_code", "refresh_token"})
    scopes: tuple[str, ...] = ()
    private_use_schemes: frozenset[str] = frozenset()
    documents: MetadataDocumentRules = MetadataDocumentRules()
    registration: RegistrationRules = RegistrationRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicClient:
    """A client as the store keeps it. `used_at`: when a token was last issued to it."""

    client: RegisteredClient
    registered_at: datetime
    used_at: datetime | None = None


class DynamicClientStore(Protocol):
    """Keeps the clients that registered themselves. Synchronous: callers on the event loop use a thread."""

    def read(self, server_uid: str, client_id: str) -> DynamicClient | None:
        """The client of this authorization server, expired or not."""

    def add(self, server_uid: str, client: DynamicClient, rules: RegistrationRules) -> bool:
        """Keep a new client; expired ones go first, then the oldest that was never used. False: there is no room."""

    def note_use(self, server_uid: str, client_id: str, at: datetime) -> None:
        """A token was issued to it at `at`."""

    def remove(self, server_uid: str, client_id: str) -> None:
        """Forget a client."""


class AssertionMemory(Protocol):
    """Remembers client assertions that were used (`jti`, RFC 7523 section 3), for all replicas. Synchronous."""

    def take(self, digest: bytes, client: str, expires_at: datetime) -> bool:
        """Use an assertion once; False when it was used before, or when this client has used too many that are still good."""
